"""The columns of a Parquet input: which are known, and their values as Python ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date as Date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from item.errors import UsageError
from pipelines.input.files import open_file, uri_of, valid_date
from pipelines.storage.access import Storage, reason
from pipelines.storage.urls import public_uri

_PARQUET_BUFFER = 4 << 20


def known_columns(schema: pa.Schema, file: str) -> frozenset[str]:
    """Return which known columns there are, their types checked; others are not read."""
    known = frozenset(schema.names) & _KNOWN_COLUMNS.keys()
    if not known & {"bytes", "uri"}:
        found = ", ".join(repr(name)[:60] for name in schema.names[:12]) or "none"
        raise UsageError(
            f"A Parquet input needs a 'bytes' or a 'uri' column; found {found} in {file}."
        )
    for name in sorted(known):
        fits, words = _KNOWN_COLUMNS[name]
        kind = schema.field(name).type
        while pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_null(kind) or fits(kind)):
            raise UsageError(f"Column {name!r} of {file} must be {words}; it is {kind}.")
    return known


def _is_string(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _is_label(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
    )


def _is_date(kind: pa.DataType) -> bool:
    return bool(_is_string(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _is_captions(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return _is_string(kind) or bool(lists and _is_string(kind.value_type))


_KNOWN_COLUMNS: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "bytes": (_is_binary, "binary"),
    "uri": (_is_string, "text"),
    "label": (_is_label, "0, 1 or null"),
    "generator": (_is_string, "text"),
    "source": (_is_string, "text"),
    "date": (_is_date, "a date or text like 2026-01-31"),
    "captions": (_is_captions, "text or a list of texts"),
}


@contextmanager
def open_parquet(root: str, name: str, storage: Storage) -> Iterator[pq.ParquetFile]:
    """Open a listed Parquet file to be read column by column in bounded memory."""
    with (
        open_file(root, name, storage) as handle,
        pq.ParquetFile(handle, buffer_size=_PARQUET_BUFFER, pre_buffer=False) as parquet,
    ):
        yield parquet


def batches(
    parquet: pq.ParquetFile, groups: Iterable[int], columns: list[str], size: int
) -> Iterator[Mapping[str, pa.Array]]:
    """Yield batches of columns; rows are counted in a column named "" where none is wanted."""
    groups = list(groups)
    if not columns:
        for group in groups:
            count = parquet.metadata.row_group(group).num_rows
            for start in range(0, count, size):
                yield {"": pa.nulls(min(size, count - start))}
        return
    for batch in parquet.iter_batches(size, row_groups=groups, columns=columns, use_threads=False):
        yield {name: batch.column(name) for name in batch.schema.names}


@dataclass(frozen=True)
class Keys:
    """What names the rows of a batch."""

    uris: list[str]  # as tables show them
    targets: list[str | None]  # as they are read
    dates: list[str]
    bad_dates: int


def keys_of(
    batch: Mapping[str, pa.Array], root: str, name: str, first_row: int, default: str
) -> Keys:
    """Return the keys of a batch that begins with the file's row `first_row`."""
    count = len(next(iter(batch.values())))
    file = uri_of(root, name)
    targets: list[str | None] = texts(batch["uri"]) if "uri" in batch else [None] * count
    uris = [
        public_uri(target) if target else f"{file}#{first_row + index}"
        for index, target in enumerate(targets)
    ]
    if "date" not in batch:
        return Keys(uris, targets, [default] * count, 0)
    given = batch["date"]
    values = texts(given) if _is_text(given) else _days(given)
    dates = [valid_date(value) for value in values]
    bad = sum(
        valid is None and value is not None for valid, value in zip(dates, values, strict=True)
    )
    return Keys(uris, targets, [valid or default for valid in dates], bad)


def _is_text(array: pa.Array) -> bool:
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    return _is_string(kind)


def _days(array: pa.Array) -> list[Date | None]:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_timestamp(array.type):
        # Through UTC days, since Python has no nanoseconds and dates are UTC.
        array = pc.floor_temporal(array.cast(pa.timestamp("us"), safe=False), unit="day")
        array = array.cast(pa.date32())
    try:
        return list(array.to_pylist())
    except (OverflowError, ValueError):  # one day beyond year 9999
        return [_day(value) for value in array]


def _day(value: pa.Scalar) -> Date | None:
    try:
        day: Date | None = value.as_py()
        return day
    except (OverflowError, ValueError):
        return None


def texts(array: pa.Array) -> list[str | None]:
    """Return strings; Parquet does not promise that its text is UTF-8."""
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return [
            None if value is None else value.decode("utf-8", "backslashreplace")
            for value in array.cast(pa.large_binary()).to_pylist()
        ]


def captions_of(array: pa.Array) -> list[list[str] | None]:
    """Return the captions of each row from a column of texts or of lists of texts."""
    if _is_text(array):
        return [None if text is None else [text] for text in texts(array)]
    lists: list[list[str] | None] = []
    for start, value in enumerate(array):
        if value is None or not value.is_valid:
            lists.append(None)
        else:
            lists.append([text for text in texts(array[start].values) if text is not None])
    return lists


def reading_failure(error: Exception) -> str:
    """Return why reading a table or archive failed, without credentials."""
    return "its content is damaged" if is_damage(error) else reason(error)


def is_damage(error: BaseException) -> bool:
    """Whether Arrow disliked the content, rather than that reading it failed."""
    return isinstance(error, pa.ArrowException) or (
        type(error) is OSError and error.errno is None and error.__cause__ is None
    )
