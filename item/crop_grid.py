"""A multi-scale grid of crops over a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


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
