"""Boxes in a picture, x0, y0, x1, y1 in pixels, and a grid of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

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
    x0, y0, x1, y1 = whole_pixels(pixels, box)
    return pixels[y0:y1, x0:x1]


def whole_pixels(pixels: Picture, box: Sequence[float]) -> NDArray[np.intp]:
    """The x0, y0, x1, y1 of :func:`crop`: whole pixels inside the picture, at least one."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    x0 = min(max(math.floor(left), 0), width - 1)
    y0 = min(max(math.floor(top), 0), height - 1)
    x1 = min(max(math.ceil(right), x0 + 1), width)
    y1 = min(max(math.ceil(bottom), y0 + 1), height)
    return np.array([x0, y0, x1, y1])


def rows_by_picture(
    rows: NDArray[np.float32], boxes: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Rows of all boxes of n pictures, one after the other -> n arrays, a row for each box."""
    ends = itertools.accumulate(len(of_picture) for of_picture in boxes)
    return [rows[end - len(of_picture) : end] for of_picture, end in zip(boxes, ends, strict=True)]


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


def cell_cover(boxes: NDArray[np.float32], picture: Picture, cells: int) -> NDArray[np.float32]:
    """How much of each cell of a picture's map lies in each box.

    Parameters
    ----------
    boxes : (k, 4) x0, y0, x1, y1 in pixels of the picture, none empty
    picture : uint8 array of shape (height, width, 3)
    cells : rows, and columns, of the map

    Returns
    -------
    float32 ndarray of shape (k, cells * cells), from 0 to 1, row by row.
    """
    height, width = picture.shape[:2]
    edges = boxes / np.array([width, height] * 2) * cells
    starts = np.arange(cells)

    def covered(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        both = np.minimum(end[:, None], starts + 1) - np.maximum(start[:, None], starts)
        return both.clip(0, 1)

    columns = covered(edges[:, 0], edges[:, 2])
    rows = covered(edges[:, 1], edges[:, 3])
    return (rows[:, :, None] * columns[:, None, :]).reshape(len(boxes), -1).astype(np.float32)


class CropGrid(BaseModel):
    """The crops that are compared with a phrase, and when one counts as the object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.67, 0.5), min_length=1)
    """Sides of the crops as fractions of the picture's; 1 is the whole picture."""
    overlap: float = Field(default=0.5, ge=0, lt=1)
    """Least share of its side that a crop has in common with its neighbour."""
    min_side: int = Field(default=32, ge=1)
    """Pixels; a crop side is at least this long, or as long as the picture allows."""
    threshold: float = Field(ge=-1, le=1)
    """Least cosine similarity of a grounded phrase. It depends on the encoder: no default."""
    prompt: str = Field(default="a photo of {phrase}", pattern=r"\{phrase\}")
    """Sentence in which a phrase is embedded."""


def crop_grid(width: int, height: int, grid: CropGrid) -> NDArray[np.float32]:
    """Boxes of several sizes, each size spread evenly so that it covers the picture.

    Parameters
    ----------
    width, height : size of the picture in pixels, at least 1

    Returns
    -------
    ndarray of shape (n_boxes, 4), float32: x0, y0, x1, y1 in whole pixels inside the
    picture, all different; by scale as configured, then from top to bottom, then from
    left to right. An axis at scale s has ``ceil((1 - s) / (s (1 - overlap))) + 1`` places:
    the default grid has 2 x 2 + 3 x 3 boxes.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} pixels has no crops")
    boxes = (
        (x0, y0, x1, y1)
        for scale in grid.scales
        for y0, y1 in _spans(height, scale, grid)
        for x0, x1 in _spans(width, scale, grid)
    )
    return np.array(list(dict.fromkeys(boxes)), dtype=np.float32)


def _spans(length: int, scale: float, grid: CropGrid) -> Iterator[tuple[int, int]]:
    """Even places of a side on an axis, from its first pixel to its last."""
    side = min(length, max(grid.min_side, round(scale * length)))
    gaps = math.ceil((length - side) / (side * (1 - grid.overlap)))
    for place in range(gaps + 1):
        start = place * (length - side) // max(gaps, 1)
        yield start, start + side
