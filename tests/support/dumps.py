"""Small dumps for tests: files, tables and archives, planned and read without Ray."""

from __future__ import annotations

import io
import tarfile
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from item.tables import IMAGES
from pipelines.input.plan import InputOptions, InputPlan, plan
from pipelines.input.reading import piece_reader
from pipelines.storage.configuration import Storage
from pipelines.tables.row_keys import RowChoice, RowKeys, states

TODAY = date(2026, 1, 31)

STORAGE = Storage(retries=0)

Rows = list[dict[str, Any]]


def planned(path: object, **options: Any) -> InputPlan:
    return plan([str(path)], InputOptions(**options), STORAGE, TODAY)


def rows_of(
    plan: InputPlan,
    finished: RowKeys | None = None,
    max_bytes: int = 1 << 20,
    wanted: RowKeys | None = None,
) -> Rows:
    """Read a plan as its tasks do, without Ray; checks schema and count."""
    tables = tables_of(plan, RowChoice(finished or RowKeys(), wanted), max_bytes)
    assert all(table.schema == IMAGES for table in tables)
    rows = pa.concat_tables(tables).to_pylist()
    assert finished is not None or wanted is not None or plan.rows in (None, len(rows))
    assert {row["date"] for row in rows} <= set(plan.dates)
    return rows


def tables_of(plan: InputPlan, choice: RowChoice | None, max_bytes: int) -> list[pa.Table]:
    read_piece = piece_reader(plan, STORAGE, max_bytes=max_bytes)
    return [table for piece in plan.pieces for table in read_piece(piece, choice or RowChoice())]


def make(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def parquet_of(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def prefix(root: str) -> str:
    """What stands before a file's name in its URI."""
    return f"{root}/"


def keys_of(rows: Rows) -> RowKeys:
    columns = ("date", "uri", "occurrence", "input_version")
    return RowKeys(states(*([row[name] for row in rows] for name in columns)))
