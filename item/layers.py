"""What the intermediate stages of a vision tower see of a picture, pooled.

A tower's last layer is trained to forget how a picture was made; its earlier ones are not.
Koutlis and Papadopoulos (2024, arXiv:2402.19091) detect generated images by the class tokens of
CLIP's blocks. Here the stages see a picture twice: squashed, in the pass that makes its embedding,
and as a centre crop at the picture's own resolution, where traces of its making are not resized
away. What they see is projected to a few hundred columns by a fixed matrix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pydantic import Field

from item.images.fit import Square

if TYPE_CHECKING:
    from torch import Tensor

MOST_COLUMNS = 512
CROPPED = 7 / 8
"""Share of a picture's shorter side that the centre crop takes where the picture is large."""


LayerColumns = Annotated[int, Field(ge=0, le=MOST_COLUMNS)]
"""Length of the column ``layers``; 0 leaves it null and saves a pass of the tower."""


def centre_crop(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The middle of a picture at its own resolution, as far as that is comparable.

    A picture is shrunk, never enlarged, until the crop takes 7/8 of its shorter side: of a picture
    of 4000 pixels a crop of 224 would show a patch of sky. A smaller picture is mirrored at its
    edges.

    Parameters
    ----------
    picture : uint8 RGB array of shape (height, width, 3), of any size
    side : of the crop

    Returns
    -------
    uint8 ndarray of shape (side, side, 3).
    """
    scale = side / CROPPED / min(picture.shape[:2])
    if scale < 1:
        height, width = (max(side, round(length * scale)) for length in picture.shape[:2])
        image = PIL.Image.fromarray(picture)
        picture = np.array(image.resize((width, height), PIL.Image.Resampling.BICUBIC))
    missing = [max(0, side - length) for length in picture.shape[:2]]
    if any(missing):
        edges = [(gap // 2, gap - gap // 2) for gap in missing]
        picture = np.pad(picture, (*edges, (0, 0)), mode="symmetric")
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


class CentreCrop(Square):
    """The fit of :func:`centre_crop`; see :class:`item.images.fit.Fit`."""

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Picture (h, w, 3) -> (side, side, 3)."""
        return centre_crop(picture, self.side)


def pooled_maps(maps: Iterable[Tensor]) -> Tensor:
    """Mean and standard deviation over each channel's map, stage by stage.

    Parameters
    ----------
    maps : of each stage (n, channels, height, width)

    Returns
    -------
    float32 tensor of shape (n, 2 * all channels).
    """
    import torch

    found = []
    for stage in maps:
        # Sums over rows of channels take a tenth of the time that torch.var_mean takes.
        places = stage.float().permute(0, 2, 3, 1).flatten(1, 2)
        mean = places.mean(dim=1)
        found += [mean, (places - mean.unsqueeze(1)).square().mean(dim=1).sqrt()]
    return torch.cat(found, dim=1)


def pooled_tokens(tokens: Iterable[Tensor], with_class_token: bool) -> Tensor:
    """The class token of each block, or the mean token, as unit vectors.

    Parameters
    ----------
    tokens : of each block (n, tokens, width); the class token is the first
    with_class_token : whether the tower has one

    Returns
    -------
    float32 tensor of shape (n, blocks * width).
    """
    import torch
    from torch.nn.functional import normalize

    chosen = (block[:, 0] if with_class_token else block.mean(dim=1) for block in tokens)
    return torch.cat([normalize(token.float(), dim=1) for token in chosen], dim=1)


def random_projection(inputs: int, columns: int) -> NDArray[np.float32]:
    """The fixed matrix of a tower for which none was fitted; the same on every machine.

    Signs in equal numbers keep distances about as a Gaussian matrix does (Achlioptas 2003,
    "Database-friendly random projections").

    Parameters
    ----------
    inputs : numbers that a tower's stages give of a picture
    columns : of the result

    Returns
    -------
    float32 ndarray of shape (inputs, columns), +-1 / sqrt(columns).
    """
    drawn = hashlib.shake_128(f"layers {inputs} {columns}".encode()).digest(
        (inputs * columns + 7) // 8
    )
    signs = np.unpackbits(np.frombuffer(drawn, np.uint8), count=inputs * columns)
    return ((2.0 * signs - 1) / np.sqrt(columns)).astype(np.float32).reshape(inputs, columns)
