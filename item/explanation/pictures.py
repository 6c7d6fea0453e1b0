"""Pictures for people: one with its objects drawn in, and a small one."""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from item.explanation.sentences import NamedObject
from item.images.boxes import Box
from item.images.decode import Decoding, decode

LEAST_SIDE = 640
"""Smaller pictures are enlarged to it, so that boxes and words have room."""
LEAST_WIDTH = 360
"""Of what is drawn; the legend below a narrow picture needs it."""
LONGEST_PHRASE = 40
"""Characters of a phrase that are shown."""
MOST_OBJECTS = 12
"""That are drawn; a table may name any number."""

TEXT_SIZE = 15
LINE = 22
"""Height of a line of text, in pixels."""
PADDING = 5

WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (170, 170, 170)
WEAKEST = (255, 176, 0)
"""Amber and sky blue are told apart by the colour-blind too."""
OTHERS = (110, 200, 255)

Glyph = tuple[tuple[int, int], bytes]
_NO_GLYPH: Glyph = ((0, 0), b"")


def annotate(
    pixels: NDArray[np.uint8],
    objects: Sequence[NamedObject],
    weakest: NamedObject | None,
    size: tuple[int, int],
) -> PIL.Image.Image:
    """Draw where the objects of a caption were found, and say below how well each fits.

    Objects that were not found have no box and stand in the legend alone.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (height', width', 3), upright, perhaps smaller than the file
    objects : with boxes in pixels of the full-size picture; any text, any numbers
    weakest : the one of them that is drawn in another colour
    size : width and height of the full-size picture, in pixels

    Returns
    -------
    RGB image: the picture, enlarged to a longer side of ``LEAST_SIDE`` where it is smaller,
    and a line for each object below it.
    """
    height, width = pixels.shape[:2]
    scale = max(1.0, LEAST_SIDE / max(height, width))
    shown = max(1, round(width * scale)), max(1, round(height * scale))
    picture = PIL.Image.fromarray(pixels).resize(shown, PIL.Image.Resampling.LANCZOS)
    order = sorted(objects, key=lambda named: named != weakest)[:MOST_OBJECTS]
    legend = [(_colour(named, weakest), _line(named, weakest)) for named in order]
    canvas = PIL.Image.new(
        "RGB",
        (max(shown[0], LEAST_WIDTH), shown[1] + (LINE * len(legend) + 2 * PADDING) * bool(legend)),
        BLACK,
    )
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    boxes = [(named, _on(shown, named.box, size)) for named in order if named.grounded]
    drawn = [(named, box) for named, box in boxes if box is not None]
    for named, box in reversed(drawn):  # the weakest above the others
        _outline(draw, box, _colour(named, weakest), 4 if named == weakest else 2)
    taken: list[Box] = []
    for named, box in drawn:
        _label(draw, box, _words(named), _colour(named, weakest), shown, taken)
    for number, (colour, text) in enumerate(legend):
        top = shown[1] + PADDING + number * LINE
        draw.rectangle((PADDING, top + 4, PADDING + 12, top + 16), fill=colour)
        draw.text((PADDING + 20, top + 2), text, fill=WHITE, font=_font())
    return canvas


def thumbnail(data: bytes, decoding: Decoding, side: int = 320) -> bytes:
    """A small upright JPEG of an image file, without any of the file's metadata.

    Parameters
    ----------
    data : the file, of any content
    decoding : limits and formats, of a model profile
    side : pixels of the longer side, at most

    Raises
    ------
    ImageError
        If the file cannot be decoded.
    """
    image = decode(data, decoding.model_copy(update={"max_side": side}))
    buffer = io.BytesIO()
    PIL.Image.fromarray(image.pixels).save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()


def drawable(text: str) -> str:
    """One line of text in letters that the font has: bare ones for accented ones, or ``?``."""
    shown = "".join(map(_in_font, text[: 2 * LONGEST_PHRASE]))
    return shown if len(shown) <= LONGEST_PHRASE else shown[: LONGEST_PHRASE - 1] + "…"


@lru_cache(maxsize=4096)
def _in_font(letter: str) -> str:
    for shown in (letter, unicodedata.normalize("NFKD", letter)[0]):
        if shown == " " or (shown.isprintable() and _glyph(shown) not in (_missing(), _NO_GLYPH)):
            return shown
    return "" if unicodedata.combining(letter) else "?"


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which needs no file of this machine."""
    return ImageFont.load_default(TEXT_SIZE)


@cache
def _missing() -> Glyph:
    """What the font draws for what it does not have, here a code that is no letter."""
    return _glyph("\uffff")


def _glyph(letter: str) -> Glyph:
    mask = _font().getmask(letter)
    return mask.size, bytes(mask)


def _colour(named: NamedObject, weakest: NamedObject | None) -> tuple[int, int, int]:
    if not named.grounded:
        return GREY
    return WEAKEST if named == weakest else OTHERS


def _words(named: NamedObject) -> str:
    similarity = "" if named.similarity is None else f" {named.similarity:.2f}"
    return drawable(named.phrase) + similarity


def _line(named: NamedObject, weakest: NamedObject | None) -> str:
    """What the legend says of an object."""
    if not named.grounded:
        return f"{_words(named)} (not found)"
    return f"{_words(named)} (fits its words least)" if named == weakest else _words(named)


def _on(shown: tuple[int, int], box: Box | None, size: tuple[int, int]) -> Box | None:
    """A box of the full-size picture on the one that is shown; None if it is no box."""
    if box is None or not all(map(math.isfinite, box)) or min(size) < 1:
        return None
    (width, height), (across, down) = shown, (shown[0] / size[0], shown[1] / size[1])
    x0, x1 = (min(max(side * across, 0), width - 1) for side in box[::2])
    y0, y1 = (min(max(side * down, 0), height - 1) for side in box[1::2])
    return (x0, y0, x1, y1) if x0 <= x1 and y0 <= y1 else None


def _outline(draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int], line: int) -> None:
    """A frame inside a black one, which is seen on dark and on bright pictures."""
    x0, y0, x1, y1 = box
    for inset, shade, width in ((0, BLACK, line + 2), (1, colour, line)):
        inner = (x0 + inset, y0 + inset, max(x1 - inset, x0 + inset), max(y1 - inset, y0 + inset))
        draw.rectangle(inner, outline=shade, width=width)


def _label(
    draw: ImageDraw.ImageDraw,
    box: Box,
    text: str,
    colour: tuple[int, int, int],
    shown: tuple[int, int],
    taken: list[Box],
) -> None:
    """Text on black inside the box's upper edge, lower where another label stands.

    Without a free place inside the picture there is none: the legend has the text too.
    """
    width = math.ceil(draw.textlength(text, font=_font())) + 2 * PADDING
    left = max(0.0, min(box[0], shown[0] - width))
    top = box[1]
    while top + LINE <= shown[1]:
        place = (left, top, left + width, top + LINE)
        if not any(_overlap(place, other) for other in taken):
            draw.rectangle(place, fill=BLACK)
            draw.text((left + PADDING, top + 2), text, fill=colour, font=_font())
            taken.append(place)
            return
        top += LINE


def _overlap(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
