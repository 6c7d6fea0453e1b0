"""Rows of the features table without models, and the columns that analysts are promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from item.tables import EMBEDDING, FEATURES, STORED_EMBEDDING
from pipelines.runtime.stages import SECONDS

DIMENSIONS = 4
NIGHT = "2026-01-30"
VERSION = "1-mark"

COLUMNS = sorted(
    [
        "feature_set_id",
        "image_id",
        "uri",
        "input_version",
        "listed_in",
        "source",
        "date",
        "status",
        "error_code",
        "error_message",
        "width",
        "height",
        "format",
        "jpeg_quality",
        "label",
        "generator",
        "caption",
        "objects",
        "global_similarity",
        "local_similarity_min",
        "local_similarity_mean",
        "local_similarity_max",
        "local_similarity_std",
        "object_count",
        "ungrounded_fraction",
        "image_embedding",
        "parts_embedding",
        "global_misalignment",
        "local_misalignment",
        "layers",
        "notes",
        "byte_count",
        "digital_source_type",
    ]
)
"""What ``pd.read_parquet`` returns, written out so that it cannot change unnoticed."""


def done(*uris: str, date: str | list[str] = NIGHT, **columns: Any) -> pa.Table:
    """Rows as the last stage leaves them; those whose URI holds ``bad`` are rejected."""
    names = {field.name for field in FEATURES}
    rows: list[dict[str, Any]] = []
    for number, uri in enumerate(uris):
        row: dict[str, Any] = {"uri": uri, "input_version": VERSION}
        row["occurrence"] = uris[:number].count(uri)
        row |= {"date": date if isinstance(date, str) else date[number], SECONDS + "decode": 0.5}
        if "bad" in uri:
            row |= {"status": "rejected", "error_code": "truncated", "error_message": "It ends."}
        else:
            embedding = np.eye(DIMENSIONS, dtype=np.float32)[number % DIMENSIONS].tolist()
            row |= {"status": "ok", "caption": "a cat", "objects": [], "object_count": 0}
            row |= {name: embedding for name in names if name.endswith(("bedding", "alignment"))}
        rows.append(row | {name: values[number] for name, values in columns.items()})
    fields = [
        pa.field(field.name, EMBEDDING if field.type == STORED_EMBEDDING else field.type)
        for field in FEATURES
    ]
    fields += [
        ("occurrence", pa.int32()),
        ("date", pa.string()),
        (SECONDS + "decode", pa.float32()),
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))
