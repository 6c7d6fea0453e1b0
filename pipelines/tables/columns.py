"""Columns of tables that other programs wrote: found by name, and compared as text."""

from __future__ import annotations

import json
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from item.errors import UsageError
from pipelines.storage.urls import redact

_MIDNIGHT = r"[ T]00:00:00(\.0+)?(Z|[+-]00:?00)?$"


def check_distinct(names: Collection[str], wanted: Collection[str], where: str) -> None:
    """UsageError if a table has two columns of a name that is wanted, which Parquet allows."""
    names = list(names)
    for name in wanted:
        if (number := names.count(name)) > 1:
            raise UsageError(
                f"{redact(where)} has {number} columns named '{name}': rename or drop all but one."
            )


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values of any type as text, equal for equal values: of ``5``, ``5.0`` and ``"5"``, of a
    date and its midnight, of a category and its name. NaN is null.
    """
    kind = column.type
    while pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
        kind = column.type
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)
    if pa.types.is_nested(kind):
        values = [None if one is None else _written(one) for one in column.to_pylist()]
        return pa.chunked_array([pa.array(values, pa.string())])
    try:
        text = pc.cast(column, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # Bytes that are no UTF-8, or a time zone that Arrow does not know here.
        values = [None if one is None else str(one) for one in column.to_pylist()]
        text = pa.chunked_array([pa.array(values, pa.string())])
    if pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        text = pc.replace_substring_regex(text, _MIDNIGHT, "")
    return text


def _written(value: object) -> str:
    return json.dumps(value, default=str, sort_keys=True, ensure_ascii=False)
