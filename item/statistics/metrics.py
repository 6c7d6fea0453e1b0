"""How good scores are: metrics, and intervals from resampling whole clusters of rows.

Conventions, for every function here:

- ``labels`` has shape (n,): 1 generated, 0 real. ``scores`` has shape (n,), higher for rows
  that are more likely generated. A row is ``flagged`` where its score exceeds a threshold.
- Empty input, a class that the metric needs and does not find, labels other than 0 and 1,
  and scores that are NaN or infinite are each a ValueError.
- ``weights`` has shape (resamples, n): how often each resample holds each row. The
  ``weighted_`` twin of a metric computes it for all resamples at once, shape (resamples,).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    roc_auc_score,
    roc_curve,
)

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Weights = NDArray[np.number]

BLOCK_ENTRIES = 1 << 18
"""Entries of ``weights`` that are worked on at a time: a few MB, which stay in the cache."""


def checked(
    labels: ArrayLike, scores: ArrayLike, needed: tuple[int, ...] = (0, 1)
) -> tuple[Labels, Floats]:
    """Labels as int64 and scores as float64, both of shape (n,).

    Raises
    ------
    ValueError
        If they are no rows, of two lengths, not finite, not 0 and 1, or lack a label of ``needed``.
    """
    given, numbers = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or given.shape != numbers.shape:
        raise ValueError(
            f"Labels and scores must be two lists of one length, not of shapes {given.shape} "
            f"and {numbers.shape}."
        )
    if not len(given):
        raise ValueError("There are no rows to measure.")
    if not np.isfinite(numbers).all():
        raise ValueError("Scores must be finite numbers, and some are NaN or infinite.")
    if not np.isin(given, (0, 1)).all():
        raise ValueError("Labels must be 0 (real) or 1 (generated).")
    for label in needed:
        if not (given == label).any():
            raise ValueError(f"There are no {('real', 'generated')[label]} rows to measure.")
    return given.astype(np.int64), numbers


# Metrics


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a generated row scores above a real one; ties count half."""
    return float(roc_auc_score(*checked(labels, scores)))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Precision averaged over the steps of recall, without interpolation (scikit-learn's)."""
    return float(average_precision_score(*checked(labels, scores)))


def real_accuracy(labels: ArrayLike, flagged: ArrayLike) -> float:
    """Share of real rows that are not flagged. Generated rows need not be there."""
    truth, calls = checked(labels, flagged, needed=(0,))
    return float(1 - calls[truth == 0].mean())


def generated_accuracy(labels: ArrayLike, flagged: ArrayLike) -> float:
    """Share of generated rows that are flagged. Real rows need not be there."""
    truth, calls = checked(labels, flagged, needed=(1,))
    return float(calls[truth == 1].mean())


def balanced_accuracy(labels: ArrayLike, flagged: ArrayLike) -> float:
    """Mean of the accuracies on real and on generated rows."""
    return float(balanced_accuracy_score(*checked(labels, flagged)))


def tpr_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """Largest share of generated rows above a threshold that at most ``fpr`` of the real ones pass.

    The threshold is one that exists: nothing is interpolated between the points of the curve.
    """
    false, true, _ = roc_curve(*checked(labels, scores), drop_intermediate=False)
    return float(true[false <= fpr].max())


def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean squared difference of label and score, a probability in [0, 1] (Brier 1950)."""
    truth, probabilities = _probabilities(labels, scores)
    return float(brier_score_loss(truth, probabilities, pos_label=1))


def expected_calibration_error(labels: ArrayLike, scores: ArrayLike, bins: int = 15) -> float:
    """Mean distance of the score in a bin and the share of generated rows in it.

    Equal-width bins, open below and closed above, each weighing as many rows as it holds (Guo
    et al. 2017, On Calibration of Modern Neural Networks, eq. 3). Guo et al. bin the confidence
    in the predicted class; here it is the probability of being generated.

    Parameters
    ----------
    labels : (n,)
    scores : (n,) probabilities in [0, 1]
    bins : number of bins
    """
    truth, _ = checked(labels, scores, needed=())
    return float(weighted_calibration_error(labels, scores, _once(len(truth)), bins)[0])


def summary(labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float]:
    """Every metric by its short name.

    Parameters
    ----------
    labels : (n,)
    scores : (n,) calibrated probabilities in [0, 1]
    threshold : rows that score above it are flagged
    """
    flagged = np.asarray(scores) > threshold
    return {
        "auroc": auroc(labels, scores),
        "ap": average_precision(labels, scores),
        "balanced_accuracy": balanced_accuracy(labels, flagged),
        "real_accuracy": real_accuracy(labels, flagged),
        "generated_accuracy": generated_accuracy(labels, flagged),
        "tpr_at_1_fpr": tpr_at_fpr(labels, scores, 0.01),
        "tpr_at_5_fpr": tpr_at_fpr(labels, scores, 0.05),
        "brier": brier(labels, scores),
        "ece": expected_calibration_error(labels, scores),
    }


# Resampling


@dataclass(frozen=True)
class Interval:
    """Where a metric lies in most resamples."""

    low: float
    high: float


def cluster_weights(
    labels: ArrayLike, clusters: ArrayLike, resamples: int = 1000, seed: int = 0
) -> Weights:
    """Draw whole clusters with replacement, real and generated ones apart.

    Rows of one cluster, such as pictures of one prompt, are alike, and an interval that takes
    them for independent is too narrow (Field and Welsh 2007, Bootstrapping clustered data).
    Each resample has as many clusters of each label as there are, so it has both labels. A
    cluster with rows of both labels counts as two.

    Parameters
    ----------
    labels, clusters : (n,); clusters are names or numbers
    resamples, seed : how many, and from which random numbers

    Returns
    -------
    int32 ndarray of shape (resamples, n): how often each resample holds each row.

    Raises
    ------
    ValueError
        If a label has a single cluster: its resamples would all be the same.
    """
    names = np.asarray(clusters)
    truth, _ = checked(labels, np.zeros(len(names)))
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, len(truth)), np.int32)
    for label in (0, 1):
        rows = np.flatnonzero(truth == label)
        distinct, cluster = np.unique(names[rows], return_inverse=True)
        count = len(distinct)
        if count < 2:
            raise ValueError(
                f"An interval needs two clusters of {('real', 'generated')[label]} rows or more, "
                "and there is one."
            )
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        weights[:, rows] = drawn[:, cluster]
    return weights


def interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """The percentile interval that holds the share ``level`` of the resampled ``values``."""
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size or np.isnan(numbers).any():
        raise ValueError("An interval needs one number for each resample, and some are missing.")
    low, high = np.quantile(numbers, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def weighted_auroc(labels: ArrayLike, scores: ArrayLike, weights: Weights) -> Floats:
    """:func:`auroc` of each resample, shape (resamples,)."""
    return np.concatenate(
        [
            (np.diff(false, axis=1) * (true[:, 1:] + true[:, :-1])).sum(axis=1) / 2
            for false, true, _ in _curves(labels, scores, weights)
        ]
    )


def overlap_weights(labels: ArrayLike, propensity: ArrayLike) -> Floats:
    """Weights under which generated and real rows are alike in what predicts them.

    A generated row weighs ``1 - propensity`` and a real one ``propensity`` (Li, Morgan and
    Zaslavsky 2018, Balancing covariates via propensity score weighting). With the propensity
    given by the captions, a metric under these weights compares pictures of equal topics.

    Parameters
    ----------
    labels : (n,)
    propensity : (n,) probability, from the covariates alone, of being generated

    Returns
    -------
    ndarray of shape (n,), to be multiplied with resampling weights.
    """
    truth, probabilities = _probabilities(labels, propensity)
    return np.where(truth == 1, 1 - probabilities, probabilities)


def weighted_average_precision(labels: ArrayLike, scores: ArrayLike, weights: Weights) -> Floats:
    """:func:`average_precision` of each resample, shape (resamples,)."""
    return np.concatenate(
        [
            (np.diff(true, axis=1) * precision[:, 1:]).sum(axis=1)
            for _, true, precision in _curves(labels, scores, weights)
        ]
    )


def weighted_tpr_at_fpr(
    labels: ArrayLike, scores: ArrayLike, weights: Weights, fpr: float
) -> Floats:
    """:func:`tpr_at_fpr` of each resample, shape (resamples,)."""
    return np.concatenate(
        [
            true.max(axis=1, where=false <= fpr, initial=0)
            for false, true, _ in _curves(labels, scores, weights)
        ]
    )


def weighted_accuracies(
    labels: ArrayLike, flagged: ArrayLike, weights: Weights
) -> tuple[Floats, Floats]:
    """:func:`real_accuracy` and :func:`generated_accuracy`, each of shape (resamples,).

    Their mean is the balanced accuracy.
    """
    truth, calls = checked(labels, flagged)
    real, generated = _class_sizes(truth, weights)
    return (
        weights @ ((truth == 0) * (1 - calls)) / real,
        weights @ ((truth == 1) * calls) / generated,
    )


def weighted_brier(labels: ArrayLike, scores: ArrayLike, weights: Weights) -> Floats:
    """:func:`brier` of each resample, shape (resamples,)."""
    truth, probabilities = _probabilities(labels, scores)
    return weights @ np.square(truth - probabilities) / weights.sum(axis=1)


def weighted_calibration_error(
    labels: ArrayLike, scores: ArrayLike, weights: Weights, bins: int = 15
) -> Floats:
    """:func:`expected_calibration_error` of each resample, shape (resamples,)."""
    truth, probabilities = _probabilities(labels, scores)
    bin_of_row = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probabilities, side="left")
    excess = np.zeros((len(truth), bins))
    excess[np.arange(len(truth)), bin_of_row] = truth - probabilities
    return np.abs(weights @ excess).sum(axis=1) / weights.sum(axis=1)


def weighted_summary(
    labels: ArrayLike, scores: ArrayLike, threshold: float, weights: Weights
) -> dict[str, Floats]:
    """:func:`summary` of each resample: arrays of shape (resamples,) by the same names."""
    real, generated = weighted_accuracies(labels, np.asarray(scores) > threshold, weights)
    return {
        "auroc": weighted_auroc(labels, scores, weights),
        "ap": weighted_average_precision(labels, scores, weights),
        "balanced_accuracy": (real + generated) / 2,
        "real_accuracy": real,
        "generated_accuracy": generated,
        "tpr_at_1_fpr": weighted_tpr_at_fpr(labels, scores, weights, 0.01),
        "tpr_at_5_fpr": weighted_tpr_at_fpr(labels, scores, weights, 0.05),
        "brier": weighted_brier(labels, scores, weights),
        "ece": weighted_calibration_error(labels, scores, weights),
    }


def _curves(
    labels: ArrayLike, scores: ArrayLike, weights: Weights
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """False and true positive rate and precision at every threshold, block by block of resamples.

    Each has shape (resamples of the block, distinct scores + 1), from flagging nothing to
    flagging all. Precision is 0 where a resample has nothing flagged.
    """
    truth, numbers = checked(labels, scores)
    real, generated = _class_sizes(truth, weights)
    order = np.argsort(-numbers, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(numbers[order])), len(order) - 1)
    truth = truth[order]
    block = max(1, BLOCK_ENTRIES // len(order))
    for start in range(0, len(weights), block):
        part = slice(start, start + block)
        flagged = np.cumsum(weights[part, order], axis=1, dtype=np.float64)
        hits = np.cumsum(weights[part, order] * truth, axis=1, dtype=np.float64)
        flagged, hits = (
            np.pad(counts[:, last_of_tie], [(0, 0), (1, 0)]) for counts in (flagged, hits)
        )
        precision = hits / np.maximum(flagged, 1)
        yield (
            (flagged - hits) / real[part, np.newaxis],
            hits / generated[part, np.newaxis],
            precision,
        )


def _class_sizes(truth: Labels, weights: Weights) -> tuple[Floats, Floats]:
    """Real and generated rows of each resample, each of shape (resamples,)."""
    if weights.ndim != 2 or weights.shape[1] != len(truth):
        raise ValueError(
            f"Weights must be of shape (resamples, {len(truth)}), not {weights.shape}."
        )
    generated = np.matmul(weights, truth, dtype=np.float64)
    real = weights.sum(axis=1, dtype=np.float64) - generated
    if not (real.all() and generated.all()):
        raise ValueError("A resample has rows of one class only: draw among the rows measured.")
    return real, generated


def _probabilities(labels: ArrayLike, scores: ArrayLike) -> tuple[Labels, Floats]:
    truth, probabilities = checked(labels, scores, needed=())
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError("Scores must be probabilities between 0 and 1.")
    return truth, probabilities


def _once(rows: int) -> Weights:
    """The weights of the rows as they are, shape (1, rows)."""
    return np.ones((1, rows), np.int32)


def mean_over_pairs(labels: ArrayLike, scores: ArrayLike, sources: ArrayLike) -> float:
    """Mean AUROC of every source of generated pictures beside every source of photographs.

    Each pair weighs the same, whatever its number of rows.

    Parameters
    ----------
    labels : (n,), 1 generated, 0 real, both present
    scores : (n,), higher for generated
    sources : (n,)
    """
    truth, values = checked(labels, scores)
    names = np.asarray(sources, str)
    groups = [
        [values[(truth == y) & (names == s)] for s in np.unique(names[truth == y])] for y in (0, 1)
    ]
    return float(
        np.mean(
            [
                auroc(
                    np.repeat([0, 1], [len(real), len(generated)]),
                    np.concatenate([real, generated]),
                )
                for real in groups[0]
                for generated in groups[1]
            ]
        )
    )
