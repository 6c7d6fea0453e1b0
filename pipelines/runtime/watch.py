"""A look at the cluster now and then, because without it Ray ends a job in silence.

When the head of the cluster is gone, calls of Ray wait; after a minute Ray ends the whole
process, without a sentence and with every lease held. When the raylet of the job's own
machine is gone, it does so within seconds.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import ray

from item.errors import MachineError
from pipelines.runtime.address import closed

SECONDS_BETWEEN_LOOKS = 2.0
PATIENCE = 25.0
"""Seconds without an answer after which the head is gone: one that is started again on the
same address is found by then."""
SECONDS_TO_END = 15.0
"""What a job has to give its leases back, before its process is ended."""


@contextmanager
def cluster_watched() -> Iterator[None]:
    """Do a block while the cluster is watched, from the moment that Ray runs.

    Raises
    ------
    MachineError
        In the block, in the main thread, when the cluster is gone. A process that does not end
        soon after it is ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Not SIGINT: what runs in the background of a shell ignores it.
    before = signal.signal(signal.SIGUSR2, _interrupt)
    watch = _Watch()
    watch.start()
    try:
        yield
    except KeyboardInterrupt:
        if not watch.lost:
            raise
        # Before Ray clears up, for which it needs the cluster, and ends the process in its way.
        atexit.register(_leave, watch.lost.exit_code)
        raise watch.lost from None
    finally:
        watch.block_ends()
        signal.signal(signal.SIGUSR2, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # the one exception that Ray lets through while it waits


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Watch(threading.Thread):
    """Looks at the cluster; interrupts the main thread when it is gone."""

    def __init__(self) -> None:
        super().__init__(name="watch of the cluster", daemon=True)
        self.lost: MachineError | None = None
        self._ended = threading.Event()
        self._ending = threading.Lock()

    def block_ends(self) -> None:
        """From now on the main thread is left alone."""
        with self._ending:
            self._ended.set()

    def run(self) -> None:
        seen = time.monotonic()
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            address = ray.get_runtime_context().gcs_address if ray.is_initialized() else None
            if address is None or not closed(address, SECONDS_BETWEEN_LOOKS):
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE:
                return self._give_up(f"The head of the Ray cluster, at {address}, is gone")
            if address is not None and _raylet_is_gone() and ray.is_initialized():
                return self._give_up("Ray's process on this machine (raylet) has ended")
        return None

    def _give_up(self, what: str) -> None:
        lost = MachineError(
            f"{what}: see that the cluster runs and has memory, then start the same command "
            "again, it goes on where it was."
        )
        with self._ending:
            if self._ended.is_set():
                return
            self.lost = lost
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
        if self._ended.wait(SECONDS_TO_END):
            time.sleep(SECONDS_TO_END)  # by then the process has ended by itself
        else:
            print(f"error: {lost}", file=sys.stderr, flush=True)
        os._exit(lost.exit_code)


def _raylet_is_gone() -> bool:
    """Whether nobody listens at the socket of this machine's raylet any more."""
    node = ray._private.worker._global_node
    if node is None:
        return False
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(SECONDS_BETWEEN_LOOKS)
        try:
            line.connect(node.raylet_socket_name)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:  # a raylet with much to do
            return False
    return False
