from __future__ import annotations

import gzip
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.input.archives.tars import DamagedError, Tar


def archive(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def contents(data: bytes, *, length: int | None = None, gzipped: bool = False) -> dict[str, bytes]:
    stream = io.BytesIO(data)
    tar = Tar.open(stream, gzipped=True) if gzipped else Tar(stream, length=length)
    return {member.name: tar.read(member.size) for member in tar.members()}


names = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=150)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(names, st.binary(max_size=1500), max_size=5),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_what_tarfile_writes_is_read_back(members: dict[str, bytes], format: int) -> None:
    data = archive(members, format)
    assert contents(data) == members
    assert contents(data, length=len(data)) == members
    assert contents(gzip.compress(data, mtime=0), gzipped=True) == members


@pytest.mark.parametrize("gzipped", [False, True])
def test_an_archive_cut_anywhere_is_damaged(gzipped: bool) -> None:
    data = archive({"a.jpg": b"a" * 700, "b.jpg": b"b" * 100}).rstrip(b"\0")
    whole = gzip.compress(data, mtime=0) if gzipped else data
    for end in range(0, len(whole), 1 if gzipped else 97):
        with pytest.raises(DamagedError):
            contents(whole[:end], gzipped=gzipped)


@pytest.mark.parametrize("place", [512 + 1024 + 4, 512 + 1024 + 150])
def test_a_broken_header_in_the_middle_is_not_taken_for_the_end(place: int) -> None:
    data = bytearray(archive({"a": b"a" * 700, "b": b"b", "c": b"c"}))
    data[place] ^= 0xFF
    with pytest.raises(DamagedError):
        contents(bytes(data))


def test_a_zeroed_header_in_the_middle_is_not_taken_for_the_end() -> None:
    data = bytearray(archive({"a": b"a", "b": b"b"}))
    data[1024:1536] = bytes(512)
    with pytest.raises(DamagedError, match="after its end mark"):
        contents(bytes(data))


@pytest.mark.parametrize("size", ["-512", "9" * 30, "x"])
def test_a_hostile_size_ends_the_archive(size: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"size": size, "path": "ä"}
        tar.addfile(info)
    with pytest.raises(DamagedError):
        contents(buffer.getvalue())


def test_a_huge_extended_header_is_refused_before_it_is_read() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(DamagedError, match="too long"):
        contents(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def test_links_and_folders_have_no_body() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("x")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    members = list(Tar(io.BytesIO(buffer.getvalue())).members())
    assert [(m.size, m.regular, m.folder) for m in members] == [
        (0, False, False),
        (0, False, False),
        (0, False, True),
    ]
