"""Zip archives, as people pack them and as attackers would."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.input.archives.tars import DamagedError
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
    assert found.rows == len(rows) == 4
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


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_bytes_are_read_or_damaged(data: st.DataObject) -> None:
    content = bytearray(zip_of(FILES))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    archive = Zip(io.BytesIO(content))
    try:
        for member in archive.members():
            try:
                assert len(archive.read(min(member.size, 1 << 20))) == member.size
            except DamagedError:
                continue
    except DamagedError:
        pass
