"""The rejects view of a night: rows without features, by reason and source."""

from __future__ import annotations

import posixpath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from item.tables import REJECTS, SCHEMA_VERSION, ErrorCode, Status, encoded, typed
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join
from pipelines.tables.features import FeatureTable
from pipelines.tables.published import PublishedTable

EXAMPLES = 5
"""URIs that the rejects view names for each reason and source."""


def write_rejects(root: str, night: str, storage: Storage) -> pa.Table:
    """Make the rejects view of a published night; returns it."""
    features = FeatureTable(join(root, "features"), storage)
    rows = []
    for path in features.published([night]):
        with features.fs.open(posixpath.join(features.path, path), "rb") as file:
            columns = ["uri", "source", "status", "error_code"]
            found = typed(pq.ParquetFile(file).read(columns=columns))
            rows.append(found.replace_schema_metadata(None))
    view = rejects(pa.concat_tables(rows))
    schema = REJECTS.with_metadata(encoded({"table": "rejects", "schema_version": SCHEMA_VERSION}))
    table = PublishedTable(join(root, "rejects"), storage)
    table.replace(night, [view], schema, {}, "rejects.parquet")
    return view


def rejects(rows: pa.Table) -> pa.Table:
    """Rows without features by reason and source, most frequent first.

    Parameters
    ----------
    rows : with ``uri``, ``source``, ``status`` and ``error_code``, of a whole night

    Returns
    -------
    Table of the schema ``REJECTS``.
    """
    sizes = {one["values"]: one["counts"] for one in pc.value_counts(rows["source"]).to_pylist()}
    without = rows.filter(pc.not_equal(rows["status"], Status.OK)).sort_by("uri")
    groups = without.group_by(["error_code", "status", "source"], use_threads=False).aggregate(
        [("uri", "count"), ("uri", "list")]
    )
    view = [
        {
            "error_code": one["error_code"],
            "status": one["status"],
            "source": one["source"],
            "rows": one["uri_count"],
            "share": one["uri_count"] / sizes[one["source"]],
            "reason": ErrorCode(one["error_code"]).sentence,
            "examples": one["uri_list"][:EXAMPLES],
        }
        for one in groups.to_pylist()
    ]
    view.sort(key=lambda one: (-one["rows"], one["error_code"], one["source"] or ""))
    return pa.Table.from_pylist(view, schema=REJECTS)
