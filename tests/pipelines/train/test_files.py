"""Parquet files of a table."""

from __future__ import annotations

from pathlib import Path

from pipelines.storage.access import Storage
from pipelines.train.files import parquet_files
from tests.item.heads.examples import features_table
from tests.support.feature_tables import write_features


def test_names_that_readers_skip_are_left_out(tmp_path: Path) -> None:
    root = write_features(tmp_path / "table", features_table(10))
    write_features(tmp_path / "table" / "_staging" / "work", features_table(10, seed=1))
    (tmp_path / "table" / "notes.txt").touch()
    [file] = parquet_files(root, Storage())
    assert file == f"{root}/date=2026-01-30/part-0.parquet"
    assert parquet_files(file, Storage()) == [file]
