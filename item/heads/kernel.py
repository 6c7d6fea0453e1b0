"""Rows compared with landmarks: a Gaussian kernel, of the global columns and of all columns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from item.heads.settings import HeadSettings

ROWS_AT_ONCE = 4096


class KernelModel:
    """Two logits ``sum_i a_i exp(-gamma |x - z_i|^2) + b`` of standardised columns x.

    Far from all landmarks z_i the logit is b: of what resembles nothing that it was trained on,
    the head says little.

    Parameters
    ----------
    landmarks : (m, columns)
    weights : (2, m + 1), the intercept last: of the global columns, all NaN if there are none,
        and of all columns
    gammas : (2,)
    local : (columns,) which columns speak of objects
    """

    def __init__(
        self,
        landmarks: NDArray[np.float32],
        weights: NDArray[np.float64],
        gammas: NDArray[np.float64],
        local: NDArray[np.bool_],
    ) -> None:
        self.landmarks = landmarks
        self.weights = weights
        self.gammas = gammas
        self.local = local

    def logits(self, columns: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Standardised columns (n, columns) -> global logits (n,) and logits (n,)."""
        chosen = (~self.local, np.ones_like(self.local))
        whole = np.full((2, len(columns)), np.nan)
        for row, (seen, weights, gamma) in enumerate(
            zip(chosen, self.weights, self.gammas, strict=True)
        ):
            if row == 1 and not self.local.any():
                whole[1] = whole[0]
            elif not np.isnan(weights[-1]):
                whole[row] = _logits(columns[:, seen], self.landmarks[:, seen], weights, gamma)
        return whole[0], whole[1]

    def tensors(self) -> dict[str, NDArray]:
        """As named arrays, for safetensors."""
        return {"landmarks": self.landmarks, "weights": self.weights, "gammas": self.gammas}

    def texts(self) -> dict[str, str]:
        """None: the arrays are all."""
        return {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray], local: NDArray[np.bool_]) -> KernelModel:
        """The inverse of :meth:`tensors`; ValueError or KeyError if shapes or names differ."""
        landmarks = tensors["landmarks"].reshape(-1, len(local))
        weights = tensors["weights"].reshape(2, len(landmarks) + 1)
        return cls(landmarks, weights, tensors["gammas"].reshape(2), local)


def fit_kernel(
    columns: NDArray[np.float32],
    labels: NDArray,
    weights: NDArray,
    settings: HeadSettings,
    local: NDArray[np.bool_],
) -> KernelModel:
    """Logistic regression on a Nystrom approximation of the kernel (Williams and Seeger 2001).

    Parameters
    ----------
    columns : (n, columns), standardised
    labels, weights : (n,)
    local : (columns,) which columns speak of objects
    """
    from sklearn.linear_model import LogisticRegression  # scoring does without it

    kernel = settings.kernel
    chosen = np.random.default_rng(settings.seed).permutation(len(columns))[: kernel.landmarks]
    landmarks = columns[np.sort(chosen)]
    found = np.full((2, len(landmarks) + 1), np.nan)
    gammas = np.ones(2)
    for row, seen in enumerate((~local, np.ones_like(local))):
        if not seen.any() or (row == 1 and not local.any()):
            continue
        rows, marks = columns[:, seen], landmarks[:, seen]
        gammas[row] = kernel.width / max(np.square(marks).sum(axis=1).mean(), 1e-12)
        root = _inverse_root(_similar(marks, marks, gammas[row]))
        model = LogisticRegression(C=kernel.c, max_iter=1000)
        model.fit(_similar(rows, marks, gammas[row]) @ root, labels, sample_weight=weights)
        found[row] = [*(root @ model.coef_[0]), model.intercept_[0]]
    return KernelModel(landmarks, found, gammas, local)


def _logits(
    rows: NDArray[np.float32], marks: NDArray[np.float32], weights: NDArray, gamma: float
) -> NDArray[np.float64]:
    parts = [
        _similar(rows[start : start + ROWS_AT_ONCE], marks, gamma) @ weights[:-1] + weights[-1]
        for start in range(0, len(rows), ROWS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0), *parts])


def _similar(
    rows: NDArray[np.float32], marks: NDArray[np.float32], gamma: float
) -> NDArray[np.float64]:
    """(n, m) exp(-gamma |x - z|^2), in float64 so that the rows beside a row change nothing."""
    x, z = rows.astype(np.float64), marks.astype(np.float64)
    squares = np.square(x).sum(axis=1)[:, np.newaxis] + np.square(z).sum(axis=1)
    distances: NDArray[np.float64] = np.maximum(squares - 2 * (x @ z.T), 0)
    return np.exp(-gamma * distances)


def _inverse_root(similar: NDArray[np.float64]) -> NDArray[np.float64]:
    values, directions = np.linalg.eigh(similar)
    return (directions / np.sqrt(np.maximum(values, 1e-6))) @ directions.T
