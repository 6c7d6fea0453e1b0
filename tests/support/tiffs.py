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


@dataclass(frozen=True)
class _Layout:
    order: str
    count: str = "H"
    offset: str = "I"

    @property
    def start(self) -> bytes:
        version = 42 if self.offset == "I" else 43
        letters = b"II" if self.order == "<" else b"MM"
        sizes = b"" if version == 42 else struct.pack(f"{self.order}HH", 8, 0)
        return letters + struct.pack(f"{self.order}H", version) + sizes

    def pack(self, letters: str, *values: int) -> bytes:
        return struct.pack(self.order + letters, *values)


def tiff_of(pages: Sequence[Page], order: str = "<", big: bool = False) -> bytes:
    """A TIFF of pages in a chain, in either byte order; a BigTIFF if asked for."""
    layout = _Layout(order, "Q", "Q") if big else _Layout(order)
    empty = layout.pack(layout.offset, 0)
    content = bytearray(layout.start + empty)
    link = len(layout.start)
    for page in pages:
        place, following = _write(content, page, layout)
        content[link : link + len(empty)] = layout.pack(layout.offset, place)
        link = following
    return bytes(content)


def _write(content: bytearray, page: Page, layout: _Layout) -> tuple[int, int]:
    tags = {**page.tags, 273: len(content), 279: len(page.strip)}
    content.extend(page.strip)
    if page.below:
        tags[330] = tuple(_write(content, one, layout)[0] for one in page.below)
    entries = b"".join(_entry(content, tag, tags[tag], layout) for tag in sorted(tags))
    place = len(content)
    content.extend(layout.pack(layout.count, len(tags)) + entries)
    content.extend(layout.pack(layout.offset, 0))
    return place, len(content) - struct.calcsize("<" + layout.offset)


def _entry(content: bytearray, tag: int, value: Any, layout: _Layout) -> bytes:
    if isinstance(value, bytes):
        kind, count, raw = 1, len(value), value
    else:
        values = value if isinstance(value, tuple) else (value,)
        letter = SHORTS.get(tag, "I")
        kind, count = (3 if letter == "H" else 4), len(values)
        raw = layout.pack(f"{count}{letter}", *values)
    inline = struct.calcsize("<" + layout.offset)
    if len(raw) > inline:
        place = len(content)
        content.extend(raw)
        raw = layout.pack(layout.offset, place)
    return layout.pack("HH" + layout.offset, tag, kind, count) + raw.ljust(inline, b"\0")
