"""A kernel head: it learns what no line divides, and says little of what it has never seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from item.heads.kernel import KernelModel, fit_kernel
from item.heads.settings import HeadSettings, Kernel, Kind
from item.statistics.metrics import auroc

SETTINGS = HeadSettings(kind=Kind.KERNEL, kernel=Kernel(landmarks=80))
WHOLE = np.zeros(4, bool)
OBJECTS = np.array([False, False, True, True])


def rings(rows: int, seed: int, columns: int = 4) -> tuple[NDArray[np.float32], NDArray]:
    """Rows near to zero (0) and around them (1)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    directions = rng.normal(size=(rows, columns))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radius = 0.5 + labels + rng.normal(scale=0.1, size=rows)
    return (directions * radius[:, np.newaxis]).astype(np.float32), labels


def fitted(local: NDArray[np.bool_] = WHOLE, **kernel: float) -> KernelModel:
    columns, labels = rings(400, 0)
    settings = SETTINGS.model_copy(update={"kernel": Kernel(**{"landmarks": 80, **kernel})})
    return fit_kernel(columns, labels, np.ones(len(labels)), settings, local)


def test_it_tells_apart_what_no_line_divides() -> None:
    columns, labels = rings(300, 1)
    assert auroc(labels, fitted().logits(columns)[1]) > 0.98


def test_far_from_all_landmarks_it_says_the_same_of_everything() -> None:
    model = fitted()
    far = model.logits(np.float32([[90, 0, 0, 0], [0, -70, 0, 0]]))[1]
    np.testing.assert_allclose(far, model.weights[0][-1])


def test_rows_beside_a_row_change_nothing_that_a_score_shows() -> None:
    columns, _ = rings(50, 2)
    model = fitted()
    alone = np.concatenate([model.logits(columns[[row]])[1] for row in range(len(columns))])
    np.testing.assert_allclose(model.logits(columns)[1], alone, rtol=1e-9, atol=1e-9)


def test_global_logit_does_not_see_objects() -> None:
    columns, _ = rings(30, 3)
    model = fitted(OBJECTS)
    changed = columns.copy()
    changed[:, OBJECTS] += 1
    np.testing.assert_array_equal(model.logits(columns)[0], model.logits(changed)[0])
    assert abs(model.logits(columns)[1] - model.logits(changed)[1]).max() > 0.01


def test_without_objects_both_logits_are_one_and_without_a_whole_there_is_no_global_one() -> None:
    columns, _ = rings(30, 3)
    of_image, whole = fitted().logits(columns)
    np.testing.assert_array_equal(of_image, whole)
    of_image, whole = fitted(np.ones(4, bool)).logits(columns)
    assert np.isnan(of_image).all() and np.isfinite(whole).all()


@pytest.mark.parametrize("local", [WHOLE, OBJECTS, np.ones(4, bool)])
def test_tensors_are_all_of_it(local: NDArray[np.bool_]) -> None:
    columns, _ = rings(30, 4)
    model = fitted(local)
    again = KernelModel.from_tensors(model.tensors(), local)
    for before, after in zip(model.logits(columns), again.logits(columns), strict=True):
        np.testing.assert_array_equal(before, after)


def test_fewer_rows_than_landmarks_are_all_landmarks() -> None:
    columns, labels = rings(20, 5)
    model = fit_kernel(columns, labels, np.ones(20), SETTINGS, WHOLE)
    assert model.landmarks.shape == (20, 4)
    assert auroc(labels, model.logits(columns)[1]) > 0.95


def test_same_seed_gives_the_same_head_and_another_seed_other_landmarks() -> None:
    np.testing.assert_array_equal(fitted().landmarks, fitted().landmarks)
    columns, labels = rings(400, 0)
    other = SETTINGS.model_copy(update={"seed": 1})
    drawn = fit_kernel(columns, labels, np.ones(400), other, WHOLE).landmarks
    assert not np.array_equal(drawn, fitted().landmarks)


def test_no_rows_have_no_logits() -> None:
    assert fitted().logits(np.zeros((0, 4), np.float32))[1].shape == (0,)
