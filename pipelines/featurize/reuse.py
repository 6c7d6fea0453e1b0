"""Crawls repeat: a picture whose bytes were featurized before is not featurized again.

While a run reads, the :class:`Register` says of each picture whether an earlier row has it,
of this run or of a published night. Such rows are staged without features; once all others
are done, :func:`copied` gives them those of the row that has.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from numpy.typing import NDArray

from item.errors import MachineError
from item.tables import FEATURES, Status
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.tables.features import NAMES, FeatureTable
from pipelines.tables.parts import PART, REPEAT, PartWriter
from pipelines.tables.published import conformed, date_of
from pipelines.tables.row_keys import RowKeys, states_of

OWN = ("uri", "input_version", "listed_in", "source", "label", "generator")
"""What a row keeps of its own when it takes the features of another."""


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """Where each picture's features are: the first half of its SHA-256, a file and a row.

    Attributes
    ----------
    halves : (n, 2) uint64, ordered by the first column, then the second
    file, row : (n,) number in ``files``, number of the row
    files : paths with their folders
    """

    halves: NDArray[np.uint64]
    file: NDArray[np.int32]
    row: NDArray[np.int64]
    files: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, table: FeatureTable, files: Sequence[tuple[str, str]]) -> ImageIndex:
        """Index rows that have features, or were rejected for what their bytes are."""
        halves = [np.empty((0, 2), np.uint64)]
        places = [np.empty((0, 2), np.int64)]
        for number, (folder, path) in enumerate(files):
            with table.fs.open(posixpath.join(folder, path), "rb") as file:
                rows = pq.read_table(file, columns=["image_id", "status"], partitioning=None)
            fit = pc.and_(pc.is_valid(rows["image_id"]), pc.not_equal(rows["status"], FAILED))
            chosen = np.flatnonzero(fit.to_numpy())
            halves.append(_halves(rows["image_id"].take(chosen).to_pylist()))
            places.append(np.column_stack([np.full(len(chosen), number), chosen]))
        all_halves, all_places = np.concatenate(halves), np.concatenate(places)
        order = np.lexsort((all_halves[:, 1], all_halves[:, 0]))
        return cls(
            all_halves[order],
            all_places[order, 0].astype(np.int32),
            all_places[order, 1],
            tuple(files),
        )

    def find(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Positions (n,) in the index, -1 for pictures that are not in it."""
        return _find(self.halves, _halves(image_ids))


FAILED = str(Status.FAILED)


@ray.remote(num_cpus=0, max_restarts=-1)
class Register:
    """Knows which pictures have features already or are given them by another row.

    A row that asks twice, because its task ran again, hears the same.
    """

    def __init__(self, halves: NDArray[np.uint64]) -> None:
        self.halves = halves
        self.first: dict[bytes, int] = {}
        """Half of a picture's digest, and the hash of the row that it came in with first."""

    def known(self, image_ids: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[bool]:
        """Whether another row has the picture, for each of some rows by their keys."""
        before = _find(self.halves, _halves(image_ids)) >= 0
        found = []
        for image, row, there in zip(image_ids, rows, before, strict=True):
            asking = hash(row)  # takes less than half of what a row takes
            half = bytes.fromhex(image[:32])
            found.append(bool(there) or self.first.setdefault(half, asking) != asking)
        return found


def seen_before(
    table: FeatureTable, works: Sequence[str], nights: int, without: Sequence[str] = ()
) -> ImageIndex:
    """Pictures of the latest published nights and of what some pieces of work have staged.

    Parameters
    ----------
    table : the features
    works : staging folders
    nights : how many of the latest nights are looked through
    without : nights that are not, because they are computed anew
    """
    published = [path for path in table.published() if date_of(path) not in without]
    latest = sorted({date_of(path) for path in published}, reverse=True)[:nights]
    files = [(table.path, path) for path in published if date_of(path) in latest]
    files += [(table.staging(work), path) for work in works for path in table.staged(work)]
    return ImageIndex.of(table, files)


def all_found(table: FeatureTable, work: str, index: ImageIndex, done: RowKeys) -> bool:
    """Whether every staged row that waits for the features of its picture will get them."""
    waiting = _waiting(table, work, done)
    return not len(waiting) or bool((index.find(waiting["image_id"].to_pylist()) >= 0).all())


def copied(
    table: FeatureTable,
    work: str,
    index: ImageIndex,
    writer: PartWriter,
    done: RowKeys,
    rows_per_part: int,
) -> Iterator[dict[str, Any]]:
    """Give staged rows that wait the features of their pictures; yields each part written.

    Rows are taken in the order of the files that they are copied from, so each of these is
    read about once.

    Raises
    ------
    MachineError
        If a picture's features are gone; the next run computes them.
    """
    waiting = _waiting(table, work, done)
    if not len(waiting):
        return
    places = index.find(waiting["image_id"].to_pylist())
    if (places < 0).any():
        table.drop_repeats(work)
        raise MachineError(
            f"{(places < 0).sum()} rows wait for features that are not there any more; start "
            "the same command again to compute them."
        )
    waiting = waiting.append_column("file", pa.array(index.file[places]))
    waiting = waiting.append_column("row", pa.array(index.row[places]))
    waiting = waiting.sort_by([("file", "ascending"), ("row", "ascending")])
    blocks = [
        waiting.slice(first, rows_per_part).combine_chunks()
        for first in range(0, len(waiting), rows_per_part)
    ]
    # A block is a task: what it reads of a file, it reads once.
    chunks = ray.data.from_arrow(blocks)
    copier = Copier([posixpath.join(*file) for file in index.files], table.storage, writer)
    copies = chunks.map_batches(copier, batch_size=None, batch_format="pyarrow", num_cpus=0.25)
    yield from copies.iter_rows()


def _waiting(table: FeatureTable, work: str, done: RowKeys) -> pa.Table:
    """Staged rows without features, with their keys."""
    staging = table.staging(work)
    found = []
    for path in table.staged(work, REPEAT):
        rows = table.keyed(staging, path, ["image_id", *(n for n in OWN if n not in NAMES)])
        left = ~done.contains(states_of(rows, date_of(path)))
        rows = rows.append_column("date", pa.array([date_of(path)] * len(rows), pa.string()))
        found.append(rows.filter(pa.array(left)).replace_schema_metadata(None))
    return pa.concat_tables(found) if found else pa.table({"uri": []})


class Copier:
    """Writes rows with features that stand in other files."""

    def __init__(self, files: Sequence[str], storage: Storage, writer: PartWriter) -> None:
        self.files = files
        self.storage = storage
        self.writer = writer
        self.__name__ = "Copy"

    def __call__(self, rows: pa.Table) -> pa.Table:
        features = self._features(rows["file"].to_pylist(), rows["row"].to_pylist())
        for name in OWN:
            place = features.column_names.index(name)
            field = features.schema.field(place)
            features = features.set_column(place, field, rows[name].cast(field.type))
        parts = []
        for date in pc.unique(rows["date"]).to_pylist():
            mine = pc.equal(rows["date"], date)
            own = features.filter(mine)
            ready = pc.sum(pc.equal(own["status"], Status.OK)).as_py() or 0
            facts: dict[str, Any] = {"stage_seconds": {}, "reused": ready}
            occurrences = rows["occurrence"].filter(mine).to_pylist()
            parts.append(self.writer.store(PART, date, own, occurrences, facts))
        return pa.Table.from_pylist([asdict(part) for part in parts])

    def _features(self, files: list[int], rows: list[int]) -> pa.Table:
        """Rows of files, in the order asked for, which is that of files and rows."""
        wanted: dict[int, list[int]] = {}
        for number, row in zip(files, rows, strict=True):
            wanted.setdefault(number, []).append(row)
        found: list[pa.Table] = []
        fs, _ = filesystem(self.writer.url, self.storage)
        for number, some in wanted.items():
            with fs.open(self.files[number], "rb") as file:
                found += _taken(pq.ParquetFile(file), np.array(some))
        return pa.concat_tables([conformed(some, FEATURES) for some in found])


def _taken(parquet: pq.ParquetFile, rows: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Ascending rows of a file, reading only the row groups that hold some of them."""
    first = 0
    for number in range(parquet.num_row_groups):
        stop = first + parquet.metadata.row_group(number).num_rows
        mine = rows[(rows >= first) & (rows < stop)]
        if len(mine):
            yield parquet.read_row_group(number).take(mine - first)
        first = stop


def _halves(image_ids: Sequence[str]) -> NDArray[np.uint64]:
    """The first 16 bytes of hexadecimal digests, shape (n, 2)."""
    digests = b"".join(bytes.fromhex(one[:32]) for one in image_ids)
    return np.frombuffer(digests, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def _find(halves: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Positions of pairs in ordered ones, -1 where there are none.

    Of pictures that share the first 8 bytes of their digests, which no two ever did, only
    the first is found; the others are featurized.
    """
    if not len(halves):
        return np.full(len(wanted), -1, np.int64)
    places = np.searchsorted(halves[:, 0], wanted[:, 0]).clip(max=len(halves) - 1)
    return np.where((halves[places] == wanted).all(axis=1), places, -1)
