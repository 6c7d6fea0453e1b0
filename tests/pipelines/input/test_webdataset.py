from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.support.dumps import keys_of, make, planned, prefix, rows_of, tar_of

SAMPLES = [
    ("./000.jpg", b"0"),
    ("./000.txt", b"a caption\n"),
    ("./000.json", json.dumps({"label": 1, "generator": "sd", "source": "s"}).encode()),
    ("sub/001.PNG", b"1"),
    ("sub/001.cls", b"0"),
    ("../../etc/passwd.jpg", b"2"),
    ("._000.jpg", b"hidden"),
    ("3.left.jpg", b"3l"),
    ("3.right.jpg", b"3r"),
    ("3.json", b'{"label": 9, "captions": ["\\ud800", 4], "generator": 5}'),
    ("./000.jpg", b"again"),
]


@pytest.mark.parametrize("name", ["shard-0.tar", "shard-0.tar.gz"])
def test_tar_members_and_what_lies_beside_them(store, name: str) -> None:
    tar = tar_of(SAMPLES)
    root = store({f"date=2026-01-02/{name}": gzip.compress(tar) if name.endswith("gz") else tar})
    found = planned(root)
    rows = rows_of(found)
    assert (found.rows is None) == (name.endswith("gz") or root.startswith("s3://"))
    at = f"{prefix(root)}date=2026-01-02/{name}!"
    summary = [
        (row["uri"].removeprefix(at), row["bytes"], row["label"], row["captions"]) for row in rows
    ]
    assert summary == [
        ("./000.jpg", b"0", 1, ["a caption"]),
        ("sub/001.PNG", b"1", 0, None),
        ("../../etc/passwd.jpg", b"2", None, None),
        ("3.left.jpg", b"3l", None, ["\\ud800"]),
        ("3.right.jpg", b"3r", None, ["\\ud800"]),
        ("./000.jpg", None, None, None),
    ]
    assert [row["source"] for row in rows] == ["s", *["shard-0"] * 5]
    assert {row["date"] for row in rows} == {"2026-01-02"}
    assert (rows[0]["generator"], rows[3]["generator"]) == ("sd", None)
    assert (rows[5]["occurrence"], rows[5]["error_code"]) == (1, "duplicate_uri")


def test_tar_cut_anywhere_keeps_what_was_read_and_says_so_once(tmp_path: Path) -> None:
    whole = tar_of([("0.jpg", b"0" * 600), ("0.txt", b"t" * 600), ("1.jpg", b"1" * 600)])
    for end in range(0, len(whole.rstrip(b"\0")), 211):
        make(tmp_path, {"x.tar": whole[:end]})
        found = planned(tmp_path)
        rows = rows_of(found)
        codes = [row["error_code"] for row in rows]
        assert codes == [None] * (len(rows) - 1) + ["unreadable_archive"]
        assert len(rows) == found.rows
        finished = keys_of(rows)
        assert rows_of(found, finished) == []


def test_big_and_linked_members_are_reported(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, size in [("a.jpg", tarfile.REGTYPE, 5), ("b.jpg", tarfile.SYMTYPE, 0)]:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, size, "/etc/passwd"
            tar.addfile(info, io.BytesIO(b"12345"))
    make(tmp_path, {"x.tar": buffer.getvalue()})
    rows = rows_of(planned(tmp_path), max_bytes=4)
    assert [row["error_code"] for row in rows] == ["too_many_bytes", "missing_bytes"]


def test_cut_within_a_member_of_unknown_type_is_counted_as_it_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.size = b"Z", 600
        tar.addfile(info, io.BytesIO(b"1" * 600))
    make(tmp_path, {"x.tar": buffer.getvalue()[:700]})
    rows = rows_of(planned(tmp_path))
    assert [row["error_code"] for row in rows] == ["missing_bytes", "unreadable_archive"]
