"""Pictures that come again: who is first, and where the features of the others come from."""

from __future__ import annotations

import hashlib
import posixpath
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.featurize.reuse import Copier, ImageIndex, Register, _find, _halves, seen_before
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join
from pipelines.tables.features import FeatureTable
from pipelines.tables.parts import FAILED, PART, PartWriter
from pipelines.tables.published import STAGING
from tests.support.feature_rows import DIMENSIONS, NIGHT, done

STORAGE = Storage(retries=0)
WORK = "0123456789abcdef"
METADATA = {"item.feature_set_id": '"mini-0"', "item.run_id": '"a run"'}
NOTHING = np.empty((0, 2), np.uint64)

pytestmark = pytest.mark.timeout(60)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def register(known: list[str]) -> Any:
    """The actor's class in this process."""
    halves = _halves([digest(one) for one in known])
    kept = np.array(sorted(map(tuple, halves)), np.uint64).reshape(-1, 2)
    return Register.__ray_metadata__.modified_class(kept)


def writer(root: str) -> PartWriter:
    return PartWriter(join(root, STAGING, WORK), STORAGE, DIMENSIONS, METADATA)


# Who is first


def test_first_row_of_a_picture_is_computed_and_later_ones_wait() -> None:
    rows = [(NIGHT, 0, uri) for uri in "abc"]
    asked = [digest("x"), digest("y"), digest("x")]
    assert register([]).known(asked, rows) == [False, False, True]


def test_row_that_asks_again_hears_the_same() -> None:
    """As when Ray runs a task a second time."""
    one = register([])
    a, b = (NIGHT, 0, "a"), (NIGHT, 0, "b")
    assert one.known([digest("x"), digest("x")], [a, b]) == [False, True]
    assert one.known([digest("x"), digest("x")], [a, b]) == [False, True]
    assert one.known([digest("x")], [b]) == [True]


def test_picture_of_an_earlier_night_is_known_to_every_row() -> None:
    one = register(["x", "z"])
    rows = [(NIGHT, 0, uri) for uri in "abc"]
    assert one.known([digest(name) for name in "xyz"], rows) == [True, False, True]
    assert one.known([digest("x")], rows[:1]) == [True]


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 30)))
def test_pictures_are_found_where_they_are_and_nowhere_else(
    known: list[int], asked: list[int]
) -> None:
    halves = _halves([digest(str(one)) for one in set(known)])
    ordered = halves[np.lexsort((halves[:, 1], halves[:, 0]))]
    places = _find(ordered, _halves([digest(str(one)) for one in asked]))
    assert (places >= 0).tolist() == [one in known for one in asked]
    for place, one in zip(places, asked, strict=True):
        if place >= 0:
            assert (ordered[place] == _halves([digest(str(one))])[0]).all()


def test_pictures_alike_in_the_first_half_of_the_digest_only_are_two() -> None:
    same = _halves(["0" * 16 + "1" * 48])
    other = _halves(["0" * 16 + "2" * 48])
    assert _find(same, other).tolist() == [-1]
    assert _find(NOTHING, other).tolist() == [-1]


# Where the features are


def test_index_holds_what_bytes_decide_and_no_passing_failure(tmp_path: Path) -> None:
    ids = [digest(name) for name in ("a", "bad", "failed")] + [None]
    status = ["ok", "rejected", "failed", "rejected"]
    rows = done("a", "bad", "failed", "bad none", image_id=ids, status=status)
    writer(str(tmp_path))(rows)
    table = FeatureTable(str(tmp_path), STORAGE)
    staged = [path for kind in (PART, FAILED) for path in table.staged(WORK, kind)]
    index = ImageIndex.of(table, [(table.staging(WORK), path) for path in staged])
    assert (index.find([one for one in ids if one]) >= 0).tolist() == [True, True, False]


def test_only_the_latest_nights_are_looked_through(tmp_path: Path) -> None:
    table = FeatureTable(str(tmp_path), STORAGE)
    nights = [f"2026-01-{day}" for day in (10, 11, 12)]
    for night in nights:
        writer(str(tmp_path))(done(night, date=night, image_id=[digest(night)]))
        table.publish([WORK], f"run-{night}")

    def known(nights_back: int, without: list[str]) -> list[bool]:
        index = seen_before(table, [WORK], nights_back, without)
        return (index.find([digest(night) for night in nights]) >= 0).tolist()

    assert known(30, []) == [True, True, True]
    assert known(2, []) == [False, True, True]
    assert known(2, nights[2:]) == [True, True, False]
    assert known(0, []) == [False, False, False]


def test_copied_row_keeps_its_own_names_and_takes_the_features(tmp_path: Path) -> None:
    root = str(tmp_path)
    ids = [digest("a"), digest("bad"), digest("c")]
    writer(root)(done("a", "bad", "c", image_id=ids, caption=["of a", None, "of c"]))
    table = FeatureTable(root, STORAGE)
    [path] = table.staged(WORK)
    rows = pa.table(
        {
            "uri": ["again c", "again bad", "again a"],
            "input_version": ["1", "2", "3"],
            "listed_in": ["t", None, None],
            "source": ["s", "s", None],
            "label": pa.array([1, None, 0], pa.int8()),
            "generator": ["g", None, None],
            "date": [NIGHT, "2026-02-01", NIGHT],
            "occurrence": pa.array([0, 0, 0], pa.int32()),
            "file": [0, 0, 0],
            "row": [0, 1, 2],
        }
    )
    copier = Copier([posixpath.join(table.staging(WORK), path)], STORAGE, writer(root))
    copier(rows.set_column(0, "uri", pa.array(["again a", "again bad", "again c"])))
    table.publish([WORK], "run")
    frame = pd.read_parquet(root).set_index("uri")
    assert frame.loc["again a", "caption"] == "of a"
    assert frame.loc["again a", "image_id"] == digest("a")
    assert (frame.loc["again a", "generator"], frame.loc["again a", "label"]) == ("g", 1)
    assert frame.loc["again bad", ["status", "error_code"]].tolist() == ["rejected", "truncated"]
    assert str(frame.loc["again bad", "date"]) == "2026-02-01"
    embedding = frame.loc["c", "image_embedding"]
    assert np.array_equal(frame.loc["again c", "image_embedding"], embedding)
    reused = [table.facts(table.path, one)["reused"] for one in table.published()]
    assert sum(reused) == 2, "a rejected row was never captioned, so nothing was reused"


def test_copier_reads_only_the_row_groups_that_it_needs(tmp_path: Path) -> None:
    rows = done(*(f"u{n}" for n in range(6)), caption=[f"c{n}" for n in range(6)])
    [part] = writer(str(tmp_path))(rows).to_pylist()
    path = Path(tmp_path, STAGING, WORK, part["path"])
    whole = pq.ParquetFile(path).read()
    pq.write_table(whole, path, row_group_size=2)
    found = Copier([str(path)], STORAGE, writer(str(tmp_path)))._features([0, 0, 0], [1, 4, 5])
    assert found["caption"].to_pylist() == ["c1", "c4", "c5"]
