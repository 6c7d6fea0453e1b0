"""What a person sees while a run works: images a second, time left, rejected so far."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_LOOKS = 0.5


@ray.remote(num_cpus=0)
class Tally:
    """Counts rows as the last stage lets them go; the workers of all machines report here."""

    def __init__(self) -> None:
        self.rows = 0
        self.errors: Counter[str] = Counter()

    def add(self, rows: int, errors: dict[str, int]) -> None:
        self.rows += rows
        self.errors.update(errors)

    def read(self) -> tuple[int, dict[str, int]]:
        return self.rows, dict(self.errors)


class Progress:
    """Shows a tally on standard error: a bar on a terminal, else a line now and then.

    Parameters
    ----------
    tally : handle of a Tally
    total : rows in all, None if unknown
    before : rows that earlier tries finished
    """

    def __init__(self, tally: Any, total: int | None, before: int) -> None:
        self.tally = tally
        self.total = total
        self.before = before
        self.rows = 0
        self.errors: dict[str, int] = {}
        self.started = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
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

    def sentence(self) -> str:
        """Rows done, speed, time left and rejected, in one line."""
        done = self.before + self.rows
        speed = self.rows / max(time.monotonic() - self.started, 1e-9)
        of = f" of {self.total:,}" if self.total is not None else ""
        words = [f"{done:,}{of} images"]
        words.append(f"{speed:.1f} images/s")
        if self.total is not None and speed > 0:
            words.append(f"{_duration((self.total - done) / speed)} left")
        bad = ", ".join(f"{number} {code}" for code, number in sorted(self.errors.items()))
        words.append(f"rejected: {bad or 'none'}")
        return " · ".join(words)

    def _watch(self) -> None:
        console = Console(stderr=True)
        bar = Bar(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        last_line = self.started
        with bar:
            task = bar.add_task("starting the models", total=self.total)
            while not self._done.wait(SECONDS_BETWEEN_LOOKS):
                self.rows, self.errors = ray.get(self.tally.read.remote())
                if self.rows:
                    bar.update(task, completed=self.before + self.rows, description=self.sentence())
                waited = time.monotonic() - last_line > SECONDS_BETWEEN_LINES
                if waited and not console.is_terminal:
                    last_line = time.monotonic()
                    print(self.sentence(), file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
