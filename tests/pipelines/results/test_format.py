"""Figures in words, and figures that are missing."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.results.format import in_words, promise_in_words, with_interval


@pytest.mark.parametrize(
    ("metric", "low", "high", "words"),
    [
        ("auroc", 0.01, 0.02, "ahead"),
        ("auroc", -0.02, -0.01, "behind"),
        ("auroc", -0.01, 0.01, "cannot tell"),
        ("auroc", 0.0, 0.01, "cannot tell"),
        ("auroc", np.nan, np.nan, "cannot tell"),
        ("brier", 0.01, 0.02, "behind"),
        ("ece", -0.02, -0.01, "ahead"),
    ],
)
def test_words_follow_whether_the_interval_holds_zero(
    metric: str, low: float, high: float, words: str
) -> None:
    assert in_words({"metric": metric, "low": low, "high": high}) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.02, 0.04, "more than asked"),
        (0.001, 0.004, "fewer than asked"),
        (0.008, 0.012, "as asked"),
        (np.nan, np.nan, "cannot tell"),
    ],
)
def test_realised_share_in_words(low: float, high: float, words: str) -> None:
    assert promise_in_words(0.01, low, high) == words


def test_interval_that_was_not_measured_is_left_out() -> None:
    assert with_interval(0.5, float("nan"), float("nan")) == "0.500"
    assert with_interval(float("nan"), 0.4, 0.6) == "–"
