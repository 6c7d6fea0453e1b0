"""Staged files of a ``features`` table: rows that are done, that failed, or that wait."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from item.tables import Status, as_features, decoded, with_feature_set
from pipelines.runtime.progress import tell_retries
from pipelines.runtime.stages import PENDING, SECONDS
from pipelines.storage.configuration import Storage
from pipelines.tables.provenance import with_part_facts
from pipelines.tables.published import Part, write_part

PART = "part"
"""Begins the names of staged files of rows that are done."""
FAILED = "failed"
"""Begins the names of staged files of rows that the next try reads again."""
REPEAT = "repeat"
"""Begins the names of staged files of rows whose features are those of another row."""

KINDS = (PART, FAILED, REPEAT)

Facts = dict[str, Any]

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


def scaled(facts: Facts, share: float) -> Facts:
    """What a share of a file's rows took, as far as it is known."""
    seconds = {name: value * share for name, value in facts["stage_seconds"].items()}
    return {**facts, "stage_seconds": seconds, "reused": round(facts["reused"] * share)}


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
        failed = pc.equal(table["status"], Status.FAILED)
        done = pc.invert(pc.or_(waiting, failed))
        masks = {PART: done, FAILED: failed, REPEAT: waiting}
        kinds = {kind: table.filter(mask) for kind, mask in masks.items()}
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
        return store(
            self.url, self.storage, self.metadata, (kind, date), features, occurrences, facts
        )


def store(
    url: str,
    storage: Storage,
    metadata: Mapping[str, str],
    place: tuple[str, str],
    features: pa.Table,
    occurrences: list[int],
    facts: Facts,
) -> Part:
    """Write a staged file under a name that its rows determine.

    Parameters
    ----------
    url, storage : the staging folder
    metadata : provenance
    place : kind of the file and date
    features, occurrences : the rows
    facts : what they took
    """
    repeated = {str(row): number for row, number in enumerate(occurrences) if number}
    own = {"occurrences": repeated, **row_counts(features), **facts}
    features = with_feature_set(features, decoded(metadata).get("feature_set_id"))
    features = features.replace_schema_metadata(with_part_facts(metadata, own))
    kind, date = place
    digest = _digest_of_keys(features, occurrences)
    return write_part(url, storage, f"date={date}/{kind}-{digest}.parquet", features)


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


def _by_date(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    for date in pc.unique(table["date"]).to_pylist():
        yield date, table.filter(pc.equal(table["date"], date))


def _digest_of_keys(features: pa.Table, occurrences: list[int]) -> str:
    digest = hashlib.sha256()
    columns = (features["uri"].to_pylist(), features["input_version"].to_pylist())
    for uri, version, occurrence in zip(*columns, occurrences, strict=True):
        digest.update(f"{occurrence}\0{version}\0{uri}\0".encode())
    return digest.hexdigest()[:20]


def occurrences_of(repeated: Mapping[str, int], rows: int) -> pa.Array:
    """How often the URI of each row came before, by the row numbers that a file names."""
    numbers = np.zeros(rows, np.int32)
    for row, number in repeated.items():
        numbers[int(row)] = number
    return pa.array(numbers)
