"""Whether all pixels of a JPEG are there, with its end mark or without.

A decoder fills in what a file lacks and says nothing. What it fills in depends on the bytes
that follow: if the picture is the same whatever follows, it was all there.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from item.images.truncation import jpeg_end, jpeg_segments

END_MARK = b"\xff\xd9"
_MOST_ZEROS = 16
"""Bytes at the end of a scan; flat areas are coded in zeros, and more of them are a filling."""
_MOST_SEGMENTS = 256
"""Encoders write about 10 scans; each costs a pass over the picture, several times over."""
_MIDDLE_GREY = range(126, 131)
"""Brightness where a decoder found no data, inverted in CMYK; colours of blocks beside it may
reach there."""

_CONTINUATIONS = (bytes(64), b"\x55" * 64, b"\xaa" * 64, b"\x92\x49\x24" * 21)
"""Entropy-coded data that no file goes on with; none holds a marker."""
_RESTART_INTERVAL = b"\xff\xdd"
"""The segment without which a file has no restart markers; coded data never holds its bytes."""
_RESTART_MARKER = re.compile(rb"\xff[\xd0-\xd7]")


def with_end_mark(data: bytes, side: int) -> bytes | None:
    """The whole file, or None if it lacks more than its end mark.

    Parameters
    ----------
    data : a JPEG without an end mark
    side : the picture is compared at about this size, at which it is decoded later
    """
    short = _without_filling(data)
    if not _has_all_scans(short):
        return None
    if _is_same_whatever_follows(short, side):
        return short + END_MARK
    # A picture of one colour may be coded in zeros alone: these end where the picture does.
    exact = len(short) < len(data) and data.endswith(b"\0")
    if exact and _is_same_whatever_follows(data, side):
        return None if _is_same_whatever_follows(data[:-1], side) else data + END_MARK
    return None


def lacks_pixels(file: JpegImageFile, data: bytes, side: int) -> bool:
    """Whether a loaded file lacks its last pixels, although it has an end mark.

    Of a progressive file these are pixels of which no scan has anything.

    Parameters
    ----------
    file : decoded from ``data``
    side : as for :func:`with_end_mark`
    """
    last = file.crop((file.width - 1, file.height - 1, file.width, file.height))
    brightness = last.convert("L") if file.mode == "RGB" else last
    if not all(value in _MIDDLE_GREY for value in brightness.tobytes()):
        return False
    end, _ = jpeg_end(data)
    return not _is_same_whatever_follows(data[:end], side)


def _without_filling(data: bytes) -> bytes:
    """The file without what fills its last block on a disk, and without half an end mark."""
    kept = data.rstrip(b"\0")
    zeros = min(len(data) - len(kept), _MOST_ZEROS)
    return kept + bytes(zeros) if zeros else kept.rstrip(b"\xff")


def _is_same_whatever_follows(data: bytes, side: int) -> bool:
    try:
        first = _decoded(data + END_MARK, side)
        return all(
            np.array_equal(first, _decoded(data + more + END_MARK, side))
            for more in _continuations(data)
        )
    except Exception:  # Pillow's parsers raise nearly any type on hostile bytes
        return False


def _continuations(data: bytes) -> Iterator[bytes]:
    """What may follow: more of the last interval, or the next one behind its restart marker.

    Between intervals a decoder skips all bytes up to that marker (ITU T.81, E.2.4).
    """
    yield from _CONTINUATIONS
    if _RESTART_INTERVAL not in data:
        return
    markers = _RESTART_MARKER.findall(data, max(data.rfind(b"\xff\xda"), 0))
    following = (markers[-1][1] + 1) % 8 if markers else 0
    for more in _CONTINUATIONS:
        yield bytes((0xFF, 0xD0 + following)) + more


def _decoded(data: bytes, side: int) -> np.ndarray:
    file = JpegImageFile(io.BytesIO(data))
    scale = min(1.0, side / max(file.size))
    width, height = (max(1, round(length * scale)) for length in file.size)
    file.draft(file.mode, (width, height))
    file.load()
    return np.asarray(file)


def _has_all_scans(data: bytes) -> bool:
    """Whether every coefficient of every component is there to its last bit (ITU T.81, G.1)."""
    segments = list(islice(jpeg_segments(data), _MOST_SEGMENTS + 1))
    if len(segments) > _MOST_SEGMENTS:
        return False
    components: list[int] = []
    missing: dict[int, dict[int, int]] = defaultdict(lambda: dict.fromkeys(range(64), 99))
    for kind, start, end in segments:
        segment = data[start:end]
        if kind in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA) and len(segment) >= 6:
            components = list(segment[6::3])
        elif kind == 0xDA and segment and len(segment) >= 4 + 2 * segment[0]:
            first, last, bits = segment[1 + 2 * segment[0] :][:3]
            for component in segment[1 : 1 + 2 * segment[0] : 2]:
                missing[component] |= dict.fromkeys(range(first, min(last, 63) + 1), bits & 15)
    return bool(components) and all(
        not any(missing[component].values()) for component in components
    )
