"""Read tar archives front to back, strictly, in bounded memory.

``tarfile`` takes a broken header after the first for the end of the archive, and a
hostile one can make it allocate without bound or never end. Here every such thing is
`DamagedError`, so that what is lost is known to be lost.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

MOST_MEMBERS = 1 << 22
"""Of an archive; their names are remembered while it is read."""

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_LONGEST_EXTENSION = 1 << 20
"""Bytes of an extended header; real ones hold a name and a few numbers."""

_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_WITHOUT_BODY = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.DIRTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class DamagedError(Exception):
    """The archive cannot be read beyond this place."""


class UnreadableError(Exception):
    """The current member cannot be read, but those after it may be."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive. Its name is only a name: nothing is ever extracted."""

    name: str
    size: int
    regular: bool
    folder: bool


class Tar:
    """A tar or gzipped tar as a stream of members.

    Parameters
    ----------
    stream : binary file at its start
    length : bytes of the file if it is seekable, plain and its bodies may be skipped over

    Iterate with `members`; `read` gives the body of the current one.
    """

    def __init__(self, stream: IO[bytes], *, length: int | None = None) -> None:
        self._length = length
        self._stream = stream
        self._left = 0
        self._padding = 0

    @classmethod
    def open(cls, stream: IO[bytes], *, gzipped: bool) -> Tar:
        """Read `stream` from its start, unpacking it if `gzipped`."""
        return cls(gzip.GzipFile(fileobj=stream) if gzipped else stream)  # type: ignore[arg-type]

    @property
    def seekable(self) -> bool:
        """Whether bodies are passed over without being read."""
        return self._length is not None

    def members(self) -> Iterator[Member]:
        """Yield the members in order.

        Raises
        ------
        DamagedError
            Where the archive breaks off or contradicts the format.
        """
        name: str | None = None
        size: int | None = None
        sparse = False
        number = 0
        while True:
            self._skip_body()
            block = self._take(_BLOCK, allow_end=True)
            if not block:
                raise DamagedError("The archive ends without its end mark.")
            if not block.strip(b"\0"):
                self._expect_only_zeros()
                return
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                raise DamagedError("A header in the archive is broken.") from None
            if header.size < 0 or header.type == tarfile.GNUTYPE_SPARSE:
                raise DamagedError("The archive has a header that is not supported.")
            if header.type in _EXTENSIONS:
                if header.size > _LONGEST_EXTENSION:
                    raise DamagedError("An extended header in the archive is too long.")
                self._begin_body(header.size)
                body = self.read(header.size)
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    name = _text(body.split(b"\0", 1)[0])
                elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                    records = _pax_records(body)
                    if "path" in records:
                        name = _text(records["path"])
                    if "size" in records:
                        size = _length(records["size"])
                    sparse = any(key.startswith("GNU.sparse.") for key in records)
                continue
            number += 1
            if number > MOST_MEMBERS:
                raise DamagedError(f"The archive has more than {MOST_MEMBERS:,} members.")
            length = header.size if size is None else size
            self._begin_body(0 if header.type in _WITHOUT_BODY else length)
            yield Member(
                name=_text(header.name.encode("utf-8", "surrogateescape"))
                if name is None
                else name,
                size=self._left,
                regular=header.type in _REGULAR and not sparse,
                folder=header.type == tarfile.DIRTYPE,
            )
            name, size, sparse = None, None, False

    def read(self, limit: int) -> bytes:
        """Return the next bytes of the current member's body, at most `limit`.

        Raises
        ------
        DamagedError
            If the archive ends within them.
        """
        wanted = min(limit, self._left)
        content = self._take(wanted)
        self._left -= wanted
        return content

    def _begin_body(self, size: int) -> None:
        self._left = size
        self._padding = -size % _BLOCK

    def skip(self) -> None:
        """Pass over the rest of the current member's body, making sure that it is there."""
        if self._length is not None:
            if self._stream.tell() + self._left > self._length:
                raise DamagedError("The archive ends within a member.")
            self._stream.seek(self._left, os.SEEK_CUR)
            self._left = 0
        while self._left:
            self.read(_CHUNK)

    def _skip_body(self) -> None:
        self.skip()
        self._take(self._padding)
        self._padding = 0

    def _take(self, size: int, *, allow_end: bool = False) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing:
            try:
                part = self._stream.read(min(missing, _CHUNK))
            except (EOFError, zlib.error, gzip.BadGzipFile):
                raise DamagedError("The archive's compression is broken.") from None
            if not part:
                if allow_end and missing == size:
                    return b""
                raise DamagedError("The archive ends within a member.")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _expect_only_zeros(self) -> None:
        while True:
            try:
                part = self._stream.read(_CHUNK)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                raise DamagedError("The archive's compression is broken.") from None
            if not part:
                return
            if part.strip(b"\0"):
                raise DamagedError("The archive goes on after its end mark.")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise DamagedError("A header in the archive is broken.")
    return int(value)


def _pax_records(body: bytes) -> dict[str, bytes]:
    records: dict[str, bytes] = {}
    position = 0
    while position < len(body) and body[position : position + 1] != b"\0":
        space = body.find(b" ", position, position + 20)
        length = _length(body[position:space]) if space > position else 0
        record = body[space + 1 : position + length]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise DamagedError("A header in the archive is broken.")
        records[_text(key)] = value[:-1]
        position += length
    return records
