"""What a run waits for that makes no progress."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

PATIENCE = 300.0
"""Seconds without a row that moved on, after which a run says what it waits for."""


@dataclass(frozen=True)
class StageCounts:
    """Rows of one stage, over all workers."""

    begun: int = 0
    """Rows that a worker or task took up."""
    done: int = 0
    """Rows that came out."""

    def __add__(self, other: StageCounts) -> StageCounts:
        return StageCounts(self.begun + other.begun, self.done + other.done)


class StallWatch:
    """Notices that nothing moves.

    Parameters
    ----------
    now : seconds of any clock
    patience : seconds
    """

    def __init__(self, now: float, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._moved = self._said = now
        self._seen: Mapping[str, StageCounts] = {}

    def stalled_seconds(self, stages: Mapping[str, StageCounts], now: float) -> float | None:
        """For how long nothing has moved, if that is to be said now; else None."""
        if dict(stages) != dict(self._seen):
            self._seen = dict(stages)
            self._moved = self._said = now
        if now - self._said < self.patience:
            return None
        self._said = now
        return now - self._moved


def waiting_for(
    stages: Mapping[str, StageCounts], free: Mapping[str, float], total: Mapping[str, float]
) -> str:
    """Which stage waits for what, in a sentence.

    Parameters
    ----------
    stages : in the order in which rows came to them
    free, total : resources of the cluster, as Ray names them
    """
    at_work = [
        f"{name} is at work on {counts.begun - counts.done:,} images"
        for name, counts in stages.items()
        if counts.begun > counts.done
    ]
    names = list(stages)
    waiting = [
        f"{stages[before].done - stages[name].begun:,} images wait for {name}"
        for before, name in itertools.pairwise(names)
        if stages[before].done > stages[name].begun
    ]
    if not stages:
        at_work = ["no stage has begun"]
    elif not at_work and not waiting:
        waiting = [f"what {names[-1]} has done waits for the next stage"]
    room = ", ".join(
        f"{free.get(key, 0.0):g} of {total[key]:g} {key}s" for key in ("CPU", "GPU") if key in total
    )
    return f"{'; '.join([*at_work, *waiting])}; Ray has {room} free"
