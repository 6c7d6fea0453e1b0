"""The report's numbers as Parquet and as CSV."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def as_parquet(table: pd.DataFrame) -> bytes:
    """A table of numbers as a Parquet file; a column without any value is one of text."""
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    text = [
        field.with_type(pa.string()) if pa.types.is_null(field.type) else field
        for field in arrow.schema
    ]
    buffer = io.BytesIO()
    pq.write_table(arrow.cast(pa.schema(text)), buffer, compression="zstd")
    return buffer.getvalue()


def as_csv(table: pd.DataFrame) -> bytes:
    """A table of numbers as CSV that a spreadsheet opens without running a formula in it.

    Text that a spreadsheet would take for one gets an apostrophe before it (OWASP, "CSV
    Injection"); lists are joined by spaces. Text is quoted, so that a line break in it ends
    no cell. UTF-8 with a byte order mark, which Excel needs.
    """
    safe = table.map(_cell) if len(table) else table
    text = safe.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return text.encode("utf-8-sig")


def _cell(value: object) -> object:
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, str) and value.lstrip().startswith(FORMULA):
        return f"'{value}"
    return value


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet may run."""
