"""What a person sees while a run works: images a second, time left, rejected so far."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from pipelines.runtime.stalls import StageCounts, StallWatch, waiting_for
from pipelines.storage.retries import take_retries

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Counts:
    """What a tally has counted; times are seconds since the epoch."""

    rows: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    reused: int = 0
    """Rows that take the features of another row of the same picture."""
    retries: int = 0
    """Requests to S3 that had to be repeated."""
    halvings: Mapping[str, int] = field(default_factory=dict)
    """Batches that did not fit into memory, by stage."""
    notices: Mapping[str, int] = field(default_factory=dict)
    """What was noticed of the input while it was read, and how often."""
    stages: Mapping[str, StageCounts] = field(default_factory=dict)
    """Rows of each stage, in the order in which they began."""
    ready: float = 0.0
    """When the last worker had its model, before which few rows get far."""
    last: float = 0.0
    """When the last batch was done."""


@ray.remote(num_cpus=0)
class Tally:
    """Counts rows as they leave the last stage; the workers of all machines report here."""

    def __init__(self) -> None:
        self.rows = 0
        self.errors: Counter[str] = Counter()
        self.reused = 0
        self.retries = 0
        self.halvings: Counter[str] = Counter()
        self.notices: Counter[str] = Counter()
        self.stages: dict[str, StageCounts] = {}
        self.ready_at = 0.0
        self.last = 0.0

    def passed(self, stage: str, begun: int, done: int) -> None:
        """A worker or task of a stage took up rows, or is done with them."""
        before = self.stages.get(stage, StageCounts())
        self.stages[stage] = before + StageCounts(begun, done)

    def ready(self) -> None:
        """A worker has its model. One that starts anew amid the work changes nothing."""
        if not self.rows:
            self.ready_at = time.time()

    def add(self, rows: int, errors: dict[str, int], reused: int = 0) -> None:
        self.rows += rows
        self.reused += reused
        self.errors.update(errors)
        self.last = time.time()

    def retried(self, requests: int) -> None:
        """A worker had to repeat requests to S3."""
        self.retries += requests

    def noticed(self, notices: dict[str, int]) -> None:
        """A worker noticed something of the input, by sentences without their number."""
        self.notices.update(notices)

    def halved(self, stage: str, batches: int) -> None:
        """Batches of a worker did not fit into memory."""
        self.halvings[stage] += batches

    def read(self) -> Counts:
        return Counts(
            rows=self.rows,
            errors=dict(self.errors),
            reused=self.reused,
            retries=self.retries,
            halvings=dict(self.halvings),
            notices=dict(self.notices),
            stages=dict(self.stages),
            ready=self.ready_at,
            last=self.last,
        )


def tell_retries(tally: Any) -> None:
    """Report what this process had to repeat since it last did."""
    if tally is not None and (requests := take_retries()):
        tally.retried.remote(requests)


def tell_notices(tally: Any, notices: Counter[str]) -> None:
    """Report what was noticed of the input since it was last told."""
    if tally is not None and notices:
        tally.noticed.remote(dict(notices))
        notices.clear()


class Progress:
    """Shows a tally on standard error: a bar on a terminal, else a line now and then.

    Parameters
    ----------
    tally : handle of a Tally
    total : rows to come, None if unknown
    """

    def __init__(self, tally: Any, total: int | None) -> None:
        self.tally = tally
        self.total = total
        self.counts = Counts()
        self.started = time.time()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def rows(self) -> int:
        """Rows that left the last stage."""
        return self.counts.rows

    @property
    def start_up_seconds(self) -> float:
        """Until all workers had their models."""
        return max(self.counts.ready - self.started, 0.0)

    @property
    def images_per_second(self) -> float:
        """After start-up."""
        seconds = self.counts.last - max(self.counts.ready, self.started)
        return self.rows / seconds if self.rows and seconds > 0 else 0.0

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
        if error is None:
            self.counts = ray.get(self.tally.read.remote())
            for line in [self.sentence(), *self.remarks()]:
                print(line, file=sys.stderr, flush=True)

    def remarks(self) -> list[str]:
        """What was noticed of the input, a sentence each."""
        return [f"{number:,} {what}." for what, number in sorted(self.counts.notices.items())]

    def sentence(self) -> str:
        """Rows done, speed, time left and rejected, in one line."""
        speed = self.images_per_second
        of = f" of {self.total:,}" if self.total is not None else ""
        words = [f"{self.rows:,}{of} images", f"{speed:.1f} images/s"]
        if self.total is not None and speed > 0:
            words.append(f"{_duration((self.total - self.rows) / speed)} left")
        if self.counts.reused:
            words.append(f"seen before: {self.counts.reused:,}")
        errors = sorted(self.counts.errors.items())
        words.append("rejected: " + (", ".join(f"{n} {code}" for code, n in errors) or "none"))
        return " · ".join(words)

    def stalled(self, seconds: float) -> str:
        """What a run waits for that has not moved for so long."""
        reason = waiting_for(self.counts.stages, ray.available_resources(), ray.cluster_resources())
        return f"No image has moved on for {_duration(seconds)}: {reason}."

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
        last_line = time.monotonic()
        stalls = StallWatch(last_line)
        with bar:
            task = bar.add_task("starting the models", total=self.total)
            while not self._done.wait(SECONDS_BETWEEN_LOOKS):
                self.counts = ray.get(self.tally.read.remote())
                seconds = stalls.stalled_seconds(self.counts.stages, time.monotonic())
                if seconds is not None:
                    console.print(self.stalled(seconds), soft_wrap=True, markup=False)
                if self.rows:
                    bar.update(task, completed=self.rows, description=self.sentence())
                waited = time.monotonic() - last_line > SECONDS_BETWEEN_LINES
                if waited and not console.is_terminal:
                    last_line = time.monotonic()
                    line = self.sentence() if self.rows else "starting the models"
                    print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
