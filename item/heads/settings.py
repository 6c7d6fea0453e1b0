"""What decides a head before it has seen any data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from item.heads.columns import Group, Level


class Kind(StrEnum):
    """The model of a head."""

    MLP = "mlp"
    LIGHTGBM = "lightgbm"
    LOGISTIC = "logistic"
    KERNEL = "kernel"

    @property
    def in_memory(self) -> bool:
        """Whether it is fitted in one process, on rows in memory, without Ray Train."""
        return self in (Kind.LOGISTIC, Kind.KERNEL)


class Balance(StrEnum):
    """Which rows weigh the same in total; see :func:`balanced_weights`."""

    LABEL = "label"
    SOURCE = "source"
    ROOT = "root"


class Boosting(BaseModel):
    """Gradient-boosted trees, in LightGBM's terms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(default=400, ge=1)
    """Most trees."""
    learning_rate: float = Field(default=0.05, gt=0, le=1)
    """Share of each tree's correction that is taken."""
    leaves: int = Field(default=15, ge=2)
    """Most leaves of a tree."""
    rows_in_leaf: int = Field(default=20, ge=1)
    """Least number of rows that a leaf stands for."""
    columns_share: float = Field(default=0.8, gt=0, le=1)
    """Share of the columns that a tree may look at."""
    l2: float = Field(default=1.0, ge=0)
    """Penalty on the leaves' values."""
    patience: int = Field(default=40, ge=1)
    """Rounds without a better validation loss after which no more are tried."""


class Kernel(BaseModel):
    """A Gaussian kernel with landmarks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    landmarks: int = Field(default=1500, ge=2, le=20_000)
    """Training rows, drawn by the seed, with which every row is compared."""
    width: float = Field(default=1.0, gt=0)
    """The kernel's gamma times the mean square length of a landmark."""
    c: float = Field(default=3.0, gt=0)
    """Inverse of the penalty of the logistic regression on the kernel's columns."""


class HeadSettings(BaseModel):
    """Model, features and training of a head.

    The defaults are those that did best on unseen generators and photographs
    (docs/unseen_sources.md). Logistic and kernel heads are fitted in memory; for millions of
    rows there is the MLP.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Kind.KERNEL
    """Which model."""
    groups: tuple[Group, ...] = (Group.LAYERS,)
    """Features, in the order of the head's columns."""
    centred: bool = False
    """Whether image and caption embeddings are centred by modality."""
    whitened: bool = True
    """Whether embeddings are whitened (:func:`item.heads.columns.fit_statistics`)."""
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (512, 256)
    """Widths of the MLP's hidden layers; none makes it linear."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of the MLP's units that a step leaves out."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Of the MLP, by AdamW."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Of the MLP, by AdamW."""
    epochs: int = Field(default=40, ge=1)
    """Most epochs of each of the two stages."""
    patience: int = Field(default=6, ge=1)
    """Epochs without a better validation after which a stage ends."""
    batch_size: int = Field(default=256, ge=1)
    """Rows of a step, of all workers together."""
    seed: int = Field(default=0, ge=0)
    """Decides the split and all random numbers of the training."""
    balance: Balance = Balance.ROOT
    """What weighs the same in total: labels alone, or sources too; ``root`` lies between."""
    boosting: Boosting = Boosting()
    """Settings of the kind ``lightgbm``."""
    kernel: Kernel = Kernel()
    """Settings of the kind ``kernel``."""
    logistic_c: float = Field(default=0.001, gt=0)
    """Inverse of the penalty of the logistic head, on standardised or whitened columns."""

    @field_validator("groups")
    @classmethod
    def _some_and_distinct(cls, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        if not groups or len(set(groups)) < len(groups):
            raise ValueError("name one group of features or more, each once")
        return groups

    @property
    def levels(self) -> frozenset[Level]:
        """The levels of which the head has features."""
        return frozenset(group.level for group in self.groups)


def balanced_weights(
    labels: ArrayLike, sources: ArrayLike, balance: Balance
) -> NDArray[np.float32]:
    """Weight of each row, 1 on average, so that both labels weigh the same in total.

    Parameters
    ----------
    labels : (n,), 1 generated, 0 real
    sources : (n,), what a row comes from: its generator, or the source of a real one
    balance : with ``source`` each source of a label weighs the same in total, too; with ``root``
        it weighs as the root of its number of rows, so that a small one does not count for much
    """
    truth, names = np.asarray(labels), np.asarray(sources, dtype=str)
    weights = np.empty(len(truth), np.float64)
    for label in np.unique(truth):
        rows = truth == label
        kept = np.full(rows.sum(), "") if balance == Balance.LABEL else names[rows]
        _, source, count = np.unique(kept, return_inverse=True, return_counts=True)
        of_source = np.sqrt(count) if balance == Balance.ROOT else np.ones(len(count))
        weights[rows] = (of_source / (of_source.sum() * count))[source]
    return (weights * len(truth) / max(weights.sum(), 1e-12)).astype(np.float32)
