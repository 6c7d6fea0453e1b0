"""Pictures to sentences: what every captioner does, and which ones there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


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


class Captioning(BaseModel):
    """Which captioner, and how it searches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["mini"] = "mini"
    beams: int = Field(default=3, ge=1, le=16)
    """Width of the beam search; captions are never sampled."""


def load_captioner(settings: Captioning) -> Captioner:
    """The captioner that the settings name, ready to run; UsageError if it is missing."""
    match settings.model:
        case "mini":
            from item.mini.captioner import MiniCaptioner

            return MiniCaptioner(beams=settings.beams)


def captioner_revision(settings: Captioning) -> str:
    """What exactly runs under the settings' name."""
    match settings.model:
        case "mini":
            from item.mini.checkpoint import revision

            return f"mini@{revision('captioner')}"


def check_captioner(settings: Captioning) -> None:
    """UsageError if a file is missing or a package was changed; loads nothing."""
    match settings.model:
        case "mini":
            from item.mini import backbone, checkpoint

            backbone.weights_path()
            checkpoint.revision("captioner")
