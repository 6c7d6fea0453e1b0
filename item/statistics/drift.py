"""Whether the pictures of a night are like those of the nights before.

Conventions, for every function here:

- ``now`` and ``before`` are two samples of one quantity, both numeric or both categorical.
- A numeric sample is an array of numbers, one a row. NaN is a missing value and counts: it has
  a bin of its own, and the test ranks it above all numbers.
- A categorical sample is a mapping of categories to their numbers of rows. The keys None and
  NaN stand for missing values.
- Every row is used, and their order means nothing.
- One kind compared with the other, and a sample without rows, are each a ValueError.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2_contingency, ks_2samp

from item.statistics.prevalence import percent

Floats = NDArray[np.float64]
Counts: TypeAlias = Mapping[Hashable, int]
Sample: TypeAlias = ArrayLike | Counts

NOTICEABLE, LARGE = 0.1, 0.25
"""The usual thresholds of the population stability index (Siddiqi 2006)."""

LEAST_ROWS = 50
"""Smaller samples are not judged."""

LEAST_EXPECTED = 5
"""The chi-square test pools categories of which fewer rows are expected."""

MISSING = "missing"
"""The category of missing values."""


class Kind(StrEnum):
    """What a quantity's values are."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"


# Stability index


@dataclass(frozen=True)
class StabilityIndex:
    """How far two samples lie apart, 0 where they have the same shares."""

    value: float
    by_chance: float
    """The mean index of two samples of these sizes from one distribution."""

    @property
    def excess(self) -> float:
        """What chance does not explain of the index, at least 0."""
        return max(self.value - self.by_chance, 0.0)


def population_stability_index(now: ArrayLike, before: ArrayLike, bins: int = 10) -> StabilityIndex:
    """The population stability index of a numeric quantity.

    ``sum of (a - b) ln(a / b)`` over bins, with a and b the shares of ``now`` and ``before`` in
    the bin (Siddiqi 2006, Credit Risk Scorecards). Below 0.1 is usually read as no change, from
    0.25 as a large one.

    The bins end at the quantiles of ``before``, and the outer ones are open. A number that so
    many rows share that it is two quantiles has a bin to itself, and so have missing values.
    Half a row is added to every bin that either sample has rows in, so that one that the other
    sample leaves empty does not make the index infinite.

    Small samples differ by chance: with B bins and n and m rows the index of two samples from
    one distribution is ``(B - 1)(1/n + 1/m)`` on average (Yurdakul 2018, Statistical Properties
    of Population Stability Index).

    Parameters
    ----------
    now, before : (n,) and (m,), NaN where missing
    bins : how many numbers are divided among, where ``before`` has no ties
    """
    tonight, earlier = _numbers(now), _numbers(before)
    edges = _edges(earlier, bins)
    return _stability_index(_histogram(tonight, edges), _histogram(earlier, edges))


def categorical_stability_index(now_counts: Counts, before_counts: Counts) -> StabilityIndex:
    """The same as :func:`population_stability_index`, with categories in place of bins."""
    return _stability_index(*_table(now_counts, before_counts))


def _stability_index(now: Floats, before: Floats) -> StabilityIndex:
    """Of rows in each bin, two arrays of shape (bins,)."""
    n, m = now.sum(), before.sum()
    used = now + before > 0
    bins = int(used.sum())
    a = (now[used] + 0.5) / (n + 0.5 * bins)
    b = (before[used] + 0.5) / (m + 0.5 * bins)
    index = float(((a - b) * np.log(a / b)).sum())
    return StabilityIndex(index, by_chance=float((bins - 1) * (1 / n + 1 / m)))


def _edges(values: Floats, bins: int) -> Floats:
    """Upper ends of the bins of numbers but the last; a bin holds its upper end."""
    known = values[~np.isnan(values)]
    if not len(known):
        return known
    # Without interpolation, which knows no mean of two infinities.
    quantiles = np.quantile(known, np.arange(bins + 1) / bins, method="inverted_cdf")
    shared = quantiles[1:][quantiles[1:] == quantiles[:-1]]
    return np.unique(np.concatenate([quantiles[1:-1], shared, np.nextafter(shared, -np.inf)]))


def _histogram(values: Floats, edges: Floats) -> Floats:
    """Rows in each bin, the missing ones last; shape (len(edges) + 2,)."""
    missing = np.isnan(values)
    places = np.searchsorted(edges, values[~missing], side="left")
    numbers = np.bincount(places, minlength=len(edges) + 1)
    return np.append(numbers, missing.sum()).astype(np.float64)


# Tests


@dataclass(frozen=True)
class Comparison:
    """The result of a test: a statistic, and how often chance alone gives one as large."""

    statistic: float
    p_value: float


def two_sample_test(now: Sample, before: Sample) -> Comparison:
    """Test whether two samples come from one distribution.

    Numbers by Kolmogorov and Smirnov with the asymptotic p-value, which ties make too large,
    never too small. Categories by Pearson's chi-square, with those pooled into one of which
    fewer than ``LEAST_EXPECTED`` rows are expected in the smaller sample. Rows are taken to be
    independent; where a crawl's are not, the p-value is too small.
    """
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        table = _pooled(_table(now, before))
        if table.shape[1] < 2:
            return Comparison(statistic=0.0, p_value=1.0)
        result = chi2_contingency(table, correction=False)
    else:
        numbers = [_numbers(sample) for sample in (now, before)]
        ranked = [np.where(np.isnan(sample), np.inf, sample) for sample in numbers]
        # Of two rows in all there is no asymptotic p-value.
        two_rows = sum(len(sample) for sample in ranked) == 2
        result = ks_2samp(*ranked, method="exact" if two_rows else "asymp")
    return Comparison(float(result.statistic), float(result.pvalue))


def _pooled(table: Floats) -> Floats:
    """A table of shape (2, categories) whose every expected count is high enough."""
    totals, smaller_share = table.sum(axis=0), table.sum(axis=1).min() / table.sum()
    ordered = table[:, np.argsort(-totals, kind="stable")]
    expected = np.sort(totals)[::-1] * smaller_share
    kept = int((expected >= LEAST_EXPECTED).sum())
    rest = expected[kept:].sum()
    if 0 < rest < LEAST_EXPECTED and kept:
        kept -= 1
    if rest == 0:
        return ordered
    return np.column_stack([ordered[:, :kept], ordered[:, kept:].sum(axis=1)])


# Drift


@dataclass(frozen=True)
class Drift:
    """How one quantity of tonight compares with the nights before.

    The numbers are NaN where there are too few rows to judge by.
    """

    name: str
    kind: Kind
    psi: float
    """The population stability index."""
    psi_by_chance: float
    """What the index would be on average if nothing had changed."""
    statistic: float
    """Kolmogorov and Smirnov's largest distance, or chi-square."""
    p_value: float
    adjusted_p_value: float
    """The p-value corrected for the number of quantities (Holm 1979)."""
    rows_now: int
    rows_before: int
    too_few: bool
    alarm: bool
    sentence: str
    """The finding in plain words. Names and categories stand in it as given: escape it."""


def drift(
    now: Mapping[str, Sample],
    before: Mapping[str, Sample],
    *,
    threshold: float = LARGE,
    alpha: float = 0.01,
    bins: int = 10,
) -> list[Drift]:
    """Compare every quantity of tonight with the nights before.

    An alarm needs two things: a stability index that exceeds what chance explains by
    ``threshold``, because in large samples every trifle is significant; and an adjusted
    p-value below ``alpha``, because in small ones the index is large by chance. If nothing has
    changed and rows are independent, a night has any alarm at all with a chance of at most
    ``alpha``.

    Parameters
    ----------
    now, before : samples by a name that reads well after "The", such as "caption length"
    threshold : least excess of the index for an alarm
    alpha : greatest chance of a false alarm a night
    bins : of numeric quantities

    Returns
    -------
    list of Drift, in the order of ``now``.

    Raises
    ------
    ValueError
        If the two have not the same names, or a quantity is numeric in one alone.
    """
    if now.keys() != before.keys():
        raise ValueError(f"Only one side has {', '.join(sorted(now.keys() ^ before.keys()))}.")
    judged = [name for name in now if min(_rows(now[name]), _rows(before[name])) >= LEAST_ROWS]
    tests = {name: two_sample_test(now[name], before[name]) for name in judged}
    adjusted = dict(zip(judged, holm([tests[name].p_value for name in judged]), strict=True))

    def judge(name: str) -> Drift:
        index = _index(now[name], before[name], bins)
        significant = adjusted[name] < alpha
        alarm = significant and index.excess >= threshold
        if alarm:
            finding = f"is unlike the nights before: {_change(now[name], before[name])}"
        elif index.excess < NOTICEABLE:
            finding = "is like the nights before"
        elif significant:
            finding = f"has shifted, not enough for an alarm: {_change(now[name], before[name])}"
        else:
            finding = "differs from the nights before by no more than chance may explain"
        return Drift(
            name=name,
            kind=_kind(now[name], before[name]),
            psi=index.value,
            psi_by_chance=index.by_chance,
            statistic=tests[name].statistic,
            p_value=tests[name].p_value,
            adjusted_p_value=adjusted[name],
            rows_now=_rows(now[name]),
            rows_before=_rows(before[name]),
            too_few=False,
            alarm=alarm,
            sentence=(
                f"The {name} {finding} (stability index {index.value:.2f}, of which "
                f"{index.by_chance:.2f} is expected by chance)."
            ),
        )

    return [
        judge(name) if name in tests else _unjudged(name, now[name], before[name]) for name in now
    ]


def _unjudged(name: str, now: Sample, before: Sample) -> Drift:
    rows_now, rows_before = _rows(now), _rows(before)
    return Drift(
        name=name,
        kind=_kind(now, before),
        psi=math.nan,
        psi_by_chance=math.nan,
        statistic=math.nan,
        p_value=math.nan,
        adjusted_p_value=math.nan,
        rows_now=rows_now,
        rows_before=rows_before,
        too_few=True,
        alarm=False,
        sentence=(
            f"The {name} was not compared with the nights before: there are {rows_now:,} rows "
            f"now and {rows_before:,} before, and at least {LEAST_ROWS} of each are needed."
        ),
    )


def _index(now: Sample, before: Sample, bins: int) -> StabilityIndex:
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        return categorical_stability_index(now, before)
    return population_stability_index(_numbers(now), _numbers(before), bins)


def holm(p_values: list[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979, A simple sequentially rejective procedure).

    Those below alpha include a false one with a chance of at most alpha, whatever their
    dependence.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(p_value) for p_value in adjusted]


# Words


def _change(now: Sample, before: Sample) -> str:
    """What changed most, in words."""
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        return _change_of_shares(_categories(now), _categories(before))
    return _change_of_numbers(_numbers(now), _numbers(before))


def _change_of_shares(now: Counter[str], before: Counter[str]) -> str:
    """Of the category whose share changed most."""
    n, m = now.total(), before.total()
    most = max(sorted({*now, *before}), key=lambda name: abs(now[name] / n - before[name] / m))
    return f"{percent(now[most] / n)} of the rows are {most}, {percent(before[most] / m)} before"


def _change_of_numbers(now: Floats, before: Floats) -> str:
    """Of the missing values if their share changed much, else of the middle half."""
    missing, were_missing = np.isnan(now).mean(), np.isnan(before).mean()
    if abs(missing - were_missing) >= 0.1 or max(missing, were_missing) == 1:
        return f"{percent(missing)} of its values are missing, {percent(were_missing)} before"
    return f"the middle half of its values runs {_middle(now)}, before {_middle(before)}"


def _middle(values: Floats) -> str:
    low, high = np.nanquantile(values, (0.25, 0.75), method="inverted_cdf")
    return f"from {_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# Samples


def _kind(now: Sample, before: Sample) -> Kind:
    categorical = isinstance(now, Mapping)
    if categorical != isinstance(before, Mapping):
        raise ValueError(_MIXED)
    return Kind.CATEGORICAL if categorical else Kind.NUMERIC


_MIXED = "A quantity must be numeric in both samples or categorical in both."


def _rows(sample: Sample) -> int:
    return sum(sample.values()) if isinstance(sample, Mapping) else int(np.size(sample))


def _numbers(sample: Sample) -> Floats:
    """Float64 of shape (n,)."""
    if isinstance(sample, Mapping):
        raise ValueError(_MIXED)
    values = np.asarray(sample, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"A sample must be a list of numbers, not of shape {values.shape}.")
    return values


def _categories(sample: Counts) -> Counter[str]:
    """Rows by category in words."""
    rows: Counter[str] = Counter()
    for category, count in sample.items():
        # NaN is the one key that differs from itself.
        missing = category is None or category != category
        rows[MISSING if missing else str(category)] += count
    if not rows.total():
        raise ValueError("A sample must have rows.")
    return +rows  # without categories of no rows


def _table(now: Counts, before: Counts) -> Floats:
    """Rows of both samples by category, shape (2, categories)."""
    samples = _categories(now), _categories(before)
    names = sorted(set().union(*samples))
    return np.array([[sample[name] for name in names] for sample in samples], np.float64)
