"""Parquet files of a table, and tables of Parquet or CSV as text."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from item.errors import UsageError
from pipelines.storage.configuration import Storage
from pipelines.train.files import parquet_files, read_text
from tests.item.heads.examples import features_table
from tests.support.feature_tables import write_features

LOCAL = Storage(retries=0)
WANTED = ("uri", "label", "generator")


def read(path: Path | str) -> list[dict[str, Any]]:
    tables = [table for _, table in read_text(str(path), WANTED, LOCAL, "labels")]
    return [row for table in tables for row in table.to_pylist()]


def test_names_that_readers_skip_are_left_out(tmp_path: Path) -> None:
    root = write_features(tmp_path / "table", features_table(10))
    write_features(tmp_path / "table" / "_staging" / "work", features_table(10, seed=1))
    (tmp_path / "table" / "notes.txt").touch()
    [file] = parquet_files(root, Storage())
    assert file == f"{root}/date=2026-01-30/part-0.parquet"
    assert parquet_files(file, Storage()) == [file]


CSVS = {
    "commas": b"uri,label,extra\na.jpg,1,x\nb.jpg,,y\n",
    "semicolons, as spreadsheets write them": b"\xef\xbb\xbfuri;label\r\na.jpg;1\r\nb.jpg;\r\n",
    "quotes": b'"label","uri"\n"1","a.jpg"\n"","b.jpg"\n',
}


@pytest.mark.parametrize("content", CSVS.values(), ids=CSVS)
def test_csv_is_read_as_it_is_written(tmp_path: Path, content: bytes) -> None:
    expected = [{"uri": "a.jpg", "label": "1"}, {"uri": "b.jpg", "label": None}]
    (tmp_path / "labels.csv").write_bytes(content)
    assert read(tmp_path / "labels.csv") == expected
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(content, mtime=0))
    assert read(tmp_path / "labels.csv.gz") == expected
    (tmp_path / "labels.tsv").write_bytes(content.replace(b",", b"\t").replace(b";", b"\t"))
    assert read(tmp_path / "labels.tsv") == expected


def test_words_that_look_like_nothing_are_words(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("uri,generator\n001,NA\nnan,null\n")
    assert read(tmp_path / "labels.csv") == [
        {"uri": "001", "generator": "NA"},
        {"uri": "nan", "generator": "null"},
    ]


def test_a_folder_of_files_is_one_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["a"], "label": [1]}), tmp_path / "1.parquet")
    (tmp_path / "2.csv").write_text("uri,label\nb,0\n")
    (tmp_path / ".3.csv").write_text("uri,label\nc,0\n")
    assert read(tmp_path) == [{"uri": "a", "label": "1"}, {"uri": "b", "label": "0"}]


def test_tables_are_read_from_s3(s3: Any, bucket: str) -> None:
    s3.fill(bucket, {"tables/labels.csv": b"uri,label\na.jpg,1\n"})
    assert read(f"s3://{bucket}/tables/labels.csv") == [{"uri": "a.jpg", "label": "1"}]


def twice(path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array([1])]
    pq.write_table(pa.Table.from_arrays(columns, names=["uri", "uri", "label"]), path)


USELESS = {
    "There is no Parquet and no CSV": lambda p: (p / "labels.txt").write_text("a"),
    "columns named 'uri'": lambda p: twice(p / "labels.parquet"),
    "2 columns named 'label'": lambda p: (p / "a.csv").write_text("uri,label,label\na,1,0\n"),
    "cannot be read: .*Parquet": lambda p: (p / "a.parquet").write_text("uri,label"),
    "cannot be read: .*utf-8": lambda p: (p / "a.csv").write_bytes(b"uri,label\n\xff\xfe,1\n"),
    "cannot be read: .*[Gg]zip": lambda p: (p / "a.csv.gz").write_bytes(b"uri,label\n"),
    "cannot be read: .*Expected 2 columns": lambda p: (p / "a.csv").write_text(
        "uri,label\na,1,2,3\n"
    ),
}


@pytest.mark.parametrize("sentence", USELESS)
def test_useless_tables_are_refused_in_one_sentence(tmp_path: Path, sentence: str) -> None:
    USELESS[sentence](tmp_path)
    with pytest.raises(UsageError, match=sentence):
        read(tmp_path)
