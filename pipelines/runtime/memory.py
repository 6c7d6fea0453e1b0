"""How much memory a run takes on the driver's machine."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import ray

INTERVAL_SECONDS = 1.0


class PeakMemory:
    """Samples the driver and everything below its cluster's raylets while the block runs.

    Proportional set sizes are added up, so that memory which processes share, such as
    Ray's object store, counts once. Workers on other machines are not seen.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_SECONDS):
            self.peak_bytes = max(self.peak_bytes, sum(map(_bytes, _processes())))


def _processes() -> set[psutil.Process]:
    found = {psutil.Process()}
    session = ray.get_runtime_context().get_session_name() if ray.is_initialized() else None
    for process in psutil.process_iter(["name", "cmdline"]):
        # Other people's clusters on this machine have other sessions.
        arguments = process.info["cmdline"] or []
        if (
            session
            and process.info["name"] == "raylet"
            and any(session in one for one in arguments)
        ):
            try:
                found |= {process, *process.children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
    return found


def _bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(memory, "pss", memory.uss))
