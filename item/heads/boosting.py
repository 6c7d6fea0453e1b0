"""Gradient-boosted trees: one model of the global columns and one of all columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightgbm
import numpy as np
from lightgbm import Booster
from numpy.typing import NDArray

from item.heads.settings import HeadSettings

Rows = tuple[NDArray, NDArray, NDArray]
"""Columns (n, columns), labels (n,) and weights (n,)."""


class BoostingModel:
    """Two models in LightGBM's own text format, which holds no code.

    Parameters
    ----------
    whole : model of all columns
    of_image : model of the global columns alone, None if there are none
    local : (columns,) which columns speak of objects
    """

    def __init__(self, whole: str, of_image: str | None, local: NDArray[np.bool_]) -> None:
        self.whole = whole
        self.of_image = of_image
        self.local = local
        self._whole = Booster(model_str=whole)
        self._of_image = Booster(model_str=of_image) if of_image is not None else None

    def logits(self, columns: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Columns (n, columns) -> global logits (n,), NaN if there are none, and logits (n,)."""
        if not len(columns):
            return np.empty(0), np.empty(0)
        whole = np.asarray(self._whole.predict(columns, raw_score=True))
        if self._of_image is None:
            return np.full(len(columns), np.nan), whole
        of_image = self._of_image.predict(columns[:, ~self.local], raw_score=True)
        return np.asarray(of_image), whole

    def tensors(self) -> dict[str, NDArray]:
        """None: the texts are all."""
        return {}

    def texts(self) -> dict[str, str]:
        """The models by the name of their file."""
        texts = {"model.txt": self.whole}
        return texts if self.of_image is None else texts | {"global_model.txt": self.of_image}


def fit_boosting(
    rows: Rows, settings: HeadSettings, local: NDArray[np.bool_], validation: Rows | None
) -> BoostingModel:
    """Grow both models in this process.

    Parameters
    ----------
    rows : columns (n, columns), labels (n,) and weights (n,) to train on
    settings : of the head
    local : (columns,) which columns speak of objects
    validation : rows as above that decide when to stop; without them all rounds are grown
    """
    texts = [
        grow(columns_of(rows, chosen), settings, validation and columns_of(validation, chosen))
        if chosen.any()
        else None
        for chosen in column_sets(local)
    ]
    return BoostingModel(str(texts[1]), texts[0], local)


def column_sets(local: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The columns of the global model, and of the whole one, both of shape (columns,)."""
    return ~local, np.ones_like(local)


def columns_of(rows: Rows, chosen: NDArray[np.bool_]) -> Rows:
    """Rows with some of their columns."""
    return rows[0][:, chosen], rows[1], rows[2]


def grow(
    rows: Rows,
    settings: HeadSettings,
    validation: Rows | None = None,
    network: Mapping[str, Any] | None = None,
    grown: str | None = None,
    callbacks: tuple[Callable, ...] = (),
) -> str:
    """Grow trees until the validation AUROC no longer rises; return the model's text.

    Parameters
    ----------
    rows : training rows, or this worker's share of them
    settings : of the head
    validation : rows that say when to stop; without them all rounds are done
    network : LightGBM's parameters for training on several machines
    grown : text of a model to go on from
    callbacks : LightGBM callbacks
    """
    boosting = settings.boosting
    parameters = {
        "objective": "binary",
        "metric": "auc",
        "learning_rate": boosting.learning_rate,
        "num_leaves": boosting.leaves,
        "min_data_in_leaf": boosting.rows_in_leaf,
        "feature_fraction": boosting.columns_share,
        "lambda_l2": boosting.l2,
        "seed": settings.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
        **(network or {}),
    }
    columns, labels, weights = rows
    data = lightgbm.Dataset(columns, labels, weight=weights, params={"verbosity": -1})
    before = Booster(model_str=grown) if grown else None
    done = before.current_iteration() if before else 0
    if validation:
        callbacks += (lightgbm.early_stopping(boosting.patience, verbose=False),)
    booster = lightgbm.train(
        parameters,
        data,
        num_boost_round=max(boosting.rounds - done, 1),
        valid_sets=[data.create_valid(validation[0], validation[1], validation[2])]
        if validation
        else None,
        valid_names=["validation"] if validation else None,
        init_model=before,
        callbacks=list(callbacks),
    )
    # With an empty parameter section: it would name the machines of the training.
    return _without_parameters(booster.model_to_string(num_iteration=booster.best_iteration or -1))


def _without_parameters(text: str) -> str:
    head, _, rest = text.partition("\nparameters:\n")
    _, _, tail = rest.partition("end of parameters\n")
    return head + "\n" + tail if tail else text
