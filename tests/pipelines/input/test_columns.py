from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from item.errors import UsageError
from tests.support.dumps import make, parquet_of, planned, rows_of


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"url": ["x"]}, r"needs a 'bytes' or a 'uri' column; found 'url'"),
        ({"bytes": ["x"]}, "'bytes' of t.parquet must be binary; it is string"),
        ({"uri": [1]}, "'uri' of t.parquet must be text"),
        ({"uri": ["x"], "label": ["fake"]}, "must be 0, 1 or null; it is string"),
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
    [([True, False, None], [1, 0, None]), ([1.0, float("nan"), 0.5], [1, None, None])],
)
def test_labels_of_other_number_types_are_understood(values, labels, tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of({"uri": list("abc"), "label": values})})
    found = planned(tmp_path)
    assert [row["label"] for row in rows_of(found)] == labels
    assert len(found.notes) == (0.5 in values)


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
    assert [row["uri"] for row in rows] == ["caf\\xe9", "b"]
    assert rows[0]["captions"] == ["caf\\xe9"]
