"""Whether a file ends before its format says so, and what of a PNG can be left out."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def ends_early(name: str, data: bytes) -> bool:
    """Whether the file's own structure promises more bytes than there are."""
    match name:
        case "JPEG":
            return not jpeg_end(data)[0]
        case "PNG":
            return not any(kind == b"IEND" for kind, _, _ in _png_chunks(data))
        case "GIF":
            return gif_end(data)[0]
        case "WEBP":
            return len(data) < 8 + int.from_bytes(data[4:8], "little")
        case "BMP":
            return len(data) < int.from_bytes(data[2:6], "little")
        case "AVIF" | "HEIC":
            return _boxes_end_early(data)
        case _:
            return _tiff_ends_early(data)


_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


_MOST_SEGMENTS = 100_000
"""Files have dozens; more only cost time."""


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, start and end of the first image's segments, up to its end mark."""
    position = 2
    for _ in range(_MOST_SEGMENTS):
        marker = _JPEG_MARKER.search(data, position)
        if marker is None:
            return
        kind = data[marker.end() - 1]
        start = position = marker.end()
        if kind not in (0x01, 0xD8, 0xD9):
            position += int.from_bytes(data[position : position + 2], "big")
            start += 2
        yield kind, start, position
        if kind == 0xD9:
            return


def jpeg_end(data: bytes) -> tuple[int, int]:
    """Where the first image's end mark is, 0 if it has none, and its number of scans."""
    scans = 0
    for kind, start, _ in jpeg_segments(data):
        if kind == 0xD9:
            return start - 2, scans
        scans += kind == 0xDA
    return 0, scans


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk that is there in full."""
    start = 8
    while (end := start + 12 + int.from_bytes(data[start : start + 4], "big")) <= len(data):
        yield data[start + 4 : start + 8], start, end
        start = end


def without_metadata(data: bytes) -> bytes:
    """The PNG without text and colour profile.

    Nothing here reads them, and Pillow would inflate them, refuse the image where they are
    long, and take a text called ``transparency`` for the image's own.
    """
    unread = {b"iCCP", b"iTXt", b"tEXt", b"zTXt"}
    kept, start = [], 0
    for kind, chunk_start, chunk_end in _png_chunks(data):
        if kind in unread:
            kept.append(data[start:chunk_start])
            start = chunk_end
    return b"".join([*kept, data[start:]]) if kept else data


def gif_end(data: bytes) -> tuple[bool, int]:
    """Whether the file ends before its end mark, and how many frames it has begun."""
    frames = 0
    try:
        position = 13 + _gif_palette_length(data[10])
        while (kind := data[position]) in b"\x21\x2c":
            if kind == 0x2C:
                frames += 1
                position += 10 + _gif_palette_length(data[position + 9]) + 1
            else:
                position += 2
            while length := data[position]:
                position += 1 + length
            position += 1
    except IndexError:
        return True, frames
    return False, frames


def _gif_palette_length(flags: int) -> int:
    return 3 << 1 + (flags & 7) if flags & 0x80 else 0


def _boxes_end_early(data: bytes) -> bool:
    """Whether a box of an ISO media file ends later than the file, or its pixels are missing."""
    position, kinds = 0, set()
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kinds.add(data[position + 4 : position + 8])
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        if length == 0:  # up to the end of the file
            return False
        position += max(length, 8)
    return position != len(data) or (b"mdat" not in kinds and b"idat" not in data)


_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
"""Bytes of one value of each type."""


_TIFF_PIECES = ((273, 279), (324, 325))
"""Tags of where the strips, or the tiles, begin and how many bytes each has."""


def _tiff_ends_early(data: bytes) -> bool:
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    offset, count, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    inline = 8 if big else 4
    lists: dict[int, NDArray[np.uint64]] = {}
    try:
        (start,) = struct.unpack_from(order + offset, data, inline)
        (entries,) = struct.unpack_from(order + count, data, start)
        start += struct.calcsize(order + count)
        for _ in range(entries):
            tag, kind, length = struct.unpack_from(order + entry, data, start)
            start += struct.calcsize(order + entry)
            place, size = start, length * _TIFF_SIZES.get(kind, 0)
            if size > inline:
                (place,) = struct.unpack_from(order + offset, data, start)
            if place + size > len(data):
                return True
            if kind in (3, 4, 16) and length and any(tag in pair for pair in _TIFF_PIECES):
                numbers = np.dtype(f"{order}u{_TIFF_SIZES[kind]}")
                lists[tag] = np.frombuffer(data, numbers, length, place).astype(np.uint64)
            start += inline
    except (struct.error, OverflowError):  # the directory itself is past the end
        return True
    for begin, size in _TIFF_PIECES:
        if begin in lists and size in lists:
            pieces = min(len(lists[begin]), len(lists[size]))
            if (lists[begin][:pieces] + lists[size][:pieces] > len(data)).any():
                return True
    return False
