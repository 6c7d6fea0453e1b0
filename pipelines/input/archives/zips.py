"""Read zip archives member by member, strictly, in bounded memory; nothing is ever extracted."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from pipelines.input.archives.tars import DamagedError, Member

_LONGEST_DIRECTORY = 256 << 20
"""Bytes of a central directory; a million members have some 100 MB."""
_END = b"PK\5\6"
_END64 = b"PK\6\6"
_LONGEST_COMMENT = 1 << 16
_ENCRYPTED = 0x1


class Zip:
    """A zip as members in the order of its directory, as `tars.Tar` gives those of a tar.

    Parameters
    ----------
    stream : seekable binary file
    """

    seekable = True
    goes_on = True
    """Whether a damaged member leaves the others readable."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._zip: zipfile.ZipFile | None = None
        self._member: zipfile.ZipInfo | None = None

    def members(self) -> Iterator[Member]:
        """Yield the members in order.

        Raises
        ------
        DamagedError
            If the archive has no readable directory.
        """
        self._check_directory()
        try:
            self._zip = zipfile.ZipFile(self._stream)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise DamagedError(f"The zip cannot be read: {_said(error)}.") from None
        for info in self._zip.infolist():
            self._member = info
            mode = info.external_attr >> 16
            yield Member(
                name=info.filename.encode("utf-8", "backslashreplace").decode(),
                size=info.file_size,
                regular=not stat.S_ISLNK(mode),
                folder=info.is_dir(),
            )

    def read(self, limit: int) -> bytes:
        """Return the body of the current member, whose size is at most `limit`.

        Raises
        ------
        DamagedError
            If it is encrypted, damaged, or larger than it says.
        """
        assert self._zip is not None and self._member is not None
        if self._member.flag_bits & _ENCRYPTED:
            raise DamagedError("The member of the zip is encrypted.")
        try:
            with self._zip.open(self._member) as body:
                content = body.read(limit + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise DamagedError(f"The member of the zip cannot be read: {_said(error)}.") from None
        except (zlib.error, lzma.LZMAError, struct.error, ValueError) as error:
            raise DamagedError(f"The member of the zip is damaged: {_said(error)}.") from None
        if len(content) != self._member.file_size:
            raise DamagedError("The member of the zip has another size than it says.")
        return content

    def skip(self) -> None:
        """Pass over the current member."""

    def rewind(self) -> None:
        """Begin again: `members` starts with the first one."""

    def _check_directory(self) -> None:
        """Refuse a directory that would not fit into memory, before it is read."""
        length = self._stream.seek(0, os.SEEK_END)
        start = max(0, length - _LONGEST_COMMENT - 100)
        self._stream.seek(start)
        tail = self._stream.read()
        end = tail.rfind(_END)
        if end < 0 or end + 22 > len(tail):
            raise DamagedError("The zip ends without its directory.")
        (size,) = struct.unpack_from("<I", tail, end + 12)
        end64 = tail.rfind(_END64, 0, end)
        if size == 0xFFFFFFFF and end64 >= 0 and end64 + 48 <= len(tail):
            (size,) = struct.unpack_from("<Q", tail, end64 + 40)
        if size > min(_LONGEST_DIRECTORY, length):
            raise DamagedError(f"The zip's directory claims {size:,} bytes.")
        self._stream.seek(0)


def _said(error: Exception) -> str:
    return "".join(c for c in str(error) if c.isprintable())[:120].rstrip(".") or "it is damaged"
