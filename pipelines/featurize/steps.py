"""From images to misalignment features: the stages of the method, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from item.captioning import TransformersCaptioning, first_caption, load_captioner
from item.embedding import DualEncoder, OpenClip, load_dual_encoder, with_layers
from item.featurizing import misaligned, read_file
from item.found_objects import FoundObjects, ObjectFinder
from item.grounding import CustomGrounding
from item.images.boxes import Picture, Size
from item.images.decode import image_id
from item.images.errors import ImageError
from item.images.perturb import NONE, Perturbation
from item.phrases import PhraseExtraction, PhraseExtractor
from item.profiles import Profile, Resources
from item.profiles.inputs import PICTURE_NAMES, PIXELS, PictureInputs, picture_inputs
from item.tables import EMBEDDING, OBJECT, ErrorCode, Status
from pipelines.runtime.columns import PIXELS as ANY_SIZE
from pipelines.runtime.columns import tensor
from pipelines.runtime.stages import ERRORS, PENDING, Columns, RowError, Stage

PASSING = {*PICTURE_NAMES, "pixel_rows", "phrases"}
"""Columns that a stage makes for later ones, and no table holds."""
IMAGE_EMBEDDINGS = {"image_embedding": EMBEDDING, "layers": EMBEDDING}
"""Columns that a dual encoder makes of whole pictures."""
OBJECT_EMBEDDINGS = {
    "crop_embeddings": pa.list_(EMBEDDING),
    "phrase_embeddings": pa.list_(EMBEDDING),
}
"""Columns of embeddings of each object, on their way to the misalignments."""


def stages(profile: Profile, perturbation: str = NONE, register: Any = None) -> list[Stage]:
    """The method, step by step.

    Parameters
    ----------
    profile : which models
    perturbation : what is done to each image first
    register : handle of a :class:`pipelines.featurize.reuse.Register`; without one, pictures that
        come again are featurized again
    """
    models_read = picture_inputs(profile)
    perturb = [] if perturbation == NONE else [Perturb(profile, perturbation)]
    to_pixels: list[Stage] = [
        *perturb,  # bytes -> bytes | error
        Identify(profile, register),  # bytes -> image_id; known pictures skip the models
        Decode(profile, models_read),  # bytes -> pixels, size, format | error
    ]
    if profile.embeds_only:
        return dropping([*to_pixels, EmbedImages(profile, models_read)])  # pixels -> embedding
    steps = [
        *to_pixels,
        # pixels -> caption
        TakeCaption(profile) if profile.captions_given else Caption(profile, models_read),
        Phrases(profile),  # caption -> phrases
        FindObjects(profile, models_read),  # pixels, phrases -> objects
        Embed(profile, models_read),  # pixels, caption, objects -> embeddings
        Misalign(profile),  # embeddings -> similarities, misalignments
    ]
    return dropping(steps)


def dropping(steps: list[Stage]) -> list[Stage]:
    """The same stages, each of which drops the pictures that no later one reads."""
    for place, stage in enumerate(steps):
        later = {name for other in steps[place + 1 :] for name in other.inputs}
        last_read = [name for name in stage.inputs if name in PASSING and name not in later]
        stage.drops = (*stage.drops, *last_read)
    return steps


class Perturb(Stage):
    """Bytes to the bytes of a perturbed image, by :mod:`item.images.perturb`.

    What cannot be decoded passes unchanged: the next stage says why.
    """

    inputs: tuple[str, ...] = ("bytes",)
    outputs: Mapping[str, pa.DataType] = {"bytes": pa.binary()}

    def __init__(self, profile: Profile, perturbation: str) -> None:
        # Those of decoding: Ray then reads, perturbs and decodes in one task.
        self.resources: Resources = profile.resources.decode
        self.decoding = profile.decoding
        self.perturbation = Perturbation.parse(perturbation)

    def process(self, columns: Columns) -> Columns:
        rows = [self._perturbed(data) for data in columns["bytes"]]
        return {name: [row.get(name) for row in rows] for name in ("bytes", ERRORS)}

    def _perturbed(self, data: bytes) -> dict[str, Any]:
        try:
            return {"bytes": self.perturbation.apply(data, self.decoding)}
        except ImageError as error:
            return {ERRORS: RowError(error.code, error.message)}


class Identify(Stage):
    """Bytes to their SHA-256. Rows whose picture another row has are set aside as ``pending``."""

    inputs: tuple[str, ...] = ("bytes", "uri", "date", "occurrence")
    outputs: Mapping[str, pa.DataType] = {
        "image_id": pa.string(),
        "byte_count": pa.int64(),
        "status": pa.string(),
    }

    def __init__(self, profile: Profile, register: Any = None) -> None:
        # Those of decoding: Ray then reads, identifies and decodes in one task.
        self.resources: Resources = profile.resources.decode
        self.register = register

    def process(self, columns: Columns) -> Columns:
        ids = [image_id(data) for data in columns["bytes"]]
        known = [False] * len(ids)
        if self.register is not None:
            names = zip(columns["date"], columns["occurrence"], columns["uri"], strict=True)
            known = ray.get(self.register.known.remote(ids, list(names)))
        return {
            "image_id": ids,
            "byte_count": [len(data) for data in columns["bytes"]],
            "status": [PENDING if is_known else Status.OK for is_known in known],
        }


class Decode(Stage):
    """Bytes to pixels, as the models read them: the only stage that trusts nothing."""

    inputs: tuple[str, ...] = ("bytes",)
    about_file: Mapping[str, pa.DataType] = {
        "width": pa.int32(),
        "height": pa.int32(),
        "format": pa.string(),
        "jpeg_quality": pa.float32(),
        "digital_source_type": pa.string(),
        "notes": pa.list_(pa.string()),
    }
    drops: tuple[str, ...] = ("bytes",)

    def __init__(self, profile: Profile, models_read: PictureInputs) -> None:
        self.resources: Resources = profile.resources.decode
        self.decoding = profile.decoding
        self.models_read = models_read
        self.outputs = {**picture_columns(models_read, *models_read.names), **self.about_file}

    def process(self, columns: Columns) -> Columns:
        rows = [self._decoded(data) for data in columns["bytes"]]
        return {name: [row.get(name) for row in rows] for name in (*self.outputs, ERRORS)}

    def _decoded(self, data: bytes) -> dict[str, Any]:
        try:
            row = read_file(data, self.decoding)
        except ImageError as error:
            return {ERRORS: RowError(error.code, error.message)}
        row["pixel_rows"] = len(row["pixels"])
        return row | self.models_read.of(row["pixels"])


class Caption(Stage):
    """Pixels to a sentence."""

    outputs: Mapping[str, pa.DataType] = {"caption": pa.string()}
    drops: tuple[str, ...] = ("captions",)

    def __init__(self, profile: Profile, models_read: PictureInputs) -> None:
        self.resources = profile.resources.caption
        self.settings = profile.captioner
        self.several_threads = isinstance(self.settings, TransformersCaptioning)
        self.picture = models_read.captioner or PIXELS
        self.inputs = tuple(picture_columns(models_read, self.picture))

    def set_up(self) -> None:
        batch_size, share = self.resources.model_batch_size, self.resources.gpu_share
        self.captioner = load_captioner(self.settings, batch_size, share)

    @property
    def halvings(self) -> int:
        return _halvings(self.captioner)

    def process(self, columns: Columns) -> Columns:
        return {"caption": self.captioner.caption(pictures(columns, self.picture))}


class TakeCaption(Stage):
    """The first of the captions that came with the image."""

    inputs: tuple[str, ...] = ("captions",)
    outputs: Mapping[str, pa.DataType] = {"caption": pa.string()}
    drops: tuple[str, ...] = ("captions",)

    def __init__(self, profile: Profile) -> None:
        # Those of decoding: Ray then does both in one task.
        self.resources: Resources = profile.resources.decode

    def process(self, columns: Columns) -> Columns:
        captions = [first_caption(texts) for texts in columns["captions"]]
        missing = RowError(ErrorCode.NO_CAPTION, ErrorCode.NO_CAPTION.sentence)
        return {
            "caption": captions,
            ERRORS: [missing if caption is None else None for caption in captions],
        }


class Phrases(Stage):
    """The caption's phrases, by a parser that no GPU worker should wait for."""

    inputs: tuple[str, ...] = ("caption",)
    outputs: Mapping[str, pa.DataType] = {"phrases": pa.list_(pa.string())}

    def __init__(self, profile: Profile) -> None:
        self.resources = profile.resources.phrases
        self.settings = profile.phrases

    def set_up(self) -> None:
        phrase_extractor(self.settings)

    def process(self, columns: Columns) -> Columns:
        return {"phrases": phrase_extractor(self.settings)(columns["caption"])}


@lru_cache(maxsize=1)
def phrase_extractor(settings: PhraseExtraction) -> PhraseExtractor:
    """The one of this process, which takes a second to load."""
    return PhraseExtractor(settings)


class FindObjects(Stage):
    """Where the caption's phrases are in the picture."""

    outputs: Mapping[str, pa.DataType] = {
        "objects": pa.list_(OBJECT),
        "parts_embedding": EMBEDDING,
        **OBJECT_EMBEDDINGS,
    }

    def __init__(self, profile: Profile, models_read: PictureInputs) -> None:
        self.resources = profile.resources.objects
        self.profile = profile
        self.several_threads = isinstance(profile.clip, OpenClip) and not isinstance(
            profile.grounder, CustomGrounding
        )
        self.picture = models_read.grounder or PIXELS
        pictures_read = picture_columns(models_read, self.picture)
        self.inputs = (*pictures_read, "width", "height", "phrases")

    def set_up(self) -> None:
        self.encoder = dual_encoder(self.profile, self.resources)
        self.finder = ObjectFinder.load(self.profile, self.encoder)

    @property
    def halvings(self) -> int:
        return _halvings(self.encoder) + _halvings(self.finder.grounder)

    def process(self, columns: Columns) -> Columns:
        images = pictures(columns, self.picture)
        objects = self.finder(images, sizes(columns), columns["phrases"])
        return {name: getattr(objects, name) for name in self.outputs}


class Embed(Stage):
    """Pictures and captions to unit vectors of one space, and what the tower's stages saw.

    Crops and phrases too, where the grounder has not embedded them already.
    """

    def __init__(self, profile: Profile, models_read: PictureInputs) -> None:
        self.resources = profile.resources.embed
        self.profile = profile
        self.several_threads = isinstance(profile.clip, OpenClip)
        self.models_read = models_read
        self.inputs = (*picture_columns(models_read, *read_by_encoder(models_read)), "caption")
        self.outputs = {**IMAGE_EMBEDDINGS, "caption_embedding": EMBEDDING}
        if models_read.crops:
            self.inputs += ("width", "height", "objects", *OBJECT_EMBEDDINGS)
            self.outputs |= OBJECT_EMBEDDINGS

    def set_up(self) -> None:
        self.encoder = dual_encoder(self.profile, self.resources)

    @property
    def halvings(self) -> int:
        return _halvings(self.encoder)

    def process(self, columns: Columns) -> Columns:
        return {
            **seen(self.encoder, self.profile, columns, self.models_read),
            "caption_embedding": list(self.encoder.embed_texts(columns["caption"])),
            **self._of_objects(columns),
        }

    def _of_objects(self, columns: Columns) -> Columns:
        if not self.models_read.crops:
            return {}
        images = pictures(columns, self.models_read.crops)
        objects = found_objects(columns).with_embeddings(
            self.encoder, self.profile.prompt, images, sizes(columns)
        )
        return {name: getattr(objects, name) for name in OBJECT_EMBEDDINGS}


class EmbedImages(Stage):
    """Pictures to unit vectors and layers, for tables that hold nothing else of the method."""

    outputs: Mapping[str, pa.DataType] = IMAGE_EMBEDDINGS
    drops: tuple[str, ...] = ("captions",)

    def __init__(self, profile: Profile, models_read: PictureInputs) -> None:
        self.resources = profile.resources.embed
        self.profile = profile
        self.several_threads = isinstance(profile.clip, OpenClip)
        self.models_read = models_read
        self.inputs = tuple(picture_columns(models_read, *read_by_encoder(models_read)))

    def set_up(self) -> None:
        self.encoder = dual_encoder(self.profile, self.resources)

    @property
    def halvings(self) -> int:
        return _halvings(self.encoder)

    def process(self, columns: Columns) -> Columns:
        return seen(self.encoder, self.profile, columns, self.models_read)


class Misalign(Stage):
    """Embeddings to similarities and misalignments, by :mod:`item.misalignment`."""

    inputs: tuple[str, ...] = (
        *("objects", "image_embedding", "caption_embedding"),
        *("crop_embeddings", "phrase_embeddings"),
    )
    outputs: Mapping[str, pa.DataType] = {
        "objects": pa.list_(OBJECT),
        "global_similarity": pa.float32(),
        "local_similarity_min": pa.float32(),
        "local_similarity_mean": pa.float32(),
        "local_similarity_max": pa.float32(),
        "local_similarity_std": pa.float32(),
        "object_count": pa.int32(),
        "ungrounded_fraction": pa.float32(),
        "global_misalignment": EMBEDDING,
        "local_misalignment": EMBEDDING,
    }
    drops: tuple[str, ...] = ("caption_embedding", "crop_embeddings", "phrase_embeddings")

    def __init__(self, profile: Profile) -> None:
        self.resources = profile.resources.misalign

    def process(self, columns: Columns) -> Columns:
        images = np.array(columns["image_embedding"], np.float32)
        captions = np.array(columns["caption_embedding"], np.float32)
        return misaligned(images, captions, found_objects(columns))


_ENCODERS: dict[str, DualEncoder] = {}


def dual_encoder(profile: Profile, resources: Resources) -> DualEncoder:
    """The profile's dual encoder; the stages of one worker have the same."""
    name = profile.clip.model_dump_json()
    if name not in _ENCODERS:
        _ENCODERS.clear()
        size = profile.resources.embed.model_batch_size
        _ENCODERS[name] = load_dual_encoder(profile.clip, size, resources.gpu_share)
    return _ENCODERS[name]


def _halvings(model: Any) -> int:
    """How often a model's batches did not fit into memory; mini and custom models may not say."""
    return int(getattr(model, "halvings", 0))


def seen(
    encoder: DualEncoder, profile: Profile, columns: Columns, models_read: PictureInputs
) -> Columns:
    """Embeddings and layers of whole pictures."""
    whole = pictures(columns, models_read.encoder)
    middles = pictures(columns, models_read.middle) if models_read.middle else None
    return {**with_layers(encoder, profile.clip.layers, whole, middles)}


def read_by_encoder(models_read: PictureInputs) -> tuple[str, ...]:
    """Names of the pictures that the last stage reads."""
    names = (models_read.encoder, models_read.middle, models_read.crops)
    return tuple(dict.fromkeys(name for name in names if name))


def picture_columns(models_read: PictureInputs, *names: str) -> dict[str, pa.DataType]:
    """The columns of pictures of these names, with their Arrow types."""
    found: dict[str, pa.DataType] = {}
    for name in names:
        if fit := models_read.fits.get(name):
            found[name] = tensor(fit.height, fit.width)
        else:
            found |= {PIXELS: ANY_SIZE, "pixel_rows": pa.int32()}
    return found


def pictures(columns: Columns, name: str) -> Sequence[Picture]:
    """Pictures (h, w, 3) of a batch, views of the table that they came in."""
    if name != PIXELS:
        fitted: Sequence[Picture] = columns[name]
        return fitted
    return [
        pixels.reshape(rows, -1, 3)
        for pixels, rows in zip(columns[PIXELS], columns["pixel_rows"], strict=True)
    ]


def sizes(columns: Columns) -> list[Size]:
    """Full sizes of the pictures of a batch."""
    return list(zip(columns["width"], columns["height"], strict=True))


def found_objects(columns: Columns) -> FoundObjects:
    """Objects of a batch, as :class:`FindObjects` leaves them."""
    return FoundObjects(
        columns["objects"], columns["crop_embeddings"], columns["phrase_embeddings"]
    )
