"""A training is refused before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from item.errors import UsageError
from pipelines.train.plan import plan_training
from tests.item.heads.examples import LAYERS, features_table
from tests.pipelines.train.examples import configured
from tests.support.feature_tables import write_features


def holds_a_head(folder: Path) -> None:
    (folder / "head").mkdir()
    (folder / "head" / "head.json").touch()


def holds_other_files(folder: Path) -> None:
    (folder / "head").mkdir()
    (folder / "head" / "thesis.tex").touch()


def is_a_file(folder: Path) -> None:
    (folder / "head").touch()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (holds_a_head, "holds a head already: choose another output, or replace it with --overw"),
        (holds_other_files, "holds other files already"),
        (is_a_file, "cannot be a folder"),
    ],
)
def test_output_that_exists_is_refused(
    features: str, tmp_path: Path, make: Callable[[Path], None], sentence: str
) -> None:
    make(tmp_path)
    with pytest.raises(UsageError, match=sentence):
        plan_training(configured(features, tmp_path / "head"))


def test_too_few_rows_for_the_operating_points_are_refused(features: str, tmp_path: Path) -> None:
    points = {"real_called_generated": 0.001}
    with pytest.raises(UsageError, match="needs at least 999 real pictures to calibrate on"):
        plan_training(configured(features, tmp_path, operating_points=points))


def test_head_on_layers_needs_features_that_have_them(features: str, tmp_path: Path) -> None:
    table = write_features(tmp_path / "features", features_table(400, layers=[None] * 400))
    head = {"groups": ["layers"]}
    with pytest.raises(UsageError, match=r"hold no layers: .*profile\.clip\.layers above 0"):
        plan_training(configured(table, tmp_path / "head", head=head))
    assert plan_training(configured(features, tmp_path / "head", head=head)).rows.layers == LAYERS
