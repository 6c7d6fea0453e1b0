"""Read zip archives by their directory, strictly, in bounded memory.

``zipfile`` makes an object of every entry before it gives the first, and lets bzip2 and LZMA
unpack without bound. Here entries are read as they are needed, and no member gives more bytes
than its entry says.
"""

from __future__ import annotations

import bz2
import lzma
import os
import stat
import struct
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.input.archives.tars import MOST_MEMBERS, DamagedError, Member, UnreadableError

STARTS = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
"""First bytes of a zip: of a member, of an archive without any, of one that was split."""

_CHUNK = 1 << 20
_END = struct.Struct("<4s4H2LH")
_LOCATOR64 = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_LARGEST_DICTIONARY = 64 << 20
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_UTF8 = 0x0800
_UNIX = 3


@dataclass(frozen=True, slots=True)
class _Directory:
    start: int
    end: int
    shift: int
    """Bytes before the archive proper, as of a program that unpacks itself."""
    count: int
    count_limit: int
    """Counts are modulo this."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: bytes
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    offset: int
    mode: int

    @property
    def text(self) -> str:
        """The name; ones without a mark are of UTF-8 too where they can be, as macOS has it."""
        if self.flags & _UTF8:
            return self.name.decode("utf-8", "backslashreplace")
        try:
            return self.name.decode("utf-8")
        except UnicodeDecodeError:
            return self.name.decode("cp437")


class _Decoder(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Zip:
    """A zip as members in the order of its directory, as `tars.Tar` gives those of a tar.

    Parameters
    ----------
    stream : seekable binary file
    """

    seekable = True

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._length = stream.seek(0, os.SEEK_END)
        self._entry: _Entry | None = None
        self._bound = 0

    def members(self) -> Iterator[Member]:
        """Yield the members in order.

        Raises
        ------
        DamagedError
            Where the directory breaks off or contradicts the format.
        """
        directory = self._directory()
        number = 0
        bounds = self._bounds(directory)
        for number, entry in enumerate(self._entries(directory), start=1):
            if number > len(bounds):
                raise DamagedError("The zip changed while it was read.")
            self._entry, self._bound = entry, int(bounds[number - 1])
            kind = stat.S_IFMT(entry.mode)
            yield Member(
                name=entry.text,
                size=entry.size,
                regular=kind in (0, stat.S_IFREG, stat.S_IFDIR),
                folder=entry.name.endswith(b"/") or kind == stat.S_IFDIR,
            )
        if number % directory.count_limit != directory.count:
            raise DamagedError(f"The zip says that it has {directory.count:,} members.")

    def read(self, limit: int) -> bytes:
        """Return the body of the current member, whose size is at most `limit`.

        Raises
        ------
        UnreadableError
            If it is encrypted, damaged, packed in an unknown way, or not what its entry says.
        """
        entry = self._entry
        assert entry is not None and entry.size <= limit
        if entry.flags & _ENCRYPTED:
            raise UnreadableError("The member of the zip is encrypted.")
        try:
            start = self._body(entry)
            if entry.method == zipfile.ZIP_STORED:
                content = self._at(start, entry.packed) if entry.packed == entry.size else b""
            else:
                content = self._unpacked(start, entry)
        except DamagedError as error:
            raise UnreadableError(str(error)) from None
        if len(content) != entry.size or zlib.crc32(content) != entry.checksum:
            raise UnreadableError("The member of the zip is not what the directory says of it.")
        return content

    def skip(self) -> None:
        """Pass over the current member."""

    def _at(self, place: int, size: int) -> bytes:
        if place < 0 or place + size > self._length:
            raise DamagedError("The zip says that there is something beyond its end.")
        self._stream.seek(place)
        parts: list[bytes] = []
        missing = size
        while missing:
            part = self._stream.read(min(missing, _CHUNK))
            if not part:
                raise DamagedError("The zip became shorter while it was read.")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # The directory

    def _directory(self) -> _Directory:
        first = max(0, self._length - _END.size - _LONGEST_COMMENT)
        tail = self._at(first, self._length - first)
        place = _last_end(tail)
        if place is None:
            raise DamagedError("The zip ends without its directory.")
        _, disk, first_disk, here, count, size, offset, _ = _END.unpack_from(tail, place)
        end, limit = first + place, 1 << 16
        if (larger := self._end64(end)) is not None:
            disk, first_disk, here, count, size, offset, end = larger
            limit = 1 << 64
        if disk or first_disk or here != count:
            raise DamagedError("The zip is one part of several.")
        for start in (end - size, offset):
            if 0 <= start <= end - size and (not size or self._at(start, 4) == b"PK\1\2"):
                return _Directory(start, start + size, start - offset, count, limit)
        raise DamagedError("The zip's directory is not where the zip says.")

    def _end64(self, end: int) -> tuple[int, int, int, int, int, int, int] | None:
        """Return disks, counts, size and offset of a large zip's directory, and where it ends."""
        if end < _LOCATOR64.size + _END64.size:
            return None
        locator = _LOCATOR64.unpack(self._at(end - _LOCATOR64.size, _LOCATOR64.size))
        if locator[0] != b"PK\6\7":
            return None
        for place in (end - _LOCATOR64.size - _END64.size, locator[2]):
            if place + _END64.size <= end:
                found = _END64.unpack(self._at(place, _END64.size))
                if found[0] == b"PK\6\6":
                    return (*found[4:], place)
        raise DamagedError("The zip's directory is not where the zip says.")

    def _entries(self, directory: _Directory) -> Iterator[_Entry]:
        place, number = directory.start, 0
        while place < directory.end:
            block = self._at(place, min(_CHUNK, directory.end - place))
            used = 0
            while used + _ENTRY.size <= len(block):
                fixed = _ENTRY.unpack_from(block, used)
                if fixed[0] != b"PK\1\2":
                    raise DamagedError("The zip's directory is broken.")
                ends = [used + _ENTRY.size]
                for length in fixed[10:13]:
                    ends.append(ends[-1] + length)
                if ends[-1] > len(block):
                    break
                number += 1
                if number > MOST_MEMBERS:
                    raise DamagedError(f"The zip has more than {MOST_MEMBERS:,} members.")
                name, extra = block[ends[0] : ends[1]], block[ends[1] : ends[2]]
                yield _entry(fixed, name, extra, directory.shift)
                used = ends[-1]
            if not used:
                raise DamagedError("The zip's directory is broken.")
            place += used

    def _bounds(self, directory: _Directory) -> NDArray[np.int64]:
        """Return for each entry where the next begins: what reaches further overlaps it."""
        found = array("q")
        with suppress(DamagedError):  # those before it are read, and then it is met again
            for entry in self._entries(directory):
                found.append(min(entry.offset, directory.start))
        starts = np.array(found, np.int64)
        order = np.lexsort((-np.arange(len(starts)), starts))
        bounds = np.empty_like(starts)
        bounds[order] = np.append(starts[order][1:], directory.start)[: len(starts)]
        return bounds

    # A member

    def _body(self, entry: _Entry) -> int:
        """Return where the bytes of a member begin."""
        header = self._at(entry.offset, _LOCAL.size + len(entry.name))
        local = _LOCAL.unpack_from(header)
        if local[0] != b"PK\3\4" or (local[9], header[_LOCAL.size :]) != (
            len(entry.name),
            entry.name,
        ):
            raise DamagedError("The member of the zip is not where the directory says.")
        start = entry.offset + len(header) + local[10]
        if start + entry.packed > self._bound:
            raise DamagedError("The member of the zip overlaps another one.")
        return start

    def _unpacked(self, start: int, entry: _Entry) -> bytes:
        place, end = start, start + entry.packed
        decoder: _Decoder
        match entry.method:
            case zipfile.ZIP_DEFLATED:
                decoder = zlib.decompressobj(-zlib.MAX_WBITS)
            case zipfile.ZIP_BZIP2:
                decoder = bz2.BZ2Decompressor()
            case zipfile.ZIP_LZMA:
                head = self._at(start, min(9, entry.packed))
                decoder = _lzma(head)
                place += len(head)
            case method:
                raise DamagedError(f"The member of the zip is compressed by method {method}.")
        parts: list[bytes] = []
        missing = entry.size
        while place < end and missing >= 0:
            chunk = self._at(place, min(_CHUNK >> 2, end - place))
            place += len(chunk)
            try:
                parts.append(decoder.decompress(chunk, missing + 1))
            except (zlib.error, lzma.LZMAError, OSError, EOFError):
                raise DamagedError("The member of the zip is damaged.") from None
            missing -= len(parts[-1])
        return b"".join(parts)


def _last_end(tail: bytes) -> int | None:
    """Return where the record at a zip's end is; a comment may hold the same four bytes."""
    found = None
    place = tail.rfind(b"PK\5\6")
    while place >= 0:
        if place + _END.size <= len(tail):
            after = len(tail) - place - _END.size
            comment = _END.unpack_from(tail, place)[-1]
            if comment == after:
                return place
            if found is None and comment < after:
                found = place
        place = tail.rfind(b"PK\5\6", 0, place)
    return found


def _entry(fixed: tuple[int, ...], name: bytes, extra: bytes, shift: int) -> _Entry:
    packed, size, offset = fixed[8], fixed[9], fixed[16]
    if 0xFFFFFFFF in (packed, size, offset):
        large = iter(_large_numbers(extra))
        size = next(large, size) if size == 0xFFFFFFFF else size
        packed = next(large, packed) if packed == 0xFFFFFFFF else packed
        offset = next(large, offset) if offset == 0xFFFFFFFF else offset
    return _Entry(
        name=name,
        flags=fixed[3],
        method=fixed[4],
        checksum=fixed[7],
        packed=packed,
        size=size,
        offset=min(offset + shift, 1 << 62),
        mode=fixed[15] >> 16 if fixed[1] >> 8 == _UNIX else 0,
    )


def _large_numbers(extra: bytes) -> tuple[int, ...]:
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == 1:
            numbers = extra[place + 4 : place + 4 + length]
            return struct.unpack_from(f"<{len(numbers) // 8}Q", numbers)
        place += 4 + length
    return ()


def _lzma(head: bytes) -> lzma.LZMADecompressor:
    """Return a decoder that takes no more memory than a dictionary of the largest usual size."""
    if len(head) < 9 or head[2:4] != b"\5\0" or head[4] >= 9 * 5 * 5:
        raise DamagedError("The member of the zip is damaged.")
    (dictionary,) = struct.unpack_from("<L", head, 5)
    if dictionary > _LARGEST_DICTIONARY:
        raise DamagedError(f"The member of the zip takes {dictionary:,} bytes to unpack.")
    rest, literal_context = divmod(head[4], 9)
    position, literal_position = divmod(rest, 5)
    properties = {
        "id": lzma.FILTER_LZMA1,
        "dict_size": max(dictionary, 4096),
        "lc": literal_context,
        "lp": literal_position,
        "pb": position,
    }
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[properties])
    except lzma.LZMAError:
        raise DamagedError("The member of the zip is damaged.") from None
