"""Pictures and texts as points of one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from item.errors import UsageError
from item.images.boxes import Picture, crop, rows_by_picture
from item.images.fit import Fit
from item.layers import LayerColumns
from item.mini import MOST_LAYERS
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

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, each cut where the model's context ends.

        Parameters
        ----------
        texts : of any length

        Returns
        -------
        ndarray of shape (n_texts, dimensions), unit rows.
        """
        ...


class RegionEncoder(DualEncoder, Protocol):
    """A dual encoder that finds its own way from boxes to embeddings."""

    def embed_regions(
        self, pictures: Sequence[Picture], boxes: Sequence[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """Embed parts of pictures into the same space.

        Parameters
        ----------
        pictures : n uint8 RGB arrays of shape (height, width, 3), of any sizes
        boxes : of each picture (k, 4) x0, y0, x1, y1 in its pixels, none empty

        Returns
        -------
        n arrays of shape (k, dimensions), unit rows.
        """
        ...


class CropEncoder(DualEncoder, Protocol):
    """A dual encoder to which parts of pictures are pictures: what a class of the user's is."""

    def embed_crops(self, crops: Sequence[Picture]) -> NDArray[np.float32]:
        """Embed parts of pictures into the same space, perhaps at a smaller input size.

        Parameters
        ----------
        crops : sequence of uint8 RGB arrays of shape (height, width, 3), of any sizes

        Returns
        -------
        ndarray of shape (n_crops, dimensions), unit rows.
        """
        ...


class LayeredEncoder(DualEncoder, Protocol):
    """A dual encoder that also tells what its intermediate stages see; see :mod:`item.layers`."""

    @property
    def layer_columns(self) -> int:
        """Length of what it tells."""
        ...

    def embed_with_layers(
        self, pictures: Sequence[NDArray[np.uint8]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embed whole pictures, and pool the stages that they pass on the way.

        Parameters
        ----------
        pictures : sequence of uint8 RGB arrays of shape (height, width, 3), of any sizes

        Returns
        -------
        ndarray of shape (n_pictures, dimensions), as :meth:`embed_images`, and ndarray of shape
        (n_pictures, layer_columns), both float32.
        """
        ...


class MiniClip(BaseModel):
    """The dual encoder of the ``mini`` profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["mini"] = "mini"
    """Which dual encoder."""
    layers: Annotated[int, Field(ge=0, le=MOST_LAYERS)] = MOST_LAYERS
    """Length of the column ``layers``; 0 leaves it null."""


class OpenClip(BaseModel):
    """Any dual encoder that open_clip knows, SigLIP included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["open_clip"]
    """Which dual encoder."""
    files: ModelFiles
    """Where its files come from; ``source`` may also be a pair such as ``ViT-L-14/openai``."""
    dimensions: int = Field(ge=1)
    """Length of its embeddings: tables are planned before the model is loaded."""
    layers: LayerColumns = 0
    """Length of the column ``layers``; 0 leaves it null and saves a pass of the tower."""
    precision: Precision = "float32"
    """Number type that it runs in."""
    compiled: bool = False
    """Whether torch.compile makes it faster after a slow start."""


class CustomClip(CustomModel):
    """A dual encoder of the user's."""

    dimensions: int = Field(ge=1)
    """Length of its embeddings."""
    layers: LayerColumns = 0
    """Length of the column ``layers``, for a class that has ``embed_with_layers``."""


Clip = Annotated[
    Annotated[MiniClip, Tag("mini")]
    | Annotated[OpenClip, Tag("open_clip")]
    | Annotated[CustomClip, Tag("custom")],
    Discriminator(named_model("mini")),
]
"""Which dual encoder."""


def load_dual_encoder(
    settings: Clip, batch_size: int | None = None, share: float = 1.0
) -> DualEncoder:
    """The dual encoder that the settings name, ready to run.

    Parameters
    ----------
    settings : which one
    batch_size : inputs that pass through the model at once; None lets the encoder choose
    share : of a GPU that is its own

    Raises
    ------
    UsageError
        If it is missing or damaged, or has not the ``dimensions`` or ``layers`` that the settings
        say.
    """
    encoder: DualEncoder
    match settings:
        case MiniClip():
            from item.mini.dual_encoder import MiniDualEncoder

            return MiniDualEncoder(layer_columns=settings.layers)
        case OpenClip():
            from item.models.open_clip.encoder import OpenClipEncoder

            encoder = OpenClipEncoder(
                local_folder(clip_files(settings)),
                precision=settings.precision,
                batch_size=batch_size,
                share=share,
                allow_pickle=settings.files.allow_pickle,
                compiled=settings.compiled,
                layer_columns=settings.layers,
            )
        case CustomClip():
            methods = ["dimensions", "embed_images", "embed_crops", "embed_texts"]
            methods += ["layer_columns", "embed_with_layers"] if settings.layers else []
            encoder = load_custom(settings, *methods)
    if encoder.dimensions != settings.dimensions:
        raise UsageError(
            f"The dual encoder has {encoder.dimensions} dimensions, not {settings.dimensions}: "
            f"set profile.clip.dimensions={encoder.dimensions}."
        )
    if (
        settings.layers
        and (given := cast(LayeredEncoder, encoder).layer_columns) != settings.layers
    ):
        raise UsageError(
            f"The dual encoder gives {given} columns of layers, not {settings.layers}: set "
            f"profile.clip.layers={given}."
        )
    return encoder


def clip_files(settings: OpenClip) -> ModelFiles:
    """The model's files, with a pair of open_clip's replaced by the repository it means."""
    from item.models.open_clip.files import hub_id

    return settings.files.model_copy(update={"source": hub_id(settings.files.source)})


def dual_encoder_revision(settings: Clip) -> str:
    """What exactly runs under the settings' name; UsageError if a model is missing."""
    match settings:
        case MiniClip():
            from item.mini.checkpoint import revision

            own = f"mini@{revision('dual_encoder')}"
            return f"{own}+{revision('layers')}" if settings.layers else own
        case OpenClip():
            return resolved_revision(clip_files(settings))
        case CustomClip():
            return custom_revision(settings)


def dual_encoder_dimensions(settings: Clip) -> int:
    """Length of the embeddings, known without loading the model."""
    return 384 if isinstance(settings, MiniClip) else settings.dimensions


def check_dual_encoder(settings: Clip) -> None:
    """UsageError if a file is missing or a package was changed; loads nothing."""
    match settings:
        case MiniClip():
            from item.mini import backbone, checkpoint, text_backbone

            backbone.weights_path()
            text_backbone.weights_folder()
            checkpoint.revision("dual_encoder")
            checkpoint.revision("layers")
        case OpenClip():
            check(clip_files(settings))
        case CustomClip():
            check_custom(settings)


def embedding_fits(settings: Clip) -> tuple[Fit, Fit] | None:
    """How a dual encoder wants whole pictures, and their middles for its layers.

    Known without loading the model. None where it takes them as they are decoded.

    Raises
    ------
    UsageError
        If its configuration is missing or damaged.
    """
    match settings:
        case MiniClip():
            from item.mini.whole_pictures import MIDDLE, WHOLE

            return WHOLE, MIDDLE
        case OpenClip():
            from item.models.open_clip.preprocessing import read_fit

            fit = read_fit(configuration_folder(clip_files(settings)))
            return fit, fit.middle
        case CustomClip():
            return None


def regions_fit(settings: Clip) -> Fit | None:
    """To what pictures may be fitted before their regions are embedded; None as decoded."""
    if isinstance(settings, MiniClip):
        from item.mini.whole_pictures import WHOLE

        return WHOLE
    return None


def embed_regions(
    encoder: DualEncoder, pictures: Sequence[Picture], boxes: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Embed parts of pictures by any encoder; see :meth:`RegionEncoder.embed_regions`."""
    if hasattr(encoder, "embed_regions"):
        return cast(RegionEncoder, encoder).embed_regions(pictures, boxes)
    crops = [
        crop(picture, box)
        for picture, of_picture in zip(pictures, boxes, strict=True)
        for box in of_picture
    ]
    return rows_by_picture(cast(CropEncoder, encoder).embed_crops(crops), boxes)


def with_layers(
    encoder: DualEncoder,
    columns: int,
    pictures: Sequence[Picture],
    middles: Sequence[Picture] | None = None,
) -> dict[str, list[NDArray[np.float32]] | list[None]]:
    """Columns ``image_embedding`` and ``layers`` of a features table.

    Parameters
    ----------
    encoder : of the settings; a :class:`LayeredEncoder` if ``columns`` is not 0
    columns : the settings' ``layers``
    pictures : n pictures, decoded or fitted
    middles : their centre crops, where they are cut already

    Returns
    -------
    n unit vectors, and n vectors of ``columns`` numbers, or n times None.
    """
    if not columns:
        return {
            "image_embedding": list(encoder.embed_images(pictures)),
            "layers": [None] * len(pictures),
        }
    given = () if middles is None else (middles,)
    embeddings, layers = cast(LayeredEncoder, encoder).embed_with_layers(pictures, *given)
    return {"image_embedding": list(embeddings), "layers": list(layers)}
