"""Labelled rows: refused in one sentence if useless, and never on two sides of a split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.errors import UsageError
from item.heads.columns import FeatureArrays
from item.tables import SCHEMA_VERSION
from pipelines.storage.access import Storage
from pipelines.train.rows import LabelledRows, counted, read_labelled
from pipelines.train.split import split
from tests.item.heads.examples import FEATURE_SET, features_table

LOCAL = Storage()


def write(path: Path, table: pa.Table, feature_set: str = FEATURE_SET, **options: Any) -> str:
    """A features table of one file; returns its root."""
    facts = {"item.feature_set_id": f'"{feature_set}"', "item.schema_version": str(SCHEMA_VERSION)}
    file = path / "date=2026-01-30" / "part-0.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(facts), file, **options)
    return str(path)


def test_rows_are_those_with_features_and_a_label(tmp_path: Path) -> None:
    table = features_table(
        6, status=["ok", "ok", "rejected", "ok", "failed", "ok"], label=[0, 1, 0, None, 1, 1]
    )
    rows = read_labelled([write(tmp_path, table)], LOCAL)
    assert rows.labels.tolist() == [0, 1, 1]
    assert rows.place.tolist() == [0, 1, 5]
    assert rows.left_out == {"without features": 2, "without a label": 1}
    assert (rows.feature_set_id, rows.dimensions) == (FEATURE_SET, 8)


def test_features_come_in_the_order_asked_for(tmp_path: Path) -> None:
    tables = [features_table(10, seed=seed) for seed in (0, 1)]
    paths = [write(tmp_path / str(n), one, row_group_size=4) for n, one in enumerate(tables)]
    rows = read_labelled(paths, LOCAL)
    assert len(rows.fragments) == 6
    order = np.random.default_rng(0).permutation(20)[:15]
    whole = FeatureArrays.of(pa.concat_tables(tables))
    assert np.array_equal(rows.arrays(order).image, whole.image[order])
    assert np.array_equal(rows.arrays(order).local_scalars, whole.local_scalars[order])


def test_table_in_s3_is_read(s3: Any, bucket: str, tmp_path: Path) -> None:
    root = write(tmp_path, features_table(10))
    file = next(Path(root).rglob("*.parquet"))
    s3.fill(bucket, {"features/date=x/part-0.parquet": file.read_bytes()})
    rows = read_labelled([f"s3://{bucket}/features"], LOCAL)
    assert np.array_equal(
        rows.arrays(np.arange(10)).image, FeatureArrays.of(features_table(10)).image
    )


def test_parts_that_readers_skip_are_left_out(tmp_path: Path) -> None:
    root = write(tmp_path, features_table(10))
    write(tmp_path / "_staging" / "work", features_table(10, seed=1))
    assert len(read_labelled([root], LOCAL)) == 10


def nan(table: pa.Table) -> pa.Table:
    column = table.schema.get_field_index("global_similarity")
    values = [float("nan"), *table["global_similarity"].to_pylist()[1:]]
    return table.set_column(column, table.schema.field(column), pa.array(values, pa.float32()))


USELESS: dict[str, Callable[[Path], list[str]]] = {
    "There is no file or folder": lambda p: [str(p / "nowhere")],
    "holds no Parquet": lambda p: [str(p)],
    "is empty": lambda p: [write(p, features_table(10).slice(0, 0))],
    "None of the 4 rows .* has features": lambda p: [
        write(p, features_table(4, status=["failed"] * 4))
    ],
    "No row of .* has a label": lambda p: [write(p, features_table(4, label=[None] * 4))],
    "are real .0.: add a table with generated .1. rows": lambda p: [
        write(p, features_table(4, label=[0] * 4))
    ],
    "are generated .1.: add": lambda p: [write(p, features_table(4, label=[1] * 4))],
    "the label 2": lambda p: [write(p, features_table(4, label=[0, 1, 2, 0]))],
    "1 rows of .* NaN or infinite, the first of them 'pictures/0-0.jpg'": lambda p: [
        write(p, nan(features_table(4)))
    ],
    "different feature sets, 'toy-.* and 'base-1'": lambda p: [
        write(p / "a", features_table(4)),
        write(p / "b", features_table(4), feature_set="base-1"),
    ],
    "is not a features table": lambda p: [write(p, pa.table({"uri": ["a"]}))],
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


def prompts(path: Path, uris: list[str], values: list[str | None]) -> str:
    pq.write_table(pa.table({"uri": uris, "prompt": values}), path)
    return str(path)


def test_rows_that_share_a_uri_an_image_or_a_prompt_are_together(tmp_path: Path) -> None:
    names = {"uri": ["a", "b", "c", "a", "d", "e"], "image_id": ["1", "2", "2", "3", "4", "5"]}
    root = write(tmp_path / "features", features_table(6, **names))
    groups = read_labelled([root], LOCAL).groups
    assert groups[0] == groups[3]
    assert groups[1] == groups[2]
    assert len(set(groups)) == 4
    table = prompts(tmp_path / "prompts.parquet", ["a", "d", "e"], ["red", "red", None])
    groups = read_labelled([root], LOCAL, table, "prompt").groups
    assert groups[0] == groups[3] == groups[4] != groups[5]
    assert len(set(groups)) == 3


def test_group_column_may_be_one_of_the_table(tmp_path: Path) -> None:
    root = write(tmp_path, features_table(6, source=["x", "x", "y", "y", None, None]))
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
    root = write(tmp_path / "features", features_table(6))
    prompts(tmp_path / "there", ["other"], ["red"])
    (tmp_path / "there").rename(tmp_path / "there.parquet")
    path = None if metadata is None else str(tmp_path / f"{metadata}.parquet")
    with pytest.raises(UsageError, match=sentence):
        read_labelled([root], LOCAL, path, column)


def labelled_rows(rows: list[tuple[int, str, int]]) -> LabelledRows:
    """Rows by label, generator and group, without files."""
    labels, generators, groups = zip(*rows, strict=True)
    return LabelledRows(
        fragments=(),
        fragment=np.zeros(len(rows), np.int64),
        place=np.arange(len(rows)),
        uris=np.arange(len(rows)).astype(str).astype(object),
        labels=np.array(labels, np.int8),
        generators=np.array([g if y else None for y, g in zip(labels, generators, strict=True)]),
        sources=np.full(len(rows), None),
        groups=np.unique(groups, return_inverse=True)[1],
        feature_set_id=FEATURE_SET,
        dimensions=8,
        storage=LOCAL,
    )


ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from("abc"), st.integers(0, 40)),
    min_size=120,
    max_size=160,
)


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 5), named=st.sampled_from([None, "b"]))
def test_no_group_is_on_two_sides(
    rows: list[tuple[int, str, int]], seed: int, named: str | None
) -> None:
    table = labelled_rows(rows)
    try:
        found = split(table, seed, validation_generator=named)
    except UsageError:
        return
    parts = [found.training, found.calibration, found.validation]
    groups = [set(table.groups[part]) for part in parts]
    assert not (groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2])
    held = table.generators == found.held_out_generator
    assert not held[np.concatenate(parts[:2])].any()
    generated = found.validation[table.labels[found.validation] == 1]
    assert found.held_out_generator is None or held[generated].all()


def three_generators(of_c: int = 20) -> LabelledRows:
    rows = [(1, "a", n) for n in range(100)] + [(1, "b", 200 + n) for n in range(100)]
    rows += [(1, "c", 400 + n) for n in range(of_c)] + [(0, "", 600 + n) for n in range(200)]
    return labelled_rows(rows)


def test_rarest_of_three_generators_is_held_out_whole() -> None:
    rows = three_generators()
    found = split(rows, seed=0)
    assert found.held_out_generator == "c"
    assert (rows.generators[found.validation] == "c").sum() == 20
    assert (rows.labels[found.validation] == 0).sum() == 40
    assert len(found.calibration) == 40 + 32
    assert len(found.training) + len(found.calibration) + len(found.validation) == len(rows)


def test_named_generator_is_held_out() -> None:
    rows = three_generators()
    found = split(rows, seed=0, validation_generator="a")
    assert found.held_out_generator == "a"
    assert "'a'" in found.notes[0]


def test_two_generators_are_both_trained_on() -> None:
    rows = three_generators(of_c=0)
    found = split(rows, seed=0)
    assert found.held_out_generator is None
    assert "no generator is held out" in found.notes[0]
    assert len(found.validation) == 80


def test_prompts_that_all_generators_share_are_split_too() -> None:
    rows = labelled_rows(
        [(1, name, prompt) for name in "aabc" for prompt in range(50)]
        + [(0, "", 100 + n) for n in range(100)]
    )
    found = split(rows, seed=0)
    assert found.held_out_generator == "b"
    assert (rows.labels[found.validation] == 1).sum() == 10
    assert "are not used" in found.notes[1]


def test_seed_decides_the_split() -> None:
    rows = three_generators()
    one, same, other = (split(rows, seed).training.tolist() for seed in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize(
    ("named", "sentence"),
    [("x", "no generated rows of the validation generator 'x': choose one of a"), ("a", "All")],
)
def test_generator_that_cannot_be_held_out_is_refused(named: str, sentence: str) -> None:
    rows = labelled_rows([(n % 2, "a", n) for n in range(50)])
    with pytest.raises(UsageError, match=sentence):
        split(rows, seed=0, validation_generator=named)


def test_too_few_groups_are_refused() -> None:
    rows = labelled_rows([(n % 2, "a", n % 2) for n in range(50)])
    with pytest.raises(UsageError, match="leaves no real rows to calibrate on"):
        split(rows, seed=0)


def test_rows_are_counted_by_origin() -> None:
    rows = labelled_rows([(1, "a", 0), (1, "a", 1), (0, "", 2)])
    assert counted(rows, np.arange(3)) == [
        {"label": 1, "generator": "a", "source": None, "rows": 2},
        {"label": 0, "generator": None, "source": None, "rows": 1},
    ]
    assert rows.origins().tolist() == ["a", "a", ""]


def test_generators_and_sources_can_be_kept_unseen(tmp_path: Path) -> None:
    source = ["prompts" if row % 2 else ("x", "y")[row // 2 % 2] for row in range(40)]
    rows = read_labelled([write(tmp_path, features_table(40, source=source))], LOCAL)
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
