"""What a person sees while a head is trained: epoch, loss, validation AUROC, rows a second."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

import ray
from rich.console import Console
from rich.status import Status

from pipelines.runtime.progress import SECONDS_BETWEEN_LINES, SECONDS_BETWEEN_LOOKS

START = "starting the workers"


@ray.remote(num_cpus=0)
class Bulletin:
    """Holds the last sentence of the first worker, wherever it runs."""

    def __init__(self) -> None:
        self.sentence = START

    def write(self, sentence: str) -> None:
        """Replace the sentence."""
        self.sentence = sentence

    def read(self) -> str:
        return self.sentence


class TrainingProgress:
    """Shows a bulletin on standard error: in place on a terminal, else a line now and then."""

    def __init__(self, bulletin: Any) -> None:
        self.bulletin = bulletin
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> TrainingProgress:
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
        if error is None:
            print(ray.get(self.bulletin.read.remote()), file=sys.stderr, flush=True)

    def _watch(self) -> None:
        console = Console(stderr=True)
        shown, last_line = "", time.monotonic()
        with Status(START, console=console) as status:
            if not console.is_terminal:
                status.stop()
            while not self._done.wait(SECONDS_BETWEEN_LOOKS):
                sentence = ray.get(self.bulletin.read.remote())
                status.update(sentence)
                waited = time.monotonic() - last_line > SECONDS_BETWEEN_LINES
                if waited and sentence != shown and not console.is_terminal:
                    shown, last_line = sentence, time.monotonic()
                    print(sentence, file=sys.stderr, flush=True)


class Trainings:
    """Shows how many of many trainings are done: in place on a terminal, else lines."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status = Status("starting the workers", console=self._console)
        self._last_line = -SECONDS_BETWEEN_LINES

    def __enter__(self) -> Trainings:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._status.stop()

    def show(self, done: int, total: int, seconds: float) -> None:
        """`done` of `total` trainings after some seconds."""
        left = seconds / max(done, 1) * (total - done)
        line = f"{done:,} of {total:,} trainings · {left / 60:.0f} min left"
        if self._console.is_terminal:
            self._status.update(line)
        elif done == total or seconds - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = seconds
            print(line, file=sys.stderr, flush=True)
