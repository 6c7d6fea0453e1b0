"""What a path is among our own tables, and which feature set features are of.

A file that another program saved again has lost its key-value metadata; its columns say what
it is then.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from item.tables import decoded, feature_set_of
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import is_s3, normalise
from pipelines.tables.columns import as_text

FEATURES = "features"
_TELLING = {
    FEATURES: {"uri", "status", "image_embedding", "global_misalignment"},
    "scores": {"uri", "verdict", "head_id", "explanation"},
    "rejects": {"error_code", "rows", "share", "reason"},
    "evidence": {"uri", "image_id", "thumbnail"},
}
"""Columns by which a table is known."""
_NIGHT = "date="


@dataclass(frozen=True)
class OwnTable:
    """One of our tables, or some of its nights."""

    kind: str
    """``features``, ``scores``, ``rejects`` or ``evidence``."""
    root: str
    """Where its nights are."""
    night: str | None = None
    """The date, where a night's folder or file was given."""
    has_nights: bool = True
    """False for Parquet that lies in no ``date=…`` folder."""


def table_kind(schema: pa.Schema) -> str | None:
    """Which of our tables a file is of; None for any other Parquet."""
    try:
        said = decoded(schema.metadata).get("table")
    except ValueError:
        said = None
    if said in _TELLING:
        return str(said)
    names = set(schema.names)
    return next((kind for kind, columns in _TELLING.items() if columns <= names), None)


def feature_set_in(parquet: pq.ParquetFile) -> str | None:
    """The feature set of a file of features; see :func:`item.tables.feature_set_of`."""
    schema, column = parquet.schema_arrow, "feature_set_id"
    if column not in schema.names:
        return feature_set_of(schema.empty_table())
    groups = [parquet.read_row_group(n, [column])[column] for n in range(parquet.num_row_groups)]
    names = pa.chunked_array([pc.unique(as_text(one)) for one in groups], pa.string())
    return feature_set_of(pa.table({column: names}).replace_schema_metadata(schema.metadata))


def own_table(url: str, storage: Storage) -> OwnTable | None:
    """What a folder or file is among our tables; None if it is something else.

    The root of an audit counts as its features.
    """
    url = normalise(url)
    fs, path = filesystem(url, storage)
    fs.invalidate_cache()
    name = posixpath.basename(path)
    if fs.isfile(path):
        kind = _kind_of_file(fs, path)
        folder = posixpath.basename(posixpath.dirname(path))
        if kind and folder.startswith(_NIGHT):
            return OwnTable(kind, _above(url, 2), folder.removeprefix(_NIGHT))
        return OwnTable(kind, url, has_nights=False) if kind else None
    if name.startswith(_NIGHT):
        kind = _kind_in(fs, path)
        return OwnTable(kind, _above(url, 1), name.removeprefix(_NIGHT)) if kind else None
    if (kind := _kind_of_nights(fs, path)) is not None:
        return OwnTable(kind, url)
    if _kind_of_nights(fs, posixpath.join(path, FEATURES)) == FEATURES:
        return OwnTable(FEATURES, f"{url}/{FEATURES}")
    kind = _kind_in(fs, path)
    return OwnTable(kind, url, has_nights=False) if kind else None


def _kind_of_nights(fs: AbstractFileSystem, path: str) -> str | None:
    for folder in _listed(fs, path):
        if posixpath.basename(folder).startswith(_NIGHT) and (kind := _kind_in(fs, folder)):
            return kind
    return None


def _kind_in(fs: AbstractFileSystem, folder: str) -> str | None:
    """By the first Parquet that lies in a folder itself."""
    for file in _listed(fs, folder):
        if file.endswith(".parquet") and posixpath.basename(file)[0] not in "._":
            return _kind_of_file(fs, file)
    return None


def _kind_of_file(fs: AbstractFileSystem, path: str) -> str | None:
    if not path.endswith(".parquet"):
        return None
    try:
        with fs.open(path, "rb") as file:
            return table_kind(pq.read_schema(file))
    except (pa.ArrowException, OSError):
        return None


def _listed(fs: AbstractFileSystem, folder: str) -> list[str]:
    try:
        return sorted(name.rstrip("/") for name in fs.ls(folder, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _above(url: str, levels: int) -> str:
    for _ in range(levels):
        url = url.rpartition("/")[0]
    return url if is_s3(url) else url or "/"
