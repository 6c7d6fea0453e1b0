"""The directories of a TIFF: which page is the picture, and whether it is a camera's raw file."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from item.images.errors import ImageError
from item.tables import ErrorCode

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_NUMBERS = {1: "B", 2: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
"""Letters of `struct` for text and whole numbers; type 13 is the offset of a directory."""

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 259, 262
_MAKE, _SUB_DIRECTORIES, _DNG_VERSION = 271, 330, 50706
_WANTED = (
    *(_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC),
    *(_MAKE, _SUB_DIRECTORIES, _DNG_VERSION),
)

_SENSOR = {32803, 34892}
"""Photometric interpretations of a sensor's values: colour filter array, and linear raw."""
_CAMERA_COMPRESSIONS = {32767, 32769, 32770, 34713, 65000, 65535}
"""Of Sony, Epson and Pentax, Samsung, Nikon, Kodak and Pentax."""
_KINDS = {
    "CANON": "CR2",
    "EASTMAN KODAK": "DCR",
    "HASSELBLAD": "3FR",
    "KODAK": "DCR",
    "LEAF": "MOS",
    "MAMIYA": "MEF",
    "NIKON": "NEF",
    "OLYMPUS": "ORF",
    "PENTAX": "PEF",
    "RICOH": "PEF",
    "SAMSUNG": "SRW",
    "SEIKO EPSON": "ERF",
    "SONY": "ARW",
}
"""What a maker's raw files are called."""

_MOST_DIRECTORIES = 64
_MOST_ENTRIES = 512
_MOST_VALUES = 64


@dataclass(frozen=True)
class Directory:
    """One page: where its directory is, and some of its tags."""

    offset: int
    tags: Mapping[int, tuple[int, ...]]
    following: int
    """Offset of the next page's directory; 0 if there is none."""
    cut: bool
    """Whether the file ends before some of it."""

    def _first(self, tag: int, default: int = 0) -> int:
        return next(iter(self.tags.get(tag, ())), default)

    @property
    def is_sensor(self) -> bool:
        """Whether it holds what a camera's sensor measured, and not a picture."""
        photometric, compression = self._first(_PHOTOMETRIC), self._first(_COMPRESSION)
        return photometric in _SENSOR or compression in _CAMERA_COMPRESSIONS

    @property
    def is_reduced(self) -> bool:
        """Whether it is a smaller copy of another page."""
        return bool(self._first(_SUBFILE) & 1) or self._first(_OLD_SUBFILE) == 2

    @property
    def is_other(self) -> bool:
        """Whether it is a mask, or anything else that is no page."""
        return bool(self._first(_SUBFILE) & ~3)

    @property
    def make(self) -> str:
        """Maker of the camera, in capitals."""
        return bytes(self.tags.get(_MAKE, ())).decode("latin-1").upper()

    @property
    def area(self) -> int:
        """Pixels."""
        return self._first(_WIDTH) * self._first(_HEIGHT)


@dataclass(frozen=True)
class Directories:
    """All pages of a file that can be read."""

    pages: tuple[Directory, ...]
    """In order, each followed by those below it; each once."""
    cut: bool
    """Whether the file ends before some directory, or part of one."""


def camera_raw(data: bytes) -> str | None:
    """What kind of raw file a camera's TIFF is; empty if unknown, None if it is a picture.

    The first page of a raw file is often a thumbnail.
    """
    pages = directories(data).pages
    if any(_DNG_VERSION in page.tags for page in pages):
        return "DNG"
    if not any(page.is_sensor for page in pages):
        return None
    make = next((page.make for page in pages if page.make), "")
    return next((kind for maker, kind in _KINDS.items() if make.startswith(maker)), "")


def full_page(data: bytes) -> bytes:
    """The TIFF with its full-size page first, if its first page is a reduced copy.

    Without such a page it is the file as it is.

    Raises
    ------
    ImageError
        If the file ends before that page.
    """
    found = directories(data)
    if not found.pages or not found.pages[0].is_reduced:
        return data
    whole = [page for page in found.pages if not page.is_reduced and not page.is_other]
    best = max(whole, key=lambda page: page.area, default=found.pages[0])
    if best.area <= found.pages[0].area:
        if found.cut:
            raise ImageError(
                ErrorCode.TRUNCATED,
                f"The TIFF of {len(data)} bytes begins with a reduced copy and ends before its "
                "full-size page.",
            )
        return data
    order, big = _layout(data)
    place, offset = (8, "Q") if big else (4, "I")
    start = struct.pack(order + offset, best.offset)
    return data[:place] + start + data[place + len(start) :]


def directories(data: bytes) -> Directories:
    """The pages of a TIFF, or the first of very many."""
    order, big = _layout(data)
    first = _unpack(data, order + ("Q" if big else "I"), 8 if big else 4)
    waiting, cut = list(first), not first
    pages: list[Directory] = []
    seen = {0}
    while waiting and len(seen) <= _MOST_DIRECTORIES:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        page = _directory(data, place, order, big)
        if page is None:
            cut = True
            continue
        pages.append(page)
        cut |= page.cut
        waiting += [page.following, *reversed(page.tags.get(_SUB_DIRECTORIES, ()))]
    return Directories(tuple(pages), cut)


def _layout(data: bytes) -> tuple[str, bool]:
    return ("<" if data[:1] == b"I" else ">"), data[2:4] in (b"+\0", b"\0+")


def _directory(data: bytes, place: int, order: str, big: bool) -> Directory | None:
    """The directory at a place; None if the file ends before it."""
    count, entry, offset = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    inline = 8 if big else 4
    entries = next(iter(_unpack(data, order + count, place)), None)
    if entries is None:
        return None
    start = place + struct.calcsize(order + count)
    length = struct.calcsize(order + entry) + inline
    tags: dict[int, tuple[int, ...]] = {}
    cut = False
    for number in range(min(entries, _MOST_ENTRIES)):
        at = start + number * length
        found = _unpack(data, order + entry, at)
        if not found:
            cut = True
            break
        tag, kind, values = found
        if tag not in _WANTED or kind not in _NUMBERS or not values:
            continue
        at += struct.calcsize(order + entry)
        if values * _SIZES[kind] > inline:
            at = next(iter(_unpack(data, order + offset, at)), len(data))
        tags[tag] = _unpack(data, f"{order}{min(values, _MOST_VALUES)}{_NUMBERS[kind]}", at)
        cut |= not tags[tag]
    following = _unpack(data, order + offset, start + entries * length)
    return Directory(place, tags, next(iter(following), 0), cut or not following)


def _unpack(data: bytes, numbers: str, place: int) -> tuple[int, ...]:
    """Numbers at a place; none if the file ends before their end."""
    try:
        return struct.unpack_from(numbers, data, place)
    except (struct.error, OverflowError):
        return ()
