"""Labelled rows: refused in one sentence if useless; equal keys make a group."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from item.errors import UsageError
from item.heads.columns import FeatureArrays
from pipelines.storage.access import Storage
from pipelines.train.rows import counted, read_labelled
from tests.item.heads.examples import FEATURE_SET, features_table
from tests.pipelines.train.examples import labelled_rows
from tests.support.feature_tables import write_features, write_prompts

LOCAL = Storage()


def test_rows_are_those_with_features_and_a_label(tmp_path: Path) -> None:
    table = features_table(
        6, status=["ok", "ok", "rejected", "ok", "failed", "ok"], label=[0, 1, 0, None, 1, 1]
    )
    rows = read_labelled([write_features(tmp_path, table)], LOCAL)
    assert rows.labels.tolist() == [0, 1, 1]
    assert rows.place.tolist() == [0, 1, 5]
    assert rows.left_out == {"without features": 2, "without a label": 1}
    assert (rows.feature_set_id, rows.dimensions) == (FEATURE_SET, 8)


def test_features_come_in_the_order_asked_for(tmp_path: Path) -> None:
    tables = [features_table(10, seed=seed) for seed in (0, 1)]
    paths = [
        write_features(tmp_path / str(number), table, row_group_size=4)
        for number, table in enumerate(tables)
    ]
    rows = read_labelled(paths, LOCAL)
    assert len(rows.fragments) == 6
    order = np.random.default_rng(0).permutation(20)[:15]
    whole = FeatureArrays.of(pa.concat_tables(tables))
    assert np.array_equal(rows.arrays(order).image, whole.image[order])
    assert np.array_equal(rows.arrays(order).local_scalars, whole.local_scalars[order])


def test_table_in_s3_is_read(s3: Any, bucket: str, tmp_path: Path) -> None:
    root = write_features(tmp_path, features_table(10))
    file = next(Path(root).rglob("*.parquet"))
    s3.fill(bucket, {"features/date=x/part-0.parquet": file.read_bytes()})
    rows = read_labelled([f"s3://{bucket}/features"], LOCAL)
    assert np.array_equal(
        rows.arrays(np.arange(10)).image, FeatureArrays.of(features_table(10)).image
    )


def test_parts_that_readers_skip_are_left_out(tmp_path: Path) -> None:
    root = write_features(tmp_path, features_table(10))
    write_features(tmp_path / "_staging" / "work", features_table(10, seed=1))
    assert len(read_labelled([root], LOCAL)) == 10


def nan(table: pa.Table) -> pa.Table:
    column = table.schema.get_field_index("global_similarity")
    values = [float("nan"), *table["global_similarity"].to_pylist()[1:]]
    return table.set_column(column, table.schema.field(column), pa.array(values, pa.float32()))


USELESS: dict[str, Callable[[Path], list[str]]] = {
    "There is no file or folder": lambda p: [str(p / "nowhere")],
    "holds no Parquet": lambda p: [str(p)],
    "is empty": lambda p: [write_features(p, features_table(10).slice(0, 0))],
    "None of the 4 rows .* has features": lambda p: [
        write_features(p, features_table(4, status=["failed"] * 4))
    ],
    "No row of .* has a label": lambda p: [write_features(p, features_table(4, label=[None] * 4))],
    "are real .0.: add a table with generated .1. rows": lambda p: [
        write_features(p, features_table(4, label=[0] * 4))
    ],
    "are generated .1.: add": lambda p: [write_features(p, features_table(4, label=[1] * 4))],
    "the label 2": lambda p: [write_features(p, features_table(4, label=[0, 1, 2, 0]))],
    "1 rows of .* NaN or infinite, the first of them 'pictures/0-0.jpg'": lambda p: [
        write_features(p, nan(features_table(4)))
    ],
    "different feature sets, 'toy-.* and 'base-1'": lambda p: [
        write_features(p / "a", features_table(4)),
        write_features(p / "b", features_table(4), feature_set="base-1"),
    ],
    "is not a features table": lambda p: [write_features(p, pa.table({"uri": ["a"]}))],
}


@pytest.mark.parametrize("sentence", USELESS)
def test_useless_tables_are_refused_in_one_sentence(tmp_path: Path, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refusal:
        read_labelled(USELESS[sentence](tmp_path), LOCAL)
    assert str(refusal.value).count(". ") == 0


def test_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.parquet").write_text("notes")
    with pytest.raises(UsageError, match="not readable as Parquet"):
        read_labelled([str(tmp_path)], LOCAL)


def test_rows_that_share_a_uri_an_image_or_a_prompt_are_together(tmp_path: Path) -> None:
    names = {"uri": ["a", "b", "c", "a", "d", "e"], "image_id": ["1", "2", "2", "3", "4", "5"]}
    root = write_features(tmp_path / "features", features_table(6, **names))
    groups = read_labelled([root], LOCAL).groups
    assert groups[0] == groups[3]
    assert groups[1] == groups[2]
    assert len(set(groups)) == 4
    table = write_prompts(tmp_path / "prompts.parquet", ["a", "d", "e"], ["red", "red", None])
    groups = read_labelled([root], LOCAL, table, "prompt").groups
    assert groups[0] == groups[3] == groups[4] != groups[5]
    assert len(set(groups)) == 3


def test_group_column_may_be_one_of_the_table(tmp_path: Path) -> None:
    root = write_features(tmp_path, features_table(6, source=["x", "x", "y", "y", None, None]))
    groups = read_labelled([root], LOCAL, group_column="source").groups
    assert len(set(groups)) == 4


@pytest.mark.parametrize(
    ("metadata", "column", "sentence"),
    [
        (None, "prompt", "no column 'prompt' to group by"),
        ("there", "style", "has no column 'style'"),
        ("there", "prompt", "none of the URIs"),
        ("nowhere", "prompt", "There is no file or folder"),
    ],
)
def test_useless_groups_are_refused(
    tmp_path: Path, metadata: str | None, column: str, sentence: str
) -> None:
    root = write_features(tmp_path / "features", features_table(6))
    write_prompts(tmp_path / "there", ["other"], ["red"])
    (tmp_path / "there").rename(tmp_path / "there.parquet")
    path = None if metadata is None else str(tmp_path / f"{metadata}.parquet")
    with pytest.raises(UsageError, match=sentence):
        read_labelled([root], LOCAL, path, column)


def test_rows_are_counted_by_origin() -> None:
    rows = labelled_rows([(1, "a", 0), (1, "a", 1), (0, "", 2)])
    assert counted(rows, np.arange(3)) == [
        {"label": 1, "generator": "a", "source": None, "rows": 2},
        {"label": 0, "generator": None, "source": None, "rows": 1},
    ]
    assert rows.origins().tolist() == ["a", "a", ""]


def test_generators_and_sources_can_be_kept_unseen(tmp_path: Path) -> None:
    source = ["prompts" if row % 2 else ("x", "y")[row // 2 % 2] for row in range(40)]
    rows = read_labelled([write_features(tmp_path, features_table(40, source=source))], LOCAL)
    fewer = rows.without(("model-0", "x"))
    assert set(fewer.generators[fewer.labels == 1]) == {"model-1"}
    assert set(fewer.sources[fewer.labels == 0]) == {"y"}
    assert len(fewer) == 20
    kept = [list(rows.uris).index(uri) for uri in fewer.uris]
    np.testing.assert_array_equal(
        fewer.arrays(np.arange(20)).image, rows.arrays(np.array(kept)).image
    )
    assert len(rows.without(())) == 40
    with pytest.raises(UsageError, match=r"no rows of 'z' to leave out: choose among model-0"):
        rows.without(("z",))
