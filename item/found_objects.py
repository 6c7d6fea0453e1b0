"""The objects that captions name: where they are in the pictures, and their embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from item.embedding import DualEncoder, embed_regions
from item.grounding import PartsGrounder, load_grounder
from item.images.boxes import Picture, Size, box_in_picture, full_size_box
from item.profiles import Profile

Embedding = NDArray[np.float32]
"""Unit vector of the CLIP space, of shape (dimensions,)."""


@dataclass(frozen=True, eq=False)
class FoundObjects:
    """The objects of n pictures' captions; every list has one entry a picture."""

    objects: Sequence[Sequence[dict[str, Any]]]
    """Phrase, box, score and whether it is grounded, as in :data:`item.tables.OBJECT`."""
    crop_embeddings: Sequence[Sequence[Embedding | None]]
    """Of each object's box; None where the grounder has not embedded it."""
    phrase_embeddings: Sequence[Sequence[Embedding | None]]
    """Of each object's prompted phrase; None where the grounder has not embedded it."""
    parts_embedding: Sequence[Embedding] = ()
    """Mean embedding of each picture's grid of crops."""

    def with_embeddings(
        self,
        encoder: DualEncoder,
        prompt: str,
        pictures: Sequence[Picture],
        sizes: Sequence[Size],
    ) -> FoundObjects:
        """The same objects, with the embeddings that the grounder left out.

        Parameters
        ----------
        encoder : makes them, of all pictures in one call
        prompt : what a phrase is put into, at ``{phrase}``
        pictures : n decoded pictures
        sizes : of the n full-size pictures, in whose pixels the boxes are
        """
        missing = [
            (row, place)
            for row, embeddings in enumerate(self.crop_embeddings)
            for place, embedding in enumerate(embeddings)
            if embedding is None
        ]
        if not missing:
            return self
        boxes = [
            np.array(
                [
                    box_in_picture(values["box"], picture, size)
                    for values, embedding in zip(objects, embeddings, strict=True)
                    if embedding is None
                ]
            ).reshape(-1, 4)
            for objects, embeddings, picture, size in zip(
                self.objects, self.crop_embeddings, pictures, sizes, strict=True
            )
        ]
        prompts = [
            prompt.replace("{phrase}", self.objects[row][place]["phrase"]) for row, place in missing
        ]
        crops = [list(embeddings) for embeddings in self.crop_embeddings]
        phrases = [list(embeddings) for embeddings in self.phrase_embeddings]
        of_boxes = itertools.chain.from_iterable(embed_regions(encoder, pictures, boxes))
        for (row, place), of_crop, of_phrase in zip(
            missing, of_boxes, encoder.embed_texts(prompts), strict=True
        ):
            crops[row][place], phrases[row][place] = of_crop, of_phrase
        return FoundObjects(self.objects, crops, phrases, self.parts_embedding)


class ObjectFinder:
    """Where the phrases of captions are in the pictures.

    Parameters
    ----------
    grounder : finds them
    """

    def __init__(self, grounder: PartsGrounder) -> None:
        self.grounder = grounder

    @classmethod
    def load(cls, profile: Profile, encoder: DualEncoder) -> ObjectFinder:
        """That of a profile; UsageError if a model is missing."""
        resources = profile.resources.objects
        return cls(
            load_grounder(
                profile.grounder, encoder, resources.model_batch_size, resources.gpu_share
            )
        )

    def __call__(
        self, pictures: Sequence[Picture], sizes: Sequence[Size], phrases: Sequence[Sequence[str]]
    ) -> FoundObjects:
        """Find the objects of n captions.

        Parameters
        ----------
        pictures : n uint8 RGB arrays of shape (height', width', 3), as
            :class:`item.profiles.inputs.PictureInputs` gives them to the grounder
        sizes : of the n full-size pictures; boxes are in their pixels
        phrases : that each caption names
        """
        parts, groundings = self.grounder.ground(pictures, phrases)
        return FoundObjects(
            objects=[
                [
                    {
                        "phrase": phrase,
                        "box": full_size_box(grounding.box, picture, size),
                        "grounding_score": grounding.score,
                        "grounded": grounding.grounded,
                    }
                    for phrase, grounding in zip(named, of_picture, strict=True)
                ]
                for picture, size, named, of_picture in zip(
                    pictures, sizes, phrases, groundings, strict=True
                )
            ],
            crop_embeddings=[[grounding.embedding for grounding in row] for row in groundings],
            phrase_embeddings=[
                [grounding.phrase_embedding for grounding in row] for row in groundings
            ],
            parts_embedding=[grid.embeddings.mean(axis=0) for grid in parts],
        )
