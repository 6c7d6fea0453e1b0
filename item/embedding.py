"""Pictures and texts as points of one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class DualEncoder(Protocol):
    """A frozen CLIP-like model: an image tower and a text tower that share a space.

    Every method returns unit rows of float32, one for each input in order, and an array
    of shape (0, ``dimensions``) for no input. How many inputs pass through the model at
    once is the encoder's business and does not change the result beyond rounding.
    """

    @property
    def dimensions(self) -> int:
        """Length of an embedding."""
        ...

    def embed_images(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed whole pictures.

        Parameters
        ----------
        pictures : sequence of uint8 RGB arrays of shape (height, width, 3), of any sizes

        Returns
        -------
        ndarray of shape (n_pictures, dimensions), unit rows.
        """
        ...

    def embed_crops(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed parts of pictures into the same space, perhaps at a smaller input size.

        Parameters
        ----------
        crops : sequence of uint8 RGB arrays of shape (height, width, 3), of any sizes

        Returns
        -------
        ndarray of shape (n_crops, dimensions), unit rows.
        """
        ...

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, each cut where the model's context ends.

        Returns
        -------
        ndarray of shape (n_texts, dimensions), unit rows.
        """
        ...


class Clip(BaseModel):
    """Which dual encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["mini"] = "mini"


def load_dual_encoder(settings: Clip) -> DualEncoder:
    """The dual encoder that the settings name, ready to run; UsageError if it is missing."""
    match settings.model:
        case "mini":
            from item.mini.dual_encoder import MiniDualEncoder

            return MiniDualEncoder()


def dual_encoder_revision(settings: Clip) -> str:
    """What exactly runs under the settings' name."""
    match settings.model:
        case "mini":
            from item.mini.checkpoint import revision

            return f"mini@{revision('dual_encoder')}"


def dual_encoder_dimensions(settings: Clip) -> int:
    """Length of the embeddings, known without loading the model."""
    match settings.model:
        case "mini":
            return 384


def check_dual_encoder(settings: Clip) -> None:
    """UsageError if a file is missing or a package was changed; loads nothing."""
    match settings.model:
        case "mini":
            from item.mini import backbone, checkpoint, text_backbone

            backbone.weights_path()
            text_backbone.weights_folder()
            checkpoint.revision("dual_encoder")
