"""The rows of an audit root: features and scores side by side, night by night.

For every row only its numbers and a few short names are held, so that a night of a million
rows fits into memory. Texts and pictures are read again for the few rows that a report shows.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from numpy.typing import NDArray

from item.errors import UsageError
from item.tables import SCORES, typed
from pipelines.storage.access import check_readable, filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import redact
from pipelines.tables.published import conformed, date_of

One = TypeVar("One")
Result = TypeVar("Result")

READERS = 8
"""Files that are read at a time."""

NAMES = (
    *("date", "source", "status", "error_code", "verdict", "abstention", "family"),
    *("format", "head_id", "feature_set_id"),
)
"""Columns of :attr:`AuditRows.rows` that hold text; they are categories."""

NUMBERS = (
    *("score", "global_similarity", "local_similarity_mean", "caption_length"),
    *("width", "height", "byte_count"),
)
"""Columns of :attr:`AuditRows.rows` that hold numbers; NaN where a row has none.

``caption_length`` is in characters, ``width`` and ``height`` in pixels.
"""

_OF_SCORES = (
    *("image_id", "uri", "source", "status", "error_code", "score", "verdict", "abstention"),
    *("family", "global_similarity", "head_id", "feature_set_id"),
)
_OF_FEATURES = (
    *("uri", "caption", "width", "height", "byte_count", "format", "local_similarity_mean"),
)
LATER = frozenset({"family"})
"""Columns that scores have since heads know families: null in earlier ones."""
_SHOWN_OF_SCORES = (
    *("image_id", "uri", "weakest_phrase", "weakest_box", "weakest_similarity"),
    *("digital_source_type", "explanation"),
)
_SHOWN_OF_FEATURES = ("caption", "objects")


@dataclass(frozen=True)
class AuditRows:
    """The nights of a report in memory, and the nights before it for comparison."""

    root: str
    storage: Storage
    dates: tuple[str, ...]
    rows: pd.DataFrame
    """A row for each row of the nights, in order of date, file and place.

    Columns :data:`NAMES` and :data:`NUMBERS`; ``picture``, equal where the bytes of two
    pictures are; ``file`` and ``place`` of the row.
    """
    files: tuple[str, ...]
    """Paths below ``features/`` and ``scores/``, as ``rows.file`` counts them."""
    history: pd.DataFrame
    """Rows of the nights before, with the columns :data:`NAMES` and :data:`NUMBERS`."""
    manifests: Mapping[str, Mapping[str, Any]]
    """What each night's run said of itself, by date; nights without a manifest are absent."""
    examples: Mapping[tuple[str, str, str], Sequence[str]]
    """URIs of rows without features, by status, error code and source ("" for none)."""

    def texts(self, index: Iterable[int]) -> pd.DataFrame:
        """The texts of some rows of :attr:`rows`, in their order and under their labels.

        Returns
        -------
        DataFrame with ``date``, ``uri``, ``image_id``, ``source``, ``score``, ``verdict``,
        ``abstention``, ``caption``, ``objects`` (list of dicts), ``width``, ``height``,
        ``weakest_phrase``, ``weakest_box``, ``weakest_similarity``, ``explanation`` and
        ``digital_source_type``; None where a row has none.
        """
        chosen = self.rows.loc[list(index)]
        fs, path = filesystem(self.root, self.storage)
        places = [
            (self.files[file], chosen.index[mine].to_numpy(), chosen["place"].to_numpy()[mine])
            for file, mine in chosen.groupby("file").indices.items()
        ]
        read = partial(_texts_of_part, fs, path)
        parts = [(labels, read_rows) for labels, read_rows in _each(read, places)]
        columns: dict[str, list[Any]] = {}
        for name in (*_SHOWN_OF_SCORES, *_SHOWN_OF_FEATURES):
            columns[name] = [value for _, part in parts for value in part[name].to_pylist()]
        labels = [label for found, _ in parts for label in found]
        texts = pd.DataFrame(
            columns, index=pd.Index(labels, dtype=chosen.index.dtype), dtype=object
        )
        known = chosen[["date", "source", "score", "verdict", "abstention", "width", "height"]]
        together = known.astype(object).join(texts)
        return together.where(together.notna(), None)

    def thumbnails(self, shown: pd.DataFrame) -> dict[tuple[str, str], bytes]:
        """The pictures that the evidence tables keep of some rows, by date and URI.

        Parameters
        ----------
        shown : columns ``date`` and ``uri``
        """
        fs, path = filesystem(self.root, self.storage)
        kept: dict[tuple[str, str], bytes] = {}
        for night, some in shown.groupby("date", observed=True):
            for part in _parquet_files(fs, posixpath.join(path, "evidence", f"date={night}")):
                wanted = pa.array(some["uri"].tolist(), pa.string())
                for table in _tables(fs, part, ("uri", "thumbnail")):
                    for row in table.filter(pc.is_in(table["uri"], wanted)).to_pylist():
                        if row["thumbnail"]:
                            kept[str(night), row["uri"]] = row["thumbnail"]
        return kept


def nights(root: str, storage: Storage) -> list[str]:
    """Dates of the nights that an audit root holds, oldest first.

    A night without rows has a manifest and no table.

    Raises
    ------
    UsageError
        If there is nothing at ``root``, or it cannot be read.
    """
    check_readable(root, storage)
    fs, path = filesystem(root, storage)
    folders = [name.removeprefix("date=") for name in _names(fs, posixpath.join(path, "features"))]
    manifests = [
        name.removesuffix(".json")
        for name in _names(fs, posixpath.join(path, "_nights"))
        if name.endswith(".json")
    ]
    return sorted(name for name in {*folders, *manifests} if _is_date(name))


def read(
    root: str,
    dates: Sequence[str],
    storage: Storage,
    nights_before: int = 0,
    rows_before: int = 100_000,
) -> AuditRows:
    """Read the nights of a report, and the nights before it.

    Parameters
    ----------
    root : output of ``jobs/nightly.py``
    dates : nights that :func:`nights` names, in order
    nights_before : how many nights before the first of ``dates`` are read for comparison
    rows_before : rows of such a night that are kept, at most, evenly spread over it

    Raises
    ------
    UsageError
        If a night has features without scores or the reverse, if the two do not hold the
        same rows, or if a table cannot be read.
    """
    fs, path = filesystem(root, storage)
    files = [part for night in dates for part in _scored_parts(fs, path, night)]
    rows_of = partial(_rows_of_part, fs, path)
    past = [
        _spread(_together(_each(rows_of, list(enumerate(parts)))), rows_before)
        for parts in _parts_before(fs, path, nights(root, storage), min(dates), nights_before)
    ]
    return AuditRows(
        root=root,
        storage=storage,
        dates=tuple(dates),
        rows=_frame(_together(_each(rows_of, list(enumerate(files))))),
        files=tuple(files),
        history=_frame(_together(past))[[*NAMES, *NUMBERS]],
        manifests=dict(_manifests(fs, path, dates)),
        examples=_examples(fs, path, dates),
    )


# Files


def _names(fs: AbstractFileSystem, folder: str) -> list[str]:
    """What lies in a folder, sorted; nothing if there is no such folder."""
    try:
        found = fs.ls(folder, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(posixpath.basename(name.rstrip("/")) for name in found)


def _parquet_files(fs: AbstractFileSystem, folder: str) -> list[str]:
    return [
        posixpath.join(folder, name)
        for name in _names(fs, folder)
        if name.endswith(".parquet") and not name.startswith(("_", "."))
    ]


def _parts(fs: AbstractFileSystem, path: str, table: str, night: str) -> list[str]:
    """Files of a night, below the folder of the table."""
    folder = f"date={night}"
    found = _parquet_files(fs, posixpath.join(path, table, folder))
    return [posixpath.join(folder, posixpath.basename(file)) for file in found]


def _scored_parts(fs: AbstractFileSystem, path: str, night: str) -> list[str]:
    """Files of a night, which features and scores must both have."""
    features, scores = (_parts(fs, path, table, night) for table in ("features", "scores"))
    if features and not scores:
        raise UsageError(f"The night {night} has features and no scores: score it first.")
    lone = sorted(set(features) ^ set(scores))
    if lone:
        raise UsageError(
            f"The scores of {night} do not belong to its features: {lone[0]} is in one of the "
            "two tables only; score the night again."
        )
    return features


def _parts_before(
    fs: AbstractFileSystem, path: str, known: Sequence[str], first: str, limit: int
) -> Iterator[list[str]]:
    """Files of the last nights before ``first`` that are wholly scored, night by night."""
    before = [night for night in known if night < first]
    for night in before[max(len(before) - limit, 0) :]:
        parts = _parts(fs, path, "features", night)
        if parts == _parts(fs, path, "scores", night):
            yield parts


def _tables(
    fs: AbstractFileSystem, path: str, columns: Sequence[str], groups: Sequence[int] | None = None
) -> Iterator[pa.Table]:
    """Columns of a file, a row group at a time; of some groups only if given."""
    try:
        with fs.open(path, "rb") as file:
            parquet = pq.ParquetFile(file, pre_buffer=True)
            missing = sorted(set(columns) - set(parquet.schema_arrow.names))
            if lacking := [name for name in missing if name not in LATER]:
                raise UsageError(f"The table {redact(path)} lacks the column '{lacking[0]}'.")
            there = [name for name in columns if name not in missing]
            for group in range(parquet.num_row_groups) if groups is None else groups:
                rows = typed(parquet.read_row_group(group, there))
                fields = [
                    (SCORES if name in LATER else rows.schema).field(name) for name in columns
                ]
                yield conformed(rows, pa.schema(fields))
    except pa.ArrowInvalid:
        raise UsageError(f"The file {redact(path)} is not readable as Parquet.") from None


def _chosen(
    fs: AbstractFileSystem, path: str, columns: Sequence[str], places: NDArray[np.int64]
) -> pa.Table:
    """Some rows of a file, in the order of ``places``, which no two share."""
    with fs.open(path, "rb") as file:
        metadata = pq.read_metadata(file)
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    group_of = np.searchsorted(starts, places, side="right") - 1
    groups = np.unique(group_of).tolist()
    order = np.argsort(places)
    found = [
        table.take(places[order][group_of[order] == group] - starts[group])
        for group, table in zip(groups, _tables(fs, path, columns, groups), strict=True)
    ]
    return pa.concat_tables(found).take(np.argsort(order))


def _each(do: Callable[[One], Result], items: Sequence[One]) -> list[Result]:
    """The results in the order of the items, some computed at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(do, items))


# Rows

_NAME = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema(
    [(name, _NAME) for name in NAMES]
    + [(name, pa.float32()) for name in NUMBERS if name != "byte_count"]
    + [("byte_count", pa.float64()), ("picture", pa.uint64())]
    + [("file", pa.int32()), ("place", pa.int32())]
)
_FROM_FEATURES = (
    *("format", "width", "height", "byte_count", "local_similarity_mean", "caption_length"),
)
_NARROW_FEATURES = pa.schema(
    [("uri_hash", pa.uint64())] + [_SCHEMA.field(name) for name in _FROM_FEATURES]
)
_NARROW_SCORES = pa.schema(
    [("uri_hash", pa.uint64())]
    + [field for field in _SCHEMA if field.name not in (*_FROM_FEATURES, "date", "file", "place")]
)


def _rows_of_part(fs: AbstractFileSystem, path: str, part: tuple[int, str]) -> pa.Table:
    number, name = part
    scores, features = (
        pa.concat_tables(
            [schema.empty_table()]
            + [
                _narrowed(rows).select(schema.names).cast(schema)
                for rows in _tables(fs, posixpath.join(path, table, name), columns)
            ]
        )
        for table, columns, schema in (
            ("scores", _OF_SCORES, _NARROW_SCORES),
            ("features", _OF_FEATURES, _NARROW_FEATURES),
        )
    )
    _check_same_rows(name, features["uri_hash"].to_numpy(), scores["uri_hash"].to_numpy())
    rows = {column: scores[column] for column in scores.column_names}
    rows |= {column: features[column] for column in features.column_names}
    rows |= {
        "date": pa.repeat(pa.scalar(date_of(name)), len(scores)),
        "file": np.full(len(scores), number, np.int32),
        "place": np.arange(len(scores), dtype=np.int32),
    }
    return pa.table({column: rows[column] for column in _SCHEMA.names}).cast(_SCHEMA)


def _narrowed(rows: pa.Table) -> pa.Table:
    """Long texts as numbers: what tells them apart, or how long they are."""
    numbers = {"uri_hash": _hashes(rows["uri"])}
    if "image_id" in rows.column_names:
        numbers["picture"] = _hashes(rows["image_id"])
    if "caption" in rows.column_names:
        numbers["caption_length"] = pc.utf8_length(rows["caption"])
    for name, column in numbers.items():
        rows = rows.append_column(name, column)
    return rows


def _hashes(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    values = np.array(texts.to_pylist(), object)
    return pa.chunked_array([pd.util.hash_array(values, categorize=False)], pa.uint64())


def _check_same_rows(name: str, features: NDArray[np.uint64], scores: NDArray[np.uint64]) -> None:
    if len(features) != len(scores):
        how = f"{len(features):,} rows against {len(scores):,}"
    elif (features != scores).any():
        how = f"row {np.argmax(features != scores) + 1:,} is of another URI"
    else:
        return
    raise UsageError(
        f"The scores in {name} do not belong to the features in the file of the same name "
        f"({how}): score the night again."
    )


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables) if tables else _SCHEMA.empty_table()


def _spread(table: pa.Table, limit: int) -> pa.Table:
    """At most ``limit`` rows, evenly spread."""
    if len(table) <= limit:
        return table
    return table.take(np.linspace(0, len(table) - 1, limit).astype(np.int64))


def _frame(table: pa.Table) -> pd.DataFrame:
    frame = table.to_pandas()
    for name in NAMES:  # a column of nulls alone has categories of no kind
        column = frame[name].cat
        frame[name] = column.set_categories(column.categories.astype(str))
    return frame


def _texts_of_part(
    fs: AbstractFileSystem, path: str, part: tuple[str, NDArray[np.int64], NDArray[np.int64]]
) -> tuple[NDArray[np.int64], pa.Table]:
    name, labels, places = part
    scores = _chosen(fs, posixpath.join(path, "scores", name), _SHOWN_OF_SCORES, places)
    features = _chosen(fs, posixpath.join(path, "features", name), _SHOWN_OF_FEATURES, places)
    for column in _SHOWN_OF_FEATURES:
        scores = scores.append_column(column, features[column])
    return labels, scores


# What stands beside the tables


def _manifests(
    fs: AbstractFileSystem, path: str, dates: Iterable[str]
) -> Iterable[tuple[str, dict[str, Any]]]:
    for night in dates:
        file = posixpath.join(path, "_nights", f"{night}.json")
        try:
            manifest = json.loads(fs.cat_file(file))
        except FileNotFoundError:
            continue
        except ValueError:
            raise UsageError(f"The manifest {redact(file)} is not JSON.") from None
        if not isinstance(manifest, dict):
            raise UsageError(f"The manifest {redact(file)} is not one of a night.")
        yield night, manifest


def _examples(
    fs: AbstractFileSystem, path: str, dates: Iterable[str]
) -> dict[tuple[str, str, str], list[str]]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for night in dates:
        for part in _parquet_files(fs, posixpath.join(path, "rejects", f"date={night}")):
            for table in _tables(fs, part, ("status", "error_code", "source", "examples")):
                for row in table.to_pylist():
                    key = row["status"], row["error_code"] or "", row["source"] or ""
                    found.setdefault(key, []).extend(row["examples"] or ())
    return found


def _is_date(name: str) -> bool:
    try:
        return date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False
