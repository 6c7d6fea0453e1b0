"""Thresholds that hold on the sources that a head never saw, and what is promised of them.

Pictures of one source are alike, so a threshold that is set on the rows of known sources says
little of the next source. Here each source has a threshold of its own, from scores of heads that
were trained without it, and the sources themselves are the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats
from scipy.special import expit, logit

from item.errors import UsageError
from item.statistics.calibration import OperatingPoints, Thresholds

LEAST_SOURCES = 3
"""Of fewer sources nobody can say how sources differ."""
TINY = 1e-12
"""Scores are this far from 0 and 1 before they are taken to log-odds."""
ROUNDING = 1e-9
PREDICTED = 0.98
"""Level of the normal prediction bound for the limit of a further source. It guards against a
source that is unlike all others, on which the order of the limits is silent; the level was set on
the sources behind the head of ``mini``."""


class SourcePromise(BaseModel):
    """What is promised of pictures of one label from a source that was never seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(gt=0, lt=1)
    """At most this share of a new source's pictures gets the wrong confident verdict, ..."""
    confidence: float = Field(gt=0, lt=1)
    """... with this probability over the choice of the source."""
    sources: int = Field(ge=LEAST_SOURCES)
    """From which that follows."""
    worst_source: str
    """The one with the farthest limit of those that count."""
    left_out: dict[str, float] = {}
    """By source: the share of its pictures that got the wrong confident verdict from a head and a
    threshold that never saw the source."""


@dataclass(frozen=True)
class SourceThresholds:
    """Thresholds, and what they promise of photographs and of generated pictures."""

    thresholds: Thresholds
    real: SourcePromise
    generated: SourcePromise


def enough_sources(labels: ArrayLike, sources: ArrayLike, points: OperatingPoints) -> bool:
    """Whether both labels have sources enough, with rows enough, for :func:`fit_source_thresholds`.

    Parameters
    ----------
    labels : (n,), 1 generated, 0 real
    sources : (n,), what a row comes from
    points : to be held
    """
    truth, names = np.asarray(labels), np.asarray(sources, str)
    shares = (points.real_called_generated, points.generated_called_real)
    return all(
        len(_usable(names[truth == label], share)) >= LEAST_SOURCES
        for label, share in enumerate(shares)
    )


def fit_source_thresholds(
    scores: ArrayLike,
    labels: ArrayLike,
    sources: ArrayLike,
    points: OperatingPoints,
    confidence: float = 0.9,
) -> SourceThresholds:
    """Thresholds that keep the operating points on a new source with a stated confidence.

    Each source has its own limit, the score that at most the asked share of its rows exceeds. Of
    the limits of m sources in order the ``ceil((m + 1) confidence)``-th is taken, or the farthest
    where there is none: if the new source and the m are exchangeable, its own limit lies within
    it with a probability of k / (m + 1), k being the place taken. That is conformal prediction of
    groups (Dunn, Wasserman and Ramdas 2023, Distribution-Free Prediction Sets for Two-Layer
    Hierarchical Models). If the limits of photographs spread so widely that one beyond all of them
    is to be expected, the threshold lies farther out still, so that it accuses fewer: at Student's
    prediction bound of the limits' log-odds at the level ``PREDICTED``.
    Sources with too few rows for a limit are left out.

    Parameters
    ----------
    scores : (n,) each from a head that was trained without the row's source
    labels : (n,), 1 generated, 0 real
    sources : (n,)
    points : to be held
    confidence : asked; the promise says what was reached

    Raises
    ------
    UsageError
        If :func:`enough_sources` is false.
    """
    if not enough_sources(labels, sources, points):
        raise UsageError(
            f"Thresholds for unseen sources need {LEAST_SOURCES} sources of photographs and of "
            "generated pictures, with rows enough for the operating points."
        )
    values, truth = logit(np.clip(scores, TINY, 1 - TINY)), np.asarray(labels)
    names = np.asarray(sources, str)
    real, generated = truth == 0, truth == 1
    highest_real, of_real = _limit(
        values[real], names[real], points.real_called_generated, confidence, PREDICTED
    )
    lowest_negated, of_generated = _limit(
        -values[generated], names[generated], points.generated_called_real, confidence
    )
    # Rounding moves no row to the wrong side.
    lowest, highest = expit(-lowest_negated - ROUNDING), expit(highest_real + ROUNDING)
    thresholds = Thresholds.of_limits(float(lowest), float(highest))
    return SourceThresholds(thresholds, of_real, of_generated)


def _usable(names: NDArray[np.str_], share: float) -> list[str]:
    """Sources with rows enough for a limit."""
    found, counts = np.unique(names, return_counts=True)
    return [str(name) for name, count in zip(found, counts, strict=True) if count >= 1 / share]


def _limit(
    values: NDArray[np.float64],
    names: NDArray[np.str_],
    share: float,
    confidence: float,
    predicted: float = 0.0,
) -> tuple[float, SourcePromise]:
    """The limit that a new source's values exceed by at most ``share``, and its promise."""
    usable = _usable(names, share)
    limits = np.array([_exceeded_by(values[names == name], share) for name in usable])
    chosen = _place(len(usable), confidence)
    order = np.argsort(limits, kind="stable")
    left_out = {}
    for number, name in enumerate(usable):
        without = _beyond(np.delete(limits, number), confidence, predicted)
        left_out[name] = round(float(np.mean(values[names == name] > without)), 4)
    worst = order[chosen - 1]
    promise = SourcePromise(
        share=share,
        confidence=chosen / (len(usable) + 1),
        sources=len(usable),
        worst_source=usable[worst],
        left_out=left_out,
    )
    return _beyond(limits, confidence, predicted), promise


def _beyond(limits: NDArray[np.float64], confidence: float, predicted: float) -> float:
    """The limit of the place that the confidence asks for, or the prediction bound beyond it.

    At the level 0 the bound is infinitely low and does not count.
    """
    chosen = np.sort(limits)[_place(len(limits), confidence) - 1]
    spread = np.std(limits, ddof=1) * math.sqrt(1 + 1 / len(limits))
    bound = np.mean(limits) + stats.t.ppf(predicted, len(limits) - 1) * spread if spread else chosen
    return float(max(chosen, bound))


def _exceeded_by(values: NDArray[np.float64], share: float) -> float:
    """The least of the values that at most this share of them exceeds."""
    above = math.floor(len(values) * Fraction(str(share)))
    return float(np.sort(values)[len(values) - 1 - above])


def _place(sources: int, confidence: float) -> int:
    return min(sources, math.ceil((sources + 1) * confidence))
