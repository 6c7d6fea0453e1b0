"""The commit protocol of every table: a night appears in one step, whole and once.

::

    ROOT/date=2026-11-23/night.parquet            what readers see: one file a night
    ROOT/_staging/<work>/date=…/part-….parquet    finished parts of a run that is not done
    ROOT/_runs/<run>.json, <run>.yaml             manifest and resolved configuration

Readers skip names that begin with an underscore. A part is written in one piece under a name
that its rows determine, so a task that runs twice writes the same file. A night is put
together from its parts aside and takes its place in one rename, on S3 in one upload: whoever
lists the table sees the whole night as it was or the whole night as it is.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import posixpath
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from item.tables import decoded, encoded
from pipelines.storage.access import filesystem
from pipelines.storage.atomic import replacing, write_atomically
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join

STAGING = "_staging"
RUNS = "_runs"
NIGHT = "night.parquet"


@dataclass(frozen=True)
class Part:
    """One Parquet file of a table."""

    path: str
    """Below the table's root or the staging folder: ``date=…/….parquet``."""
    rows: int
    bytes: int
    sha256: str


class PublishedTable:
    """A table at ``root``, a local folder or an ``s3://`` prefix."""

    def __init__(self, root: str, storage: Storage) -> None:
        self.root = root
        self.storage = storage
        self.fs, self.path = filesystem(root, storage)

    # Readers

    def published(self, dates: Iterable[str] | None = None) -> list[str]:
        """Paths of published files, below the root; of some dates only if given."""
        folders = None if dates is None else {f"date={date}" for date in dates}
        return [
            path
            for path in self._files(self.path)
            if folders is None or path.split("/")[0] in folders
        ]

    def facts(self, folder: str, path: str) -> dict[str, Any]:
        """What a file says of itself, without reading its rows."""
        with self.fs.open(posixpath.join(folder, path), "rb") as file:
            return decoded(pq.read_metadata(file).metadata)

    def part(self, path: str) -> Part:
        """A published file with its size and checksum."""
        digest, size = hashlib.sha256(), 0
        with self.fs.open(posixpath.join(self.path, path), "rb") as file:
            rows = pq.read_metadata(file).num_rows
            file.seek(0)
            while data := file.read(8 << 20):
                digest.update(data)
                size += len(data)
        return Part(path, rows, size, digest.hexdigest())

    # Writers

    def staging(self, work: str) -> str:
        """Where the parts of a piece of work wait for publication."""
        return posixpath.join(self.path, STAGING, work)

    def staged(self, work: str, kind: str = "part") -> list[str]:
        """Paths of staged parts, below the staging folder."""
        return [
            path
            for path in self._files(self.staging(work))
            if posixpath.basename(path).startswith(f"{kind}-")
        ]

    def works(self) -> list[str]:
        """Names of the staging folders."""
        folder = posixpath.join(self.path, STAGING)
        if not self.fs.exists(folder):
            return []
        return sorted(posixpath.basename(one.rstrip("/")) for one in self.fs.ls(folder, False))

    def drop_staging(self, work: str) -> None:
        """Remove what a piece of work staged, once it is published."""
        if self.fs.exists(self.staging(work)):
            self.fs.rm(self.staging(work), recursive=True)

    def replace(
        self,
        date: str,
        rows: Iterable[pa.Table],
        schema: pa.Schema,
        facts: Mapping[str, Any],
        name: str = NIGHT,
    ) -> str:
        """Put a night in its place, in one step and instead of what was there.

        Parameters
        ----------
        date : of the partition
        rows : tables of the schema, which are written as they come
        schema : with the provenance of the file
        facts : what else the file says of itself; read after the last row

        Returns
        -------
        The file's path below the root.
        """
        path = f"date={date}/{name}"
        self._drop_leftovers(path)
        with (
            replacing(self.fs, posixpath.join(self.path, path)) as aside,
            pq.ParquetWriter(aside, schema, compression="zstd") as writer,
        ):
            for table in rows:
                writer.write_table(conformed(table, schema))
            own = {**facts, "file_id": uuid.uuid4().hex}
            writer.add_key_value_metadata(encoded(own))
        return path

    def manifests(self, suffix: str) -> list[dict[str, Any]]:
        """Manifests of published runs whose ids end so, oldest first."""
        folder = posixpath.join(self.path, RUNS)
        there = sorted(self.fs.ls(folder, detail=False)) if self.fs.exists(folder) else []
        ours = [path for path in there if path.endswith(f"-{suffix}.json")]
        found = [json.loads(self.fs.cat_file(path)) for path in ours]
        return [manifest for manifest in found if manifest["outcome"] == "published"]

    def write_run(self, run_id: str, manifest: Mapping[str, Any], configuration: str) -> str:
        """Write a run's manifest and configuration; return the manifest's URL."""
        name = f"{run_id}.json"
        folder = posixpath.join(self.path, RUNS)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.fs, posixpath.join(folder, f"{run_id}.yaml"), configuration.encode())
        write_atomically(self.fs, posixpath.join(folder, name), text.encode())
        return join(self.root, RUNS, name)

    def _drop_leftovers(self, path: str) -> None:
        """Remove what a killed writer of a local file left beside it, out of readers' sight."""
        if isinstance(self.fs, LocalFileSystem):
            target = Path(self.path, path)
            for aside in target.parent.glob(f".{target.name}.*.tmp"):
                aside.unlink(missing_ok=True)
            for folder in target.parent.parent.glob(f".{target.parent.name}.*.tmp"):
                shutil.rmtree(folder, ignore_errors=True)

    def _files(self, folder: str) -> list[str]:
        self.fs.invalidate_cache()
        if not self.fs.exists(folder):
            return []
        found = [posixpath.relpath(path, folder) for path in self.fs.find(folder)]
        return sorted(path for path in found if _is_part(path))


def write_part(url: str, storage: Storage, path: str, rows: pa.Table) -> Part:
    """Write a part below a staging folder, in one piece."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    data = buffer.getvalue()
    fs, folder = filesystem(url, storage)
    write_atomically(fs, posixpath.join(folder, path), data)
    return Part(path, len(rows), len(data), hashlib.sha256(data).hexdigest())


def conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of a file that an older program wrote, with columns that it did not know as null."""
    if rows.schema.names == schema.names:
        return rows
    columns = [
        rows[field.name] if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def row_groups(parquet: pq.ParquetFile) -> Iterator[pa.Table]:
    """The rows of a file, one group after the other."""
    for number in range(parquet.num_row_groups):
        yield parquet.read_row_group(number)


def date_of(path: str) -> str:
    """The date of a file by its path below the root."""
    return path.split("/")[0].removeprefix("date=")


def nights_between(
    nights: Sequence[str], first: datetime.date | None, last: datetime.date | None
) -> list[str]:
    """Those of some dates that lie in a range, its ends included; None leaves it open."""
    return [
        night
        for night in nights
        if (not first or night >= first.isoformat()) and (not last or night <= last.isoformat())
    ]


def _is_part(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder.startswith("date=") and name.endswith(".parquet") and name[0] not in "._"
