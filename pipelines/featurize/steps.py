"""From images to misalignment features: the stages of the method, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from item.captioning import first_caption, load_captioner
from item.embedding import DualEncoder, load_dual_encoder, with_layers
from item.errors import UsageError
from item.featurizing import FoundObjects, ObjectFinder, misaligned, read_file
from item.images.boxes import Size
from item.images.decode import image_id
from item.images.errors import ImageError
from item.images.perturb import NONE, Perturbation
from item.profiles import Profile, Resources
from item.tables import EMBEDDING, OBJECT, ErrorCode, Status
from pipelines.runtime.stages import ERRORS, PENDING, Columns, RowError, Stage, groups

EMBEDDINGS = pa.list_(EMBEDDING)


def stages(profile: Profile, perturbation: str = NONE, register: Any = None) -> list[Stage]:
    """The method, step by step.

    Parameters
    ----------
    profile : which models
    perturbation : what is done to each image first
    register : handle of a :class:`pipelines.featurize.reuse.Register`; without one, pictures that
        come again are featurized again
    """
    perturb = [] if perturbation == NONE else [Perturb(profile, perturbation)]
    to_pixels: list[Stage] = [
        *perturb,  # bytes -> bytes | error
        Identify(profile, register),  # bytes -> image_id; known pictures skip the models
        Decode(profile),  # bytes -> pixels, size, format | error
    ]
    if profile.embeds_only:
        return [*to_pixels, EmbedImages(profile)]  # pixels -> embedding
    return [
        *to_pixels,
        TakeCaption(profile) if profile.captions_given else Caption(profile),  # pixels -> caption
        FindObjects(profile),  # pixels, caption -> objects
        Embed(profile),  # pixels, caption, objects -> embeddings
        Misalign(profile),  # embeddings -> similarities, misalignments
    ]


def check_gpus(profile: Profile, cluster: Mapping[str, float]) -> None:
    """UsageError if workers would wait for a GPU that the cluster does not have.

    Parameters
    ----------
    profile : which models, with their resources
    cluster : CPUs and GPUs that it has, as ``ray.cluster_resources()`` gives them
    """
    most = cluster.get("GPU", 0.0)
    used = [group[0].resources for group in groups(stages(profile))]
    starved = {
        key: resources.gpus
        for key, resources in profile.resources
        if resources.gpus > most
        and any(resources is resources_of_group for resources_of_group in used)
    }
    if starved:
        asked = " and ".join(f"{gpus:g} for {key}" for key, gpus in starved.items())
        keys = " and ".join(f"profile.resources.{key}.gpus=0" for key in starved)
        raise UsageError(
            f"The profile '{profile.name}' asks for GPUs ({asked}) and the cluster has "
            f"{most:g}: run it where there are enough, set {keys} to use CPUs, or "
            "wait_for_gpus=true if the cluster will start some."
        )


class Perturb(Stage):
    """Bytes to the bytes of a perturbed image, by :mod:`item.images.perturb`.

    What cannot be decoded passes unchanged: the next stage says why.
    """

    inputs: ClassVar = ("bytes",)
    outputs: ClassVar[Mapping[str, pa.DataType]] = {"bytes": pa.binary()}

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

    inputs: ClassVar = ("bytes", "uri", "date", "occurrence")
    outputs: ClassVar[Mapping[str, pa.DataType]] = {
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
    """Bytes to pixels: the only stage that trusts nothing."""

    inputs: ClassVar = ("bytes",)
    outputs: ClassVar[Mapping[str, pa.DataType]] = {
        "pixels": pa.binary(),
        "pixel_rows": pa.int32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "format": pa.string(),
        "jpeg_quality": pa.float32(),
        "digital_source_type": pa.string(),
        "notes": pa.list_(pa.string()),
    }
    drops: ClassVar = ("bytes",)

    def __init__(self, profile: Profile) -> None:
        self.resources: Resources = profile.resources.decode
        self.decoding = profile.decoding

    def process(self, columns: Columns) -> Columns:
        rows = [self._decoded(data) for data in columns["bytes"]]
        return {name: [row.get(name) for row in rows] for name in (*self.outputs, ERRORS)}

    def _decoded(self, data: bytes) -> dict[str, Any]:
        try:
            row = read_file(data, self.decoding)
        except ImageError as error:
            return {ERRORS: RowError(error.code, error.message)}
        return row | {"pixels": row["pixels"].tobytes(), "pixel_rows": len(row["pixels"])}


class Caption(Stage):
    """Pixels to a sentence."""

    inputs: ClassVar = ("pixels", "pixel_rows")
    outputs: ClassVar[Mapping[str, pa.DataType]] = {"caption": pa.string()}
    drops: ClassVar = ("captions",)

    def __init__(self, profile: Profile) -> None:
        self.resources = profile.resources.caption
        self.settings = profile.captioner

    def set_up(self) -> None:
        batch_size, share = self.resources.model_batch_size, self.resources.gpu_share
        self.captioner = load_captioner(self.settings, batch_size, share)

    @property
    def halvings(self) -> int:
        return _halvings(self.captioner)

    def process(self, columns: Columns) -> Columns:
        return {"caption": self.captioner.caption(pictures(columns))}


class TakeCaption(Stage):
    """The first of the captions that came with the image."""

    inputs: ClassVar = ("captions",)
    outputs: ClassVar[Mapping[str, pa.DataType]] = {"caption": pa.string()}
    drops: ClassVar = ("captions",)

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


class FindObjects(Stage):
    """The phrases of the caption and where they are in the picture."""

    inputs: ClassVar = ("pixels", "pixel_rows", "width", "height", "caption")
    outputs: ClassVar[Mapping[str, pa.DataType]] = {
        "objects": pa.list_(OBJECT),
        "parts_embedding": EMBEDDING,
        "crop_embeddings": EMBEDDINGS,
        "phrase_embeddings": EMBEDDINGS,
    }

    def __init__(self, profile: Profile) -> None:
        self.resources = profile.resources.objects
        self.profile = profile

    def set_up(self) -> None:
        self.encoder = dual_encoder(self.profile, self.resources)
        self.finder = ObjectFinder.load(self.profile, self.encoder)

    @property
    def halvings(self) -> int:
        return _halvings(self.encoder) + _halvings(self.finder.grounder)

    def process(self, columns: Columns) -> Columns:
        objects = self.finder(pictures(columns), sizes(columns), columns["caption"])
        return {name: getattr(objects, name) for name in self.outputs}


class Embed(Stage):
    """Pictures and captions to unit vectors of one space, and what the tower's stages saw.

    Crops and phrases too, where the grounder has not embedded them already.
    """

    inputs: ClassVar = (
        *("pixels", "pixel_rows", "width", "height", "caption", "objects"),
        *("crop_embeddings", "phrase_embeddings"),
    )
    outputs: ClassVar[Mapping[str, pa.DataType]] = {
        "image_embedding": EMBEDDING,
        "layers": EMBEDDING,
        "caption_embedding": EMBEDDING,
        "crop_embeddings": EMBEDDINGS,
        "phrase_embeddings": EMBEDDINGS,
    }
    drops: ClassVar = ("pixels", "pixel_rows")

    def __init__(self, profile: Profile) -> None:
        self.resources = profile.resources.embed
        self.profile = profile

    def set_up(self) -> None:
        self.encoder = dual_encoder(self.profile, self.resources)

    @property
    def halvings(self) -> int:
        return _halvings(self.encoder)

    def process(self, columns: Columns) -> Columns:
        images = pictures(columns)
        objects = found_objects(columns).with_embeddings(
            self.encoder, self.profile.prompt, images, sizes(columns)
        )
        return {
            **with_layers(self.encoder, self.profile.clip.layers, images),
            "caption_embedding": list(self.encoder.embed_texts(columns["caption"])),
            "crop_embeddings": objects.crop_embeddings,
            "phrase_embeddings": objects.phrase_embeddings,
        }


class EmbedImages(Stage):
    """Pictures to unit vectors and layers, for tables that hold nothing else of the method."""

    inputs: ClassVar = ("pixels", "pixel_rows")
    outputs: ClassVar[Mapping[str, pa.DataType]] = {
        "image_embedding": EMBEDDING,
        "layers": EMBEDDING,
    }
    drops: ClassVar = ("pixels", "pixel_rows", "captions")

    def __init__(self, profile: Profile) -> None:
        self.resources = profile.resources.embed
        self.profile = profile

    def set_up(self) -> None:
        self.encoder = dual_encoder(self.profile, self.resources)

    @property
    def halvings(self) -> int:
        return _halvings(self.encoder)

    def process(self, columns: Columns) -> Columns:
        return {**with_layers(self.encoder, self.profile.clip.layers, pictures(columns))}


class Misalign(Stage):
    """Embeddings to similarities and misalignments, by :mod:`item.misalignment`."""

    inputs: ClassVar = (
        *("objects", "image_embedding", "caption_embedding"),
        *("crop_embeddings", "phrase_embeddings"),
    )
    outputs: ClassVar[Mapping[str, pa.DataType]] = {
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
    drops: ClassVar = ("caption_embedding", "crop_embeddings", "phrase_embeddings")

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


def pictures(columns: Columns) -> list[NDArray[np.uint8]]:
    """Decoded pictures (h, w, 3) of a batch."""
    return [
        np.frombuffer(pixels, np.uint8).reshape(rows, -1, 3)
        for pixels, rows in zip(columns["pixels"], columns["pixel_rows"], strict=True)
    ]


def sizes(columns: Columns) -> list[Size]:
    """Full sizes of the pictures of a batch."""
    return list(zip(columns["width"], columns["height"], strict=True))


def found_objects(columns: Columns) -> FoundObjects:
    """Objects of a batch, as :class:`FindObjects` leaves them."""
    return FoundObjects(
        columns["objects"], columns["crop_embeddings"], columns["phrase_embeddings"]
    )
