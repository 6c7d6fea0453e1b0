"""Training a head: the steps that every trainer takes, and a trainer for this process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from item.heads.boosting import fit_boosting
from item.heads.columns import (
    FeatureArrays,
    Floats,
    Level,
    Statistics,
    features,
    fit_statistics,
    local_columns,
)
from item.heads.fitted import Fitted, Model
from item.heads.hierarchy import Hierarchy, HierarchyModel
from item.heads.kernel import fit_kernel
from item.heads.logistic import fit_logistic
from item.heads.settings import Balance, HeadSettings, Kind, balanced_weights
from item.statistics.metrics import auroc

Batch = tuple[Tensor, Tensor, Tensor]
"""Features (n, columns), labels (n,) and weights (n,), float32."""


@dataclass(frozen=True)
class Measure:
    """How good a head is on the validation rows; the labels weigh the same in the loss."""

    loss: float
    auroc: float


@dataclass(frozen=True)
class Epoch:
    """What an epoch of a stage has come to."""

    stage: Level
    number: int
    """From 1, within the stage."""
    loss: float
    """Mean weighted loss of the training rows while they were learned."""
    measure: Measure | None
    """None without validation rows."""
    best: bool
    """Whether no epoch before was better."""


def fit(
    arrays: FeatureArrays,
    labels: NDArray,
    weights: NDArray,
    settings: HeadSettings,
    validation: tuple[FeatureArrays, NDArray] | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> Fitted:
    """Train a head in this process, the same from the same seed.

    Parameters
    ----------
    arrays : training rows
    labels, weights : (n,), 1 generated, 0 real; see :func:`balanced_weights`
    settings : of the head
    validation : rows that decide when training stops, with labels; not used by
        ``logistic`` and ``kernel``
    progress : hears of each epoch of the MLP
    """
    statistics = fit_statistics(
        arrays, labels, settings.groups, settings.centred, settings.whitened
    )
    columns = features(arrays, settings.groups, statistics)
    local = local_columns(settings.groups, arrays.dimensions, arrays.layer_columns)
    held_out = None
    if validation is not None:
        held_out = validation_rows(validation[0], validation[1], settings, statistics)
    model: Model
    match settings.kind:
        case Kind.LOGISTIC:
            model = fit_logistic(columns, labels, weights, settings, local)
        case Kind.KERNEL:
            model = fit_kernel(columns, labels, weights, settings, local)
        case Kind.LIGHTGBM:
            model = fit_boosting((columns, labels, weights), settings, local, held_out)
        case Kind.MLP:
            training = _fit_hierarchy(
                (columns, labels, weights), settings, local, held_out, progress
            )
            model = training.model()
    return Fitted(settings, statistics, model)


def validation_rows(
    arrays: FeatureArrays, labels: NDArray, settings: HeadSettings, statistics: Statistics
) -> tuple[Floats, NDArray, NDArray]:
    """Columns (n, columns), labels (n,) and weights (n,) of validation rows.

    Both labels weigh the same.
    """
    weights = balanced_weights(labels, np.zeros(len(labels)), Balance.LABEL)
    return features(arrays, settings.groups, statistics), np.asarray(labels), weights


def _fit_hierarchy(
    rows: tuple[NDArray, NDArray, NDArray],
    settings: HeadSettings,
    local: NDArray[np.bool_],
    held_out: tuple[NDArray, NDArray, NDArray] | None,
    progress: Callable[[Epoch], None] | None,
) -> Training:
    batch = tensors_of(rows)
    validation = tensors_of(held_out) if held_out is not None else None
    # One thread adds up in one order on any machine.
    with torch.random.fork_rng(devices=[]), _one_thread():
        training = Training(settings, local)
        while training.stage is not None:
            torch.manual_seed(training.epoch_seed())
            loss = training.learn(_shuffled(batch, settings.batch_size))
            measure = training.measure(validation) if validation is not None else None
            epoch = training.conclude(loss, measure)
            if progress is not None:
                progress(epoch)
    return training


class Training:
    """A hierarchy in training: what the next epoch does follows from this alone.

    Each stage trains one part of the hierarchy while the other stands still, until no epoch
    has been better for a while. The best hierarchy of all epochs is what is kept, so
    a local part that does not help on the validation rows stays without a say.

    Parameters
    ----------
    settings : of the head
    local : (columns,) which columns speak of objects
    wrap : makes a part ready for training on several workers
    device : where the hierarchy is trained
    """

    def __init__(
        self,
        settings: HeadSettings,
        local: NDArray[np.bool_],
        wrap: Callable[[nn.Module], nn.Module] = lambda part: part,
        device: str | torch.device = "cpu",
    ) -> None:
        self.settings = settings
        self.local = local
        self.wrap = wrap
        self.device = device
        torch.manual_seed(settings.seed)
        self.network = Hierarchy(local, settings.hidden, settings.dropout).to(device)
        self.history: list[Epoch] = []
        self.starts = 1
        """How often the training was begun or resumed."""
        self.best: dict[str, Tensor] | None = None
        self.best_measure: Measure | None = None
        self._begin(self.network.stages[0])

    def _begin(self, stage: Level | None) -> None:
        self.stage = stage
        self.epochs_done = 0
        self.epochs_in_vain = 0
        if stage is None:
            return
        if self.best is not None:
            self.network.load_state_dict(self.best)
        self.network.requires_grad_(False)
        part = self.network.parts[stage].requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            part.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )
        self.part = self.wrap(part)

    def epoch_seed(self, rank: int = 0) -> int:
        """Seed of what is random in the next epoch, in a worker."""
        place = [self.settings.seed, len(self.history), rank]
        return int(np.random.SeedSequence(place).generate_state(1)[0])

    def learn(self, batches: Iterable[Batch]) -> float:
        """Go once over the training rows; returns their mean weighted loss (cross-entropy).

        Parameters
        ----------
        batches : inputs (n, columns), labels (n,) and weights (n,) each
        """
        assert self.stage is not None
        self.network.eval()
        self.network.parts[self.stage].train()
        total, rows = torch.zeros((), dtype=torch.float64), 0
        for batch in batches:
            inputs, labels, weights = (column.to(self.device) for column in batch)
            said = torch.zeros_like(labels)
            if self.stage == Level.LOCAL:
                with torch.no_grad():
                    said = self.network.logit_of(inputs, Level.GLOBAL)
            logits = said + self.part(self.network.columns(inputs, self.stage)).squeeze(1)
            loss = binary_cross_entropy_with_logits(logits, labels, weight=weights)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach().cpu().double() * len(labels)
            rows += len(labels)
        return float(total / max(rows, 1))

    @torch.inference_mode()
    def measure(self, validation: Batch) -> Measure:
        """How good the hierarchy is now, on inputs (n, columns), labels (n,) and weights (n,)."""
        self.network.eval()
        inputs, labels, weights = (column.to(self.device) for column in validation)
        logits = self.network(inputs)[1]
        loss = binary_cross_entropy_with_logits(logits, labels, weight=weights)
        return Measure(float(loss), auroc(labels.cpu().numpy(), logits.cpu().numpy()))

    def conclude(self, loss: float, measure: Measure | None) -> Epoch:
        """End an epoch: keep the hierarchy if it is the best, and see whether the stage goes on.

        The best has the highest AUROC, of equal ones the lowest loss; without validation
        rows it is the last.

        Parameters
        ----------
        loss : of the training rows, from :meth:`learn`
        measure : of the validation rows, if there are any
        """
        assert self.stage is not None
        stage = self.stage
        self.epochs_done += 1
        better = (
            measure is None
            or self.best_measure is None
            or _rank(measure) > _rank(self.best_measure)
        )
        if better:
            self.best, self.best_measure = _copied(self.network.state_dict()), measure
        self.epochs_in_vain = 0 if better else self.epochs_in_vain + 1
        epoch = Epoch(stage, self.epochs_done, loss, measure, better)
        self.history.append(epoch)
        tired = self.epochs_in_vain >= self.settings.patience
        if tired or self.epochs_done >= self.settings.epochs:
            stages = self.network.stages
            after = stages[stages.index(stage) + 1 :]
            self._begin(after[0] if after else None)
        return epoch

    def model(self) -> HierarchyModel:
        """The best hierarchy so far."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.best or self.network.state_dict())
        return HierarchyModel(network)

    def state(self) -> dict[str, Any]:
        """All that :meth:`load` needs, in tensors and plain values."""
        return {
            "stage": None if self.stage is None else str(self.stage),
            "epochs_done": self.epochs_done,
            "epochs_in_vain": self.epochs_in_vain,
            "starts": self.starts,
            "network": _copied(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_measure": asdict(self.best_measure) if self.best_measure else None,
            "history": [asdict(epoch) | {"stage": str(epoch.stage)} for epoch in self.history],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from where another training was, given its :meth:`state`."""
        self.best = state["best"]
        self.best_measure = Measure(**state["best_measure"]) if state["best_measure"] else None
        self.history = [
            Epoch(
                **epoch
                | {
                    "stage": Level(epoch["stage"]),
                    "measure": Measure(**epoch["measure"]) if epoch["measure"] else None,
                }
            )
            for epoch in state["history"]
        ]
        self.starts = state["starts"] + 1
        self._begin(None if state["stage"] is None else Level(state["stage"]))
        self.network.load_state_dict(state["network"])
        if self.stage is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.epochs_done = state["epochs_done"]
        self.epochs_in_vain = state["epochs_in_vain"]


def tensors_of(rows: tuple[NDArray, NDArray, NDArray]) -> Batch:
    """Columns (n, columns), labels (n,) and weights (n,) as float32 tensors."""
    columns, labels, weights = (torch.as_tensor(np.asarray(column, np.float32)) for column in rows)
    return columns, labels, weights


def _shuffled(batch: Batch, size: int) -> Iterator[Batch]:
    for rows in torch.randperm(len(batch[0])).split(size):
        yield batch[0][rows], batch[1][rows], batch[2][rows]


def _rank(measure: Measure) -> tuple[float, float]:
    return measure.auroc, -measure.loss


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
