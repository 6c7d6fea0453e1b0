"""How the parts of ``mini`` are optimised: AdamW, one cycle of learning rates, averaged weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

Trained = TypeVar("Trained", bound=nn.Module)


class Optimisation(Generic[Trained]):
    """Steps of one training, and the moving average of the weights that it gives in the end.

    Parameters
    ----------
    model : what is trained
    parameters : its parameters, or groups of them with a weight decay of their own
    learning_rate : the highest of the cycle
    weight_decay : of parameters in no group
    steps : of the whole training
    warm_up : share of the steps in which the learning rate rises
    memory : share of the average that a step keeps
    """

    def __init__(
        self,
        model: Trained,
        parameters: Iterable[Any],
        *,
        learning_rate: float,
        weight_decay: float,
        steps: int,
        warm_up: float,
        memory: float,
    ) -> None:
        self._model = model
        self._optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, learning_rate, total_steps=steps, pct_start=warm_up
        )
        self._average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(memory)
        )

    def step(self, loss: Tensor) -> float:
        """Go one step down the loss, which is returned as a number."""
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step()
        self._schedule.step()
        self._average.update_parameters(self._model)
        return loss.item()

    def trained(self) -> Trained:
        """The model with averaged weights, in evaluation mode."""
        return cast(Trained, self._average.module.eval())
