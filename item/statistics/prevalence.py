"""How many pictures of a dump are generated, when the detector is known to err.

Conventions, for every function here:

- A picture is flagged where its verdict is ``likely_generated``. ``flagged`` of ``total``
  scored pictures were.
- FPR is the share of real pictures that is flagged, TPR the share of generated ones. Both are
  known from finite counts (:class:`ErrorCounts`), and the intervals account for that.
- Shares are between 0 and 1; intervals have the given ``level`` of confidence.
- Counts that contradict each other are a ValueError.

The intervals presume what no count can show: that the detector errs on these pictures as it
did on those where its errors were counted (``ASSUMPTION``), and that pictures are drawn
independently of each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, fisher_exact, norm

Floats = NDArray[np.float64]

ASSUMPTION = (
    "This presumes that the detector errs on these pictures as often as it did on the pictures "
    "that it was measured on."
)
"""To be shown beside :func:`in_words`."""

DIRECTIONS = 33
"""Angles a quarter turn, on which the limits of :func:`share_generated_of_flagged` are sought."""


class ErrorCounts(Protocol):
    """A detector's verdicts on pictures whose truth is known; ``heads.head.ErrorRates`` is one."""

    @property
    def real_rows(self) -> int:
        """Photographs that it was measured on."""
        ...

    @property
    def real_flagged(self) -> int:
        """How many of them it called generated."""
        ...

    @property
    def generated_rows(self) -> int:
        """Generated pictures that it was measured on."""
        ...

    @property
    def generated_flagged(self) -> int:
        """How many of them it called generated."""
        ...


@dataclass(frozen=True)
class Estimate:
    """A share and its interval; a value that is not known is NaN, between 0 and 1."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, 0.0, 1.0)


class Obstacle(StrEnum):
    """Why a prevalence cannot be estimated."""

    NO_PICTURES = "no_pictures"
    NO_ERROR_COUNTS = "no_error_counts"
    NOT_TOLD_APART = "not_told_apart"
    """The detector was not convincingly seen to flag generated pictures more often than real."""
    FEWER_THAN_FALSE_ALARMS = "fewer_than_false_alarms"
    """So few are flagged that not even a prevalence of 0 fits the known error rates."""
    MORE_THAN_ALL_GENERATED = "more_than_all_generated"
    """So many are flagged that not even a prevalence of 1 fits the known error rates."""


@dataclass(frozen=True)
class Prevalence(Estimate):
    """The share of pictures that is generated."""

    obstacle: Obstacle | None = None

    @property
    def identifiable(self) -> bool:
        """Whether the counts say anything about it."""
        return self.obstacle is None


# Estimates


def share(flagged: int, total: int, level: float = 0.95) -> Estimate:
    """The share ``flagged / total`` and its interval (Wilson 1927).

    Parameters
    ----------
    flagged, total : counts, ``0 <= flagged <= total``
    level : probability that the interval holds the share

    Returns
    -------
    Estimate, (NaN, 0, 1) of no pictures.

    Raises
    ------
    ValueError
        If the counts are impossible.
    """
    _check(flagged, total, "pictures")
    if total == 0:
        return UNKNOWN
    interval = binomtest(flagged, total).proportion_ci(level, method="wilson")
    return Estimate(flagged / total, float(interval.low), float(interval.high))


def corrected_prevalence(
    flagged: int, total: int, known: ErrorCounts | None, level: float = 0.95
) -> Prevalence:
    """The share of generated pictures, from the share flagged and the known errors.

    The value is ``(p - FPR) / (TPR - FPR)`` with p the share flagged, clipped to [0, 1] (Rogan
    and Gladen 1978, Estimating prevalence from the results of a screening test). The interval
    is that of Lang and Reiczigel (2014, Confidence limits for prevalence of disease adjusted
    for estimated sensitivity and specificity, eq. 16 and 17). With z the normal quantile, n
    pictures, N1 generated and N0 real pictures of known truth, let
    ``p' = (flagged + z^2/2) / n'``, ``n' = n + z^2``,
    ``t' = (generated_flagged + 1) / N1'``, ``N1' = N1 + 2``,
    ``f' = (real_flagged + 1) / N0'``, ``N0' = N0 + 2``, and
    ``q' = (p' - f') / (t' - f')``. The limits are ``q' + d ± z s`` with
    ``d = 2 z^2 (q' t'(1 - t')/N1' - (1 - q') f'(1 - f')/N0')`` and
    ``s^2 = (p'(1 - p')/n' + q'^2 t'(1 - t')/N1' + (1 - q')^2 f'(1 - f')/N0') / (t' - f')^2``,
    clipped to [0, 1] and, where they would leave the value out, widened to it.

    Parameters
    ----------
    flagged, total : scored pictures of the dump
    known : what the detector did on pictures of known truth, or None where nobody counted

    Returns
    -------
    Prevalence, (NaN, 0, 1) with its ``obstacle`` where it is not identifiable: no pictures, no
    counts, TPR not above FPR by Fisher's exact test at (1 - level) / 2, or an interval that
    lies outside [0, 1] altogether, so that no prevalence fits both the dump and the known rates.
    """
    _check(flagged, total, "pictures")
    if known is not None:
        _check(known.real_flagged, known.real_rows, "real pictures")
        _check(known.generated_flagged, known.generated_rows, "generated pictures")
    if total == 0:
        return _unidentifiable(Obstacle.NO_PICTURES)
    if known is None or known.real_rows == 0 or known.generated_rows == 0:
        return _unidentifiable(Obstacle.NO_ERROR_COUNTS)
    if not _tells_apart(known, level):
        return _unidentifiable(Obstacle.NOT_TOLD_APART)
    low, high = _lang_reiczigel(flagged, total, known, level)
    if high < 0:
        return _unidentifiable(Obstacle.FEWER_THAN_FALSE_ALARMS)
    if low > 1:
        return _unidentifiable(Obstacle.MORE_THAN_ALL_GENERATED)
    tpr, fpr = _rates(known)
    value = min(max((flagged / total - fpr) / (tpr - fpr), 0.0), 1.0)
    return Prevalence(value, min(max(low, 0.0), value), max(min(high, 1.0), value))


def positive_predictive_value(prevalence: float, tpr: float, fpr: float) -> float:
    """The share of flagged pictures that is generated, by Bayes' theorem.

    ``prevalence * tpr / (prevalence * tpr + (1 - prevalence) * fpr)``; NaN where nothing can
    be flagged.
    """
    true, false = prevalence * tpr, (1 - prevalence) * fpr
    return true / (true + false) if true + false > 0 else math.nan


def share_generated_of_flagged(
    flagged: int, total: int, known: ErrorCounts | None, level: float = 0.95
) -> Estimate:
    """The positive predictive value at the corrected prevalence, and its interval.

    The prevalence is no independent quantity: it was computed from the rates. Put in terms of
    the three that are independent, the share p flagged, TPR t and FPR f, the value is
    ``t (p - f) / (p (t - f))``, clipped to [0, 1]; it grows with p and falls with t and f. The
    interval propagates their Wilson intervals by Newcombe's PropImp (2011, Propagating
    imprecision: combining confidence intervals from independent sources): the lower limit is
    the least value with the lower limit of p and the upper ones of t and f, these taken at
    normal quantiles whose squares add up to that of ``level``; the upper limit likewise.

    Parameters
    ----------
    as those of :func:`corrected_prevalence`

    Returns
    -------
    Estimate, (NaN, 0, 1) where nothing is flagged or the prevalence is not identifiable.
    """
    prevalence = corrected_prevalence(flagged, total, known, level)
    if known is None or not prevalence.identifiable or flagged == 0:
        return UNKNOWN
    value = positive_predictive_value(prevalence.value, *_rates(known))
    z = norm.ppf((1 + level) / 2) * _directions()
    p_low, p_high = _wilson(flagged, total, z[0])
    t_low, t_high = _wilson(known.generated_flagged, known.generated_rows, z[1])
    f_low, f_high = _wilson(known.real_flagged, known.real_rows, z[2])
    low = _share_of_flagged(p_low, t_high, f_high, undefined=0.0).min()
    high = _share_of_flagged(p_high, t_low, f_low, undefined=1.0).max()
    return Estimate(value, min(float(low), value), max(float(high), value))


# Words


def in_words(flagged: int, total: int, known: ErrorCounts | None, level: float = 0.95) -> str:
    """One sentence for a reader who knows no statistics; ``ASSUMPTION`` belongs beside it.

    Parameters
    ----------
    flagged, total : pictures that the detector called generated, and all
    known : the detector's errors on pictures whose truth is known
    level : of the intervals
    """
    prevalence = corrected_prevalence(flagged, total, known, level)
    subject = f"{flagged:,}" if flagged else "None"
    opening = f"{subject} of {total:,} pictures {'was' if flagged < 2 else 'were'} flagged"
    if prevalence.obstacle is not None:
        return _OBSTACLES[prevalence.obstacle].format(opening=opening)
    estimate = percent(prevalence.value)
    span = f"({percent(prevalence.low)} to {percent(prevalence.high)})"
    if flagged == 0:
        return f"{opening}, and the best estimate is that {estimate} of them are generated {span}."
    generated = share_generated_of_flagged(flagged, total, known, level)
    # Outwards, so that an interval never claims more than it is.
    hundred = f"{math.floor(100 * generated.low)} to {math.ceil(100 * generated.high)}"
    match round(100 * generated.value):
        case 0:
            result = f"hardly any flagged picture is generated ({hundred} of 100)"
        case 100:
            result = f"nearly all flagged pictures are generated ({hundred} of 100)"
        case count:
            result = (
                f"about {count} of 100 flagged pictures {'is' if count == 1 else 'are'} generated "
                f"({hundred}) and the other "
                f"{'one is a photograph' if count == 99 else f'{100 - count} are photographs'}"
            )
    return f"If {estimate} of these pictures are generated {span}, {result}."


_OBSTACLES = {
    Obstacle.NO_PICTURES: (
        "No picture was scored, so there is nothing to say of how many are generated."
    ),
    Obstacle.NO_ERROR_COUNTS: (
        "{opening}, and how many are generated is not known, because this detector's errors have "
        "not been counted."
    ),
    Obstacle.NOT_TOLD_APART: (
        "{opening}, and how many are generated is not known, because where its errors were counted "
        "this detector was not clearly seen to flag generated pictures more often than photographs."
    ),
    Obstacle.FEWER_THAN_FALSE_ALARMS: (
        "{opening}, which is fewer than the false alarms to expect from this detector if none were "
        "generated: its known error rates seem not to hold here, and how many are generated is "
        "not known, though nothing points to many."
    ),
    Obstacle.MORE_THAN_ALL_GENERATED: (
        "{opening}, which is more than to expect from this detector if all were generated: its "
        "known error rates seem not to hold here, and how many are generated is not known, "
        "though everything points to many."
    ),
}


def percent(value: float) -> str:
    """A share as a percentage of one decimal that never rounds to a false none or all."""
    if 0 < value < 0.0005:
        return "less than 0.1%"
    if 0.9995 <= value < 1:
        return "more than 99.9%"
    return f"{100 * value:.1f}%" if 0 < value < 1 else f"{value:.0%}"


# Steps


def _check(flagged: int, total: int, what: str) -> None:
    if not 0 <= flagged <= total:
        raise ValueError(f"Of {total} {what}, {flagged} cannot be flagged.")


def _unidentifiable(obstacle: Obstacle) -> Prevalence:
    return Prevalence(UNKNOWN.value, UNKNOWN.low, UNKNOWN.high, obstacle)


def _rates(known: ErrorCounts) -> tuple[float, float]:
    """TPR and FPR."""
    return known.generated_flagged / known.generated_rows, known.real_flagged / known.real_rows


def _tells_apart(known: ErrorCounts, level: float) -> bool:
    table = [
        [known.generated_flagged, known.generated_rows - known.generated_flagged],
        [known.real_flagged, known.real_rows - known.real_flagged],
    ]
    return bool(fisher_exact(table, alternative="greater").pvalue <= (1 - level) / 2)


def _lang_reiczigel(
    flagged: int, total: int, known: ErrorCounts, level: float
) -> tuple[float, float]:
    """Limits as in :func:`corrected_prevalence`, before clipping."""
    z = float(norm.ppf((1 + level) / 2))
    rows, generated, real = total + z**2, known.generated_rows + 2, known.real_rows + 2
    p = (flagged + z**2 / 2) / rows
    t = (known.generated_flagged + 1) / generated
    f = (known.real_flagged + 1) / real
    q = (p - f) / (t - f)
    t_variance, f_variance = t * (1 - t) / generated, f * (1 - f) / real
    shift = 2 * z**2 * (q * t_variance - (1 - q) * f_variance)
    variance = p * (1 - p) / rows + q**2 * t_variance + (1 - q) ** 2 * f_variance
    half_width = z * math.sqrt(variance) / (t - f)
    return q + shift - half_width, q + shift + half_width


def _wilson(flagged: int, total: int, z: Floats) -> tuple[Floats, Floats]:
    """Wilson's lower and upper limits of ``flagged / total`` at each normal quantile of ``z``."""
    square = z**2 / total
    value = flagged / total
    centre = value + square / 2
    half_width = np.sqrt(square * value * (1 - value) + square**2 / 4)
    return (centre - half_width) / (1 + square), (centre + half_width) / (1 + square)


def _directions() -> Floats:
    """Unit vectors that fill the octant without negative coordinates, shape (3, DIRECTIONS^2)."""
    angles = np.linspace(0, np.pi / 2, DIRECTIONS)
    polar, around = (angle.ravel() for angle in np.meshgrid(angles, angles))
    return np.stack([np.cos(polar), np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around)])


def _share_of_flagged(p: Floats, t: Floats, f: Floats, undefined: float) -> Floats:
    """``t (p - f) / (p (t - f))`` clipped to [0, 1]; ``undefined`` where t is not above f."""
    defined = (t > f) & (p > 0)
    values = np.divide(t * (p - f), p * (t - f), out=np.full(p.shape, undefined), where=defined)
    return np.clip(values, 0, 1)
