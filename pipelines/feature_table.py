"""A ``features`` table on disk or S3: parts are staged aside, then published whole.

::

    OUTPUT/date=2026-11-23/part-….parquet       what readers see
    OUTPUT/_staging/<work>/date=…/part-….parquet  finished parts of a run that is not done
    OUTPUT/_runs/<run>.json, <run>.yaml         manifest and resolved configuration

Readers skip names that begin with an underscore. A part is written in one piece, under a
name that its rows determine, so a task that Ray runs twice writes the same file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from item.errors import UsageError
from item.perturb import NONE
from item.tables import features_schema
from pipelines.provenance import decoded, with_part_facts
from pipelines.row_keys import RowKeys
from pipelines.stages import SECONDS
from pipelines.storage import Storage, filesystem, join, write_atomically

STAGING = "_staging"
RUNS = "_runs"


@dataclass(frozen=True)
class Part:
    """One Parquet file of the table."""

    path: str
    """Below the table's root or the staging folder: ``date=…/part-….parquet``."""
    rows: int
    bytes: int
    sha256: str


class FeatureTable:
    """The table at ``root``, a local folder or an ``s3://`` prefix."""

    def __init__(self, root: str, storage: Storage) -> None:
        self.root = root
        self.storage = storage
        self.fs, self.path = filesystem(root, storage)

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

    def published(self, dates: Iterable[str] | None = None) -> list[str]:
        """Paths of published parts, below the root; of some dates only if given."""
        folders = None if dates is None else {f"date={date}" for date in dates}
        return [
            path
            for path in self._parts(self.path)
            if folders is None or path.split("/")[0] in folders
        ]

    def staging(self, work: str) -> str:
        """Where the parts of a piece of work wait for publication."""
        return posixpath.join(self.path, STAGING, work)

    def staged(self, work: str) -> list[str]:
        """Paths of staged parts, below the staging folder."""
        return self._parts(self.staging(work))

    def facts(self, folder: str, path: str) -> dict[str, Any]:
        """Provenance and counts of a part, without reading its rows."""
        with self.fs.open(posixpath.join(folder, path), "rb") as file:
            return decoded(pq.read_metadata(file).metadata)

    def keys(self, folder: str, path: str) -> RowKeys:
        """Keys of the input rows that a part holds."""
        with self.fs.open(posixpath.join(folder, path), "rb") as file:
            part = pq.ParquetFile(file)
            uris = part.read(columns=["uri"])
            repeated = decoded(part.schema_arrow.metadata)["occurrences"]
        occurrences = [repeated.get(str(row), 0) for row in range(len(uris))]
        keyed = uris.append_column("occurrence", pa.array(occurrences, pa.int32()))
        return RowKeys.of(keyed, date=_date_of(path))

    def finished(self, work: str, dates: Sequence[str]) -> RowKeys:
        """Keys of all rows that need no work: published, or staged by an earlier try.

        A killed try may have staged a part twice over, under two cuts of its rows; of
        parts that share rows one is kept.
        """
        keys = RowKeys().union(*(self.keys(self.path, path) for path in self.published(dates)))
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

    def publish(self, work: str) -> None:
        """Move every staged part to its place, so that readers see it.

        Locally a night that is new appears in one rename; parts that join a night, and
        all parts on S3, appear one by one, each whole. A second try after a kill ends
        the same.
        """
        staging = self.staging(work)
        if isinstance(self.fs, LocalFileSystem):
            for folder in sorted(Path(staging).glob("date=*")):
                target = Path(self.path, folder.name)
                try:
                    os.rename(folder, target)
                except OSError:
                    for part in folder.glob("*.parquet"):
                        os.replace(part, target / part.name)
        else:
            for path in self.staged(work):
                self.fs.copy(posixpath.join(staging, path), posixpath.join(self.path, path))
        if self.fs.exists(staging):
            self.fs.rm(staging, recursive=True)

    def manifests(self, suffix: str) -> list[dict[str, Any]]:
        """Manifests of published runs whose ids end so, oldest first."""
        pattern = posixpath.join(self.path, RUNS, f"*-{suffix}.json")
        found = [json.loads(self.fs.cat_file(path)) for path in sorted(self.fs.glob(pattern))]
        return [manifest for manifest in found if manifest["outcome"] == "published"]

    def write_run(self, run_id: str, manifest: Mapping[str, Any], configuration: str) -> str:
        """Write a run's manifest and configuration; return the manifest's URL."""
        name = f"{run_id}.json"
        folder = posixpath.join(self.path, RUNS)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.fs, posixpath.join(folder, f"{run_id}.yaml"), configuration.encode())
        write_atomically(self.fs, posixpath.join(folder, name), text.encode())
        return join(self.root, RUNS, name)

    def part(self, path: str) -> Part:
        """A published part with its size and checksum."""
        data = self.fs.cat_file(posixpath.join(self.path, path))
        rows = pq.read_metadata(io.BytesIO(data)).num_rows
        return Part(path, rows, len(data), hashlib.sha256(data).hexdigest())

    def _published_facts(self) -> dict[str, Any]:
        """Provenance of the published rows, which all share it; empty for an empty table."""
        for path in self.published():
            return self.facts(self.path, path)
        return {}

    def _parts(self, folder: str) -> list[str]:
        self.fs.invalidate_cache()
        if not self.fs.exists(folder):
            return []
        found = [posixpath.relpath(path, folder) for path in self.fs.find(folder)]
        return sorted(
            path
            for path in found
            if path.startswith("date=") and posixpath.basename(path).startswith("part-")
        )


class PartWriter:
    """The last stage: writes a batch of finished rows and returns what it wrote.

    Parameters
    ----------
    folder : the staging folder, on a file system that every worker reaches
    dimensions : of the embeddings
    metadata : provenance of every file
    """

    def __init__(
        self, url: str, storage: Storage, dimensions: int, metadata: Mapping[str, str]
    ) -> None:
        self.url = url
        self.storage = storage
        self.dimensions = dimensions
        self.metadata = metadata
        self.__name__ = "Write"

    def __call__(self, table: pa.Table) -> pa.Table:
        parts = [asdict(self._write(date, rows)) for date, rows in _by_date(table)]
        return pa.Table.from_pylist(parts)

    def _write(self, date: str, rows: pa.Table) -> Part:
        features = as_features(rows, self.dimensions)
        facts = part_facts(rows)
        metadata = with_part_facts(self.metadata, facts)
        buffer = io.BytesIO()
        pq.write_table(features.replace_schema_metadata(metadata), buffer, compression="zstd")
        data = buffer.getvalue()
        name = f"date={date}/part-{_digest_of_keys(rows)}.parquet"
        fs, folder = filesystem(self.url, self.storage)
        write_atomically(fs, posixpath.join(folder, name), data)
        return Part(name, len(rows), len(data), hashlib.sha256(data).hexdigest())


def as_features(rows: pa.Table, dimensions: int) -> pa.Table:
    """Rows of the last stage in the exact schema of the table."""
    schema = features_schema(dimensions)
    columns = [
        _fixed_size(rows[field.name], dimensions)
        if pa.types.is_fixed_size_list(field.type)
        else rows[field.name].cast(field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def part_facts(rows: pa.Table) -> dict[str, Any]:
    """Counts by status, error code and note, seconds of each stage, repetitions of URIs."""
    return {
        "occurrences": {
            str(row): number for row, number in enumerate(rows["occurrence"].to_pylist()) if number
        },
        "statuses": dict(Counter(rows["status"].to_pylist())),
        "error_codes": dict(Counter(filter(None, rows["error_code"].to_pylist()))),
        "notes": dict(Counter(note for some in rows["notes"].to_pylist() for note in some or ())),
        "stage_seconds": {
            name.removeprefix(SECONDS): float(pc.sum(rows[name]).as_py() or 0.0)
            for name in rows.column_names
            if name.startswith(SECONDS)
        },
    }


def _fixed_size(column: pa.ChunkedArray, dimensions: int) -> pa.Array:
    """Lists of float32, null where there is none -> fixed-size lists of float16."""
    present = pc.is_valid(column).to_numpy(zero_copy_only=False)
    values = np.zeros((len(column), dimensions), np.float16)
    flat = column.combine_chunks().drop_null().flatten().to_numpy(zero_copy_only=False)
    values[present] = flat.reshape(-1, dimensions)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.ravel()), dimensions, mask=pa.array(~present)
    )


def _by_date(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    for date in pc.unique(table["date"]).to_pylist():
        yield date, table.filter(pc.equal(table["date"], date))


def _digest_of_keys(rows: pa.Table) -> str:
    digest = hashlib.sha256()
    for uri, occurrence in zip(
        rows["uri"].to_pylist(), rows["occurrence"].to_pylist(), strict=True
    ):
        digest.update(f"{occurrence}\0{uri}\0".encode())
    return digest.hexdigest()[:20]


def _date_of(path: str) -> str:
    return path.split("/")[0].removeprefix("date=")
