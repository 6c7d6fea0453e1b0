"""Archives of images, tar or zip: which members are rows, and what lies beside them says of them.

Side files belong to the picture of their name, as WebDataset has it, wherever in the archive
they are. On a local disk all of them are read first, past the pictures. An archive on S3 is read
once while each picture has its label's file next to it; at the first that has not, the rest is
read for its side files, and then again for the pictures. What was met too late is told.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import IO, Literal

from fsspec.implementations.local import LocalFileSystem

from item.tables import ErrorCode
from pipelines.input.archives import zips
from pipelines.input.archives.side_files import (
    CROWDED,
    LONGEST_SIDE_FILE,
    LOOSE,
    LOOSE_OR_LATE,
    SIDE_EXTENSIONS,
    TOO_LONG,
    UNREADABLE,
    Said,
    SideFile,
    SideFiles,
    describe,
    read_side_file,
    sample_key,
    unread_side_file,
)
from pipelines.input.archives.tars import DamagedError, Member, Tar, UnreadableError
from pipelines.input.archives.zips import Zip
from pipelines.input.files import extension, is_hidden, may_be_image, open_file, readable, uri_of
from pipelines.input.rows import TABLE_BYTES, InputRow
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.fetching import TooLargeError
from pipelines.storage.urls import is_s3
from pipelines.tables.row_keys import RowChoice

_GZIP = b"\x1f\x8b"
_NOT_READ = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
"""First bytes of what is packed in a way that is not read."""

_SAMPLE_MEMBERS = 1000


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
    uri, source = uri_of(root, name), _stem(name)
    seen: Counter[bytes] = Counter()
    broken: str | None = None
    with _opened(root, name, storage, uri_roots) as file:
        notices = Counter() if notices is None else notices
        archive = _Archive(file, notices)
        sample = _Sample(notices)
        try:
            for member in archive.members():
                role = _role(member)
                if role == "none":
                    continue
                if sample.ends_before(member):
                    if archive.knows_too_little_of(sample):
                        archive.look_ahead(member)
                    yield from archive.described(sample)
                    sample = _Sample(notices)
                if role == "side":
                    archive.take_side_file(member, sample)
                    continue
                place = blake2b(member.name.encode(), digest_size=16).digest()
                row = InputRow(_member_uri(uri, member), date, version, uri, source, seen[place])
                seen[place] += 1
                done = choice.leaves_out([date], [row.uri], [row.occurrence], [version])[0]
                whole = _fill(row, member, archive.content, max_bytes, read=not done)
                sample.add(member, None if done else row)
                if not whole:
                    break
        except DamagedError as error:
            broken = str(error)
        yield from archive.described(sample)
        archive.tell_what_is_unused()
    if broken and not choice.leaves_out([date], [uri], [0], [version])[0]:
        row = InputRow(uri, date, version, uri, source)
        yield row.fail(ErrorCode.UNREADABLE_ARCHIVE, broken)


def keys(
    root: str, name: str, storage: Storage, uri_roots: Sequence[str] = ()
) -> list[tuple[str, int]] | None:
    """Return URI and occurrence of each row of an archive without reading a picture.

    None where that would mean reading the whole archive: a tar on S3, or gzipped.
    """
    if is_s3(root) and not name.lower().endswith((".zip", ".cbz")):
        return None
    archive = uri_of(root, name)
    found: list[tuple[str, int]] = []
    seen: Counter[str] = Counter()
    within_image = False
    with _opened(root, name, storage, uri_roots, block_size=1 << 20) as file:
        try:
            content = file.from_start()
            if not content.seekable:
                return None
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


@dataclass(frozen=True)
class _File:
    """An open archive."""

    handle: IO[bytes]
    local: bool

    def from_start(self) -> Tar | Zip:
        """Return the archive at its first member, as what its first bytes say it is.

        Raises
        ------
        DamagedError
            If it is packed in a way that is not read.
        """
        self.handle.seek(0)
        start = self.handle.read(8)
        length = self.handle.seek(0, os.SEEK_END)
        self.handle.seek(0)
        if start.startswith(zips.STARTS):
            return Zip(self.handle)
        if start.startswith(_GZIP):
            return Tar.open(self.handle, gzipped=True)
        for known, what in _NOT_READ.items():
            if start.startswith(known):
                raise DamagedError(f"The archive is packed with {what}, which is not read.")
        return Tar(self.handle, length=length)


class _Sample:
    """Members next to each other that have one key: images and what is said of them."""

    def __init__(self, notices: Counter[str]) -> None:
        self.images: list[tuple[str, InputRow | None]] = []
        """Rows that are not read again are None."""
        self.sides = SideFiles(notices, most_bytes=TABLE_BYTES)
        """What is remembered of it alone, as there is no room for more."""
        self._key: str | None = None
        self._members = 0
        self._bytes = 0

    def ends_before(self, member: Member) -> bool:
        """Whether the next member belongs to another sample, or this one got too large."""
        if self._key is None:
            return False
        full = self._bytes > TABLE_BYTES // 2 or self._members >= _SAMPLE_MEMBERS
        return full or sample_key(member.name) != self._key

    def add(self, member: Member, row: InputRow | None) -> None:
        """Add an image."""
        self._grow(member, len(row.bytes or b"") if row is not None else 0)
        self.images.append((member.name, row))

    def add_side(self, member: Member, side: SideFile | None) -> None:
        """Add a side file; None for one that is remembered elsewhere."""
        self._grow(member, 0 if side is None else min(member.size, LONGEST_SIDE_FILE))
        if side is not None:
            self.sides.add(side)

    def _grow(self, member: Member, size: int) -> None:
        self._key = sample_key(member.name)
        self._members += 1
        self._bytes += size


class _Archive:
    """The members of an archive in order, and all that is known of its side files so far."""

    def __init__(self, file: _File, notices: Counter[str]) -> None:
        self.content: Tar | Zip
        self._file = file
        self._members: Iterator[Member] = iter(())
        self._passed = 0
        self._notices = notices
        self._sides = SideFiles(notices)
        self._complete = False
        """Whether the side files of the whole archive were met."""
        self._some_unasked = False
        """Whether pictures that were done before may have side files later on."""

    def members(self) -> Iterator[Member]:
        """Yield the members; `content` stands at the one that was yielded last."""
        self._begin()
        if self._file.local:
            self.look_ahead(None)
        while (member := next(self._members, None)) is not None:
            self._passed += 1
            yield member

    def _begin(self) -> None:
        self.content = self._file.from_start()
        self._members = self.content.members()

    def look_ahead(self, current: Member | None) -> None:
        """Take the side files from the current member on, and come back to it."""
        ahead = self._members if current is None else chain([current], self._members)
        with suppress(DamagedError):  # it is met again
            for member in ahead:
                if _role(member) == "side":
                    self._sides.add(self._read(member))
        self._complete = True
        self._begin()
        if sum(1 for _ in islice(self._members, self._passed)) < self._passed:
            raise DamagedError("The archive changed while it was read.")

    def take_side_file(self, member: Member, sample: _Sample) -> None:
        """Remember the current member as a side file, for its sample alone if need be."""
        if self._complete and self._sides.holds(member.name):
            sample.add_side(member, None)
            return
        side = self._read(member)
        sample.add_side(member, None if self._sides.add(side) else side)

    def _read(self, member: Member) -> SideFile:
        if member.size > LONGEST_SIDE_FILE:
            return unread_side_file(member.name, TOO_LONG)
        try:
            return read_side_file(member.name, self.content.read(member.size))
        except UnreadableError:
            return unread_side_file(member.name, UNREADABLE)

    def knows_too_little_of(self, sample: _Sample) -> bool:
        """Whether something in the sample may have a side file later in the archive."""
        if self._complete:
            return False
        unclear = [
            row
            for name, row in sample.images
            if not any(said.may_label for said in self._said(name, sample))
        ]
        self._some_unasked |= None in unclear
        return any(row is not None for row in unclear)

    def described(self, sample: _Sample) -> Iterator[InputRow]:
        """Yield the rows of a sample with what is said of them."""
        for name, row in sample.images:
            found = self._said(name, sample)
            if row is not None:
                describe(row, found)
                yield row
        self._notice(CROWDED, sample.sides.unused())

    def _said(self, image: str, sample: _Sample) -> list[Said]:
        return sample.sides.of(image) + self._sides.of(image)

    def tell_what_is_unused(self) -> None:
        """Count the side files that belong to no picture."""
        if self._complete:
            self._notice(LOOSE, self._sides.unused())
        elif not self._some_unasked:
            self._notice(LOOSE_OR_LATE, self._sides.unused())

    def _notice(self, what: str, number: int) -> None:
        if number:
            self._notices[what] += number


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
    except (DamagedError, UnreadableError) as error:
        row.fail(ErrorCode.UNREADABLE_ARCHIVE, str(error))
        return isinstance(error, UnreadableError)
    return True


@contextmanager
def _opened(
    root: str,
    name: str,
    storage: Storage,
    uri_roots: Sequence[str],
    *,
    block_size: int = 8 << 20,
) -> Iterator[_File]:
    fs, folder = filesystem(root, storage)
    local = isinstance(fs, LocalFileSystem)
    handle: IO[bytes]
    if local:
        handle = open_file(root, name, storage, uri_roots)
    else:
        path = f"{folder}/{name}"
        handle = fs.open(path, "rb", cache_type="readahead", block_size=block_size)
    with handle:
        yield _File(handle, local)


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
