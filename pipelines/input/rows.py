"""One input row while it is read, and many of them as tables of ``item.tables.IMAGES``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from item.tables import IMAGES, ErrorCode, Status
from pipelines.storage.allowed import Location

TABLE_BYTES = 64 << 20
"""About how many bytes a table that a read task yields may hold."""

TABLE_ROWS = 1024


@dataclass(slots=True)
class InputRow:
    """A row of ``IMAGES``; ``location`` and ``size`` say where bytes still to be read are."""

    uri: str
    date: str
    version: str
    listed_in: str | None = None
    source: str | None = None
    occurrence: int = 0
    bytes: bytes | None = None
    label: int | None = None
    generator: str | None = None
    captions: list[str] | None = None
    code: ErrorCode | None = None
    message: str | None = None
    location: Location | None = None
    size: int | None = None

    def fail(self, code: ErrorCode, message: str | None = None) -> InputRow:
        """Give the row up, in the words of the code where there are no better ones."""
        self.bytes = None
        self.location = None
        self.code, self.message = code, message or code.sentence
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the row by the columns of ``IMAGES``."""
        return {
            "uri": self.uri,
            "input_version": self.version,
            "listed_in": self.listed_in,
            "occurrence": self.occurrence,
            "source": self.source,
            "date": self.date,
            "bytes": self.bytes,
            "label": self.label,
            "generator": self.generator,
            "captions": self.captions,
            "status": (Status.OK if self.code is None else self.code.status).value,
            "error_code": None if self.code is None else self.code.value,
            "error_message": self.message,
        }


def tables(rows: Iterator[InputRow]) -> Iterator[pa.Table]:
    """Yield tables of about `TABLE_BYTES` at most; at least one, if an empty one."""
    batch: list[dict[str, Any]] = []
    size = 0
    empty = True
    for row in rows:
        length = len(row.bytes or b"")
        if batch and (size + length > TABLE_BYTES or len(batch) >= TABLE_ROWS):
            yield pa.Table.from_pylist(batch, schema=IMAGES)
            batch, size, empty = [], 0, False
        batch.append(row.as_dict())
        size += length
    if batch or empty:
        yield pa.Table.from_pylist(batch, schema=IMAGES)


_LABELS = {"0": 0, "1": 1, "false": 0, "true": 1, "real": 0, "generated": 1, "fake": 1}


def as_label(value: object) -> int | None:
    """Return 0 or 1, or None where the value is neither, nor a word for one."""
    if isinstance(value, str):
        value = value.strip().lower()
        if value in _LABELS:
            return _LABELS[value]
        try:
            value = float(value)  # pandas writes 1.0 where other rows have no label
        except ValueError:
            return None
    return int(value) if isinstance(value, bool | int | float) and value in (0, 1) else None
