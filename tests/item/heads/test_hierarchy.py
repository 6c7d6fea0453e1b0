"""The staged MLP: the local part starts without a say and never changes the global logit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from item.heads.hierarchy import Hierarchy, HierarchyModel

COLUMNS = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
LOCAL = np.arange(40) >= 22
HIDDEN = (16, 8)


def network(local: np.ndarray = LOCAL, hidden: tuple[int, ...] = HIDDEN) -> Hierarchy:
    torch.manual_seed(0)
    return Hierarchy(local, hidden, dropout=0.5).eval()


@pytest.mark.parametrize("hidden", [HIDDEN, ()])
def test_new_hierarchy_says_what_its_global_part_says(hidden: tuple[int, ...]) -> None:
    of_image, whole = network(hidden=hidden)(torch.from_numpy(COLUMNS))
    assert torch.equal(of_image, whole)
    assert of_image.std() > 0


def test_global_logit_looks_at_global_columns_alone() -> None:
    one = network()
    torch.nn.init.ones_(one.parts["local"][-1].weight)
    changed = COLUMNS.copy()
    changed[:, LOCAL] += 1
    changed[:, LOCAL] *= np.linspace(1, 2, LOCAL.sum(), dtype=np.float32)
    before, after = one(torch.from_numpy(COLUMNS)), one(torch.from_numpy(changed))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_head_of_one_level_works() -> None:
    only_global = HierarchyModel(network(np.zeros(40, bool))).logits(COLUMNS)
    only_local = HierarchyModel(network(np.ones(40, bool))).logits(COLUMNS)
    assert np.array_equal(*only_global)
    assert np.isnan(only_local[0]).all()
    assert only_local[1].std() > 0


def test_single_column_is_not_normed_away() -> None:
    of_image, _ = network(np.arange(40) > 0, ())(torch.from_numpy(COLUMNS))
    assert of_image.std() > 0


def test_tensors_round_trip() -> None:
    model = HierarchyModel(network())
    again = HierarchyModel.from_tensors(model.tensors(), LOCAL, HIDDEN)
    assert np.array_equal(model.logits(COLUMNS), again.logits(COLUMNS))


def test_other_shapes_are_refused() -> None:
    tensors = HierarchyModel(network()).tensors()
    with pytest.raises(RuntimeError, match="size mismatch"):
        HierarchyModel.from_tensors(tensors, ~LOCAL, HIDDEN)


def test_rows_do_not_depend_on_the_rows_beside_them() -> None:
    model = HierarchyModel(network())
    alone = np.hstack([model.logits(COLUMNS[row : row + 1]) for row in range(len(COLUMNS))])
    assert np.allclose(alone, model.logits(COLUMNS), rtol=0, atol=1e-12)
