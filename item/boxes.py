"""Boxes in a picture: x0, y0, x1, y1 in pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""An RGB array of shape (height, width, 3)."""
Size = tuple[int, int]
"""Width and height of an upright image at full size, in pixels."""
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of its picture, x1 and y1 exclusive."""
SIDES = ("x0", "y0", "x1", "y1")


def crop(pixels: Picture, box: Sequence[float]) -> Picture:
    """Cut a box out of a picture.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (height, width, 3)
    box : x0, y0, x1, y1 in pixels of this picture
        Fractions are widened to whole pixels; what lies outside the picture is left off.

    Returns
    -------
    uint8 ndarray, a view, at least one pixel wide and high.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    x0 = min(max(math.floor(left), 0), width - 1)
    y0 = min(max(math.floor(top), 0), height - 1)
    x1 = min(max(math.ceil(right), x0 + 1), width)
    y1 = min(max(math.ceil(bottom), y0 + 1), height)
    return pixels[y0:y1, x0:x1]


def fitted_box(
    box: NDArray[np.float32], width: int, height: int, padding: float = 0.0, min_side: int = 1
) -> NDArray[np.float32]:
    """A box clipped to its picture, widened, and then grown where it is still too small.

    Parameters
    ----------
    box : x0, y0, x1, y1 in pixels, perhaps outside the picture
    width, height : of the picture in pixels
    padding : fraction of the clipped box's sides that is added on each side
    min_side : pixels; a shorter side becomes this long, from one whole pixel to another, or a
        pixel longer if it takes that to hold the box

    Returns
    -------
    float32 ndarray of shape (4,), inside the picture and around the clipped box.
    """
    x0, y0, x1, y1 = map(float, box)
    x0, x1 = _fitted_span(x0, x1, width, padding, min_side)
    y0, y1 = _fitted_span(y0, y1, height, padding, min_side)
    return np.array([x0, y0, x1, y1], np.float32)


def _fitted_span(
    start: float, end: float, length: int, padding: float, min_side: int
) -> tuple[float, float]:
    start, end = (min(max(place, 0.0), float(length)) for place in (start, end))
    wider = padding * (end - start)
    start = float(np.float32(max(start - wider, 0.0)))
    end = float(np.float32(min(end + wider, float(length))))
    side = min(min_side, length)
    if end - start >= side:
        return start, end
    start, end = math.floor(start), math.ceil(end)
    missing = max(side - (end - start), 0)
    grown = end - start + missing
    start = max(min(start - missing // 2, length - grown), 0)
    return start, start + grown


def full_size_box(box: NDArray[np.float32], picture: Picture, size: Size) -> dict[str, float]:
    """A box of a decoded picture in pixels of the full-size one, as tables hold it.

    Parameters
    ----------
    box : x0, y0, x1, y1 in pixels of ``picture``
    picture : uint8 array of shape (height', width', 3)
    size : of the full-size picture
    """
    sides = (box * _scale(picture, size)).astype(np.float32).tolist()
    return dict(zip(SIDES, sides, strict=True))


def box_in_picture(box: Mapping[str, float], picture: Picture, size: Size) -> list[float]:
    """The inverse of :func:`full_size_box`, to a hundredth of a pixel."""
    sides = np.array([box[side] for side in SIDES])
    # Without rounding, a whole pixel that was scaled up and down becomes two.
    rounded: list[float] = np.round(sides / _scale(picture, size), 2).tolist()
    return rounded


def _scale(picture: Picture, size: Size) -> NDArray[np.float64]:
    """What a box's x0, y0, x1, y1 are multiplied by to be in pixels of the full-size picture.

    The two axes differ where a side was rounded, much so in a very thin picture.
    """
    rows, columns = picture.shape[:2]
    width, height = size
    return np.array([width / columns, height / rows] * 2)
