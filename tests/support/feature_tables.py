"""Features tables on disk, with the provenance that readers of them check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from item.tables import KEYS_VERSION, SCHEMA_VERSION, encoded
from tests.item.heads.examples import FEATURE_SET


def write_features(
    path: Path, table: pa.Table, feature_set: str = FEATURE_SET, **options: Any
) -> str:
    """A features table of one file; returns its root."""
    facts = encoded(
        {
            "feature_set_id": feature_set,
            "schema_version": SCHEMA_VERSION,
            "keys_version": KEYS_VERSION,
        }
    )
    file = path / "date=2026-01-30" / "part-0.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(facts), file, **options)
    return str(path)


def write_prompts(path: Path, uris: list[str], prompts: list[str | None]) -> str:
    """A metadata table with the prompt of each URI; returns its path."""
    pq.write_table(pa.table({"uri": uris, "prompt": prompts}), path)
    return str(path)
