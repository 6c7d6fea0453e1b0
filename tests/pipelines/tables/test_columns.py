"""Columns of tables that other programs wrote: as text, equal for equal values."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from item.errors import UsageError
from pipelines.tables.columns import as_text, check_distinct

DAY = datetime.date(2026, 1, 31)
NOON = datetime.datetime(2026, 1, 31, 12)
MIDNIGHT = datetime.datetime(2026, 1, 31)

KINDS: dict[str, tuple[pa.Array, list[str | None]]] = {
    "text": (pa.array(["a", None]), ["a", None]),
    "large text": (pa.array(["a"], pa.large_string()), ["a"]),
    "a category": (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    "a category of numbers": (pa.array([7, 7]).dictionary_encode(), ["7", "7"]),
    "integers": (pa.array([7, None], pa.int16()), ["7", None]),
    "integers that a null made floats": (pa.array([7.0, float("nan"), None]), ["7", None, None]),
    "floats": (pa.array([0.5]), ["0.5"]),
    "booleans": (pa.array([True]), ["true"]),
    "days": (pa.array([DAY]), ["2026-01-31"]),
    "days as pandas saves them": (pa.array([MIDNIGHT], pa.timestamp("ns")), ["2026-01-31"]),
    "days in UTC": (pa.array([MIDNIGHT], pa.timestamp("ms", "UTC")), ["2026-01-31"]),
    "times": (pa.array([NOON], pa.timestamp("s")), ["2026-01-31 12:00:00"]),
    "lists": (pa.array([["b", "a"], None]), ['["b", "a"]', None]),
    "structs": (pa.array([{"b": 1, "a": DAY}]), ['{"a": "2026-01-31", "b": 1}']),
    "nothing at all": (pa.nulls(2), [None, None]),
}


@pytest.mark.parametrize(("column", "expected"), KINDS.values(), ids=KINDS)
def test_values_of_any_type_are_text(column: pa.Array, expected: list[str | None]) -> None:
    text = as_text(pa.chunked_array([column]))
    assert text.type == pa.string()
    assert text.to_pylist() == expected


@given(st.lists(st.none() | st.integers(-(2**31), 2**31)))
def test_numbers_are_equal_to_what_they_are_written_as(values: list[int | None]) -> None:
    written = pa.array([None if one is None else str(one) for one in values], pa.string())
    for kind in (pa.int64(), pa.float64(), pa.string()):
        column: Any = pa.array(values, kind) if kind != pa.string() else written
        if kind == pa.float64() and any(one and abs(one) >= 10**15 for one in values):
            continue
        assert as_text(pa.chunked_array([column])).to_pylist() == written.to_pylist()


def test_bytes_that_are_no_text_are_kept_apart() -> None:
    found = as_text(pa.chunked_array([pa.array([b"\xff", b"\xfe", b"a"])])).to_pylist()
    assert len(set(found)) == 3


def test_a_column_that_is_there_twice_is_named() -> None:
    check_distinct(["uri", "label", "other", "other"], ["uri", "label"], "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet has 2 columns named 'uri'"):
        check_distinct(["uri", "label", "uri"], ["label", "uri"], "a.parquet")
