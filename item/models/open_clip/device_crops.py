"""Parts of pictures cut and resized on a device, all at once, as Pillow does it on the CPU.

Resizing is a product with a matrix for each axis, and so is cutting: the rows of the matrix are
the pixels of the result, its columns those of the whole picture. A GPU multiplies hundreds of
such matrices in the time that a processor takes to cut one crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from item.models.open_clip.preprocessing import OpenClipFit

BICUBIC_A = -0.5
"""Pillow's, and Keys' (1981), parameter of the cubic kernel."""
MOST_AT_ONCE = 32
"""Crops whose pixels are floats at once: 7 MB each of a picture of 768 pixels."""


class Span(NamedTuple):
    """One axis of a crop: where its pixels go."""

    start: int
    """First pixel of the crop in its picture."""
    length: int
    """Pixels of the crop."""
    resized: int
    """Pixels that the crop is resized to."""
    shift: int
    """Place of the result's first pixel among those; below 0 where the result has a margin."""


def cut(pixels: Tensor, places: Sequence[int], boxes: NDArray[np.intp], fit: OpenClipFit) -> Tensor:
    """Crops, each fitted as the repository wants whole pictures.

    Within two levels of a colour of what :class:`OpenClipFit` gives of the same crops, but where
    a colour is cut off at its limits between the two axes: Pillow 13 takes now the rows first and
    now the columns.

    Parameters
    ----------
    pixels : pictures (p, rows, columns, 3), by :func:`item.models.upload.upload`
    places : in which picture each of n crops is
    boxes : (n, 4) x0, y0, x1, y1 in whole pixels, inside the pictures and none empty
    fit : to what

    Returns
    -------
    uint8 tensor (n, height, width, 3) on the device of the pictures.
    """
    spans = [fit_spans(box, fit) for box in boxes]
    found = pixels.new_empty((len(spans), fit.height, fit.width, 3))
    for start in range(0, len(spans), MOST_AT_ONCE):
        some = slice(start, start + MOST_AT_ONCE)
        found[some] = _cut(pixels, list(places[some]), spans[some], fit)
    return found


def _cut(
    pixels: Tensor, places: list[int], spans: Sequence[tuple[Span, Span]], fit: OpenClipFit
) -> Tensor:
    bilinear, most = fit.resamples_bilinearly, pixels.shape[1:3]
    down = _matrix([rows for rows, _ in spans], fit.height, most[0], bilinear, pixels)
    across = _matrix(
        [columns for _, columns in spans], fit.width, pixels.shape[2], bilinear, pixels
    )
    crops = pixels[torch.tensor(places, device=pixels.device)].float()
    # Whole levels in between, as Pillow has them.
    for product, matrix in (("nwx,nyxc->nywc", across), ("nhy,nywc->nhwc", down)):
        crops = torch.einsum(product, matrix, crops).add_(0.5).floor_().clamp_(0, 255)
    inside = (down.sum(2) > 0.5).unsqueeze(2) & (across.sum(2) > 0.5).unsqueeze(1)
    fill = float(fit.preprocessing.fill_color)
    return crops.masked_fill_(~inside.unsqueeze(3), fill).to(torch.uint8)


def fit_spans(box: NDArray[np.intp], fit: OpenClipFit) -> tuple[Span, Span]:
    """Rows and columns of a crop, and where fitting puts them."""
    x0, y0, x1, y1 = box.tolist()
    resized = fit.preprocessing.resized(y1 - y0, x1 - x0, fit.height, fit.width)
    axes = ((y0, y1 - y0, resized[0], fit.height), (x0, x1 - x0, resized[1], fit.width))
    rows, columns = (
        Span(start, length, whole, round(max(0, whole - side) / 2) - max(0, (side - whole) // 2))
        for start, length, whole, side in axes
    )
    return rows, columns


def _matrix(spans: Sequence[Span], side: int, pixels: int, bilinear: bool, like: Tensor) -> Tensor:
    """Weights (n, side, pixels) of a picture's pixels for each pixel of the result; 0 in margins.

    Pillow's way (``precompute_coeffs`` of its Resample.c): the kernel is widened where a picture is
    shrunk, cut off at the crop's edges, and normalised.
    """
    # In double precision, as Pillow: whether a pixel is within may hang on the last bit.
    numbers = torch.tensor(spans, dtype=torch.float64, device=like.device)
    start, length, resized, shift = (column.view(-1, 1, 1) for column in numbers.unbind(1))
    place = torch.arange(side, device=like.device).view(1, -1, 1) + shift
    pixel = torch.arange(pixels, device=like.device).view(1, 1, -1) - start
    scale = length / resized
    wide = scale.clamp_min(1.0)
    support = (1.0 if bilinear else 2.0) * wide
    centre = (place + 0.5) * scale
    first = (centre - support + 0.5).floor().clamp_min(0.0)
    last = torch.minimum((centre + support + 0.5).floor(), length)
    distance = ((pixel - centre + 0.5) / wide).abs()
    weights = (1 - distance).clamp_min(0.0) if bilinear else _cubic(distance)
    within = (pixel >= first) & (pixel < last) & (place >= 0) & (place < resized)
    weights = weights * within
    whole = weights.sum(dim=2, keepdim=True).where(within.any(dim=2, keepdim=True), 1.0)
    return (weights / whole).float()


def _cubic(x: Tensor) -> Tensor:
    near = ((BICUBIC_A + 2) * x - (BICUBIC_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * BICUBIC_A
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
