"""The directories of a TIFF: which page is the picture, and whether it is a camera's raw file."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
"""Letters of `struct` for the types of whole numbers; 13 is the offset of a directory."""

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 259, 262
_SUB_DIRECTORIES, _DNG_VERSION = 330, 50706
_WANTED = (
    *(_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC),
    *(_SUB_DIRECTORIES, _DNG_VERSION),
)

_SENSOR = {32803, 34892}
"""Photometric interpretations of a sensor's values: colour filter array, and linear raw."""
_CAMERA_COMPRESSIONS = {32767, 32769, 32770, 34713, 65000, 65535}
"""Of Sony, Epson and Pentax, Samsung, Nikon, Kodak and Pentax."""

_MOST_DIRECTORIES = 64
_MOST_ENTRIES = 512
_MOST_VALUES = 64


@dataclass(frozen=True)
class Directory:
    """One page: where its directory is, and some of its tags."""

    offset: int
    tags: Mapping[int, tuple[int, ...]]

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
    def area(self) -> int:
        """Pixels."""
        return self._first(_WIDTH) * self._first(_HEIGHT)


def is_camera_raw(data: bytes) -> bool:
    """Whether a TIFF is a camera's raw file, whose first page is often a thumbnail."""
    return any(_DNG_VERSION in page.tags or page.is_sensor for page in directories(data))


def full_page(data: bytes) -> bytes:
    """The TIFF with its full-size page first, if its first page is a reduced copy.

    Without such a page, and where the directories cannot be followed, it is the file as it is.
    """
    pages = list(directories(data))
    if not pages or not pages[0].is_reduced:
        return data
    whole = [page for page in pages if not page.is_reduced and not page.is_other]
    if not whole:
        return data
    best = max(whole, key=lambda page: page.area)
    if best.area <= pages[0].area:
        return data
    order, big = _layout(data)
    place, offset = (8, "Q") if big else (4, "I")
    start = struct.pack(order + offset, best.offset)
    return data[:place] + start + data[place + len(start) :]


def directories(data: bytes) -> Iterator[Directory]:
    """The pages in order, each followed by those below it; each directory once."""
    order, big = _layout(data)
    offset = "Q" if big else "I"
    try:
        (first,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    except struct.error:
        return
    waiting: list[int] = [first]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_DIRECTORIES:
        place = waiting.pop()
        if place in seen or not 0 < place < len(data):
            continue
        seen.add(place)
        try:
            page, following = _directory(data, place, order, big)
        except (struct.error, OverflowError):  # past the end of the file
            continue
        yield page
        waiting += [following, *reversed(page.tags.get(_SUB_DIRECTORIES, ()))]


def _layout(data: bytes) -> tuple[str, bool]:
    return ("<" if data[:1] == b"I" else ">"), data[2:4] in (b"+\0", b"\0+")


def _directory(data: bytes, place: int, order: str, big: bool) -> tuple[Directory, int]:
    count, entry, offset = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    inline = 8 if big else 4
    (entries,) = struct.unpack_from(order + count, data, place)
    start = place + struct.calcsize(order + count)
    length = struct.calcsize(order + entry) + inline
    tags: dict[int, tuple[int, ...]] = {}
    for number in range(min(entries, _MOST_ENTRIES)):
        tag, kind, values = struct.unpack_from(order + entry, data, start + number * length)
        if tag not in _WANTED or kind not in _NUMBERS or not values:
            continue
        at = start + number * length + struct.calcsize(order + entry)
        if values * _SIZES[kind] > inline:
            (at,) = struct.unpack_from(order + offset, data, at)
        tags[tag] = struct.unpack_from(
            f"{order}{min(values, _MOST_VALUES)}{_NUMBERS[kind]}", data, at
        )
    (following,) = struct.unpack_from(order + offset, data, start + entries * length)
    return Directory(place, tags), following
