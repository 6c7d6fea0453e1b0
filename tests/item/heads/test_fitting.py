"""Training in this process: it learns, stops at the best epoch, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from item.heads.columns import Group, Level, local_columns
from item.heads.fitted import Fitted
from item.heads.fitting import Epoch, Measure, Training, fit
from item.heads.settings import Balance, HeadSettings, Kind, balanced_weights
from item.statistics.metrics import auroc
from tests.item.heads.examples import DIFFERENCES, DIMENSIONS, LAYERS, labelled

SMALL = HeadSettings(
    kind=Kind.MLP,
    groups=DIFFERENCES,
    whitened=False,
    hidden=(16,),
    epochs=8,
    patience=3,
    batch_size=64,
    learning_rate=3e-3,
    logistic_c=0.01,
)
LOCAL = local_columns(SMALL.groups, DIMENSIONS, LAYERS)


def fitted(settings: HeadSettings, signal: float = 1.0, heard: list[Epoch] | None = None) -> Fitted:
    arrays, labels = labelled(400, seed=1, signal=signal)
    weights = balanced_weights(labels, np.zeros(len(labels)), Balance.LABEL)
    hear = None if heard is None else heard.append
    return fit(arrays, labels, weights, settings, labelled(200, seed=2, signal=signal), hear)


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_learns_what_can_be_learned(kind: Kind) -> None:
    arrays, labels = labelled(400, seed=3)
    of_image, whole = fitted(SMALL.model_copy(update={"kind": kind})).logits(arrays)
    assert auroc(labels, of_image) > 0.7
    assert auroc(labels, whole) > auroc(labels, of_image) + 0.05


@pytest.mark.parametrize("kind", Kind)
def test_heads_of_one_level_work(kind: Kind) -> None:
    arrays, labels = labelled(400, seed=3)
    settings = SMALL.model_copy(update={"kind": kind})
    only = [(Group.GLOBAL_MISALIGNMENT,), (Group.LOCAL_MISALIGNMENT, Group.LOCAL_SIMILARITIES)]
    of_image, of_objects = (
        fitted(settings.model_copy(update={"groups": groups})).logits(arrays) for groups in only
    )
    assert np.array_equal(*of_image)
    assert np.isnan(of_objects[0]).all()
    assert min(auroc(labels, of_image[1]), auroc(labels, of_objects[1])) > 0.65


@pytest.mark.parametrize("kind", Kind)
def test_same_seed_gives_the_same_logits_whatever_the_threads(kind: Kind) -> None:
    settings = SMALL.model_copy(update={"kind": kind})
    arrays, _ = labelled(100, seed=3)
    first = fitted(settings).logits(arrays)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(77)
    try:
        assert np.allclose(first, fitted(settings).logits(arrays), rtol=0, atol=1e-6)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_other_seed_gives_another_head() -> None:
    arrays, _ = labelled(100, seed=3)
    other = SMALL.model_copy(update={"seed": 1})
    assert not np.allclose(fitted(SMALL).logits(arrays), fitted(other).logits(arrays))


def test_fitting_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fitted(SMALL.model_copy(update={"epochs": 1}))
    assert torch.equal(torch.rand(3), expected)


def test_stages_come_in_order_and_are_heard() -> None:
    heard: list[Epoch] = []
    fitted(SMALL, heard=heard)
    stages = [epoch.stage for epoch in heard]
    assert stages == sorted(stages)  # global before local
    assert set(stages) == set(Level)
    assert next(e.number for e in heard if e.stage == Level.LOCAL) == 1


def batches(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(64, len(LOCAL), generator=generator)
    return [(rows, (rows[:, 0] > 0).float(), torch.ones(64))]


def concluded(training: Training, *aurocs: float) -> list[dict[str, torch.Tensor]]:
    """Learn for as many epochs; the networks after each."""
    networks = []
    for value in aurocs:
        training.learn(batches())
        networks.append({k: v.clone() for k, v in training.network.state_dict().items()})
        training.conclude(0.5, Measure(loss=0.5, auroc=value))
    return networks


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_early_stopping_goes_back_to_the_best_epoch() -> None:
    training = Training(SMALL, LOCAL)
    networks = concluded(training, 0.6, 0.8, 0.7, 0.7, 0.7)
    assert training.stage == Level.LOCAL
    assert same(training.network.state_dict(), networks[1])
    assert not same(networks[1], networks[4])


def test_local_part_that_does_not_help_stays_silent() -> None:
    training = Training(SMALL, LOCAL)
    concluded(training, 0.9, 0.8, 0.8, 0.8)
    concluded(training, 0.7, 0.7, 0.7)
    assert training.stage is None
    logits = training.model().logits(batches()[0][0].numpy())
    assert np.array_equal(*logits)


def test_second_stage_leaves_the_global_logit_as_it_is() -> None:
    training = Training(SMALL, LOCAL)
    concluded(training, 0.9, 0.8, 0.8, 0.8)
    columns = batches()[0][0].numpy()
    before = training.model().logits(columns)[0]
    concluded(training, 0.95, 0.96)
    of_image, whole = training.model().logits(columns)
    assert np.array_equal(of_image, before)
    assert not np.allclose(whole, before)


def test_training_without_validation_keeps_the_last_epoch() -> None:
    training = Training(SMALL.model_copy(update={"epochs": 2}), LOCAL)
    while training.stage is not None:
        training.conclude(training.learn(batches()), None)
    assert len(training.history) == 4
    assert same(training.best or {}, training.network.state_dict())


@pytest.mark.parametrize("done", [0, 1, 4, 6])
def test_resumed_training_ends_as_one_that_was_not_stopped(done: int) -> None:
    scores = (0.6, 0.8, 0.7, 0.7, 0.7, 0.85, 0.8)
    whole, stopped, resumed = (Training(SMALL, LOCAL) for _ in range(3))
    torch.manual_seed(0)
    concluded(whole, *scores)
    torch.manual_seed(0)
    concluded(stopped, *scores[:done])
    resumed.load(stopped.state())
    concluded(resumed, *scores[done:])
    assert same(whole.best or {}, resumed.best or {})
    assert whole.history == resumed.history
    assert (whole.stage, whole.epochs_in_vain) == (resumed.stage, resumed.epochs_in_vain)
    assert resumed.starts == 2
