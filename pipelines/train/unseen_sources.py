"""How a head scores sources that it was not trained on: each is left out in its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from item.heads.columns import FeatureArrays
from item.heads.fitting import fit
from item.heads.settings import HeadSettings, balanced_weights

LEAST_ROWS = 150
"""A generator with fewer rows counts as a part of its source."""


def families(
    labels: NDArray, generators: NDArray[np.object_], sources: NDArray[np.object_]
) -> NDArray[np.object_]:
    """(n,) what is left out together: a photograph's source, a generated picture's generator.

    Generators of fewer than ``LEAST_ROWS`` rows are one with the others of their source: the
    many fine-tunes of one model are one family.
    """
    names, counts = np.unique([name or "" for name in generators], return_counts=True)
    large = set(names[counts >= LEAST_ROWS]) - {""}
    return np.array(
        [
            generator if label == 1 and generator in large else source or generator or ""
            for label, generator, source in zip(labels, generators, sources, strict=True)
        ],
        object,
    )


def unseen_logits(
    arrays: FeatureArrays,
    labels: NDArray[np.int8],
    origins: NDArray[np.object_],
    left_out: NDArray[np.object_],
    settings: HeadSettings,
    folds: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> NDArray[np.float64]:
    """(n,) logit of every row, by a head of the same settings that was trained without its source.

    Each training leaves out sources of both labels at once, so that a head does not know the
    photographs beside which an unseen generator stands.

    Parameters
    ----------
    arrays : n rows
    labels : (n,), 1 generated, 0 real
    origins : (n,) for the weights of :func:`item.heads.settings.balanced_weights`
    left_out : (n,) which rows are left out together, of :func:`families`
    settings : of the heads
    folds : trainings; a source for each where there are as many
    progress : hears how many of all trainings are done
    """
    fold = dealt(labels, left_out, folds)
    logits = np.full(len(labels), np.nan)
    total = int(fold.max()) + 1
    for number in range(total):
        inside, outside = fold == number, fold != number
        weights = balanced_weights(labels[outside], origins[outside], settings.balance)
        fitted = fit(arrays.take(outside), labels[outside], weights, settings)
        logits[inside] = fitted.logits(arrays.take(inside))[1]
        progress(number + 1, total)
    return logits


def dealt(labels: NDArray, left_out: NDArray[np.object_], folds: int) -> NDArray[np.int64]:
    """(n,) the fold that leaves a row out, from 0; the large sources of a label are kept apart.

    Parameters
    ----------
    labels : (n,), 1 generated, 0 real
    left_out : (n,) which rows are left out together, of :func:`families`
    folds : most folds of a label
    """
    fold = np.zeros(len(labels), np.int64)
    for label in (0, 1):
        for number, name in enumerate(_by_size(left_out[labels == label])):
            fold[(labels == label) & (left_out == name)] = number % folds
    return np.unique(fold, return_inverse=True)[1]


def _by_size(names: NDArray[np.object_]) -> Iterator[str]:
    found, counts = np.unique(names.astype(str), return_counts=True)
    return (str(found[place]) for place in np.argsort(-counts, kind="stable"))
