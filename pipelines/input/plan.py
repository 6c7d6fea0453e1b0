"""From whatever a user points at to a plan of what will be read.

`plan` lists the input and says before any work what is wrong with it; it never reads a
picture. ``pipelines.input.reading`` turns the plan into rows.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date as Date
from functools import partial
from hashlib import blake2b
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field

from item.errors import UsageError
from pipelines.input import webdataset
from pipelines.input.columns import batches, keys_of, known_columns, open_parquet, reading_failure
from pipelines.input.files import (
    IMAGE_EXTENSIONS,
    Kind,
    date_in,
    extension,
    is_hidden,
    kind_of,
    readable,
    uri_of,
)
from pipelines.input.rows import as_label
from pipelines.storage.access import Storage, check_readable, filesystem, reason
from pipelines.storage.urls import normalise, redact


class InputOptions(BaseModel):
    """What a user may say about an input beyond where it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: Literal["auto", "images", "parquet", "webdataset"] = "auto"
    """What the input is; ``auto`` looks."""
    uri_roots: tuple[str, ...] = ()
    """Further folders and prefixes below which the URIs of a table may be read."""
    date: Date | None = None
    """For rows without a date and without ``date=YYYY-MM-DD`` folders; today if unset."""
    rows_per_task: int = Field(default=1024, ge=1)
    """Rows that one task reads, at most."""
    read_threads: int = Field(default=16, ge=1, le=256)
    """Reads that a task does at once."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files to read, by their path below the root."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ParquetRows:
    """Rows ``start`` to ``stop`` of a Parquet file.

    ``repeated`` holds those whose URI came before, counted from ``start``, and
    ``occurrence`` how often it did.
    """

    name: str
    start: int
    stop: int
    repeated: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    occurrence: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))


@dataclass(frozen=True)
class TarFile:
    """A whole tar archive."""

    name: str


Piece = ImageFiles | ParquetRows | TarFile


@dataclass(frozen=True, eq=False)
class InputPlan:
    """What will be read, in units of one task.

    Attributes
    ----------
    kind : what the input was found to be
    root : local folder or ``s3://`` prefix; nothing outside it and `uri_roots` is read
    pieces : units of reading
    rows : number of rows, or None where counting would mean reading everything
    dates : every date that occurs, sorted
    ignored : files that are not read, by extension, ``hidden`` or what else they are
    notes : sentences about the input that its owner should see
    """

    kind: Kind
    root: str
    pieces: tuple[Piece, ...]
    rows: int | None
    dates: tuple[str, ...]
    ignored: Mapping[str, int]
    notes: tuple[str, ...]
    default_date: str
    uri_roots: tuple[str, ...]
    read_threads: int
    listing_digest: str

    def fingerprint(self) -> str:
        """Return a hash of kind, paths, sizes and modification marks of all files read."""
        return self.listing_digest


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int
    stamp: str


def plan(input: str, options: InputOptions, storage: Storage, today: Date) -> InputPlan:
    """List an input and check it, without reading a picture.

    Parameters
    ----------
    input : local file or folder, or ``s3://bucket/prefix``
    options : what the user said about it
    storage : how S3 is reached
    today : UTC date of rows for which nothing else gives one

    Raises
    ------
    UsageError
        If the input is missing, empty, ambiguous, unreadable or has no known columns.
    """
    check_readable(input, storage)
    for root in options.uri_roots:
        if root[:7].lower() != "http://" and root[:8].lower() != "https://":
            filesystem(root, storage)
    root, files, ignored = _list(normalise(input), storage)
    kind = _kind(input, options.kind, files)
    mine = []
    for file in files:
        if kind == kind_of(file.name):
            mine.append(file)
        else:
            ignored[extension(file.name) or "without extension"] += 1
    if not mine:
        left_out = ", ".join(f"{count} {what}" for what, count in sorted(ignored.items()))
        raise UsageError(
            f"There is nothing to read at {redact(input)}: no {_NAMES[kind]} there"
            + (f" (left out: {left_out})." if left_out else ".")
        )

    default_date = date_in(root) or (options.date or today).isoformat()
    pieces: Sequence[Piece]
    rows: int | None
    notes: tuple[str, ...] = ()
    size = options.rows_per_task
    dates = {date_in(file.name) or default_date for file in mine}
    if kind == "images":
        parts = [mine[start : start + size] for start in range(0, len(mine), size)]
        pieces = [
            ImageFiles(tuple(file.name for file in part), tuple(file.size for file in part))
            for part in parts
        ]
        rows = len(mine)
    elif kind == "webdataset":
        pieces = [TarFile(file.name) for file in mine]
        rows = _count_tars(root, mine, storage)
    else:
        pieces, rows, dates, notes = _plan_parquet(root, mine, options, storage, default_date)
        if not rows:
            raise UsageError(f"The Parquet files at {redact(input)} have no rows.")

    digest = blake2b(kind.encode(), digest_size=16)
    for file in mine:
        line = f"{file.name}\0{file.size}\0{file.stamp}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return InputPlan(
        kind=kind,
        root=root,
        pieces=tuple(pieces),
        rows=rows,
        dates=tuple(sorted(dates)),
        ignored=dict(sorted(ignored.items())),
        notes=notes,
        default_date=default_date,
        uri_roots=options.uri_roots,
        read_threads=options.read_threads,
        listing_digest=digest.hexdigest(),
    )


_NAMES: dict[Kind, str] = {
    "images": "image files",
    "parquet": "Parquet files",
    "webdataset": "WebDataset tars",
}


def _list(input: str, storage: Storage) -> tuple[str, list[_File], Counter[str]]:
    """Return the root, its visible files sorted by name, and counts of what is left out."""
    fs, path = filesystem(input, storage)
    ignored: Counter[str] = Counter()
    if isinstance(fs, LocalFileSystem):
        if os.path.isfile(path):
            found = os.stat(path)
            file = _File(os.path.basename(path), found.st_size, str(found.st_mtime_ns))
            return os.path.dirname(path), [file], ignored
        try:
            listed = list(_walk(path, ignored))
        except OSError as error:
            where = getattr(error, "filename", None) or path
            raise UsageError(f"{where} cannot be listed ({reason(error)}).") from None
        root = path
    else:
        try:
            objects = fs.find(path, detail=True)
        except (OSError, BotoCoreError) as error:
            raise UsageError(f"{redact(input)} cannot be listed ({reason(error)}).") from None
        single = list(objects) == [path]
        parent = path.rpartition("/")[0] if single else path
        root = "s3://" + parent
        listed = [
            _File(
                key[len(parent) + 1 :],
                int(about.get("size") or 0),
                str(about.get("ETag") or about.get("LastModified") or ""),
            )
            for key, about in objects.items()
            if not key.endswith("/")
        ]
        if single:
            return root, listed, ignored
    visible = []
    for file in sorted(listed, key=lambda file: file.name):
        if is_hidden(file.name):
            ignored["hidden"] += 1
        else:
            visible.append(file)
    return root, visible, ignored


def _walk(root: str, ignored: Counter[str]) -> Iterator[_File]:
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                    continue
                try:
                    about = entry.stat()
                except OSError:  # a link to nowhere: a row, so that it is reported
                    yield _File(name, 0, "")
                    continue
                if stat.S_ISDIR(about.st_mode):
                    ignored["linked folders"] += 1
                elif not stat.S_ISREG(about.st_mode):
                    ignored["special files"] += 1
                else:
                    yield _File(name, about.st_size, str(about.st_mtime_ns))


def _kind(input: str, wanted: str, files: Sequence[_File]) -> Kind:
    if wanted != "auto":
        return wanted  # type: ignore[return-value]
    counts: Counter[Kind] = Counter(
        kind
        for file in files
        if (kind := kind_of(file.name))
        and (kind != "images" or extension(file.name) in IMAGE_EXTENSIONS)
    )
    if len(counts) > 1:
        found = " and ".join(f"{count} {_NAMES[kind]}" for kind, count in sorted(counts.items()))
        choices = " or ".join(sorted(counts))
        raise UsageError(
            f"{redact(input)} holds {found}: set the input's kind to {choices} to say which is "
            "meant."
        )
    return next(iter(counts), "images")


def _count_tars(root: str, files: Sequence[_File], storage: Storage) -> int | None:
    """Return the number of rows, or None if counting means reading whole archives."""
    rows = 0
    for file in files:
        try:
            keys = webdataset.keys(root, file.name, storage)
        except OSError as error:
            raise UsageError(f"{readable(file.name)} cannot be read ({reason(error)}).") from None
        if keys is None:
            return None
        rows += len(keys)
    return rows


@dataclass(frozen=True, eq=False)
class _Surveyed:
    """What planning learns of one Parquet file: its cuts, and 128 bits a row."""

    cuts: list[int]
    digests: np.ndarray
    dates: set[str]
    bad_labels: int
    bad_dates: int


def _plan_parquet(
    root: str, files: Sequence[_File], options: InputOptions, storage: Storage, default_date: str
) -> tuple[list[Piece], int, set[str], tuple[str, ...]]:
    survey = partial(
        _survey, root, storage=storage, default=default_date, rows_per_task=options.rows_per_task
    )
    with ThreadPoolExecutor(min(options.read_threads, 8)) as pool:
        surveyed = list(pool.map(survey, files))
    occurrences = _occurrences(np.concatenate([one.digests for one in surveyed]))
    repeats = np.flatnonzero(occurrences)
    pieces: list[Piece] = []
    offset = 0
    for file, one in zip(files, surveyed, strict=True):
        for start, stop in zip(one.cuts[:-1], one.cuts[1:], strict=True):
            first, last = np.searchsorted(repeats, [offset + start, offset + stop])
            mine = repeats[first:last]
            pieces.append(
                ParquetRows(file.name, start, stop, mine - (offset + start), occurrences[mine])
            )
        offset += len(one.digests)
    notes = []
    if labels := sum(one.bad_labels for one in surveyed):
        notes.append(f"{labels:,} labels are neither 0 nor 1 and are taken as unknown.")
    if bad := sum(one.bad_dates for one in surveyed):
        notes.append(f"{bad:,} dates are not like 2026-01-31 and are replaced by the default.")
    dates = set().union(*(one.dates for one in surveyed))
    return pieces, len(occurrences), dates, tuple(notes)


def _survey(
    root: str, file: _File, *, storage: Storage, default: str, rows_per_task: int
) -> _Surveyed:
    shown = redact(uri_of(root, file.name))
    try:
        with open_parquet(root, file.name, storage) as parquet:
            columns = known_columns(parquet.schema_arrow, shown)
            digests, dates = [], set()
            bad_labels = bad_dates = row = 0
            default = date_in(file.name) or default
            wanted = sorted(columns & {"uri", "date", "label"})
            for batch in batches(parquet, range(parquet.num_row_groups), wanted, 8192):
                keys = keys_of(batch, root, file.name, row, default)
                digests.append(_row_digests(keys.dates, keys.uris))
                dates.update(keys.dates)
                bad_dates += keys.bad_dates
                if "label" in columns:
                    labels = batch["label"].to_pylist()
                    bad_labels += sum(_bad_label(value) for value in labels)
                row += len(keys.uris)
            cuts = _cuts(parquet.metadata, rows_per_task, splits="bytes" not in columns)
    except UsageError:
        raise
    except (pa.ArrowException, OSError, BotoCoreError) as error:
        raise UsageError(
            f"{shown} cannot be read as a Parquet file ({reading_failure(error)}): replace or "
            "remove it."
        ) from None
    return _Surveyed(
        cuts,
        np.concatenate(digests) if digests else np.empty((0, 2), np.uint64),
        dates,
        bad_labels,
        bad_dates,
    )


def _bad_label(value: object) -> bool:
    return value is not None and value == value and as_label(value) is None


def _cuts(metadata: pq.FileMetaData, rows_per_task: int, *, splits: bool) -> list[int]:
    """Return row numbers between which a task reads.

    A row group with pictures is never split, since reaching its middle means reading
    all before it; one of URIs alone is, into at most sixteen parts.
    """
    cuts = [0]
    row = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if splits and count > rows_per_task:
            step = max(rows_per_task, -(-count // 16))
            if row > cuts[-1]:
                cuts.append(row)
            cuts.extend(range(row + step, row + count, step))
        row += count
        if row - cuts[-1] >= rows_per_task:
            cuts.append(row)
    if row > cuts[-1]:
        cuts.append(row)
    return cuts


def _row_digests(dates: Sequence[str], uris: Sequence[str]) -> np.ndarray:
    """Return 128 bits a row, shape (n, 2): equal exactly where date and URI are."""
    digests = b"".join(
        blake2b(f"{date}\0{uri}".encode(), digest_size=16).digest()
        for date, uri in zip(dates, uris, strict=True)
    )
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def _occurrences(digests: np.ndarray) -> np.ndarray:
    """Return for each row how many rows before it have the same digest."""
    order = np.lexsort((digests[:, 0], digests[:, 1]))
    ordered = digests[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    occurrences = np.empty(len(order), dtype=np.int32)
    occurrences[order] = np.arange(len(order)) - starts
    return occurrences
