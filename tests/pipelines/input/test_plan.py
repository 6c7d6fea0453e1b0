from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from item.errors import UsageError
from tests.support.dumps import make, parquet_of, planned, rows_of


def test_date_folders_give_dates_and_are_no_source(store) -> None:
    root = store({"date=2025-12-30/cats/a.jpg": b"a", "date=2025-13-45/c.jpg": b"c"})
    found = planned(root, date=date(2025, 1, 1))
    assert [(row["date"], row["source"]) for row in rows_of(found)] == [
        ("2025-12-30", "cats"),
        ("2025-01-01", None),
    ]
    assert found.dates == ("2025-01-01", "2025-12-30")
    assert planned(f"{root}/date=2025-12-30").dates == ("2025-12-30",)


def test_row_groups_are_pieces_and_rows_keep_their_order(tmp_path: Path) -> None:
    uris = [f"u{number:03}" for number in range(100)]
    both = {"uri": uris, "bytes": [uri.encode() for uri in uris]}
    make(tmp_path / "both", {"t.parquet": parquet_of(both, row_group_size=10)})
    make(tmp_path / "uris", {"t.parquet": parquet_of({"uri": uris}, row_group_size=64)})
    whole = planned(tmp_path / "both", rows_per_task=25)
    assert [(piece.start, piece.stop) for piece in whole.pieces] == [
        (0, 30), (30, 60), (60, 90), (90, 100),
    ]  # fmt: skip
    assert [row["bytes"].decode() for row in rows_of(whole)] == uris
    split = planned(tmp_path / "uris", rows_per_task=25)
    assert len(split.pieces) > 2
    assert [row["uri"] for row in rows_of(split)] == [f"{tmp_path}/uris/{uri}" for uri in uris]


def test_a_file_that_is_no_parquet_is_named(store) -> None:
    root = store({"t.parquet": b"PAR1 not really", "u.parquet": parquet_of({"uri": ["x"]})})
    with pytest.raises(UsageError, match=r"t\.parquet cannot be read as a Parquet file"):
        planned(root)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a.txt": b"", "b.md": b""}, r"no image files there \(left out: 1 .md, 1 .txt\)"),
        (
            {"a.jpg": b"", "t.parquet": b""},
            "1 image files and 1 Parquet files: say which is meant with --set reading.kind=images",
        ),
        ({".a.jpg": b""}, "left out: 1 hidden"),
    ],
)
def test_inputs_without_anything_to_read_are_refused(files, sentence, store) -> None:
    with pytest.raises(UsageError, match=sentence):
        planned(store(files))


def test_missing_inputs_are_refused(tmp_path: Path, bucket: str) -> None:
    for gone in (tmp_path / "gone", f"s3://{bucket}/gone", "s3://no-such-bucket/x"):
        with pytest.raises(UsageError, match="There is no"):
            planned(gone)
    with pytest.raises(UsageError, match="nothing to read"):
        planned(tmp_path)


def test_fingerprint_changes_with_the_files_and_not_with_their_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        make(tmp_path / place, {"a.jpg": b"a", "b.jpg": b"b"})
        for name in ("a.jpg", "b.jpg"):
            os.utime(tmp_path / place / name, (1, 1))
    one = planned(tmp_path / "one").fingerprint()
    assert planned(tmp_path / "two", rows_per_task=1).fingerprint() == one
    make(tmp_path, {"two/a.jpg": b"A"})
    assert planned(tmp_path / "two").fingerprint() != one
