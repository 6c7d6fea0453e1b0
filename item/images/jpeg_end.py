"""Whether a JPEG without its end mark lacks nothing else.

A decoder fills in what a file lacks and says nothing. What it fills in depends on the bytes
that follow: if the picture is the same whatever follows, it was all there.
"""

from __future__ import annotations

import io
from collections import defaultdict

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

END_MARK = b"\xff\xd9"

_CONTINUATIONS = (b"", bytes(64), b"\x55" * 64, b"\xaa" * 64, b"\x92\x49\x24" * 21)
"""Entropy-coded data that no file goes on with; none holds a marker."""


def lacks_only_its_end(data: bytes, side: int) -> bool:
    """Whether all scans are there, and all pixels of the last.

    Parameters
    ----------
    data : a JPEG without an end mark
    side : the picture is compared at about this size, at which it is decoded later
    """
    if not _has_all_scans(data):
        return False
    try:
        pictures = [_decoded(data + more + END_MARK, side) for more in _CONTINUATIONS]
    except Exception:  # Pillow's parsers raise nearly any type on hostile bytes
        return False
    return all(np.array_equal(pictures[0], other) for other in pictures[1:])


def _decoded(data: bytes, side: int) -> np.ndarray:
    file = JpegImageFile(io.BytesIO(data))
    scale = min(1.0, side / max(file.size))
    width, height = (max(1, round(length * scale)) for length in file.size)
    file.draft(file.mode, (width, height))
    file.load()
    return np.asarray(file)


def _has_all_scans(data: bytes) -> bool:
    """Whether every coefficient of every component is there to its last bit (ITU T.81, G.1)."""
    components: list[int] = []
    missing: dict[int, dict[int, int]] = defaultdict(lambda: dict.fromkeys(range(64), 99))
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        kind = data[position + 1]
        if kind in (0x00, 0xFF, 0x01) or 0xD0 <= kind <= 0xD8:
            position += 1 if kind == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if kind in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA) and len(segment) >= 6:
            components = list(segment[6::3])
        elif kind == 0xDA and segment and len(segment) >= 4 + 2 * segment[0]:
            first, last, bits = segment[1 + 2 * segment[0] :][:3]
            for component in segment[1 : 1 + 2 * segment[0] : 2]:
                missing[component] |= dict.fromkeys(range(first, min(last, 63) + 1), bits & 15)
        position += 2 + length
    return bool(components) and all(
        not any(missing[component].values()) for component in components
    )
