"""Labelled rows: refused in one sentence if useless; equal keys make a group."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from item.errors import UsageError
from item.heads.columns import EMBEDDINGS, FeatureArrays
from item.tables import with_feature_set
from pipelines.storage.configuration import Storage
from pipelines.train.rows import counted, read_labelled
from tests.item.heads.examples import FEATURE_SET, features_table
from tests.pipelines.train.examples import labelled_rows
from tests.support.feature_tables import write_features, write_prompts
from tests.support.packages import installed

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
    "the label '2': labels are 1 or generated": lambda p: [
        write_features(p, features_table(4, label=[0, 1, 2, 0]))
    ],
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
    columns = {**names, "label": [0, 1, 1, 0, 0, 1]}
    root = write_features(tmp_path / "features", features_table(6, **columns))
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


def test_pictures_that_are_labelled_both_ways_are_told_and_left_out(tmp_path: Path) -> None:
    images = ["1", "1", "2", "2", "3", "4", None, None]
    label = [0, 1, 1, 0, 0, 1, 0, 1]
    root = write_features(tmp_path, features_table(8, image_id=images, label=label))
    rows = read_labelled([root], LOCAL)
    assert rows.labels.tolist() == [0, 1, 0, 1]
    assert rows.left_out == {"of pictures labelled both real and generated": 4}
    [note, left_out] = rows.remarks()
    assert note.startswith("2 pictures are labelled both real (0) and generated (1), such as ")
    assert "'pictures/0-0.jpg' and 'pictures/0-1.jpg'" in note
    assert left_out == "Rows left out: 4 of pictures labelled both real and generated."


def test_a_picture_that_contradicts_itself_across_tables_is_found(tmp_path: Path) -> None:
    first = write_features(tmp_path / "a", features_table(4))
    again = features_table(4, seed=1, image_id=["id-0-1", "x", "y", "z"])
    second = write_features(tmp_path / "b", again)
    rows = read_labelled([first, second], LOCAL)
    assert rows.left_out == {"of pictures labelled both real and generated": 2}
    assert "1 picture is labelled both" in rows.notes[0]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (["1", "1", "2", "2"], "No labelled row of .* is left: 2 pictures are labelled both"),
        (["1", "1", "2", "3"], "^1 picture is .*; all labelled rows of .* are real .0.: add"),
    ],
)
def test_labels_that_only_contradict_are_refused(
    tmp_path: Path, images: list[str], sentence: str
) -> None:
    label = [0, 1, 0, 1 if images[3] == "2" else 0]
    root = write_features(tmp_path, features_table(4, image_id=images, label=label))
    with pytest.raises(UsageError, match=sentence):
        read_labelled([root], LOCAL)


def by_pandas(source: str, target: Path) -> None:
    frame = pd.read_parquet(source).drop(columns="date")
    frame["source"] = frame["source"].astype("category")
    frame.to_parquet(target)


def by_duckdb(source: str, target: Path) -> None:
    query = f"SELECT * EXCLUDE (date) FROM '{source}/**/*.parquet'"
    duckdb.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet)")


def by_polars(source: str, target: Path) -> None:
    code = "import polars, sys; polars.read_parquet(sys.argv[1]).drop('date')"
    environment = {**os.environ, "PYTHONPATH": str(installed("polars", "polars-runtime-32"))}
    command = [sys.executable, "-c", f"{code}.write_parquet(sys.argv[2])", source, str(target)]
    subprocess.run(command, env=environment, check=True, timeout=120)


@pytest.mark.parametrize("save", [by_pandas, by_duckdb, by_polars])
def test_a_table_that_another_program_saved_is_still_one(
    tmp_path: Path, save: Callable[[str, Path], None]
) -> None:
    width = [64, None] * 10
    table = features_table(21, label=[0, 1] * 10 + [None], width=[*width, 64])
    table = with_feature_set(table, FEATURE_SET)
    gone = dict.fromkeys(EMBEDDINGS, [None] * 2)
    lost = features_table(2, seed=1, status=["rejected"] * 2, label=[None] * 2, **gone)
    table = pa.concat_tables([table, with_feature_set(lost, FEATURE_SET)])
    source = write_features(tmp_path / "features", table)
    (tmp_path / "again").mkdir()
    save(source, tmp_path / "again" / "table.parquet")
    metadata = pq.read_schema(tmp_path / "again" / "table.parquet").metadata or {}
    assert not any(key.startswith(b"item.") for key in metadata)
    rows, again = (read_labelled([path], LOCAL) for path in (source, str(tmp_path / "again")))
    assert (again.feature_set_id, again.dimensions) == (rows.feature_set_id, rows.dimensions)
    assert again.labels.tolist() == rows.labels.tolist()
    assert again.generators.tolist() == rows.generators.tolist()
    assert again.sources.tolist() == rows.sources.tolist()
    assert again.left_out == {"without features": 2, "without a label": 1}
    found, expected = (each.arrays(np.arange(len(each))) for each in (again, rows))
    for name, array in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), array)


def test_a_table_of_fixed_size_lists_is_read_as_before(tmp_path: Path) -> None:
    table = features_table(10)
    for name in EMBEDDINGS:
        place = table.column_names.index(name)
        values = [list(map(float, one)) for one in table[name].to_pylist()]
        table = table.set_column(place, name, pa.array(values, pa.list_(pa.float16(), 8)))
    old = read_labelled([write_features(tmp_path / "old", table)], LOCAL)
    new = read_labelled([write_features(tmp_path / "new", features_table(10))], LOCAL)
    assert old.dimensions == new.dimensions == 8
    rows = np.arange(10)
    np.testing.assert_array_equal(old.arrays(rows).image, new.arrays(rows).image)


UNKNOWN: dict[str, Callable[[Path], None]] = {
    "does not say which feature set it is of: .* --labels": lambda path: pq.write_table(
        features_table(4), path
    ),
    "lacks the column 'format'": lambda path: pq.write_table(
        with_feature_set(features_table(4), "toy").drop("format"), path
    ),
    "2 columns named 'label'": lambda path: pq.write_table(
        with_feature_set(features_table(4), "toy").append_column("label", pa.nulls(4)), path
    ),
    "Rows of different feature sets .* 'base' and 'toy'": lambda path: pq.write_table(
        pa.concat_tables([with_feature_set(features_table(4), name) for name in ("toy", "base")]),
        path,
    ),
    "The column 'width' .* cannot be read as int32": lambda path: pq.write_table(
        with_feature_set(features_table(2), "toy")
        .drop("width")
        .append_column("width", pa.array(["wide", "narrow"])),
        path,
    ),
    "has version 1 of the table schema": lambda path: pq.write_table(
        with_feature_set(features_table(4), "toy").replace_schema_metadata(
            {"item.schema_version": "1"}
        ),
        path,
    ),
}


@pytest.mark.parametrize("sentence", UNKNOWN)
def test_what_was_lost_as_a_table_was_saved_is_said(tmp_path: Path, sentence: str) -> None:
    UNKNOWN[sentence](tmp_path / "table.parquet")
    with pytest.raises(UsageError, match=sentence) as refusal:
        read_labelled([str(tmp_path)], LOCAL)
    assert str(refusal.value).count(". ") == 0


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
