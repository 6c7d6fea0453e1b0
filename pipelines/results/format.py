"""Figures and names as the results page writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.results.blocks import Cell
from pipelines.results.tables import OVER_GENERATORS

METRIC_WORDS = {
    "auroc": ("AUROC", "chance that a generated image scores above a photograph; 0.5 is guessing"),
    "ap": ("AP", "average precision with generated images as the class to find"),
    "balanced_accuracy": ("Balanced accuracy", "mean of the two accuracies that follow"),
    "real_accuracy": ("Real accuracy", "share of photographs called real"),
    "generated_accuracy": ("Generated accuracy", "share of generated images called generated"),
    "tpr_at_1_fpr": ("TPR at 1% FPR", "generated images caught if 1% of photographs are blamed"),
    "tpr_at_5_fpr": ("TPR at 5% FPR", "generated images caught if 5% of photographs are blamed"),
    "brier": ("Brier", "mean squared error of the score as a probability; lower is better"),
    "topic_matched_auroc": (
        "AUROC at equal topics",
        "the same, weighted so that captions cannot tell generated from real",
    ),
    "ece": ("ECE", "mean distance of the score from the true share; lower is better"),
}


TOPICS = "topic_matched_auroc"


LOWER_IS_BETTER = {"brier", "ece"}


DASH = "–"


def in_words(row: Any) -> str:
    higher, lower = row["low"] > 0, row["high"] < 0
    ahead, behind = (lower, higher) if row["metric"] in LOWER_IS_BETTER else (higher, lower)
    if ahead:
        return "ahead"
    return "behind" if behind else "cannot tell"


def promise_in_words(asked: float, low: float, high: float) -> str:
    if low > asked:
        return "more than asked"
    if high < asked:
        return "fewer than asked"
    return "as asked" if low <= asked <= high else "cannot tell"


def as_sentence(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def generator_name(name: str) -> str:
    return OVER_GENERATORS.get(name, name)


def metric_name(name: str) -> str:
    return METRIC_WORDS[name][0] if name in METRIC_WORDS else name


def row_of(*texts: str) -> list[Cell]:
    return [Cell(text) for text in texts]


def percent(share: float) -> str:
    return DASH if np.isnan(share) else f"{share:.1%}"


def whole_number(number: float) -> str:
    return DASH if np.isnan(number) else f"{number:,.0f}"


def with_interval(
    value: float, low: float, high: float, shown: Callable[[float], str] = "{:.3f}".format
) -> str:
    """``0.862 (0.850 to 0.874)``, or what there is of it."""
    if np.isnan(value):
        return DASH
    if np.isnan(low) or np.isnan(high):
        return shown(value)
    return f"{shown(value)} ({shown(low)} to {shown(high)})"
