"""Pictures to sentences: what every captioner does, and which ones there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from item.images.fit import Fit
from item.models.custom import CustomModel, check_custom, custom_revision, load_custom
from item.models.files.source import (
    ModelFiles,
    check,
    configuration_folder,
    local_folder,
    resolved_revision,
)
from item.models.precision import Precision
from item.settings import named_model


class Captioner(Protocol):
    """A deterministic captioner: the same picture has the same caption, always."""

    def caption(self, pictures: Sequence[NDArray[np.uint8]]) -> list[str]:
        """One sentence each.

        Parameters
        ----------
        pictures : sequence of uint8 RGB arrays of shape (height, width, 3), of any sizes

        Returns
        -------
        list of len(pictures) captions. Pictures do not influence each other's captions.
        """
        ...


class MiniCaptioning(BaseModel):
    """The captioner of the ``mini`` profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["mini"] = "mini"
    """Which captioner."""
    beams: int = Field(default=3, ge=1, le=16)
    """Width of the beam search; captions are never sampled."""


class TransformersCaptioning(BaseModel):
    """A captioner that transformers knows: BLIP, BLIP-2 or Florence-2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["transformers"]
    """Which captioner."""
    files: ModelFiles
    """Where its files come from."""
    precision: Precision = "float32"
    """Number type that it runs in."""
    beams: int = Field(default=3, ge=1, le=16)
    """Width of the beam search; captions are never sampled."""
    min_tokens: int = Field(default=5, ge=0)
    """Least length of a caption."""
    max_tokens: int = Field(default=60, ge=1)
    """Greatest length of a caption."""

    @model_validator(mode="after")
    def _in_order(self) -> TransformersCaptioning:
        if self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens is above max_tokens")
        return self


class GivenCaptions(BaseModel):
    """No captioner: the first text in the input's ``captions`` column is the caption."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["given"]
    """Which captioner."""


class NoCaptions(BaseModel):
    """No captions and no objects: embeddings of the images alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["none"]
    """Which captioner."""


Captioning = Annotated[
    Annotated[MiniCaptioning, Tag("mini")]
    | Annotated[TransformersCaptioning, Tag("transformers")]
    | Annotated[CustomModel, Tag("custom")]
    | Annotated[GivenCaptions, Tag("given")]
    | Annotated[NoCaptions, Tag("none")],
    Discriminator(named_model("mini")),
]
"""Which captioner, and how it searches."""


def load_captioner(
    settings: Captioning, batch_size: int | None = None, share: float = 1.0
) -> Captioner:
    """The captioner that the settings name, ready to run.

    Parameters
    ----------
    settings : which one; not ``given`` or ``none``
    batch_size : pictures that pass through the model at once; None lets the captioner choose
    share : of a GPU that is its own

    Raises
    ------
    UsageError
        If it is missing or damaged.
    """
    match settings:
        case MiniCaptioning():
            from item.mini.captioner import MiniCaptioner

            return MiniCaptioner(beams=settings.beams)
        case TransformersCaptioning():
            from item.models.captioners import TransformersCaptioner

            return TransformersCaptioner(
                local_folder(settings.files),
                beams=settings.beams,
                min_tokens=settings.min_tokens,
                max_tokens=settings.max_tokens,
                precision=settings.precision,
                batch_size=batch_size,
                share=share,
                allow_pickle=settings.files.allow_pickle,
            )
        case CustomModel():
            captioner: Captioner = load_custom(settings, "caption")
            return captioner
        case _:
            raise ValueError(f"'{settings.model}' names no captioner")


def captioning_fit(settings: Captioning) -> Fit | None:
    """How a captioner wants its pictures, known without loading it; None as they are decoded.

    Raises
    ------
    UsageError
        If its configuration is missing or damaged.
    """
    match settings:
        case MiniCaptioning():
            from item.mini.whole_pictures import WHOLE

            return WHOLE
        case TransformersCaptioning():
            from item.models.processor_fit import read_processor_fit

            return read_processor_fit(configuration_folder(settings.files))
        case _:
            return None


def first_caption(captions: Sequence[str | None] | None) -> str | None:
    """The first of the texts that came with a picture, on one line; None if all are blank."""
    texts = (" ".join(text.split()) for text in captions or () if text)
    return next(filter(None, texts), None)


def captioner_revision(settings: Captioning) -> str:
    """What exactly runs under the settings' name; UsageError if a model is missing."""
    match settings:
        case MiniCaptioning():
            from item.mini.checkpoint import revision

            return f"mini@{revision('captioner')}"
        case TransformersCaptioning():
            return resolved_revision(settings.files)
        case CustomModel():
            return custom_revision(settings)
        case _:
            return settings.model


def check_captioner(settings: Captioning) -> None:
    """UsageError if a file is missing or a package was changed; loads nothing."""
    match settings:
        case MiniCaptioning():
            from item.mini import backbone, checkpoint

            backbone.weights_path()
            checkpoint.revision("captioner")
        case TransformersCaptioning():
            check(settings.files)
        case CustomModel():
            check_custom(settings)
