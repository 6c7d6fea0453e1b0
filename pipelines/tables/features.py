"""A ``features`` table on disk or S3: which rows it holds, and how finished parts join it."""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from item.errors import UsageError
from item.images.perturb import NONE
from item.tables import Status, as_features, decoded, encoded
from pipelines.runtime.progress import tell_retries
from pipelines.runtime.stages import PENDING, SECONDS
from pipelines.storage.access import Storage
from pipelines.tables.provenance import with_part_facts
from pipelines.tables.published import Part, PublishedTable, date_of, row_groups, write_part
from pipelines.tables.row_keys import RowKeys

PART = "part"
"""Begins the names of staged files of rows that are done."""
REPEAT = "repeat"
"""Begins the names of staged files of rows whose features are those of another row."""

Facts = dict[str, Any]


class FeatureTable(PublishedTable):
    """The table at ``root``, a local folder or an ``s3://`` prefix."""

    def feature_set_id(self) -> str | None:
        """The feature set of the published rows; None for an empty table."""
        return self._published_facts().get("feature_set_id")

    def check_feature_set(self, wanted: str, perturbation: str = NONE) -> None:
        """UsageError if the table holds features that must not be mixed with those wanted."""
        facts = self._published_facts()
        if not facts:
            return
        found = facts["feature_set_id"]
        if found != wanted:
            raise UsageError(
                f"The output holds features of the set '{found}', this run makes '{wanted}': "
                "choose another output, or the profile and version that made the first."
            )
        found = facts.get("perturbation", NONE)
        if found != perturbation:
            raise UsageError(
                f"The output holds features under the perturbation '{found}', this run makes "
                f"them under '{perturbation}': choose another output."
            )

    def keys(self, folder: str, path: str, but: Status | None = None) -> RowKeys:
        """Keys of the input rows that a file holds, without those of a status."""
        return RowKeys.of(self.keyed(folder, path, ["status"], but), date=date_of(path))

    def keyed(
        self, folder: str, path: str, columns: Sequence[str], but: Status | None = None
    ) -> pa.Table:
        """Some columns of a file's rows with ``uri`` and ``occurrence``."""
        with self.fs.open(posixpath.join(folder, path), "rb") as file:
            parquet = pq.ParquetFile(file)
            rows = parquet.read(columns=["uri", *columns])
            repeated = decoded(parquet.metadata.metadata)["occurrences"]
        rows = rows.append_column("occurrence", _occurrences(repeated, len(rows)))
        return rows if but is None else rows.filter(pc.not_equal(rows["status"], but))

    def finished(self, work: str, dates: Sequence[str], overwrite: str = "nothing") -> RowKeys:
        """Keys of all rows that need no reading: published, or staged by an earlier try.

        A killed try may have staged a part twice over, under two cuts of its rows; of
        parts that share rows one is kept.

        Parameters
        ----------
        work : the staging folder
        dates : nights of the published rows that matter
        overwrite : published rows that do not count: ``nothing``, ``failed`` or ``all``
        """
        keys = self.done(work, dates, overwrite)
        repeats = (self.keys(self.staging(work), path) for path in self.staged(work, REPEAT))
        return keys.union(*repeats)

    def done(self, work: str, dates: Sequence[str], overwrite: str = "nothing") -> RowKeys:
        """As `finished`, without rows that wait for the features of another row."""
        but = Status.FAILED if overwrite == "failed" else None
        published = [] if overwrite == "all" else self.published(dates)
        keys = RowKeys().union(*(self.keys(self.path, path, but) for path in published))
        staging = self.staging(work)
        parts = {path: self.keys(staging, path) for path in self.staged(work)}
        together = keys.union(*parts.values())
        if len(together) == len(keys) + sum(map(len, parts.values())):
            return together
        for path, more in parts.items():
            together = keys.union(more)
            if len(together) < len(keys) + len(more):
                self.fs.rm_file(posixpath.join(staging, path))
            else:
                keys = together
        return keys

    def drop_strays(self, work: str, known: Iterable[str]) -> None:
        """Remove staged parts that no finished task answers for."""
        for path in set(self.staged(work)) - set(known):
            self.fs.rm_file(posixpath.join(self.staging(work), path))

    def drop_repeats(self, work: str) -> None:
        """Remove rows that waited for the features of others, once they have them."""
        for path in self.staged(work, REPEAT):
            self.fs.rm_file(posixpath.join(self.staging(work), path))

    def publish(self, works: Sequence[str], run_id: str, keep: bool = True) -> list[str]:
        """Put the staged rows of some pieces of work into their nights, one step a night.

        A staged row takes the place of a published one with its key. A second try after a
        kill ends the same.

        Parameters
        ----------
        works : staging folders
        run_id : named in the files; their ``run`` says what this run brought
        keep : whether other published rows of these nights stay

        Returns
        -------
        Paths of the nights' files.
        """
        parts = [(self.staging(work), path) for work in works for path in self.staged(work)]
        nights = sorted({date_of(path) for _, path in parts})
        written = [
            self._publish(night, [one for one in parts if date_of(one[1]) == night], run_id, keep)
            for night in nights
        ]
        for work in works:
            self.drop_staging(work)
        return written

    def _publish(
        self, night: str, parts: Sequence[tuple[str, str]], run_id: str, keep: bool
    ) -> str:
        brought = summed(self.facts(*part) for part in parts)
        new = RowKeys().union(*(self.keys(*part) for part in parts))
        before = [(self.path, path) for path in self.published([night])] if keep else []
        facts = summed([*(self.facts(*file) for file in before), brought])
        facts |= {"occurrences": {}, "statuses": {}, "error_codes": {}, "notes": {}}
        rows = _counted(self._rows_of_night(before, new, parts), facts)
        with self.fs.open(posixpath.join(*parts[0]), "rb") as file:
            schema = pq.read_schema(file)
        provenance = decoded(schema.metadata) | {"run_id": run_id}
        for name in ("occurrences", *COUNTS, *SUMS):
            provenance.pop(name, None)
        facts["run"] = {"run_id": run_id, **brought}
        path = self.replace(night, rows, schema.with_metadata(encoded(provenance)), facts)
        for _, old in before:
            if old != path:
                self.fs.rm_file(posixpath.join(self.path, old))
        return path

    def _rows_of_night(
        self,
        before: Sequence[tuple[str, str]],
        new: RowKeys,
        parts: Sequence[tuple[str, str]],
    ) -> Iterator[tuple[pa.Table, pa.Array]]:
        """Rows and occurrences: of published files those whose key is not new, then all new."""
        for files, replaced in ((before, new), (parts, RowKeys())):
            for folder, path in files:
                with self.fs.open(posixpath.join(folder, path), "rb") as file:
                    parquet = pq.ParquetFile(file)
                    repeated = decoded(parquet.metadata.metadata)["occurrences"]
                    occurrences = _occurrences(repeated, parquet.metadata.num_rows)
                    first = 0
                    for rows in row_groups(parquet):
                        own = occurrences.slice(first, len(rows))
                        first += len(rows)
                        kept = ~replaced.contains(
                            [date_of(path)] * len(rows), rows["uri"].to_pylist(), own.to_pylist()
                        )
                        if kept.any():
                            yield rows.filter(pa.array(kept)), own.filter(pa.array(kept))

    def _published_facts(self) -> Facts:
        """Provenance of the published rows, which all share it; empty for an empty table."""
        for path in self.published():
            return self.facts(self.path, path)
        return {}


COUNTS = ("statuses", "error_codes", "notes")
"""Facts of a file that count its rows."""
SUMS = ("stage_seconds", "reused")
"""Facts that say what its rows took: seconds by stage, and rows that were copied."""


def summed(facts: Iterable[Facts]) -> Facts:
    """Counts and sums of several files together."""
    facts = list(facts)
    totals: Facts = {}
    for name in (*COUNTS, "stage_seconds"):
        total: Counter[str] = Counter()
        for one in facts:
            total.update(one.get(name, {}))
        totals[name] = dict(total)
    return {**totals, "reused": sum(one.get("reused", 0) for one in facts)}


def _counted(rows: Iterable[tuple[pa.Table, pa.Array]], facts: Facts) -> Iterator[pa.Table]:
    """Pass the rows on; when they are through, ``facts`` holds their counts."""
    first = 0
    totals = {name: Counter[str]() for name in COUNTS}
    for table, occurrences in rows:
        for name, counts in row_counts(table).items():
            totals[name].update(counts)
        facts["occurrences"] |= {
            str(first + row): number for row, number in enumerate(occurrences.to_pylist()) if number
        }
        first += len(table)
        facts |= {name: dict(total) for name, total in totals.items()}
        yield table


class PartWriter:
    """The last stage: writes a batch of finished rows and returns what it wrote.

    Parameters
    ----------
    folder : the staging folder, on a file system that every worker reaches
    dimensions : of the embeddings
    metadata : provenance of every file
    tally : handle of a :class:`pipelines.runtime.progress.Tally` that hears of repeated requests
    """

    def __init__(
        self,
        url: str,
        storage: Storage,
        dimensions: int,
        metadata: Mapping[str, str],
        tally: Any = None,
    ) -> None:
        self.tally = tally
        self.url = url
        self.storage = storage
        self.dimensions = dimensions
        self.metadata = metadata
        self.__name__ = "Write"

    def __call__(self, table: pa.Table) -> pa.Table:
        waiting = pc.equal(table["status"], PENDING)
        kinds = {PART: table.filter(pc.invert(waiting)), REPEAT: table.filter(waiting)}
        parts = [
            asdict(self._write(kind, date, rows))
            for kind, some in kinds.items()
            for date, rows in _by_date(some)
        ]
        tell_retries(self.tally)
        return pa.Table.from_pylist(parts)

    def _write(self, kind: str, date: str, rows: pa.Table) -> Part:
        features = as_features(rows, self.dimensions)
        seconds = {
            name.removeprefix(SECONDS): float(pc.sum(rows[name]).as_py() or 0.0)
            for name in rows.column_names
            if name.startswith(SECONDS)
        }
        facts = {"stage_seconds": seconds, "reused": 0}
        return self.store(kind, date, features, rows["occurrence"].to_pylist(), facts)

    def store(
        self, kind: str, date: str, features: pa.Table, occurrences: list[int], facts: Facts
    ) -> Part:
        """Write rows that have the table's schema already, with what they took."""
        uris = features["uri"].to_pylist()
        repeated = {str(row): number for row, number in enumerate(occurrences) if number}
        own = {"occurrences": repeated, **row_counts(features), **facts}
        features = features.replace_schema_metadata(with_part_facts(self.metadata, own))
        name = f"date={date}/{kind}-{_digest_of_keys(uris, occurrences)}.parquet"
        return write_part(self.url, self.storage, name, features)


class WorkWriter:
    """Writes rows of several pieces of work, each where it belongs.

    Parameters
    ----------
    writers : by the name of the work, which the column ``work`` says of each row
    """

    def __init__(self, writers: Mapping[str, PartWriter]) -> None:
        self.writers = writers
        self.__name__ = "Write"

    def __call__(self, table: pa.Table) -> pa.Table:
        parts = []
        for work in pc.unique(table["work"]).to_pylist():
            written = self.writers[work](table.filter(pc.equal(table["work"], work)))
            parts += [part | {"work": work} for part in written.to_pylist()]
        return pa.Table.from_pylist(parts)


def row_counts(rows: pa.Table) -> dict[str, dict[str, int]]:
    """How many rows have each status, error code and note."""
    notes = rows["notes"].combine_chunks().flatten().drop_null()
    return {
        "statuses": _value_counts(rows["status"]),
        "error_codes": _value_counts(rows["error_code"].drop_null()),
        "notes": _value_counts(notes),
    }


def _value_counts(values: pa.ChunkedArray | pa.Array) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(values).to_pylist()}


def _occurrences(repeated: Mapping[str, int], rows: int) -> pa.Array:
    numbers = np.zeros(rows, np.int32)
    for row, number in repeated.items():
        numbers[int(row)] = number
    return pa.array(numbers)


def _by_date(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    for date in pc.unique(table["date"]).to_pylist():
        yield date, table.filter(pc.equal(table["date"], date))


def _digest_of_keys(uris: Iterable[str], occurrences: Iterable[int]) -> str:
    digest = hashlib.sha256()
    for uri, occurrence in zip(uris, occurrences, strict=True):
        digest.update(f"{occurrence}\0{uri}\0".encode())
    return digest.hexdigest()[:20]
