from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.input.archives import members
from pipelines.tables.row_keys import RowChoice
from tests.support.dumps import STORAGE, keys_of, make, planned, prefix, rows_of, tar_of

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
        ("./000.jpg", None, 1, ["a caption"]),
    ]
    assert [row["source"] for row in rows] == ["s", *["shard-0"] * 4, "s"]
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


ABOUT = json.dumps({"Label": "1", "GENERATOR": "SDXL", "caption": "a dog"}).encode()


def packed(kind: str, content: list[tuple[str, bytes]]) -> bytes:
    if kind == "x.zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in content:
                file.writestr(name, data)
        return buffer.getvalue()
    tar = tar_of(content)
    return gzip.compress(tar) if kind.endswith("gz") else tar


@pytest.mark.parametrize("kind", ["x.tar", "x.tar.gz", "x.zip"])
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_side_files_belong_to_their_picture_in_any_order_and_case(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = []
    for number in range(4):
        image, about = data.draw(st.sampled_from([(".jpg", ".json"), (".PNG", ".JSON")]))
        folder = data.draw(st.sampled_from(["", "./", "a/"]))
        content.append((f"{folder}{number}{image}", bytes([number])))
        content.append((f"{folder}{number}{about}", ABOUT))
    root = tmp_path_factory.mktemp("dump")
    make(root, {kind: packed(kind, data.draw(st.permutations(content)))})
    rows = rows_of(planned(root))
    assert sorted(row["bytes"] for row in rows) == [bytes([number]) for number in range(4)]
    for row in rows:
        assert (row["label"], row["generator"], row["captions"]) == (1, "SDXL", ["a dog"])


def test_what_is_not_understood_of_side_files_is_counted(store) -> None:
    content = [
        ("0.jpg", b"0"),
        ("0.json", b"[1]"),
        ("1.jpg", b"1"),
        ("1.cls", b"seven"),
        ("2.jpg", b"2"),
        ("2.json", json.dumps({"label": 2}).encode()),
        ("lone.txt", b"of no picture"),
        ("3.jpg", b"3"),
        ("3.txt", b"t" * (1 << 20) + b"t"),
    ]
    root = store({"x.tar": tar_of(content)})
    notices: Counter[str] = Counter()
    rows = members.rows(
        *(root, "x.tar", "2026-01-31", RowChoice(), STORAGE),
        max_bytes=100,
        version="1",
        notices=notices,
    )
    assert len(list(rows)) == 4
    assert notices == {
        "side files of an archive are not JSON objects and not used": 1,
        "labels of side files are neither 0 nor 1 and are taken as unknown": 2,
        "side files of an archive lie beside no picture": 1,
        "side files of an archive are too large and not read": 1,
    }


def test_first_of_two_side_files_of_one_name_counts(store) -> None:
    content = [("0.jpg", b"0"), ("0.cls", b"0"), ("0.jpg", b"again"), ("0.cls", b"1")]
    first, again = rows_of(planned(store({"x.tar": tar_of(content)})))
    assert (first["label"], first["bytes"]) == (0, b"0")
    assert again["error_code"] == "duplicate_uri"


def test_pictures_of_a_stream_wait_no_longer_than_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "WAITING_BYTES", 3)
    pictures = [(f"{number}.jpg", bytes([number])) for number in range(9)]
    sides = [(f"{number}.cls", b"1") for number in range(9)]
    make(tmp_path, {"x.tgz": gzip.compress(tar_of(pictures + sides))})
    rows = rows_of(planned(tmp_path))
    assert [row["bytes"] for row in rows] == [content for _, content in pictures]
    assert [row["label"] for row in rows] == [None] * 6 + [1] * 3
