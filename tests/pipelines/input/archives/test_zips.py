"""Zip archives, as people pack them and as attackers would."""

from __future__ import annotations

import io
import struct
import tempfile
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.input.archives import zips
from pipelines.input.archives.tars import DamagedError, UnreadableError
from pipelines.input.archives.zips import Zip
from tests.support.dumps import keys_of, make, planned, prefix, rows_of

FILES = {"a.jpg": b"a" * 700, "sub/b.png": b"b" * 9, "../../etc/c.jpg": b"c", "/d.jpg": b"d"}


def zip_of(
    files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b""
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.comment = comment
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def outcomes(rows: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(row["bytes"], row["error_code"]) for row in rows]


@pytest.mark.parametrize("name", ["x.zip", "comic.CBZ", "named.tar"])
def test_members_are_rows_with_names_that_are_only_names(store, name: str) -> None:
    files = {**FILES, "folder/": b"", "notes.md": b"x", "__MACOSX/._a.jpg": b"x"}
    root = store({f"date=2026-01-02/{name}": zip_of(files)})
    found = planned(root)
    rows = rows_of(found)
    assert len(rows) == 4
    assert found.rows == (None if root.startswith("s3") and name == "named.tar" else 4)
    at = f"{prefix(root)}date=2026-01-02/{name}!"
    assert {row["uri"].removeprefix(at): row["bytes"] for row in rows} == FILES
    assert {row["date"] for row in rows} == {"2026-01-02"}
    assert rows_of(found, keys_of(rows)) == []


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED]
)
def test_every_compression_of_the_standard_library_is_read(method: int, tmp_path: Path) -> None:
    make(tmp_path, {"x.zip": zip_of(FILES, method, b"a comment")})
    assert [row["bytes"] for row in rows_of(planned(tmp_path))] == list(FILES.values())


def test_bad_members_cost_one_row_each(tmp_path: Path) -> None:
    names = ("encrypted", "strange", "damaged", "larger", "bomb", "good")
    data = bytearray(zip_of({f"{name}.jpg": name.encode() * 50 for name in names}))
    bomb = zip_of({"bomb.jpg": bytes(3 << 20)})
    directory = {
        name: data.index(f"{name}.jpg".encode(), data.index(b"PK\1\2")) - 46 for name in names
    }
    local = {name: data.index(f"{name}.jpg".encode()) - 30 for name in names}
    for place in (directory["encrypted"] + 8, local["encrypted"] + 6):
        data[place] |= 1
    for place in (directory["strange"] + 10, local["strange"] + 8):
        data[place : place + 2] = struct.pack("<H", 95)
    data[local["damaged"] + 30 + len("damaged.jpg") + 4] ^= 0xFF
    struct.pack_into("<I", data, directory["larger"] + 24, 3)
    make(tmp_path, {"x.zip": bytes(data), "y.zip": bomb})
    rows = {row["uri"].rpartition("!")[2]: row for row in rows_of(planned(tmp_path))}
    assert rows["good.jpg"]["bytes"] == b"good" * 50
    for name in ("encrypted", "strange", "damaged", "larger"):
        assert rows[f"{name}.jpg"]["error_code"] == "unreadable_archive", name
    assert "encrypted" in rows["encrypted.jpg"]["error_message"]
    assert rows["bomb.jpg"]["error_code"] == "too_many_bytes"


def test_duplicates_links_and_side_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.jpg", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("a.jpg", b"2")
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        file.writestr(link, b"/etc/passwd")
        file.writestr("a.CLS", b"real")
    make(tmp_path, {"x.zip": buffer.getvalue()})
    first, again, linked = rows_of(planned(tmp_path))
    assert (first["bytes"], first["label"]) == (b"1", 0)
    assert (again["occurrence"], again["error_code"]) == (1, "duplicate_uri")
    assert linked["error_code"] == "missing_bytes"


@pytest.mark.parametrize(
    "data",
    [
        zip_of(FILES)[:-30],
        b"PK\3\4 and nothing else",
        zip_of(FILES)[:-10] + struct.pack("<I", 0xFFFFFF00) + zip_of(FILES)[-6:],
    ],
)
def test_archive_without_a_readable_directory_is_one_row(data: bytes, tmp_path: Path) -> None:
    make(tmp_path, {"x.zip": data})
    found = planned(tmp_path)
    [row] = rows_of(found)
    assert row["error_code"] == "unreadable_archive" and row["uri"] == f"{tmp_path}/x.zip"
    assert found.rows == 1


def contents(data: bytes) -> list[tuple[str, bytes | None]]:
    """Names and bodies in order; None for members that cannot be read."""
    archive = Zip(io.BytesIO(data))
    found: list[tuple[str, bytes | None]] = []
    for member in archive.members():
        try:
            found.append((member.name, archive.read(member.size)))
        except UnreadableError:
            found.append((member.name, None))
    return found


names = st.text(st.characters(exclude_characters="\0/\\", codec="utf-8"), min_size=1, max_size=60)


@settings(max_examples=60)
@given(
    st.dictionaries(names, st.binary(max_size=900), max_size=6),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]),
    st.binary(max_size=40),
    st.binary(max_size=40),
)
def test_what_zipfile_writes_is_read_back(
    files: dict[str, bytes], method: int, before: bytes, comment: bytes
) -> None:
    data = before + zip_of(files, method, comment.replace(b"PK\5\6", b""))
    assert contents(data) == list(files.items())


def test_a_streamed_zip_with_large_numbers_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.data += data
            return len(data)

    pipe = Pipe()
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 5)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    with zipfile.ZipFile(pipe, "w") as file:  # type: ignore[arg-type]
        for name, content in FILES.items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(content)
    assert b"PK\6\6" in pipe.data and b"PK\6\7" in pipe.data
    assert contents(bytes(pipe.data)) == list(FILES.items())
    assert contents(b"#!/bin/sh\n" + bytes(pipe.data)) == list(FILES.items())


def test_a_comment_that_looks_like_the_end_is_none() -> None:
    assert contents(zip_of(FILES, comment=b"PK\5\6" + bytes(18) + b"x")) == list(FILES.items())


def test_names_that_say_no_encoding_are_text() -> None:
    data = bytearray(zip_of({"aaaa.jpg": b"1", "bbbb.jpg": b"2"}))
    data = bytearray(data.replace(b"aaaa", "éé".encode()).replace(b"bbbb", b"\x82\x82\x82\x82"))
    assert contents(bytes(data)) == [("éé.jpg", b"1"), ("éééé.jpg", b"2")]


def test_entries_that_overlap_give_one_member(tmp_path: Path) -> None:
    """As a bomb has it: thousands of entries unpack the same bytes."""
    data = zip_of({"a.jpg": bytes(5000), "b.jpg": b"b"})
    start = data.index(b"PK\1\2")
    entry = data[start : data.index(b"PK\1\2", start + 1)]
    directory = entry * 50 + data[start + len(entry) : data.index(b"PK\5\6")]
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 51, 51, len(directory), start, 0)
    found = contents(data[:start] + directory + end)
    assert [content for _, content in found] == [bytes(5000), *[None] * 49, b"b"]
    longer = bytearray(data[:start] + data[start:])
    struct.pack_into("<L", longer, start + 20, len(data))  # its bytes reach into the next
    assert contents(bytes(longer)) == [("a.jpg", None), ("b.jpg", b"b")]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_that_says_it_is_small_is_not_unpacked(method: int) -> None:
    data = bytearray(zip_of({"a.jpg": bytes(200 << 20)}, method))
    struct.pack_into("<L", data, data.index(b"PK\1\2") + 24, 1000)
    tracemalloc.start()
    assert contents(bytes(data)) == [("a.jpg", None)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


def test_an_lzma_dictionary_larger_than_memory_is_refused() -> None:
    data = bytearray(zip_of({"a.jpg": b"a" * 100}, zipfile.ZIP_LZMA))
    struct.pack_into("<L", data, 30 + len("a.jpg") + 5, 0xFFFFFFFF)
    assert contents(bytes(data)) == [("a.jpg", None)]


def test_a_directory_of_too_many_members_is_read_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zips, "MOST_MEMBERS", 3)
    make(tmp_path, {"x.zip": zip_of({f"{n}.jpg": b"x" for n in range(5)})})
    found = planned(tmp_path)
    rows = rows_of(found)
    assert [row["error_code"] for row in rows] == [None] * 3 + ["unreadable_archive"]
    assert found.rows == 4


def test_a_directory_broken_in_the_middle_says_so_after_what_was_read(tmp_path: Path) -> None:
    data = bytearray(zip_of({f"{n}.jpg": b"x" for n in range(3)}))
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    data[second] ^= 0xFF
    make(tmp_path, {"x.zip": bytes(data)})
    found = planned(tmp_path)
    rows = rows_of(found)
    assert [row["error_code"] for row in rows] == [None, "unreadable_archive"]
    assert found.rows == 2 and rows_of(found, keys_of(rows)) == []


def test_fewer_members_than_the_zip_says_are_told(tmp_path: Path) -> None:
    data = bytearray(zip_of({"a.jpg": b"x"}))
    struct.pack_into("<2H", data, data.index(b"PK\5\6") + 8, 2, 2)
    make(tmp_path, {"x.zip": bytes(data)})
    assert [row["error_code"] for row in rows_of(planned(tmp_path))] == [None, "unreadable_archive"]


def test_one_part_of_several_is_told() -> None:
    data = bytearray(zip_of({"a.jpg": b"x"}))
    struct.pack_into("<H", data, data.index(b"PK\5\6") + 4, 1)
    with pytest.raises(DamagedError, match="one part"):
        contents(bytes(data))


@settings(max_examples=300)
@given(st.data())
def test_changed_bytes_are_read_or_damaged(data: st.DataObject) -> None:
    """From a real file, whose positions before its start are an error of the storage."""
    method = data.draw(
        st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2])
    )
    content = bytearray(zip_of(FILES, method))
    tail = st.integers(content.index(b"PK\1\2"), len(content) - 1)
    places = st.one_of(st.integers(0, len(content) - 1), tail)
    for place in data.draw(st.lists(places, min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryFile() as file:
        file.write(content)
        archive = Zip(file)
        found = []
        with suppress(DamagedError):
            for member in archive.members():
                with suppress(UnreadableError):
                    found.append(archive.read(member.size))
    assert set(found) <= {*FILES.values()}
