"""How an input is cut into pieces, each of which one task reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from item.errors import UsageError
from pipelines.input.archives import members
from pipelines.input.columns import ColumnNames, InputFile, labels_of
from pipelines.input.files import Kind, date_in, readable
from pipelines.input.listing import ListedFile
from pipelines.input.rows import as_label
from pipelines.input.table_files import ImageTable, ListError, open_table, reading_failure
from pipelines.storage.access import reason, storage_errors
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import redact

KEYS = ("uri", "date")
"""Columns of a table that name its rows."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files to read, by their path below the root."""

    root: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    versions: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows ``start`` to ``stop`` of a table.

    ``repeated`` holds those whose URI came before, counted from ``start``, and
    ``occurrence`` how often it did.
    """

    root: str
    name: str
    version: str
    start: int
    stop: int
    repeated: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    occurrence: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))


@dataclass(frozen=True)
class Archive:
    """A whole tar or zip archive."""

    root: str
    name: str
    version: str


Piece = ImageFiles | TableRows | Archive


@dataclass(frozen=True, eq=False)
class Pieces:
    """All pieces of a run; see `InputPlan` for the rest."""

    pieces: tuple[Piece, ...]
    rows: int | None
    dates: set[str]
    notes: list[str]


@dataclass(frozen=True, eq=False)
class _Surveyed:
    """What planning learns of one table: its cuts, and 128 bits a row."""

    cuts: list[int]
    digests: NDArray[np.uint64]
    dates: set[str]
    bad_labels: int
    bad_dates: int


@dataclass(frozen=True, eq=False)
class Survey:
    """Looks at files without reading a picture.

    Parameters
    ----------
    input_file : where a table stands and which date its rows have, by root and name
    storage : how S3 is reached
    columns : what the columns of tables are called
    uri_roots : where links may lead
    rows_per_task : rows of a piece, at most
    """

    input_file: Callable[[str, str], InputFile]
    storage: Storage
    columns: ColumnNames
    uri_roots: tuple[str, ...]
    rows_per_task: int

    def table(self, file: ListedFile) -> _Surveyed:
        """Look at the keys of a table; UsageError if it cannot be read."""
        place = self.input_file(file.root, file.name)
        try:
            with open_table(
                file.root, file.name, self.storage, self.columns, self.uri_roots
            ) as table:
                return self._surveyed(table, place)
        except UsageError:
            raise
        except storage_errors(pa.ArrowException, ListError) as error:
            what = "a Parquet file" if file.name.lower().endswith(".parquet") else "a list"
            raise UsageError(
                f"{redact(file.uri)} cannot be read as {what} ({reading_failure(error)}): replace "
                "or remove it."
            ) from None

    def _surveyed(self, table: ImageTable, place: InputFile) -> _Surveyed:
        digests, dates = [np.empty((0, 2), np.uint64)], set()
        bad_labels = bad_dates = row = 0
        wanted = table.columns.keys() & {*KEYS, "label"}
        for batch in table.batches(range(len(table.groups)), wanted, 8192):
            keys = place.keys(batch, row)
            digests.append(row_digests(keys.dates, keys.uris))
            dates.update(keys.dates)
            bad_dates += keys.bad_dates
            if "label" in batch:
                bad_labels += sum(map(_is_bad_label, labels_of(batch["label"])))
            row += len(keys.uris)
        splits = "bytes" not in table.columns
        cuts = _cuts(table.groups, self.rows_per_task, splits=splits)
        return _Surveyed(cuts, np.concatenate(digests), dates, bad_labels, bad_dates)

    def archive(self, file: ListedFile) -> int | None:
        """Number of rows, or None if counting means reading the whole archive."""
        try:
            keys = members.keys(file.root, file.name, self.storage, self.uri_roots)
        except storage_errors() as error:
            raise UsageError(f"{readable(file.name)} cannot be read ({reason(error)}).") from None
        return None if keys is None else len(keys)


def cut(files: Sequence[tuple[Kind, ListedFile]], survey: Survey, threads: int) -> Pieces:
    """Cut files into pieces; rows of one URI and date are told apart by their occurrence.

    Raises
    ------
    UsageError
        If a table or archive cannot be read.
    """
    images = [file for kind, file in files if kind == "images"]
    packed = [file for kind, file in files if kind == "webdataset"]
    tables = [file for kind, file in files if kind in ("parquet", "list")]
    with ThreadPoolExecutor(min(threads, 8)) as pool:
        surveyed = list(pool.map(survey.table, tables))
        counts = list(pool.map(survey.archive, packed))
    image_dates = [survey.input_file(file.root, file.name).date for file in images]
    archive_dates = {survey.input_file(file.root, file.name).date for file in packed}
    counts += [len(images), *(len(one.digests) for one in surveyed)]
    return Pieces(
        (
            *_image_pieces(images, survey.rows_per_task),
            *(Archive(file.root, file.name, file.version) for file in packed),
            *_table_pieces(images, image_dates, tables, surveyed),
        ),
        None if None in counts else sum(count or 0 for count in counts),
        {*image_dates, *archive_dates}.union(*(one.dates for one in surveyed)),
        _notes(files, surveyed, survey),
    )


def _image_pieces(images: Sequence[ListedFile], rows_per_task: int) -> list[ImageFiles]:
    roots = dict.fromkeys(file.root for file in images)
    pieces = []
    for root in roots:
        mine = [file for file in images if file.root == root]
        for start in range(0, len(mine), rows_per_task):
            part = mine[start : start + rows_per_task]
            columns = zip(*((file.name, file.size, file.version) for file in part), strict=True)
            pieces.append(ImageFiles(root, *columns))
    return pieces


def _table_pieces(
    images: Sequence[ListedFile],
    dates: Sequence[str],
    tables: Sequence[ListedFile],
    surveyed: Sequence[_Surveyed],
) -> list[TableRows]:
    """Pieces of tables, whose rows may name image files of another place."""
    if not tables:
        return []
    digests = [row_digests(dates, [file.uri for file in images])]
    digests += [one.digests for one in surveyed]
    occurrences = _occurrences(np.concatenate(digests))
    repeats = np.flatnonzero(occurrences)
    pieces = []
    offset = len(images)
    for file, one in zip(tables, surveyed, strict=True):
        for start, stop in zip(one.cuts[:-1], one.cuts[1:], strict=True):
            first, last = np.searchsorted(repeats, [offset + start, offset + stop])
            mine = repeats[first:last]
            place = mine - (offset + start)
            pieces.append(
                TableRows(file.root, file.name, file.version, start, stop, place, occurrences[mine])
            )
        offset += len(one.digests)
    return pieces


def _notes(
    files: Sequence[tuple[Kind, ListedFile]], surveyed: Sequence[_Surveyed], survey: Survey
) -> list[str]:
    notes = []
    if labels := sum(one.bad_labels for one in surveyed):
        notes.append(f"{labels:,} labels are neither 0 nor 1 and are taken as unknown.")
    bad = sum(one.bad_dates for one in surveyed)
    others = 0
    for _, file in files:
        place = survey.input_file(file.root, file.name)
        others += place.is_night and (date_in(file.name) or place.date) != place.date
    is_night = bool(files) and survey.input_file(files[0][1].root, files[0][1].name).is_night
    if bad and is_night:
        notes.append(f"{bad:,} rows say another date than their night; they stay in it.")
    elif bad:
        notes.append(f"{bad:,} dates are not like 2026-01-31 and are replaced by the default.")
    if others:
        notes.append(
            f"{others:,} files are in a date= folder of another date within the night; they stay "
            "in the night."
        )
    return notes


def _is_bad_label(value: object) -> bool:
    return value is not None and value == value and as_label(value) is None


def _cuts(groups: Sequence[int], rows_per_task: int, *, splits: bool) -> list[int]:
    """Return row numbers between which a task reads.

    A group with pictures is never split, since reaching its middle means reading all
    before it; one of URIs alone is, into at most sixteen parts.
    """
    cuts = [0]
    row = 0
    for count in groups:
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


def row_digests(dates: Sequence[str], uris: Sequence[str]) -> NDArray[np.uint64]:
    """Return 128 bits a row, shape (n, 2): equal exactly where date and URI are."""
    digests = b"".join(
        blake2b(f"{date}\0{uri}".encode(), digest_size=16).digest()
        for date, uri in zip(dates, uris, strict=True)
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, 2)


def _occurrences(digests: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Return for each row how many rows before it have the same digest."""
    order = np.lexsort((digests[:, 0], digests[:, 1]))
    ordered = digests[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    occurrences = np.empty(len(order), dtype=np.int32)
    occurrences[order] = np.arange(len(order)) - starts
    return occurrences
