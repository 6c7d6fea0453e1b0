"""The steps of a training go down, and what they give in the end is an average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from item.mini.optimisation import Optimisation


def test_steps_lower_the_loss_and_the_average_lags_behind() -> None:
    torch.manual_seed(0)
    model, rows = nn.Linear(4, 1), torch.randn(32, 4)
    wanted = rows.sum(1, keepdim=True)
    optimisation = Optimisation(
        model,
        model.parameters(),
        learning_rate=0.05,
        weight_decay=0.0,
        steps=60,
        warm_up=0.1,
        memory=0.9,
    )
    losses = [optimisation.step(nn.functional.mse_loss(model(rows), wanted)) for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]
    trained = optimisation.trained()
    assert isinstance(trained, nn.Linear) and not trained.training
    assert (trained.weight != model.weight).any()
    with pytest.raises(ValueError, match="60"):  # no more steps than were planned
        optimisation.step(nn.functional.mse_loss(model(rows), wanted))
