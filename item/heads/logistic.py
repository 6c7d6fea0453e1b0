"""Logistic regression: one of the global columns and one of all columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from item.heads.settings import HeadSettings


class LogisticModel:
    """Two linear logits of standardised columns.

    Parameters
    ----------
    weights : (2, columns + 1), the intercept last: of the global columns, with zeros for the
        others or all NaN if there are no global ones, and of all columns
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.weights = weights

    def logits(self, columns: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Standardised columns (n, columns) -> global logits (n,) and logits (n,)."""
        # Not a matrix product: BLAS may give a row another last bit beside other rows.
        of_image, whole = (
            np.einsum("nc,c->n", columns.astype(np.float64), row[:-1]) + row[-1]
            for row in self.weights
        )
        return of_image, whole

    def tensors(self) -> dict[str, NDArray]:
        """As named arrays, for safetensors."""
        return {"weights": self.weights}

    def texts(self) -> dict[str, str]:
        """None: the weights are all."""
        return {}


def fit_logistic(
    columns: NDArray[np.float32],
    labels: NDArray,
    weights: NDArray,
    settings: HeadSettings,
    local: NDArray[np.bool_],
) -> LogisticModel:
    """scikit-learn's logistic regression, on the global columns and on all of them.

    Parameters
    ----------
    columns : (n, columns), standardised
    labels, weights : (n,)
    local : (columns,) which columns speak of objects
    """
    from sklearn.linear_model import LogisticRegression  # scoring does without it

    coefficients = np.zeros((2, columns.shape[1] + 1))
    for row, chosen in zip(coefficients, (~local, np.ones_like(local)), strict=True):
        if not chosen.any():
            row[:] = np.nan
            continue
        model = LogisticRegression(C=settings.logistic_c, max_iter=2000)
        model.fit(columns[:, chosen], labels, sample_weight=weights)
        row[:-1][chosen] = model.coef_[0]
        row[-1] = model.intercept_[0]
    return LogisticModel(coefficients)
