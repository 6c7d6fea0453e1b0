from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.input.archives import members, side_files
from pipelines.input.archives.tars import Tar
from pipelines.tables.row_keys import RowChoice
from tests.support.dumps import STORAGE, Rows, keys_of, make, planned, prefix, rows_of, tar_of

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
    content = gzip.compress(tar, mtime=0) if name.endswith("gz") else tar
    root = store({f"date=2026-01-02/{name}": content})
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
    return gzip.compress(tar, mtime=0) if kind.endswith("gz") else tar


def said(row: dict[str, Any]) -> tuple[object, ...]:
    return (row["bytes"], row["label"], row["generator"], row["source"], row["captions"])


def noticed(root: str, name: str, choice: RowChoice | None = None) -> tuple[Rows, Counter[str]]:
    """Rows of an archive, and what was told of it."""
    notices: Counter[str] = Counter()
    rows = members.rows(
        *(root, name, "2026-01-31", choice or RowChoice(), STORAGE),
        max_bytes=1 << 20,
        version="1",
        notices=notices,
    )
    return [row.as_dict() for row in rows], notices


SIDES = {
    ".json": [(ABOUT, {"label": 1, "generator": "SDXL", "captions": ["a dog"]})],
    ".cls": [(b"0", {"label": 0}), (b"1.0\n", {"label": 1}), (b" Generated", {"label": 1})],
    ".txt": [(b"\xef\xbb\xbfa cat\n", {"captions": ["a cat"]})],
}
cases = st.sampled_from([str.lower, str.upper, str.title])


@st.composite
def samples(draw: st.DrawFn) -> tuple[list[tuple[str, bytes]], dict[bytes, dict[str, Any]]]:
    """Members in any order, and by a picture's bytes what its side files say."""
    content, expected = [], {}
    for number in range(draw(st.integers(1, 5))):
        folder = draw(st.sampled_from(["", "./", "a/", "a.b/"]))
        image = draw(st.sampled_from([".jpg", ".png", ".left.webp"]))
        name = f"{folder}{number}{draw(cases)(image)}"
        content.append((name, bytes([number])))
        about: dict[str, Any] = {}
        kinds = [".json"] if draw(st.booleans()) else [".cls", ".txt"]
        for kind in draw(st.lists(st.sampled_from(kinds), unique=True)):
            text, values = draw(st.sampled_from(SIDES[kind]))
            stem = draw(st.sampled_from([name, os.path.splitext(name)[0], f"{folder}{number}"]))
            content.append((stem + draw(cases)(kind), text))
            about |= values
        expected[bytes([number])] = about
    return draw(st.permutations(content)), expected


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip", "gzipped.tar", "zipped.tar"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dump=samples())
def test_side_files_belong_to_their_picture_in_any_order_and_case(
    name: str, dump: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content, expected = dump
    root = tmp_path_factory.mktemp("dump")
    kind = {"gzipped.tar": "x.tar.gz", "zipped.tar": "x.zip"}.get(name, name)
    make(root, {name: packed(kind, content)})
    rows, notices = noticed(str(root), name)
    assert {row["bytes"]: said(row)[1:] for row in rows} == {
        picture: (
            about.get("label"),
            about.get("generator"),
            name.partition(".")[0],
            about.get("captions"),
        )
        for picture, about in expected.items()
    }
    assert not notices


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_labels_of_a_stream_are_found_in_any_order(data: st.DataObject, s3, bucket: str) -> None:
    labels = data.draw(st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=5))
    content = [(f"{number}.jpg", bytes([number])) for number in range(len(labels))]
    content += [
        (f"{number}.json", json.dumps({"label": label}).encode())
        for number, label in enumerate(labels)
        if label is not None
    ]
    kind = data.draw(st.sampled_from(["x.tar", "x.tar.gz", "x.zip"]))
    s3.fill(bucket, {kind: packed(kind, data.draw(st.permutations(content)))})
    rows, notices = noticed(f"s3://{bucket}", kind)
    assert {row["bytes"]: row["label"] for row in rows} == {
        bytes([number]): label for number, label in enumerate(labels)
    }
    assert not notices


ADJACENT = [(f"{n}.{kind}", b"1") for n in range(40) for kind in ("jpg", "cls")]
APART = sorted(ADJACENT, key=lambda member: member[0].endswith("cls"))


@pytest.mark.parametrize(("content", "times"), [(ADJACENT, 1), (APART, 2)])
def test_a_stream_is_read_twice_only_if_side_files_are_apart(
    content: list[tuple[str, bytes]],
    times: int,
    s3,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = [(name, b"x" * 5000 if "jpg" in name else body) for name, body in content]
    s3.fill(bucket, {"x.tgz": packed("x.tar.gz", pictures)})
    read = 0
    original = Tar._take

    def counted(tar: Tar, size: int, **options: Any) -> bytes:
        nonlocal read
        read += size
        return original(tar, size, **options)

    monkeypatch.setattr(Tar, "_take", counted)
    rows, notices = noticed(f"s3://{bucket}", "x.tgz")
    assert [row["label"] for row in rows] == [1] * 40 and not notices
    once = len(tar_of(pictures).rstrip(b"\0"))
    assert times * once <= read + 1024 * times < (times + 0.2) * once


def test_what_comes_too_late_in_a_stream_is_told(s3, bucket: str) -> None:
    content = [("0.jpg", b"0"), ("0.cls", b"1"), ("1.jpg", b"1"), ("1.cls", b"1")]
    s3.fill(bucket, {"x.tar": tar_of([*content, ("0.txt", b"late")])})
    rows, notices = noticed(f"s3://{bucket}", "x.tar")
    assert [(row["label"], row["captions"]) for row in rows] == [(1, None)] * 2
    assert notices == {side_files.LOOSE_OR_LATE: 1}


def test_a_stream_whose_rows_are_done_is_read_once_and_tells_nothing(s3, bucket: str) -> None:
    s3.fill(bucket, {"x.tar": tar_of(APART)})
    found = planned(f"s3://{bucket}/x.tar")
    finished = keys_of(rows_of(found))
    [piece] = found.pieces
    rows = members.rows(
        *(f"s3://{bucket}", "x.tar", found.default_date, RowChoice(finished), STORAGE),
        max_bytes=100,
        version=piece.version,
        notices=(notices := Counter()),
    )
    assert list(rows) == [] and not notices


@pytest.mark.parametrize("content", [ADJACENT, APART])
def test_side_files_beyond_memory_are_used_next_to_their_picture_or_told(
    content: list[tuple[str, bytes]], store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_files, "MOST_BYTES", 10 * side_files._ENTRY_BYTES)
    rows, notices = noticed(store({"x.tar": tar_of(content)}), "x.tar")
    labels = [row["label"] for row in rows]
    assert len(labels) == 40
    if content is ADJACENT:
        assert labels == [1] * 40 and not notices
    else:
        assert 0 < labels.count(1) < 20
        assert notices == {side_files.CROWDED: labels.count(None)}


def test_memory_for_side_files_is_bounded() -> None:
    tracemalloc.start()
    sides = side_files.SideFiles(Counter(), most_bytes=4 << 20)
    names = (f"{n:09}.json" for n in range(100_000))
    about = b'{"label": 1, "generator": "sd", "caption": "a cat \xe2\x82\xac on a mat"}'
    taken = [sides.add(side_files.read_side_file(name, about)) for name in names]
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 5000 < sum(taken) < 10_000
    assert size < 6 << 20


def test_what_is_not_understood_of_side_files_is_counted(store) -> None:
    content = [
        ("0.jpg", b"0"),
        ("0.json", b"[1]"),
        ("1.jpg", b"1"),
        ("1.cls", b"seven"),
        ("2.jpg", b"2"),
        ("2.json", json.dumps({"label": 2, "generator": 5, "captions": ["a", 4]}).encode()),
        ("3.jpg", b"3"),
        ("3.json", json.dumps({"label": 1, "caption": {"en": "a"}}).encode()),
        ("3.cls", b"0"),
        ("4.jpg", b"4"),
        ("4.json", b'{"label": null, "Label": "REAL", "source": "camera"}'),
        ("4.JSON", b"{}"),
        ("5.jpg", b"5"),
        ("5.txt", b"t" * (1 << 20) + b"t"),
        ("5.cls", b"1"),
        ("6.jpg", b"6"),
        ("6.json", b"["),
        ("lone.txt", b"of no picture"),
    ]
    rows, notices = noticed(store({"x.tar": tar_of(content)}), "x.tar")
    assert [said(row) for row in rows] == [
        (b"0", None, None, "x", None),
        (b"1", None, None, "x", None),
        (b"2", None, None, "x", ["a"]),
        (b"3", None, None, "x", None),
        (b"4", 0, None, "camera", None),
        (b"5", 1, None, "x", None),
        (b"6", None, None, "x", None),
    ]
    loose = {side_files.LOOSE, side_files.LOOSE_OR_LATE}.intersection(notices)
    assert [notices.pop(one) for one in loose] == [1]
    assert notices == {
        side_files.NO_JSON: 2,
        side_files.BAD_LABEL: 2,
        side_files.TWO_LABELS: 1,
        side_files.NO_TEXT: 3,
        side_files.REPEATED: 1,
        side_files.TOO_LONG: 1,
    }


def test_a_side_file_that_cannot_be_read_costs_itself_alone(store) -> None:
    data = bytearray(packed("x.zip", [("0.cls", b"1"), ("0.jpg", b"0"), ("1.cls", b"1")] * 1))
    data[data.index(b"PK\1\2") + 8] |= 1
    rows, notices = noticed(store({"x.zip": bytes(data)}), "x.zip")
    assert [(row["bytes"], row["label"]) for row in rows] == [(b"0", None)]
    assert notices[side_files.UNREADABLE] == 1


def test_nearest_name_counts_where_several_side_files_speak_of_a_picture(store) -> None:
    content = [
        ("0.left.jpg", b"left"),
        ("0.right.jpg", b"right"),
        ("0.json", b'{"label": 1, "caption": "both"}'),
        ("0.left.cls", b"0"),
        ("0.right.jpg.txt", b"the right one"),
    ]
    rows, notices = noticed(store({"x.tar": tar_of(content)}), "x.tar")
    assert [(row["label"], row["captions"]) for row in rows] == [
        (0, ["both"]),
        (1, ["the right one"]),
    ]
    assert not notices


def test_first_of_two_side_files_of_one_name_counts(store) -> None:
    content = [("0.jpg", b"0"), ("0.cls", b"0"), ("0.jpg", b"again"), ("0.cls", b"1")]
    root = store({"x.tar": tar_of(content)})
    first, again = rows_of(planned(root))
    assert (first["label"], first["bytes"]) == (0, b"0")
    assert again["error_code"] == "duplicate_uri"
    assert noticed(root, "x.tar")[1] == {side_files.REPEATED: 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bz2.compress(tar_of(SAMPLES)), "bzip2"),
        (lzma.compress(tar_of(SAMPLES)), "xz"),
        (b"Rar!\x1a\x07\x01\0" + bytes(600), "rar"),
        (gzip.compress(b"no tar" * 200, mtime=0), "header"),
        (b"PK\3\4", "directory"),
        (b"", "end mark"),
    ],
)
def test_what_is_no_archive_that_is_read_is_one_row(data: bytes, reason: str, store) -> None:
    root = store({"x.tar": data})
    found = planned(root)
    [row] = rows_of(found)
    assert row["error_code"] == "unreadable_archive" and reason in row["error_message"]
    assert row["uri"] == f"{prefix(root)}x.tar" and found.rows in (1, None)
    assert rows_of(found, keys_of([row])) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["x.tar", "x.zip"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_archives_have_the_rows_that_were_counted(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(packed(kind, [*SAMPLES, ("9.jpg", b"9" * 600), ("a.jpg", b"a")]))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    root = str(make(tmp_path_factory.mktemp("dump"), {kind: bytes(content)}))
    rows, _ = noticed(root, kind)
    counted = members.keys(root, kind, STORAGE)
    assert [(row["uri"], row["occurrence"]) for row in rows] == counted
    assert len(set(counted)) == len(counted)
    finished = keys_of([{**row, "date": "2026-01-31"} for row in rows])
    assert noticed(root, kind, RowChoice(finished))[0] == []


def test_a_tar_whose_first_folder_is_called_pk_is_no_zip(store) -> None:
    [row] = rows_of(planned(store({"x.tar": tar_of([("PKU/0.jpg", b"0")])})))
    assert row["bytes"] == b"0"
