"""Phrases to boxes: which grounder a profile names, and a detector with a crop grid behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from item.embedding import Clip, DualEncoder, embed_regions, regions_fit
from item.images.boxes import CropGrid, Picture, crop_grid
from item.images.fit import Fit
from item.models.custom import CustomModel, check_custom, custom_revision, load_custom
from item.models.files.source import ModelFiles, check, local_folder, resolved_revision
from item.models.precision import Precision
from item.settings import named_model

if TYPE_CHECKING:
    from item.models.detectors import Detector


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
        """Ground each picture's phrases, and show the crops that they were looked for in.

        Parameters
        ----------
        pictures : n uint8 arrays of shape (height, width, 3)
        phrases : n sequences of phrases

        Returns
        -------
        n grids of crops, and n lists with a Grounding for each phrase in order.

        Raises
        ------
        ValueError
            If there are not as many sequences of phrases as pictures.
        """
        if len(pictures) != len(phrases):
            raise ValueError(f"{len(pictures)} pictures but phrases for {len(phrases)}")
        parts = self.parts(pictures)
        return parts, self.choose(parts, phrases)

    def parts(self, pictures: Sequence[Picture]) -> list[Parts]:
        """Embed each picture's grid of crops, in one call of the encoder.

        Parameters
        ----------
        pictures : n uint8 arrays of shape (height, width, 3)

        Returns
        -------
        n grids, in the order of the pictures.
        """
        grids = [
            crop_grid(picture.shape[1], picture.shape[0], self.settings) for picture in pictures
        ]
        return list(map(Parts, grids, embed_regions(self.encoder, pictures, grids)))

    def choose(
        self, parts: Sequence[Parts], phrases: Sequence[Sequence[str]]
    ) -> list[list[Grounding]]:
        """Choose the best part for each phrase; every distinct phrase is embedded once.

        Parameters
        ----------
        parts : n grids of :meth:`parts`
        phrases : n sequences of phrases

        Returns
        -------
        n lists with a Grounding for each phrase in order.
        """
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


class Grounder(Protocol):
    """Whatever finds phrases in pictures."""

    def __call__(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> list[list[Grounding]]:
        """Find phrases in pictures.

        Parameters
        ----------
        pictures : n uint8 RGB arrays of shape (height, width, 3), of any sizes
        phrases : n sequences of phrases, some of them perhaps empty

        Returns
        -------
        n lists with a Grounding for each phrase in order.
        """
        ...


class PartsGrounder(Protocol):
    """A grounder that also shows the parts of the pictures that a crop grid gives."""

    def ground(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> tuple[list[Parts], list[list[Grounding]]]:
        """Find phrases in pictures, and embed the crops of a grid.

        Parameters
        ----------
        pictures : n uint8 RGB arrays of shape (height, width, 3), of any sizes
        phrases : n sequences of phrases, some of them perhaps empty

        Returns
        -------
        n grids of crops, and n lists with a Grounding for each phrase in order.
        """
        ...


class DetectorGrounding(BaseModel):
    """An open-vocabulary detector that transformers knows: OWLv2 or GroundingDINO."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["transformers"]
    """Which grounder."""
    files: ModelFiles
    """Where its files come from."""
    precision: Precision = "float32"
    """Number type that it runs in."""
    threshold: float = Field(ge=0, le=1)
    """Least score of a grounded phrase. It depends on the detector: no default."""
    padding: float = Field(default=0.05, ge=0, le=1)
    """What is added to a box on each side, as a fraction of that side."""
    min_side: int = Field(default=16, ge=1)
    """Pixels to which smaller boxes grow."""
    fallback: CropGrid
    """Where a phrase that the detector does not find is looked for; it stays ungrounded."""


class CustomGrounding(CustomModel):
    """A grounder of the user's; see :class:`Grounder`."""

    fallback: CropGrid
    """The parts of a picture whose mean embedding every features table has."""


GroundingSettings = Annotated[
    Annotated[CropGrid, Tag("crop_grid")]
    | Annotated[DetectorGrounding, Tag("transformers")]
    | Annotated[CustomGrounding, Tag("custom")],
    Discriminator(named_model("crop_grid")),
]
"""Which grounder: a section without ``model`` is a crop grid."""


def grounding_fit(settings: GroundingSettings, clip: Clip) -> Fit | None:
    """To what pictures may be fitted before objects are looked for; None as decoded.

    Parameters
    ----------
    settings : which grounder
    clip : the dual encoder that embeds what a crop grid shows
    """
    return regions_fit(clip) if isinstance(settings, CropGrid) else None


def grid_of(settings: GroundingSettings) -> CropGrid:
    """The crop grid that is the grounder, or stands behind it."""
    return settings if isinstance(settings, CropGrid) else settings.fallback


class WithParts:
    """A grounder of any kind, beside the crop grid that every features table needs.

    Parameters
    ----------
    grounder : any
    grid : embeds the parts of the pictures
    """

    def __init__(self, grounder: Grounder, grid: CropGridGrounder) -> None:
        self.grounder = grounder
        self.grid = grid

    def ground(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> tuple[list[Parts], list[list[Grounding]]]:
        """Each picture's grid of crops, and its phrases' groundings."""
        return self.grid.parts(pictures), self.grounder(pictures, phrases)


def load_grounder(
    settings: GroundingSettings,
    encoder: DualEncoder,
    batch_size: int | None = None,
    share: float = 1.0,
) -> PartsGrounder:
    """The grounder that the settings name, ready to run.

    Parameters
    ----------
    settings : which one
    encoder : that embeds the crops of the grid
    batch_size : pictures that pass through a detector at once; None lets it choose
    share : of a GPU that is its own

    Raises
    ------
    UsageError
        If it is missing or damaged.
    """
    grid = CropGridGrounder(encoder, grid_of(settings))
    match settings:
        case CropGrid():
            return grid
        case DetectorGrounding():
            from item.models.detectors import Detector

            detector = Detector(
                local_folder(settings.files),
                threshold=settings.threshold,
                padding=settings.padding,
                min_side=settings.min_side,
                precision=settings.precision,
                batch_size=batch_size,
                share=share,
                allow_pickle=settings.files.allow_pickle,
            )
            return DetectorGrounder(detector, grid)
        case CustomGrounding():
            return WithParts(load_custom(settings, "__call__"), grid)


def grounder_revision(settings: GroundingSettings) -> str:
    """What exactly runs under the settings' name."""
    match settings:
        case CropGrid():
            return "crop_grid"
        case DetectorGrounding():
            return resolved_revision(settings.files)
        case CustomGrounding():
            return custom_revision(settings)


def check_grounder(settings: GroundingSettings) -> None:
    """UsageError if a file is missing or damaged; loads nothing."""
    match settings:
        case DetectorGrounding():
            check(settings.files)
        case CustomGrounding():
            check_custom(settings)


class DetectorGrounder:
    """Ground phrases by a detector, and by a grid of crops where it finds nothing.

    A phrase that the detector finds has the detector's box and score, and no embedding: its
    crop is not one of the grid's. Any other phrase is not grounded: it has the grid's best crop,
    with its embeddings, and the detector's best score, which is below the threshold.

    Parameters
    ----------
    detector : Detector
    grid : CropGridGrounder
    """

    def __init__(self, detector: Detector, grid: CropGridGrounder) -> None:
        self.detector = detector
        self.grid = grid

    def __call__(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> list[list[Grounding]]:
        """One grounding for each phrase of each picture, in order."""
        return self.ground(pictures, phrases)[1]

    def ground(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> tuple[list[Parts], list[list[Grounding]]]:
        """Ground each picture's phrases.

        Parameters
        ----------
        pictures : sequence of uint8 arrays of shape (height, width, 3)
        phrases : sequence of as many sequences of phrases

        Returns
        -------
        Each picture's grid of crops, and a list for each picture with a Grounding for each of
        its phrases in order.
        """
        best = self.detector.best(pictures, phrases)
        parts = self.parts(pictures)
        threshold = self.detector.threshold
        missed = [
            [
                phrase
                for phrase, detection in zip(named, detections, strict=True)
                if detection.score < threshold
            ]
            for named, detections in zip(phrases, best, strict=True)
        ]
        groundings = []
        for detections, crops in zip(best, self.grid.choose(parts, missed), strict=True):
            left = iter(crops)
            groundings.append(
                [
                    Grounding(detection.box, detection.score, grounded=True)
                    if detection.score >= threshold
                    else replace(next(left), score=detection.score, grounded=False)
                    for detection in detections
                ]
            )
        return parts, groundings

    def parts(self, pictures: Sequence[Picture]) -> list[Parts]:
        """Each picture's grid of crops."""
        return self.grid.parts(pictures)

    @property
    def halvings(self) -> int:
        """How often a batch of the detector's did not fit and was halved."""
        return self.detector.halvings
