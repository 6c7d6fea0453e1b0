"""Thresholds over sources: what they promise holds on sources drawn from the same kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit

from item.errors import UsageError
from item.statistics.calibration import OperatingPoints, fit_thresholds
from item.statistics.source_thresholds import (
    PREDICTED,
    SourceThresholds,
    enough_sources,
    fit_source_thresholds,
)

POINTS = OperatingPoints(real_called_generated=0.05, generated_called_real=0.1)
ROWS = 200


def drawn(
    seed: int, sources: int, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and names; each source has a place of its own, ``spread`` apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], sources * ROWS)
    places = rng.normal(scale=spread, size=2 * sources).repeat(ROWS)
    scores = 4.0 * labels + places + rng.normal(size=len(labels))
    names = np.array([f"source-{n}" for n in range(2 * sources)]).repeat(ROWS)
    return expit(scores - 2), labels, names


def fitted(seed: int, sources: int = 12, confidence: float = 0.9) -> SourceThresholds:
    return fit_source_thresholds(*drawn(seed, sources), POINTS, confidence)


def test_new_source_keeps_the_operating_point_as_often_as_promised() -> None:
    kept, pooled = [], []
    for seed in range(400):
        scores, labels, names = drawn(seed, 13)
        new = names == "source-0"
        known = (scores[~new], labels[~new], names[~new])
        found = fit_source_thresholds(*known, POINTS, 0.9)
        assert found.real.confidence == 12 / 13
        kept.append(np.mean(scores[new] > found.thresholds.likely_generated) <= 0.05)
        of_rows = fit_thresholds(*known[:2], POINTS)
        pooled.append(np.mean(scores[new] > of_rows.likely_generated) <= 0.05)
    assert np.mean(kept) > 0.87
    assert np.mean(pooled) < 0.8


@given(st.integers(0, 1000), st.integers(3, 30), st.floats(0.5, 0.99))
@settings(max_examples=40, deadline=None)
def test_promise_says_what_was_reached_and_never_more(
    seed: int, sources: int, confidence: float
) -> None:
    found = fitted(seed, sources, confidence)
    for promise in (found.real, found.generated):
        most = sources / (sources + 1)
        assert min(confidence, most) - 1e-9 <= promise.confidence <= most
        assert promise.sources == sources == len(promise.left_out)
        assert promise.worst_source in promise.left_out


def test_worst_source_that_is_left_out_shows_what_a_threshold_without_it_does() -> None:
    scores, labels, names = drawn(0, 6, spread=0.01)
    scores[names == "source-2"] = expit(logit(scores[names == "source-2"]) + 3)
    found = fit_source_thresholds(scores, labels, names, POINTS)
    assert found.real.worst_source == "source-2"
    assert found.real.left_out["source-2"] > 0.5
    assert max(rate for name, rate in found.real.left_out.items() if name != "source-2") <= 0.05


def test_limits_that_spread_widely_set_the_threshold_beyond_the_farthest() -> None:
    """The bound is that of a textbook: mean + t s sqrt(1 + 1/m)."""
    scores, labels, names = drawn(3, 5, spread=0.0)
    for number in range(5):
        here = names == f"source-{number}"
        scores[here] = expit(logit(scores[here]) + number)
    found = fit_source_thresholds(scores, labels, names, POINTS)
    limits = [
        np.sort(logit(scores[names == f"source-{number}"]))[ROWS - 1 - ROWS // 20]
        for number in range(5)
    ]
    far = np.mean(limits) + stats.t.ppf(PREDICTED, 4) * np.std(limits, ddof=1) * np.sqrt(6 / 5)
    assert logit(found.thresholds.likely_generated) == pytest.approx(far, abs=1e-6)
    assert far > max(limits)


@given(st.integers(0, 1000), st.integers(3, 20))
@settings(max_examples=40, deadline=None)
def test_no_known_source_whose_limit_counts_exceeds_the_threshold_by_more_than_was_asked(
    seed: int, sources: int
) -> None:
    scores, labels, names = drawn(seed, sources)
    found = fit_source_thresholds(scores, labels, names, POINTS, 0.999)
    limits = found.thresholds
    for name in set(names):
        rows, of_real = names == name, labels[names == name][0] == 0
        if limits.likely_real < limits.likely_generated:
            wrong = (
                scores[rows] > limits.likely_generated
                if of_real
                else scores[rows] < limits.likely_real
            )
            assert wrong.mean() <= (0.05 if of_real else 0.1)


def test_certain_scores_set_limits_too() -> None:
    _, labels, names = drawn(0, 4)
    sure = np.where(labels == 1, 1.0, 0.0)
    found = fit_source_thresholds(sure, labels, names, POINTS)
    assert 0 < found.thresholds.likely_real <= found.thresholds.likely_generated < 1


def test_small_sources_set_no_limit_and_too_few_are_refused() -> None:
    scores, labels, names = drawn(0, 3)
    assert enough_sources(labels, names, POINTS)
    kept = np.flatnonzero((names != "source-1") | (np.arange(len(names)) % ROWS < 18))
    assert not enough_sources(labels[kept], names[kept], POINTS)
    with pytest.raises(UsageError, match="3 sources"):
        fit_source_thresholds(scores[kept], labels[kept], names[kept], POINTS)
