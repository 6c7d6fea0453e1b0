from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from item.errors import UsageError
from tests.support.dumps import make, parquet_of, planned, rows_of


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"link": ["x"]}, r"t.parquet has 'link'. Say which .* --set reading.columns.uri=COLUMN"),
        ({"bytes": [1]}, "'bytes' of t.parquet must be binary; it is int64"),
        ({"uri": [1]}, "'uri' of t.parquet must be text"),
        ({"uri": ["x"], "label": [[1]]}, "must be 0, 1 or null; it is list"),
        ({"uri": ["x"], "captions": [[1]]}, "must be text or a list of texts"),
        ({"uri": ["x"], "date": [20260101]}, "must be a date"),
        ({"uri": pa.array([], pa.string())}, "have no rows"),
    ],
)
def test_unfit_columns_are_named_before_any_work(columns, sentence, tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of(columns)})
    with pytest.raises(UsageError, match=sentence):
        planned(tmp_path)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([True, False, None], [1, 0, None]),
        ([1.0, float("nan"), 0.5], [1, None, None]),
        (["1", "Real", None], [1, 0, None]),
        (["1.0", "0.0", "nan"], [1, 0, None]),
        (["generated", " 0", "perhaps"], [1, 0, None]),
    ],
)
def test_labels_of_other_types_are_understood(values, labels, tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of({"uri": list("abc"), "label": values})})
    found = planned(tmp_path)
    assert [row["label"] for row in rows_of(found)] == labels
    assert len(found.notes) == any(unknown in values for unknown in (0.5, "perhaps", "nan"))


@pytest.mark.parametrize(
    "dates",
    [
        ["2026-01-01", "../../etc", "2026-1-1"],
        pa.array([datetime(2026, 1, 1, 23, 59), None, None], pa.timestamp("ns")),
        pa.array(["2026-01-01", None, None]).dictionary_encode(),
        pa.array([20454, 2**31 - 1, None], pa.date32()),
    ],
)
def test_dates_become_days_or_the_default(dates, tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of({"uri": list("abc"), "date": dates})})
    assert [row["date"] for row in rows_of(planned(tmp_path))] == [
        "2026-01-01",
        "2026-01-31",
        "2026-01-31",
    ]


def test_text_that_is_not_utf8_costs_no_row(tmp_path: Path) -> None:
    bad = pa.array([b"caf\xe9", b"b"]).view(pa.string())
    captions = pa.ListArray.from_arrays([0, 1, 2], bad)
    columns = {"uri": bad, "bytes": [b"1", b"2"], "generator": bad, "captions": captions}
    make(tmp_path, {"t.parquet": parquet_of(columns)})
    rows = rows_of(planned(tmp_path))
    assert [row["uri"] for row in rows] == [f"{tmp_path}/caf\\xe9", f"{tmp_path}/b"]
    assert rows[0]["captions"] == ["caf\\xe9"]


def test_two_columns_of_one_name_are_named(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"], [1]], names=["uri", "uri", "label"])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    make(tmp_path, {"t.parquet": buffer.getvalue()})
    with pytest.raises(UsageError, match="2 columns named 'uri': rename all but one"):
        planned(tmp_path)


def test_two_columns_that_are_not_read_may_have_one_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table([["a"], [1], [2]], names=["uri", "x", "x"]), buffer)
    make(tmp_path, {"t.parquet": buffer.getvalue()})
    assert [row["uri"] for row in rows_of(planned(tmp_path))] == [f"{tmp_path}/a"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        # Hugging Face's datasets: a struct of bytes and path, of which one may be null
        (
            {"image": [{"bytes": b"1", "path": "x.jpg"}, {"bytes": None, "path": "b.jpg"}, None]},
            [b"1", b"beside", None],
        ),
        # img2dataset: the picture, and the page or file that it is from, perhaps twice
        ({"jpg": [b"1", b"2", None], "url": ["u", "u", "u"]}, [b"1", b"2", None]),
        # LAION
        ({"URL": ["b.jpg", "c.jpg", None], "TEXT": ["x", "y", "z"]}, [b"beside", None, None]),
    ],
)
def test_columns_as_other_tools_name_them(columns, expected, tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of(columns), "b.jpg": b"beside"})
    rows = rows_of(planned(tmp_path, kind="parquet"))
    assert [row["bytes"] for row in rows] == expected
    assert len({row["uri"] for row in rows}) == 3
    if "TEXT" in columns:
        assert [row["captions"] for row in rows] == [["x"], ["y"], ["z"]]


def test_columns_of_other_names_are_mapped(tmp_path: Path) -> None:
    columns = {
        "photo": [{"data": b"1"}, {"data": b"2"}],
        "words": ["x", "y"],
        "a.b": ["real", "generated"],
    }
    make(tmp_path, {"t.parquet": parquet_of(columns)})
    names = {"bytes": "photo.data", "captions": "words", "label": "a.b"}
    rows = rows_of(planned(tmp_path, columns=names))
    assert [(row["bytes"], row["captions"], row["label"]) for row in rows] == [
        (b"1", ["x"], 0),
        (b"2", ["y"], 1),
    ]


@pytest.mark.parametrize("given", ["gone", "photo.gone", "gone.data"])
def test_a_mapped_column_that_is_missing_is_named(given, tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of({"photo": [{"data": b"1"}], "uri": ["x"]})})
    with pytest.raises(UsageError, match=f"has no column '{given}'"):
        planned(tmp_path, columns={"bytes": given})
