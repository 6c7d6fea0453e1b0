"""From a plan of an input to its rows: a Ray dataset with the schema ``item.tables.IMAGES``.

Every planned row comes out once, failed and repeated ones too.
"""

from __future__ import annotations

import os
import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from item.errors import MachineError
from item.tables import ErrorCode
from pipelines.input.archives import members
from pipelines.input.columns import ColumnNames, InputFile, Keys, captions_of, labels_of, texts
from pipelines.input.files import source_in, uri_of
from pipelines.input.pieces import KEYS, Archive, ImageFiles, Piece, TableRows
from pipelines.input.plan import InputPlan
from pipelines.input.rows import TABLE_ROWS, InputRow, as_label, tables
from pipelines.input.table_files import (
    Batch,
    ImageTable,
    ListError,
    is_damage,
    open_table,
    reading_failure,
)
from pipelines.runtime.progress import tell_notices, tell_retries
from pipelines.storage.access import storage_errors
from pipelines.storage.allowed import Location, Roots
from pipelines.storage.configuration import Storage
from pipelines.storage.fetching import TooLargeError, fetch, row_failure
from pipelines.storage.urls import is_s3, redact
from pipelines.tables.row_keys import RowChoice, RowKeys


@dataclass(frozen=True, eq=False)
class Reading:
    """An input to read.

    Attributes
    ----------
    plan : what `plan` returned
    finished : states of rows to leave out, whose bytes are not read
    wanted : identities of the only rows to read, all if None
    work : if given, a column of this name says it of each row
    """

    plan: InputPlan
    finished: RowKeys | None = None
    wanted: RowKeys | None = None
    work: str | None = None


def read(
    inputs: Sequence[Reading],
    storage: Storage,
    *,
    max_bytes: int = 64 << 20,
    num_cpus: float = 0.25,
    tally: Any = None,
) -> ray.data.Dataset:
    """Return the planned rows of some inputs as a dataset of the schema ``item.tables.IMAGES``.

    Rows of one piece stay in order. A task holds at most about `TABLE_BYTES` and
    ``read_threads * max_bytes``.

    Parameters
    ----------
    inputs : what to read; rows of one and the next may mix
    storage : how S3 is reached
    max_bytes : size above which a file is rejected and not read whole
    num_cpus : CPUs that a read task claims; it mostly waits
    tally : handle of a :class:`pipelines.runtime.progress.Tally` that hears of repeated requests

    Raises
    ------
    MachineError
        While the dataset is consumed, if a whole table or archive cannot be reached.
    """
    readers = [_Reader.of(one.plan, storage, max_bytes) for one in inputs]
    choices = [ray.put(RowChoice(one.finished or RowKeys(), one.wanted)) for one in inputs]
    works = [one.work for one in inputs]

    def read_pieces(batch: pa.Table) -> Iterator[pa.Table]:
        for number, piece in zip(
            batch["input"].to_pylist(), batch["piece"].to_pylist(), strict=True
        ):
            choice = ray.get(choices[number])
            reader = readers[number]
            for table in reader.tables(pickle.loads(piece), choice):  # made a few lines below
                yield _marked(table, works[number])
            tell_notices(tally, reader.notices)
        tell_retries(tally)

    pieces = [
        {"input": number, "piece": pickle.dumps(piece)}
        for number, one in enumerate(inputs)
        for piece in one.plan.pieces
    ]
    dataset = ray.data.from_items(pieces, override_num_blocks=min(len(pieces), 1000))
    return dataset.map_batches(read_pieces, batch_size=1, batch_format="pyarrow", num_cpus=num_cpus)


def _marked(table: pa.Table, work: str | None) -> pa.Table:
    if work is None:
        return table
    return table.append_column("work", pa.repeat(work, len(table)))


def piece_reader(
    plan: InputPlan, storage: Storage, *, max_bytes: int
) -> Callable[[Piece, RowChoice], Iterator[pa.Table]]:
    """Return what reads the chosen rows of one piece of the plan, as tables.

    It may be pickled, and yields at least one table a piece, if an empty one.
    """
    return _Reader.of(plan, storage, max_bytes).tables


def count_left(plan: InputPlan, finished: RowKeys, storage: Storage) -> int | None:
    """Return how many planned rows are not in `finished`, or None as in ``plan.rows``.

    Reads names and key columns only, and never a picture.

    Raises
    ------
    MachineError
        If a table or archive cannot be reached.
    """
    if plan.rows is None or not len(finished):
        return plan.rows
    reader = _Reader.of(plan, storage, max_bytes=0)
    with ThreadPoolExecutor(min(plan.read_threads, 8)) as pool:
        counts = list(pool.map(partial(reader.count, choice=RowChoice(finished)), plan.pieces))
    return None if None in counts else sum(count or 0 for count in counts)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads pieces within a task."""

    roots: tuple[str, ...]
    default_date: str
    night: str | None
    columns: ColumnNames
    storage: Storage
    threads: int
    max_bytes: int
    notices: Counter[str]
    """What the user should know, by sentences without their number."""

    @classmethod
    def of(cls, plan: InputPlan, storage: Storage, max_bytes: int) -> _Reader:
        return cls(
            roots=plan.uri_roots,
            default_date=plan.default_date,
            night=plan.night,
            columns=plan.columns,
            storage=storage,
            threads=plan.read_threads,
            max_bytes=max_bytes,
            notices=Counter(),
        )

    def tables(self, piece: Piece, choice: RowChoice) -> Iterator[pa.Table]:
        """Yield tables of about `TABLE_BYTES` at most; at least one, if an empty one."""
        return tables(self._with_bytes(self._rows(piece, choice)))

    def _file(self, root: str, name: str) -> InputFile:
        return InputFile.of(root, name, self.night, self.default_date)

    def _rows(self, piece: Piece, choice: RowChoice) -> Iterator[InputRow]:
        """Yield the chosen rows; some still point at their bytes."""
        if isinstance(piece, ImageFiles):
            yield from self._image_rows(piece, choice)
            return
        with _stops_the_run(uri_of(piece.root, piece.name)):
            if isinstance(piece, TableRows):
                yield from self._table_rows(piece, choice)
            else:
                yield from members.rows(
                    piece.root,
                    piece.name,
                    self._file(piece.root, piece.name).date,
                    choice,
                    self.storage,
                    max_bytes=self.max_bytes,
                    version=piece.version,
                    uri_roots=self.roots,
                    notices=self.notices,
                )

    def count(self, piece: Piece, choice: RowChoice) -> int | None:
        """Return how many rows `tables` would hold, or None if that takes reading all."""
        if isinstance(piece, ImageFiles):
            return sum(1 for _ in self._images_left(piece, choice))
        with _stops_the_run(uri_of(piece.root, piece.name)):
            if isinstance(piece, TableRows):
                return sum(
                    len(batch.left)
                    for group in self._groups(piece)
                    for batch in self._batches_left(group, group.keys, choice)
                )
            return self._count_members(piece, choice)

    def _count_members(self, piece: Archive, choice: RowChoice) -> int | None:
        keys = members.keys(piece.root, piece.name, self.storage, self.roots)
        if keys is None:
            return None
        dates = [self._file(piece.root, piece.name).date] * len(keys)
        uris, occurrences = [uri for uri, _ in keys], [count for _, count in keys]
        done = choice.leaves_out(dates, uris, occurrences, [piece.version] * len(keys))
        return int(np.count_nonzero(~done))

    def _with_bytes(self, rows: Iterator[InputRow]) -> Iterator[InputRow]:
        """Read what the rows point at, several at a time, and keep their order."""
        waiting: deque[Future[InputRow] | InputRow] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            for row in rows:
                waiting.append(row if row.location is None else pool.submit(self._fetch, row))
                # Rows that carry their bytes already must not pile up behind the threads.
                while waiting and (
                    len(waiting) >= self.threads or isinstance(waiting[0], InputRow)
                ):
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())

    def _fetch(self, row: InputRow) -> InputRow:
        assert row.location is not None
        try:
            row.bytes = fetch(row.location, self.storage, self.max_bytes, row.size)
        except storage_errors(TooLargeError) as error:
            row.fail(*row_failure(error))
        row.location = None
        return row

    # Image files

    def _images_left(
        self, piece: ImageFiles, choice: RowChoice
    ) -> Iterator[tuple[str, int, str, InputFile]]:
        """Yield name, size, version and place of each file to be read."""
        files = [self._file(piece.root, name) for name in piece.names]
        done = choice.leaves_out(
            [file.date for file in files],
            [file.uri for file in files],
            [0] * len(files),
            piece.versions,
        )
        return compress(zip(piece.names, piece.sizes, piece.versions, files, strict=True), ~done)

    def _image_rows(self, piece: ImageFiles, choice: RowChoice) -> Iterator[InputRow]:
        roots = Roots(self.roots)
        for name, size, version, file in self._images_left(piece, choice):
            row = InputRow(file.uri, file.date, version, source=source_in(name), size=size)
            # A listed name is a path and never a URL, whatever it looks like.
            if is_s3(piece.root):
                row.location = Location("s3", f"{piece.root}/{name}"[5:])
            else:
                row.location = roots.locate(os.path.join(piece.root, name), piece.root)
            if row.location is None:
                row.fail(
                    ErrorCode.URI_OUTSIDE_ROOT,
                    "The file is a link that leads out of the input, and reading.uri_roots does "
                    "not allow it.",
                )
            yield row

    # Tables

    def _groups(self, piece: TableRows) -> Iterator[_Group]:
        """Yield the groups that hold rows of the piece, while their file is open."""
        with open_table(piece.root, piece.name, self.storage, self.columns, self.roots) as table:
            first = 0
            for number, rows in enumerate(table.groups):
                if first < piece.stop and first + rows > piece.start:
                    yield _Group(table, number, first, piece)
                first += rows

    def _batches_left(
        self, group: _Group, columns: frozenset[str], choice: RowChoice
    ) -> Iterator[_Batch]:
        """Read `columns` of those rows of the piece that are in this group."""
        piece = group.piece
        occurrences = np.zeros(piece.stop - piece.start, dtype=np.int32)
        occurrences[piece.repeated] = piece.occurrence
        file = self._file(piece.root, piece.name)
        start = group.first
        for whole in group.table.batches([group.number], columns, group.rows_per_batch(columns)):
            if start >= piece.stop:
                break
            count = len(next(iter(whole.values())))
            low, high = max(start, piece.start), min(start + count, piece.stop)
            if low < high:
                batch = {
                    name: array.slice(low - start, high - low) for name, array in whole.items()
                }
                keys = file.keys(batch, low)
                repeated = occurrences[low - piece.start : high - piece.start].tolist()
                versions = [piece.version] * len(keys.uris)
                done = choice.leaves_out(keys.dates, keys.uris, repeated, versions)
                yield _Batch(low, batch, keys, repeated, np.flatnonzero(~done).tolist())
            start += count

    def _table_rows(self, piece: TableRows, choice: RowChoice) -> Iterator[InputRow]:
        for group in self._groups(piece):
            if not choice.takes_all and not any(
                batch.left for batch in self._batches_left(group, group.keys, choice)
            ):
                continue
            reached = -1
            try:
                for number, row in self._numbered_rows(group, group.columns, choice):
                    reached = number
                    yield row
                continue
            except storage_errors(pa.ArrowException) as error:
                if not is_damage(error):
                    raise
            # The keys were readable when the input was planned, so each lost row has its name.
            for number, row in self._numbered_rows(group, group.keys, choice):
                if number > reached:
                    yield row if row.occurrence else row.fail(ErrorCode.UNREADABLE_ARCHIVE)

    def _numbered_rows(
        self, group: _Group, columns: frozenset[str], choice: RowChoice
    ) -> Iterator[tuple[int, InputRow]]:
        """Yield number and row for those of the piece that are in this group and to do."""
        roots = Roots(self.roots)
        file = self._file(group.piece.root, group.piece.name)
        for batch in self._batches_left(group, columns, choice):
            for index, row in batch.rows(file, group.piece.version):
                if row.occurrence:
                    row.fail(ErrorCode.DUPLICATE_URI)
                elif row.bytes is not None:
                    if len(row.bytes) > self.max_bytes:
                        error = TooLargeError(self.max_bytes, len(row.bytes))
                        row.fail(ErrorCode.TOO_MANY_BYTES, str(error))
                elif not (target := batch.keys.targets[index]):
                    row.fail(ErrorCode.MISSING_BYTES)
                else:
                    row.location = roots.locate(target, file.folder)
                    if row.location is None:
                        row.fail(ErrorCode.URI_OUTSIDE_ROOT)
                yield batch.first + index, row


def _result(row: Future[InputRow] | InputRow) -> InputRow:
    return row if isinstance(row, InputRow) else row.result()


@contextmanager
def _stops_the_run(file: str) -> Iterator[None]:
    """Say which table or archive failed to be read, in words without credentials.

    Such a failure is not a row's: which rows are lost is not known, and the run can be
    started again.
    """
    try:
        yield
    except storage_errors(pa.ArrowException, ListError) as error:
        raise MachineError(
            f"Reading {redact(file)} failed: {reading_failure(error)}. Start the same command "
            "again when it can be read."
        ) from None


@dataclass(frozen=True, eq=False)
class _Group:
    """A group of rows of an open table, and the number of its first row."""

    table: ImageTable
    number: int
    first: int
    piece: TableRows

    @property
    def columns(self) -> frozenset[str]:
        """All known columns."""
        return frozenset(self.table.columns)

    @property
    def keys(self) -> frozenset[str]:
        """The columns that name a row."""
        return self.columns & {*KEYS}

    def rows_per_batch(self, columns: frozenset[str]) -> int:
        """Few rows where they hold pictures, whatever size the file claims they have."""
        if "bytes" not in columns:
            return TABLE_ROWS
        average = self.table.bytes_per_row(self.number)
        return int(min(max((8 << 20) // max(average, 1), 1), 16))


@dataclass(frozen=True, eq=False)
class _Batch:
    """Rows of a piece, from the file's row ``first`` on, and which of them are left to do."""

    first: int
    columns: Batch
    keys: Keys
    occurrences: list[int]
    left: list[int]

    def rows(self, file: InputFile, version: str) -> Iterator[tuple[int, InputRow]]:
        """Yield index and values of the rows left; the file stands for a missing source."""
        nothing = [None] * len(self.occurrences)
        columns: Mapping[str, Any] = self.columns
        pictures = columns.get("bytes", nothing)
        labels = labels_of(columns["label"]) if "label" in columns else nothing
        generators = texts(columns["generator"]) if "generator" in columns else nothing
        captions = captions_of(columns["captions"]) if "captions" in columns else nothing
        known = texts(columns["source"]) if "source" in columns else None
        sources = known or [source_in(file.name)] * len(nothing)
        for index in self.left:
            picture = pictures[index]
            yield (
                index,
                InputRow(
                    self.keys.uris[index],
                    self.keys.dates[index],
                    version,
                    file.uri,
                    sources[index],
                    self.occurrences[index],
                    bytes=None if picture is None else picture.as_py(),
                    label=as_label(labels[index]),
                    generator=generators[index],
                    captions=captions[index],
                ),
            )
