"""A column of a metadata table, such as the prompt, for rows that are known by their URI."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from item.errors import UsageError
from pipelines.storage.access import Storage, filesystem
from pipelines.storage.urls import redact
from pipelines.train.files import parquet_files


def metadata_column(uris: Any, metadata: str, column: str, storage: Storage) -> pa.Array:
    """A column of a metadata table for each of the URIs; null where it does not name one.

    Raises
    ------
    UsageError
        If the table cannot be read, lacks the column, or names none of the URIs.
    """
    parts = []
    for url in parquet_files(metadata, storage):
        fs, path = filesystem(url, storage)
        with fs.open(path, "rb") as content:
            parquet = pq.ParquetFile(content)
            missing = {"uri", column} - set(parquet.schema_arrow.names)
            if missing:
                raise UsageError(
                    f"The metadata table {redact(metadata)} has no column '{min(missing)}'."
                )
            parts.append(parquet.read(columns=["uri", column]))
    if not parts:
        raise UsageError(f"There is no Parquet at {redact(metadata)} to read groups from.")
    table = pa.concat_tables(parts, promote_options="permissive")
    if not isinstance(uris, pa.ChunkedArray):
        uris = pa.array(uris, pa.string())
    place = pc.index_in(uris, value_set=table["uri"])
    if place.null_count == len(uris):
        raise UsageError(
            f"The metadata table {redact(metadata)} has none of the URIs of the features table."
        )
    return table[column].take(place)
