"""A column of a metadata table, such as the prompt, for rows that are known by their URI."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from item.errors import UsageError
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import redact
from pipelines.train.files import read_text
from pipelines.train.joining import UriIndex


def metadata_column(uris: Any, metadata: str, column: str, storage: Storage) -> pa.Array:
    """A column of a metadata table as text, for each of the URIs; null where it names none.

    Raises
    ------
    UsageError
        If the table cannot be read, lacks the column, or names none of the URIs.
    """
    parts, files = [], list[str]()
    for url, table in read_text(metadata, dict.fromkeys(["uri", column]), storage, "groups"):
        missing = {"uri", column} - set(table.column_names)
        if missing:
            raise UsageError(f"The metadata table {redact(url)} has no column '{min(missing)}'.")
        parts.append(table)
        files += [url] * len(table)
    table = pa.concat_tables(parts)
    wanted = uris.to_pylist() if isinstance(uris, pa.ChunkedArray) else list(uris)
    places = UriIndex(table["uri"].to_pylist(), files).places(wanted)
    if (places < 0).all():
        raise UsageError(
            f"The metadata table {redact(metadata)} has none of the URIs of the features table."
        )
    return table[column].take(pa.array(places, mask=places < 0))
