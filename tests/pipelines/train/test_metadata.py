"""A metadata column joins whatever its type, whoever wrote it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from item.errors import UsageError
from pipelines.storage.configuration import Storage
from pipelines.train.metadata import metadata_column

LOCAL = Storage()
URIS = ["/pictures/a.jpg", "/pictures/b.jpg", "/pictures/c.jpg"]


def joined(path: Path, uris: Any = URIS) -> list[str | None]:
    return metadata_column(uris, str(path), "prompt", LOCAL).to_pylist()


COLUMNS: dict[str, tuple[list[Any], list[str | None]]] = {
    "categories": (pd.Categorical(["x", None, "x"]), ["x", None, "x"]),
    "whole numbers with a gap": ([7, None, 8], ["7", None, "8"]),
    "days": ([datetime.date(2026, 1, day) for day in (1, 2, 1)], ["2026-01-01", "2026-01-02"]),
    "truth": ([True, False, True], ["true", "false", "true"]),
    "lists": ([["x"], [], ["x"]], ['["x"]', "[]", '["x"]']),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_any_type_join(tmp_path: Path, name: str) -> None:
    values, expected = COLUMNS[name]
    frame = pd.DataFrame({"uri": pd.Categorical(URIS), "prompt": values})
    frame.to_parquet(tmp_path / "metadata.parquet")
    found = joined(tmp_path / "metadata.parquet")
    assert found[: len(expected)] == expected
    assert (found[0] == found[2]) == (expected[0] == (expected * 2)[2])


def test_files_may_differ_in_their_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": URIS[:1], "prompt": [7]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"uri": URIS[1:2], "prompt": ["7"]}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text(f"prompt,uri\n7,{URIS[2]}\n")
    assert joined(tmp_path) == ["7", "7", "7"]


def test_uris_may_be_spelled_otherwise(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,uri\nx,a.jpg\ny,./b/../b.jpg\nz,s3a://bucket/c.jpg\n")
    uris = [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg", "s3://bucket/c.jpg", "d.jpg"]
    assert joined(tmp_path / "a.csv", uris) == ["x", "y", "z", None]
    assert joined(tmp_path / "a.csv", ["a.jpg"]) == ["x"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("uri,prompts\na,x\n", "has no column 'prompt'"),
        ("url,prompt\na,x\n", "has no column 'uri'"),
        ("uri,prompt,prompt\na,x,y\n", "2 columns named 'prompt'"),
        ("uri,prompt\nother.jpg,x\n", "none of the URIs"),
    ],
)
def test_what_cannot_be_joined_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(UsageError, match=sentence):
        joined(tmp_path / "metadata.csv")
