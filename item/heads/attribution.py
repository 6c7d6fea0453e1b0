"""Which known family of generators a generated picture looks most like, or none of them.

A multinomial regression on a head's columns, its probabilities calibrated by one temperature
(Guo et al. 2017), and an answer held back where the largest of them is small: open-set
recognition by the largest softmax probability (Hendrycks and Gimpel 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from item.heads.settings import Balance, balanced_weights
from item.statistics.metrics import auroc

UNKNOWN = "unknown"
"""What a picture is said to be of that looks like no known family."""
LEAST_ROWS = 50
"""A family of fewer pictures is not learned, and fewer to calibrate on tell too little."""


class KnownFamilies(BaseModel):
    """What ``head.json`` says of an attribution."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    families: tuple[str, ...] = Field(min_length=2)
    temperature: float = Field(gt=0)
    """By which logits are divided before the softmax."""
    least_probability: float = Field(ge=0, le=1)
    """Below it a picture is called ``unknown``."""
    rejected: float = Field(ge=0, le=1)
    """Share of pictures of known families that are called so, on the calibration rows."""
    accuracy: float = Field(ge=0, le=1)
    """On the calibration rows: how often the most probable family is the right one."""
    open_set_auroc: dict[str, float] = {}
    """By family: how well its pictures are told from those of the others, by the largest
    probability, where it was not trained on. Not of families without calibration rows."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """A fitted attribution."""

    known: KnownFamilies
    weights: NDArray[np.float64]
    """(families, columns + 1), the intercept last."""

    def of(self, columns: NDArray[np.float32]) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
        """Columns (n, columns) of a head -> families (n,) and their probabilities (n,)."""
        found = softmax(_logits(columns, self.weights) / self.known.temperature, axis=1)
        largest = found.max(axis=1, initial=0)
        names = np.array(self.known.families, object)[found.argmax(axis=1)]
        names[largest < self.known.least_probability] = UNKNOWN
        return names, largest


def fit_attribution(
    columns: NDArray[np.float32],
    families: NDArray[np.object_],
    calibration: tuple[NDArray[np.float32], NDArray[np.object_]],
    rejected: float,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Attribution | None:
    """Learn the families of generated pictures; None if there are not two of them.

    Parameters
    ----------
    columns : (n, columns) of a head, of generated pictures
    families : (n,) names
    calibration : columns and families of other pictures
    rejected : share of pictures of known families that may be called unknown
    progress : hears how many of all trainings are done
    """
    names, counts = np.unique(families.astype(str), return_counts=True)
    learned = [str(name) for name, count in zip(names, counts, strict=True) if count >= LEAST_ROWS]
    kept = np.isin(calibration[1].astype(str), learned)
    held, truth = calibration[0][kept], calibration[1][kept].astype(str)
    if len(learned) < 2 or len(held) < LEAST_ROWS:
        return None
    weights = _fitted(columns, families, learned)
    judged = [name for name in learned if len(learned) > 2 and name in truth]
    progress(1, len(judged) + 1)
    logits = _logits(held, weights)
    places = np.searchsorted(learned, truth)
    temperature = _temperature(logits, places)
    probabilities = softmax(logits / temperature, axis=1)
    least = float(np.quantile(probabilities.max(axis=1), rejected, method="lower"))
    open_set = {}
    for number, name in enumerate(judged, 2):
        open_set[name] = _told_apart(columns, families, learned, name, (held, truth))
        progress(number, len(judged) + 1)
    known = KnownFamilies(
        families=tuple(learned),
        temperature=temperature,
        least_probability=least,
        rejected=float((probabilities.max(axis=1) < least).mean()),
        accuracy=float((logits.argmax(axis=1) == places).mean()),
        open_set_auroc=open_set,
    )
    return Attribution(known, weights)


def _told_apart(
    columns: NDArray[np.float32],
    families: NDArray[np.object_],
    learned: Sequence[str],
    left_out: str,
    held: tuple[NDArray[np.float32], NDArray[np.str_]],
) -> float:
    """AUROC of pictures of a family against those of the others, by heads that never saw it."""
    others = [name for name in learned if name != left_out]
    weights = _fitted(columns, families, others)
    surest = softmax(_logits(held[0], weights), axis=1).max(axis=1)
    return float(auroc((held[1] == left_out).astype(int), -surest))


def _fitted(
    columns: NDArray[np.float32], families: NDArray[np.object_], learned: Sequence[str]
) -> NDArray[np.float64]:
    from sklearn.linear_model import LogisticRegression  # scoring does without it

    kept = np.isin(families.astype(str), learned)
    rows, names = columns[kept], families[kept].astype(str)
    weights = balanced_weights(np.ones(len(names)), names, Balance.ROOT)
    model = LogisticRegression(C=0.003, max_iter=500).fit(rows, names, sample_weight=weights)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(learned) == 2:  # scikit-learn keeps one of two
        coefficients = np.vstack([np.zeros_like(coefficients), coefficients])
        intercepts = np.array([0.0, intercepts[0]])
    return np.column_stack([coefficients, intercepts]).astype(np.float64)


def _logits(columns: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = columns.astype(np.float64) @ weights[:, :-1].T + weights[:, -1]
    return found


def _temperature(logits: NDArray[np.float64], places: NDArray[np.int64]) -> float:
    """The one with the least cross-entropy."""

    def loss(log_temperature: float) -> float:
        likelihoods = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(likelihoods[np.arange(len(places)), places].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))
