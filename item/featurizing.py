"""From image files to features: the steps of the method, each on a batch of pictures.

The pipelines' stages call these steps, and :class:`Featurizer` does them all in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from item import misalignment
from item.captioning import Captioner, first_caption, load_captioner
from item.embedding import DualEncoder, load_dual_encoder, with_layers
from item.found_objects import FoundObjects, ObjectFinder
from item.images.decode import Decoding, decode, image_id
from item.images.errors import ImageError
from item.images.file_claims import digital_source_type
from item.images.given import GivenPicture, content_of
from item.phrases import PhraseExtractor
from item.profiles import Profile, load_profile
from item.profiles.inputs import PIXELS, PictureInputs, picture_inputs
from item.tables import (
    EMBEDDING,
    FEATURES,
    STORED_EMBEDDING,
    ErrorCode,
    Status,
    as_features,
    encoded,
    with_feature_set,
)


def featurize(pictures: Iterable[GivenPicture], profile: Profile | str = "mini") -> pa.Table:
    """Featurize pictures in this process, without Ray.

    The first call loads the profile's models, which takes seconds; those of the last profile
    stay loaded.

    Parameters
    ----------
    pictures : image files as bytes or paths, or Pillow images, which count as PNG files
    profile : one of :func:`item.load_profile`, or the name of one

    Returns
    -------
    Table of the columns of a features table, a row for each picture, in order. A file that is
    no usable picture has a row too; its ``status`` and ``error_code`` say why. The feature set
    stands in the schema's metadata, as in a published table.

    Raises
    ------
    UsageError
        If a path cannot be read, or a model of the profile is missing.

    Examples
    --------
    >>> import item, PIL.Image
    >>> table = item.featurize([PIL.Image.new("RGB", (64, 48), "red"), b"no picture"])
    >>> table.select(["status", "error_code", "width", "height"]).to_pylist()
    ... # doctest: +NORMALIZE_WHITESPACE
    [{'status': 'ok', 'error_code': None, 'width': 64, 'height': 48},
     {'status': 'rejected', 'error_code': 'not_an_image', 'width': None, 'height': None}]
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    files = [content_of(picture) for picture in pictures]
    names = [name for _, name in files]
    table = featurizer_of(chosen).featurize([content for content, _ in files], names)
    return table.replace_schema_metadata(encoded({"feature_set_id": chosen.feature_set_id()}))


def featurizer_of(profile: Profile) -> Featurizer:
    """The featurizer of a profile; that of the last one is kept, with its models."""
    return _featurizer(profile.model_dump_json())


@lru_cache(maxsize=1)
def _featurizer(profile: str) -> Featurizer:
    return Featurizer(Profile.model_validate_json(profile))


class Featurizer:
    """All steps of the method, for lists of image files, in this process.

    Each model is loaded when the first picture needs it, and stays. Not for several threads at
    once.

    Parameters
    ----------
    profile : which models, and how images are decoded
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def featurize(
        self,
        pictures: Sequence[bytes],
        uris: Sequence[str | None] | None = None,
        captions: Sequence[Sequence[str]] | None = None,
    ) -> pa.Table:
        """Features of image files, one row for each, the same as a featurize job gives them.

        Parameters
        ----------
        pictures : the files, of any content
        uris : what the rows are called; nothing is read from them
        captions : texts that come with each picture, for a profile that takes captions from its
            input

        Returns
        -------
        Table of :func:`item.tables.FEATURES`, in the order of ``pictures``. A file that
        cannot be used has a row too: its status and error code say why. What only a dump knows
        (``source``, ``label``, ``generator``) is null, as is ``uri`` without ``uris``.

        Raises
        ------
        UsageError
            If a model of the profile is missing.
        ValueError
            If ``uris`` or ``captions`` are not as many as the pictures.
        """
        for name, values in (("uris", uris), ("captions", captions)):
            if values is not None and len(values) != len(pictures):
                raise ValueError(f"{len(pictures)} pictures but {len(values)} {name}")
        batch = self.profile.resources.embed.batch_size
        starts = range(0, len(pictures), batch)
        rows = [
            row
            for start in starts
            for row in self._featurized(
                pictures[start : start + batch], captions and captions[start : start + batch]
            )
        ]
        for row, uri in zip(rows, uris or (), strict=uris is not None):
            row["uri"] = uri
        features = _table(rows, self.profile.dimensions)
        return with_feature_set(features, self.profile.feature_set_id())

    def _featurized(
        self, files: Sequence[bytes], captions: Sequence[Sequence[str]] | None
    ) -> list[dict[str, Any]]:
        """Rows of a features table by column, which lack what they have no value for."""
        rows = [self._read(data) for data in files]
        if self.profile.captions_given:
            for row, texts in zip(rows, captions or [()] * len(rows), strict=True):
                row["caption"] = first_caption(texts)
                if row["status"] == Status.OK and row["caption"] is None:
                    _reject(row, ErrorCode.NO_CAPTION, ErrorCode.NO_CAPTION.sentence)
        usable = [row for row in rows if row["status"] == Status.OK]
        if usable and self.profile.embeds_only:
            _add(usable, self._seen(usable))
        elif usable:
            if self.inputs.captioner:
                pictures = [row[self.inputs.captioner] for row in usable]
                _add(usable, {"caption": self.captioner.caption(pictures)})
            _add(usable, self._measured(usable))
        return rows

    def _seen(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Columns of the dual encoder."""
        pictures = [row[self.inputs.encoder] for row in rows]
        middle = self.inputs.middle
        middles = [row[middle] for row in rows] if middle else None
        return {**with_layers(self.encoder, self.profile.clip.layers, pictures, middles)}

    def _measured(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Columns of objects, embeddings and misalignments of captioned pictures."""
        captions = [row["caption"] for row in rows]
        sizes = [(row["width"], row["height"]) for row in rows]
        pictures = [row[self.inputs.grounder or PIXELS] for row in rows]
        objects = self.finder(pictures, sizes, self.phrases(captions))
        if self.inputs.crops:
            pictures = [row[self.inputs.crops] for row in rows]
            objects = objects.with_embeddings(self.encoder, self.profile.prompt, pictures, sizes)
        seen = self._seen(rows)
        images = np.array(seen["image_embedding"])
        return {
            **seen,
            "parts_embedding": objects.parts_embedding,
            **misaligned(images, self.encoder.embed_texts(captions), objects),
        }

    def _read(self, data: bytes) -> dict[str, Any]:
        row: dict[str, Any] = {
            "image_id": image_id(data),
            "byte_count": len(data),
            "status": Status.OK,
        }
        try:
            row |= read_file(data, self.profile.decoding)
        except ImageError as error:
            _reject(row, error.code, error.message)
            return row
        return row | self.inputs.of(row["pixels"])

    @cached_property
    def inputs(self) -> PictureInputs:
        """What the profile's models read of a picture."""
        return picture_inputs(self.profile)

    @cached_property
    def captioner(self) -> Captioner:
        """The profile's captioner."""
        resources = self.profile.resources.caption
        return load_captioner(
            self.profile.captioner, resources.model_batch_size, resources.gpu_share
        )

    @cached_property
    def encoder(self) -> DualEncoder:
        """The profile's dual encoder."""
        resources = self.profile.resources.embed
        return load_dual_encoder(self.profile.clip, resources.model_batch_size, resources.gpu_share)

    @cached_property
    def phrases(self) -> PhraseExtractor:
        """Takes the phrases out of captions."""
        return PhraseExtractor(self.profile.phrases)

    @cached_property
    def finder(self) -> ObjectFinder:
        """The profile's grounder."""
        return ObjectFinder.load(self.profile, self.encoder)


def read_file(data: bytes, decoding: Decoding) -> dict[str, Any]:
    """The pixels of an image file and what a features table says of the file.

    Parameters
    ----------
    data : the file, of any content
    decoding : limits and formats

    Returns
    -------
    Values of the columns ``width`` to ``digital_source_type`` and ``notes`` by name, and
    ``pixels``, a uint8 array of shape (height', width', 3).

    Raises
    ------
    ImageError
        If the file cannot be used.
    """
    image = decode(data, decoding)
    return {
        "pixels": image.pixels,
        "width": image.width,
        "height": image.height,
        "format": image.format,
        "jpeg_quality": image.jpeg_quality,
        "digital_source_type": digital_source_type(data, image.format),
        "notes": [str(note) for note in image.notes],
    }


def misaligned(
    images: NDArray[np.float32], captions: NDArray[np.float32], of_captions: FoundObjects
) -> dict[str, Any]:
    """Similarities and misalignments, by :mod:`item.misalignment`.

    Parameters
    ----------
    images, captions : ndarray of shape (n, dimensions), n at least 1, unit rows
    of_captions : the n pictures' objects, every crop and phrase embedded

    Returns
    -------
    The columns ``objects``, ``global_similarity`` to ``ungrounded_fraction``,
    ``global_misalignment`` and ``local_misalignment`` of a features table by name, each of
    length n.
    """
    named, grounded = _masks(of_captions.objects)
    crops = _padded(of_captions.crop_embeddings, named, images.shape[1])
    phrases = _padded(of_captions.phrase_embeddings, named, images.shape[1])
    local = misalignment.local_similarities(crops, phrases)
    whole = misalignment.image_similarities(images, phrases)
    pooled = misalignment.pooled_similarities(local, grounded)
    objects = [
        [
            {**values, "similarity": local[row, place], "image_similarity": whole[row, place]}
            for place, values in enumerate(of_picture)
        ]
        for row, of_picture in enumerate(of_captions.objects)
    ]
    return {
        "objects": objects,
        "global_similarity": misalignment.global_similarity(images, captions),
        "local_similarity_min": pooled.min,
        "local_similarity_mean": pooled.mean,
        "local_similarity_max": pooled.max,
        "local_similarity_std": pooled.std,
        "object_count": pooled.count,
        "ungrounded_fraction": misalignment.ungrounded_fraction(named, grounded),
        "global_misalignment": list(misalignment.global_misalignment(images, captions)),
        "local_misalignment": list(misalignment.local_misalignment(crops, phrases, grounded)),
    }


def _masks(
    objects: Sequence[Sequence[Mapping[str, Any]]],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of the padded objects (n, k) exist, and which are grounded."""
    named = np.zeros((len(objects), max(map(len, objects))), bool)
    grounded = np.zeros_like(named)
    for row, of_picture in enumerate(objects):
        named[row, : len(of_picture)] = True
        grounded[row, : len(of_picture)] = [values["grounded"] for values in of_picture]
    return named, grounded


def _padded(rows: Sequence[Any], named: NDArray[np.bool_], dimensions: int) -> NDArray[np.float32]:
    """Lists of embeddings -> (n, objects, dimensions), zeros where there is none."""
    padded = np.zeros((*named.shape, dimensions), np.float32)
    for row, embeddings in enumerate(rows):
        if embeddings:
            padded[row, : len(embeddings)] = embeddings
    return padded


def _reject(row: dict[str, Any], code: ErrorCode, message: str) -> None:
    row |= {"status": code.status, "error_code": code, "error_message": message}


def _add(rows: Sequence[dict[str, Any]], columns: Mapping[str, Sequence[Any]]) -> None:
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value


def _table(rows: Sequence[Mapping[str, Any]], dimensions: int) -> pa.Table:
    columns = {field.name: pa.array(_column(rows, field), _kind(field)) for field in FEATURES}
    return as_features(pa.table(columns), dimensions)


def _column(rows: Sequence[Mapping[str, Any]], field: pa.Field) -> Iterator[Any]:
    return (row.get(field.name) for row in rows)


def _kind(field: pa.Field) -> pa.DataType:
    return EMBEDDING if field.type == STORED_EMBEDDING else field.type
