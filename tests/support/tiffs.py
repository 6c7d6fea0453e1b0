"""TIFFs page by page: what cameras and scanners write, and what attackers would."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

SHORTS = {254: "I", 258: "H", 259: "H", 262: "H", 277: "H", 33421: "H"}
"""Types of tags that are not four bytes."""


@dataclass(frozen=True)
class Page:
    """Tags of a directory, its pixels, and directories below it."""

    tags: Mapping[int, Any]
    strip: bytes
    below: Sequence[Page] = ()


def picture(image: Image.Image, below: Sequence[Page] = (), **tags: Any) -> Page:
    """An uncompressed RGB page; further tags by ``tNUMBER``."""
    own = {256: image.width, 257: image.height, 258: (8, 8, 8), 259: 1, 262: 2, 277: 3}
    own |= {278: image.height} | {int(name[1:]): value for name, value in tags.items()}
    return Page(own, image.tobytes(), below)


def sensor(size: tuple[int, int], photometric: int = 32803, compression: int = 1) -> Page:
    """What a camera's sensor measured."""
    tags = {254: 0, 256: size[0], 257: size[1], 258: 16, 259: compression, 262: photometric}
    return Page(tags | {277: 1, 278: size[1]}, bytes(size[0] * size[1] * 2))


def tiff_of(pages: Sequence[Page], order: str = "<", magic: bytes = b"") -> bytes:
    """A TIFF of pages in a chain, in either byte order."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    content = bytearray((magic or start) + bytes(4))
    link = 4
    for page in pages:
        place, following = _write(content, page, order)
        content[link : link + 4] = struct.pack(f"{order}I", place)
        link = following
    return bytes(content)


def _write(content: bytearray, page: Page, order: str) -> tuple[int, int]:
    tags = {**page.tags, 273: len(content), 279: len(page.strip)}
    content.extend(page.strip)
    if page.below:
        tags[330] = tuple(_write(content, one, order)[0] for one in page.below)
    entries = b"".join(_entry(content, tag, tags[tag], order) for tag in sorted(tags))
    place = len(content)
    content.extend(struct.pack(f"{order}H", len(tags)) + entries + bytes(4))
    return place, len(content) - 4


def _entry(content: bytearray, tag: int, value: Any, order: str) -> bytes:
    if isinstance(value, bytes):
        kind, count, raw = 1, len(value), value
    else:
        values = value if isinstance(value, tuple) else (value,)
        letter = SHORTS.get(tag, "I")
        kind, count = (3 if letter == "H" else 4), len(values)
        raw = struct.pack(f"{order}{count}{letter}", *values)
    if len(raw) > 4:
        place = len(content)
        content.extend(raw)
        raw = struct.pack(f"{order}I", place)
    return struct.pack(f"{order}HHI", tag, kind, count) + raw.ljust(4, b"\0")
