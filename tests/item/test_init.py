"""The public API as a notebook meets it: its examples run, and it brings neither Ray nor delay."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import item
from item.tables import Status
from tests.support.photographs import photographs

MODULES = ("item", "item.featurizing", "item.heads.head", "item.explanation.one_picture")
NAMES = photographs(2)


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_the_docstrings_run(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0 and found.failed == 0


def test_every_public_name_is_there_and_documented() -> None:
    for name in item.__all__:
        assert getattr(item, name).__doc__
        assert name in dir(item)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        item.nothing  # noqa: B018


def test_importing_it_brings_neither_ray_nor_torch() -> None:
    code = "import sys, item; print({'ray', 'torch', 'pyarrow', 'pipelines'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_a_picture_is_featurized_scored_and_explained_without_ray() -> None:
    code = (
        "import sys, item, PIL.Image\n"
        "table = item.featurize([PIL.Image.new('RGB', (40, 30), 'blue')])\n"
        "scores = item.Head.load().score(table)\n"
        "found = item.explain(PIL.Image.new('RGB', (40, 30), 'blue'))\n"
        "assert abs(found.score - scores.score[0]) < 1e-6\n"
        "print({'ray', 'pipelines'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "set()\n", ended.stderr


def test_bytes_paths_and_pictures_are_the_same_row(tmp_path: Path) -> None:
    name, content = next(iter(NAMES.items()))
    path = tmp_path / Path(name).name
    path.write_bytes(content)
    pixels = PIL.Image.open(path).convert("RGB")
    table = item.featurize([content, path, str(path), pixels])
    assert table["status"].to_pylist() == [Status.OK] * 4
    assert table["uri"].to_pylist() == [None, str(path), str(path), None]
    embeddings = np.array(table["image_embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(embeddings[1:3], embeddings[[0, 0]])
    assert (embeddings @ embeddings[0] > 0.999).all()


def test_a_table_says_which_features_it_holds(tmp_path: Path) -> None:
    table = item.featurize([b""])
    pq.write_table(table, tmp_path / "features.parquet")
    head = item.Head.load()
    head.check_table(pq.read_table(tmp_path / "features.parquet"))
    with pytest.raises(item.UsageError, match="cannot score those of 'None'"):
        head.check_table(table.replace_schema_metadata(None).drop("feature_set_id"))


def test_a_table_that_pandas_saved_still_says_which_features_it_holds(tmp_path: Path) -> None:
    table = item.featurize([b""])
    table.to_pandas().to_parquet(tmp_path / "again.parquet")
    again = pq.read_table(tmp_path / "again.parquet")
    assert not any(key.startswith(b"item.") for key in again.schema.metadata)
    item.Head.load().check_table(again)
    other = again.set_column(
        again.column_names.index("feature_set_id"), "feature_set_id", [["another-0"]]
    )
    with pytest.raises(item.UsageError, match="cannot score those of 'another-0'"):
        item.Head.load().check_table(other)
    with pytest.raises(item.UsageError, match="Rows of different feature sets"):
        item.Head.load().check_table(pa.concat_tables([again, other], promote_options="permissive"))


def test_a_path_without_a_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(item.UsageError, match=r"gone.jpg cannot be read: No such file"):
        item.featurize([tmp_path / "gone.jpg"])
