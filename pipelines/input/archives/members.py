"""Archives of images, tar or zip: which members are rows, and what lies beside them says of them.

Side files belong to the picture of their name, as WebDataset has it, wherever in the archive
they are. Of an archive that can only be read from its start, on S3 or gzipped, pictures wait for
theirs while memory allows.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Literal

from fsspec.implementations.local import LocalFileSystem

from item.tables import ErrorCode
from pipelines.input.archives.side_files import SIDE_EXTENSIONS, SideFiles, sample_key
from pipelines.input.archives.tars import DamagedError, Member, Tar
from pipelines.input.archives.zips import Zip
from pipelines.input.files import (
    extension,
    is_hidden,
    may_be_image,
    open_file,
    readable,
    uri_of,
)
from pipelines.input.rows import InputRow
from pipelines.storage.access import Storage, filesystem
from pipelines.storage.fetching import TooLargeError
from pipelines.storage.urls import is_s3
from pipelines.tables.row_keys import RowChoice

WAITING_BYTES = 32 << 20
"""Pictures of a stream that wait for their side files, at most."""
WAITING_ROWS = 10_000


def rows(
    root: str,
    name: str,
    date: str,
    choice: RowChoice,
    storage: Storage,
    *,
    max_bytes: int,
    version: str,
    uri_roots: Sequence[str] = (),
    notices: Counter[str] | None = None,
) -> Iterator[InputRow]:
    """Yield the rows of an archive that are chosen, in order.

    Parameters
    ----------
    root, name : where the archive is
    date : date of all its rows
    choice : which rows
    storage : how S3 is reached
    max_bytes : size above which a member is rejected unread
    version : of the archive
    uri_roots : where the archive may lie if it is a link
    notices : counts what was not understood, by sentences without a number
    """
    archive = uri_of(root, name)
    sides = SideFiles()
    seen: Counter[str] = Counter()
    broken: str | None = None
    with _opened(root, name, storage, uri_roots) as content:
        waiting = _Waiting(sides, waits=not content.seekable)
        try:
            if content.seekable:
                _collect(content, sides)
            for member in content.members():
                role = _role(member)
                if role == "side" and not content.seekable:
                    sides.add(member.name, member.size, content)
                if role != "image":
                    continue
                row = InputRow(
                    _member_uri(archive, member),
                    date,
                    version,
                    archive,
                    _stem(name),
                    seen[member.name],
                )
                seen[member.name] += 1
                done = choice.leaves_out([date], [row.uri], [row.occurrence], [version])[0]
                whole = _fill(row, member, content, max_bytes, read=not done)
                sides.expect(member.name)
                if not done:
                    yield from waiting.add(member.name, row)
                if not whole and not content.goes_on:
                    break
        except DamagedError as error:
            broken = str(error)
        yield from waiting.rest()
    if broken and not choice.leaves_out([date], [archive], [0], [version])[0]:
        row = InputRow(archive, date, version, archive, _stem(name))
        yield row.fail(ErrorCode.UNREADABLE_ARCHIVE, broken)
    if notices is not None:
        notices.update(sides.notices())


def keys(
    root: str, name: str, storage: Storage, uri_roots: Sequence[str] = ()
) -> list[tuple[str, int]] | None:
    """Return URI and occurrence of each row of an archive without reading a picture.

    None where that would mean reading the whole archive: a tar on S3, or gzipped.
    """
    archive = uri_of(root, name)
    found: list[tuple[str, int]] = []
    seen: Counter[str] = Counter()
    within_image = False
    with _opened(root, name, storage, uri_roots) as content:
        if not content.seekable:
            return None
        try:
            for member in content.members():
                if _role(member) != "image":
                    continue
                found.append((_member_uri(archive, member), seen[member.name]))
                seen[member.name] += 1
                within_image = member.regular
                if within_image:
                    content.skip()
                within_image = False
        except DamagedError:
            if not within_image:  # whose row says it otherwise
                found.append((archive, 0))
    return found


class _Waiting:
    """Rows of a stream in their order, until their side files are there or memory is full."""

    def __init__(self, sides: SideFiles, *, waits: bool) -> None:
        self._sides = sides
        self._waits = waits
        self._rows: deque[tuple[str, InputRow]] = deque()
        self._bytes = 0

    def add(self, name: str, row: InputRow) -> Iterator[InputRow]:
        """Take a row; yield those that are ready."""
        if not self._waits:
            yield self._sides.described(name, row)
            return
        self._rows.append((name, row))
        self._bytes += len(row.bytes or b"")
        key = sample_key(name)
        while self._rows and (
            self._bytes > WAITING_BYTES
            or len(self._rows) > WAITING_ROWS
            or (sample_key(self._rows[0][0]) != key and self._sides.has(self._rows[0][0]))
        ):
            yield self._next()

    def rest(self) -> Iterator[InputRow]:
        """Yield what is left at the end of the archive."""
        while self._rows:
            yield self._next()

    def _next(self) -> InputRow:
        name, row = self._rows.popleft()
        self._bytes -= len(row.bytes or b"")
        return self._sides.described(name, row)


def _collect(content: Tar | Zip, sides: SideFiles) -> None:
    """Read the side files of an archive in which pictures can be passed over."""
    try:
        for member in content.members():
            if _role(member) == "side":
                sides.add(member.name, member.size, content)
    except DamagedError:
        pass  # the second reading says so
    content.rewind()


def _member_uri(archive: str, member: Member) -> str:
    return f"{archive}!{member.name}"


def _fill(row: InputRow, member: Member, content: Tar | Zip, max_bytes: int, *, read: bool) -> bool:
    """Read a member into its row; return False where the archive ends within it."""
    if not member.regular:
        row.fail(ErrorCode.MISSING_BYTES, "The member is a link and not a file.")
        return True
    if row.occurrence:
        row.fail(ErrorCode.DUPLICATE_URI)
    elif member.size > max_bytes:
        row.fail(ErrorCode.TOO_MANY_BYTES, str(TooLargeError(max_bytes, member.size)))
    try:
        if read and row.code is None:
            row.bytes = content.read(member.size)
        else:
            content.skip()
    except DamagedError as error:
        row.fail(ErrorCode.UNREADABLE_ARCHIVE, str(error))
        return False
    return True


@contextmanager
def _opened(
    root: str, name: str, storage: Storage, uri_roots: Sequence[str]
) -> Iterator[Tar | Zip]:
    """Open an archive as what its first bytes say it is."""
    fs, folder = filesystem(root, storage)
    local = isinstance(fs, LocalFileSystem)
    handle: IO[bytes]
    if is_s3(root):
        handle = fs.open(f"{folder}/{name}", "rb", cache_type="readahead", block_size=8 << 20)
    else:
        handle = open_file(root, name, storage, uri_roots)
    with handle:
        start = handle.read(4)
        handle.seek(0)
        if start[:2] == b"PK":
            yield Zip(handle)
        elif local and start[:2] != b"\x1f\x8b":
            yield Tar(handle, length=os.fstat(handle.fileno()).st_size)
        else:
            yield Tar.open(handle, gzipped=start[:2] == b"\x1f\x8b")


def _role(member: Member) -> Literal["image", "side", "none"]:
    # "./000.jpg" is no hidden file, and "../000.jpg" is only a name.
    parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
    if member.folder or not parts or is_hidden("/".join(parts)):
        return "none"
    if extension(member.name) in SIDE_EXTENSIONS:
        return "side" if member.regular else "none"
    return "image" if may_be_image(member.name) else "none"


def _stem(name: str) -> str:
    base = readable(name.rpartition("/")[2])
    return re.sub(r"(?i)(\.tar|\.tar\.gz|\.tgz|\.zip|\.cbz)$", "", base)
