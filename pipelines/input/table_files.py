"""Tables of images as files: Parquet, and lists of URIs in CSV, TSV and JSON lines."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.input.columns import ColumnNames, Columns, array_at, known_columns
from pipelines.input.files import extension, open_file, readable
from pipelines.storage.access import reason
from pipelines.storage.configuration import Storage

Batch = Mapping[str, pa.Array]
"""Arrays by the known names; one named "" where none is wanted, so that rows are counted."""

_PARQUET_BUFFER = 4 << 20
_LONGEST_FIELD = 16 << 20
_LINES_LOOKED_AT = 1000


class ListError(Exception):
    """A list of URIs cannot be read as what its name says."""


class ImageTable(ABC):
    """An open table, read batch by batch in bounded memory.

    Attributes
    ----------
    columns : where its known columns are
    groups : number of rows of each part that is read from its start
    """

    columns: Columns
    groups: Sequence[int]

    @abstractmethod
    def batches(self, groups: Iterable[int], wanted: Iterable[str], size: int) -> Iterator[Batch]:
        """Yield some known columns of some groups, at most `size` rows at a time."""

    @abstractmethod
    def bytes_per_row(self, group: int) -> int:
        """About how much a row of a group takes; 0 where the file does not say so."""


@contextmanager
def open_table(
    root: str,
    name: str,
    storage: Storage,
    names: ColumnNames,
    uri_roots: Sequence[str] = (),
) -> Iterator[ImageTable]:
    """Open a listed table.

    Raises
    ------
    UsageError
        If it lacks a column, or is a link that leads out of the root.
    pyarrow.ArrowException, ListError
        If its content is damaged.
    """
    shown = readable(name)
    if extension(name) == ".parquet":
        with open_parquet(root, name, storage, uri_roots) as parquet:
            yield ParquetTable(parquet, known_columns(parquet.schema_arrow, names, shown))
        return
    with open_file(root, name, storage, uri_roots) as handle:
        yield ListTable(handle, extension(name), names, shown)


@contextmanager
def open_parquet(
    root: str, name: str, storage: Storage, uri_roots: Sequence[str] = ()
) -> Iterator[pq.ParquetFile]:
    """Open a listed Parquet file to be read column by column in bounded memory."""
    with (
        open_file(root, name, storage, uri_roots) as handle,
        pq.ParquetFile(handle, buffer_size=_PARQUET_BUFFER, pre_buffer=False) as parquet,
    ):
        yield parquet


class ParquetTable(ImageTable):
    """A Parquet file; its groups are its row groups."""

    def __init__(self, parquet: pq.ParquetFile, columns: Columns) -> None:
        self.parquet = parquet
        self.columns = columns
        metadata = parquet.metadata
        self.groups = [
            metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)
        ]

    def bytes_per_row(self, group: int) -> int:
        metadata = self.parquet.metadata.row_group(group)
        return int(metadata.total_byte_size // max(metadata.num_rows, 1))

    def batches(self, groups: Iterable[int], wanted: Iterable[str], size: int) -> Iterator[Batch]:
        places = {name: self.columns[name] for name in sorted(wanted)}
        groups = list(groups)
        if not places:
            for group in groups:
                for start in range(0, self.groups[group], size):
                    yield {"": pa.nulls(min(size, self.groups[group] - start))}
            return
        for batch in self.parquet.iter_batches(
            size, row_groups=groups, columns=list(places.values()), use_threads=False
        ):
            yield {name: array_at(batch, place) for name, place in places.items()}


class ListTable(ImageTable):
    """A list of URIs as text, one group of all rows; each reading goes through it from its start.

    A line that is no record is a row without a URI, so that it is reported.
    """

    def __init__(self, handle: IO[bytes], kind: str, names: ColumnNames, shown: str) -> None:
        self._handle = handle
        self._records: Callable[[IO[str]], Iterator[Mapping[str, Any]]] = (
            partial(_csv_records, separator="\t" if kind == ".tsv" else ",")
            if kind in (".csv", ".tsv")
            else _json_records
        )
        fields: dict[str, pa.DataType] = {}
        for record in islice(self._all(), _LINES_LOOKED_AT):
            fields |= {str(name): _type(value) for name, value in record.items() if name}
        self.columns = known_columns(pa.schema(list(fields.items())), names, shown)
        self.groups = [sum(1 for _ in self._all())]

    def bytes_per_row(self, group: int) -> int:  # noqa: ARG002 - of the interface
        return 0

    def batches(self, groups: Iterable[int], wanted: Iterable[str], size: int) -> Iterator[Batch]:
        places = {name: self.columns[name] for name in sorted(wanted)}
        if not list(groups):
            return
        records = self._all()
        while rows := list(islice(records, size)):
            yield {
                name: pa.array([_VALUES.get(name, _text)(row.get(place)) for row in rows], kind)
                for name, place in places.items()
                for kind in [pa.list_(pa.string()) if name == "captions" else pa.string()]
            } or {"": pa.nulls(len(rows))}

    def _all(self) -> Iterator[Mapping[str, Any]]:
        self._handle.seek(0)
        lines = io.TextIOWrapper(
            self._handle, encoding="utf-8-sig", errors="backslashreplace", newline=""
        )
        try:
            yield from self._records(lines)
        except csv.Error as error:
            raise ListError(str(error)) from None
        finally:
            lines.detach()


def _csv_records(lines: IO[str], separator: str) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(lines, delimiter=separator)
    header = next(reader, [])
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise ListError(f"it has two columns named {twice[0]!r}: rename one")
    for fields in reader:
        if fields:  # a line without anything is no record
            yield dict(zip(header, (one or None for one in fields), strict=False))


def _json_records(lines: IO[str]) -> Iterator[Mapping[str, Any]]:
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        yield record if isinstance(record, dict) else {}


def _type(value: Any) -> pa.DataType:
    return pa.list_(pa.string()) if isinstance(value, list) else pa.string()


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).encode("utf-8", "backslashreplace").decode()


def _captions(value: Any) -> list[str] | None:
    given = value if isinstance(value, list) else [value]
    return [text for text in map(_text, given) if text is not None] or None


_VALUES: Mapping[str, Callable[[Any], Any]] = {"captions": _captions}


def reading_failure(error: Exception) -> str:
    """Return why reading a table or archive failed, without credentials."""
    if isinstance(error, ListError):
        return str(error)
    return "its content is damaged" if is_damage(error) else reason(error)


def is_damage(error: BaseException) -> bool:
    """Whether the content is at fault, rather than that reading it failed."""
    return isinstance(error, pa.ArrowException | ListError) or (
        type(error) is OSError and error.errno is None and error.__cause__ is None
    )
