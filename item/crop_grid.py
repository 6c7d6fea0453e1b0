"""A grounder for any dual encoder: the best of a grid of crops for each phrase."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from item.boxes import Picture
from item.embedding import DualEncoder


@dataclass(frozen=True, eq=False)
class Grounding:
    """Where a phrase is in its picture."""

    box: NDArray[np.float32]
    """(x0, y0, x1, y1) in pixels of the given picture, x1 and y1 exclusive."""
    score: float
    grounded: bool
    """Whether the score suffices to say that the object is in the picture."""
    embedding: NDArray[np.float32] | None = None
    """Unit embedding of the box's crop, if the grounder has a dual encoder."""
    phrase_embedding: NDArray[np.float32] | None = None
    """Unit embedding of the prompted phrase, if the grounder has a dual encoder."""


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


@dataclass(frozen=True, eq=False)
class Parts:
    """A picture's grid of crops."""

    boxes: NDArray[np.float32]
    """(n_boxes, 4) x0, y0, x1, y1."""
    embeddings: NDArray[np.float32]
    """(n_boxes, d), unit rows."""


class CropGridGrounder:
    """Score a multi-scale grid of crops against each phrase and keep the best.

    The grounder for any dual encoder. The score is the cosine similarity of the prompted
    phrase and its best crop, ``max_b w . o_b``; of equal crops the first box wins. A phrase
    is grounded if its score reaches ``CropGrid.threshold``, which is calibrated for each
    encoder. Boxes are as coarse as the grid.

    Parameters
    ----------
    encoder : DualEncoder
    settings : CropGrid
    """

    def __init__(self, encoder: DualEncoder, settings: CropGrid) -> None:
        self.encoder = encoder
        self.settings = settings

    def __call__(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> list[list[Grounding]]:
        """Ground each picture's phrases.

        Parameters
        ----------
        pictures : sequence of uint8 arrays of shape (height, width, 3)
        phrases : sequence of as many sequences of phrases

        Returns
        -------
        list of one list for each picture, with a Grounding for each of its phrases in order.
        """
        return self.ground(pictures, phrases)[1]

    def ground(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> tuple[list[Parts], list[list[Grounding]]]:
        """Each picture's grid of crops, and its phrases' groundings."""
        if len(pictures) != len(phrases):
            raise ValueError(f"{len(pictures)} pictures but phrases for {len(phrases)}")
        parts = self.parts(pictures)
        return parts, self.choose(parts, phrases)

    def parts(self, pictures: Sequence[Picture]) -> list[Parts]:
        """Each picture's grid of crops; all crops go to the encoder in one call."""
        grids = [
            crop_grid(picture.shape[1], picture.shape[0], self.settings) for picture in pictures
        ]
        crops = self.encoder.embed_crops(
            [
                picture[y0:y1, x0:x1]
                for picture, boxes in zip(pictures, grids, strict=True)
                for x0, y0, x1, y1 in boxes.astype(int)
            ]
        )
        ends = np.cumsum([len(boxes) for boxes in grids])
        return [
            Parts(boxes, crops[end - len(boxes) : end])
            for boxes, end in zip(grids, ends, strict=True)
        ]

    def choose(
        self, parts: Sequence[Parts], phrases: Sequence[Sequence[str]]
    ) -> list[list[Grounding]]:
        """The best part for each phrase; every distinct phrase is embedded once."""
        distinct = list(dict.fromkeys(phrase for named in phrases for phrase in named))
        if not distinct:
            return [[] for _ in parts]
        prompts = [self.settings.prompt.replace("{phrase}", phrase) for phrase in distinct]
        texts = dict(zip(distinct, self.encoder.embed_texts(prompts), strict=True))
        return [
            [self._best(grid.boxes, grid.embeddings, texts[phrase]) for phrase in named]
            for grid, named in zip(parts, phrases, strict=True)
        ]

    def _best(
        self, boxes: NDArray[np.float32], crops: NDArray[np.float32], text: NDArray[np.float32]
    ) -> Grounding:
        # Not `crops @ text`: BLAS may give equal rows scores that differ in the last bit.
        scores = np.einsum("bd,d->b", crops, text)
        best = int(scores.argmax())
        score = float(scores[best])
        return Grounding(
            box=boxes[best],
            score=score,
            grounded=score >= self.settings.threshold,
            embedding=crops[best].copy(),  # not a view that keeps every crop's in memory
            phrase_embedding=text,
        )
