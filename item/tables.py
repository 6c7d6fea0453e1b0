"""The tables: Arrow schemas, their version, and the closed list of error codes.

Every table is Parquet with one of these schemas. A row of ``features`` exists for
every input row, whatever happened to it; ``status`` and ``error_code`` say what did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from item.errors import UsageError

METADATA_PREFIX = "item."
"""Of the keys that this project writes into a table's key-value metadata."""
SCHEMA_VERSION = 2
"""Raised when a column goes or changes its meaning; a new column that may be null is no reason."""
KEYS_VERSION = 2
"""Raised when the same row gets another name: tables that name rows otherwise are not mixed."""


class Status(StrEnum):
    """What became of an input row."""

    OK = "ok"
    REJECTED = "rejected"
    """The input itself is at fault; another try would end the same."""
    FAILED = "failed"
    """Something around the input failed, such as a read; another try may succeed."""


class ErrorCode(StrEnum):
    """Every reason for which a row carries no features."""

    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_BYTES = "too_many_bytes"
    MISSING_BYTES = "missing_bytes"
    DUPLICATE_URI = "duplicate_uri"
    URI_NOT_FOUND = "uri_not_found"
    URI_REFUSED = "uri_refused"
    URI_OUTSIDE_ROOT = "uri_outside_root"
    URI_UNREADABLE = "uri_unreadable"
    UNREADABLE_ARCHIVE = "unreadable_archive"
    NO_CAPTION = "no_caption"

    @property
    def sentence(self) -> str:
        """The reason in words, without the particulars of a row."""
        return _SENTENCES[self]

    @property
    def status(self) -> Status:
        """``failed`` for reasons that may pass, ``rejected`` for those that last."""
        return Status.FAILED if self in _PASSING else Status.REJECTED


_PASSING = {ErrorCode.URI_UNREADABLE}

_SENTENCES = {
    ErrorCode.EMPTY_FILE: "The file has no bytes.",
    ErrorCode.NOT_AN_IMAGE: "The bytes are not an image of any known format.",
    ErrorCode.UNSUPPORTED_FORMAT: "The image format is known but not among those that are decoded.",
    ErrorCode.TRUNCATED: "The image ends before all of its pixels were read.",
    ErrorCode.CORRUPT: "The image's bytes contradict its format.",
    ErrorCode.TOO_MANY_PIXELS: "The image has more pixels than the configured limit.",
    ErrorCode.TOO_MANY_BYTES: "The file has more bytes than the configured limit.",
    ErrorCode.MISSING_BYTES: "The row has neither bytes nor a URI to read them from.",
    ErrorCode.DUPLICATE_URI: "An earlier row of the same date has this URI.",
    ErrorCode.URI_NOT_FOUND: "Nothing exists at the URI.",
    ErrorCode.URI_REFUSED: "The server answered that it will not send the file.",
    ErrorCode.URI_OUTSIDE_ROOT: "The URI lies outside the folders that the job may read.",
    ErrorCode.URI_UNREADABLE: "Reading the URI failed.",
    ErrorCode.UNREADABLE_ARCHIVE: "The archive that holds the file is damaged at this place.",
    ErrorCode.NO_CAPTION: "The row has no caption, and the profile takes captions from the input.",
}


class Note(StrEnum):
    """What a decoder did to an unusual image that it accepted."""

    FIRST_FRAME = "first_frame"
    CMYK_CONVERTED = "cmyk_converted"
    SIXTEEN_BIT_SCALED = "sixteen_bit_scaled"
    TRANSPARENCY_ON_WHITE = "transparency_on_white"
    EXIF_ROTATED = "exif_rotated"
    FULL_SIZE_PAGE = "full_size_page"
    END_MARK_ADDED = "end_mark_added"


EMBEDDING = pa.list_(pa.float32())
"""A vector of the CLIP space within a run."""

STORED_EMBEDDING = pa.list_(pa.float16())
"""The same in a table. No fixed-size list: before pyarrow 26, nothing reads one with a null row."""

LAYERS = "layers"
"""The column that is as long as the profile says, and not as the CLIP space is wide."""

BOX = pa.struct([(side, pa.float32()) for side in ("x0", "y0", "x1", "y1")])
"""In pixels of the upright full-size image."""

OBJECT = pa.struct(
    [
        ("phrase", pa.string()),
        ("box", BOX),
        ("grounding_score", pa.float32()),
        ("grounded", pa.bool_()),
        ("similarity", pa.float32()),
        ("image_similarity", pa.float32()),
    ]
)
"""One object of a caption."""

IMAGES = pa.schema(
    [
        ("uri", pa.string()),
        ("input_version", pa.string()),
        ("listed_in", pa.string()),
        ("occurrence", pa.int32()),
        ("source", pa.string()),
        ("date", pa.string()),
        ("bytes", pa.binary()),
        ("label", pa.int8()),
        ("generator", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
    ]
)
"""What every kind of input is read into, one row an input row.

``uri`` is absolute and names one object; ``input_version`` changes whenever the object does,
or the table or archive that the row is of, which ``listed_in`` names then. ``occurrence`` is 0
for the first row of a URI and counts its repetitions within a date.
"""


FEATURES = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("input_version", pa.string()),
        ("listed_in", pa.string()),
        ("source", pa.string()),
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("byte_count", pa.int64()),
        ("format", pa.string()),
        ("jpeg_quality", pa.float32()),
        ("digital_source_type", pa.string()),
        ("label", pa.int8()),
        ("generator", pa.string()),
        ("caption", pa.string()),
        ("objects", pa.list_(OBJECT)),
        ("global_similarity", pa.float32()),
        ("local_similarity_min", pa.float32()),
        ("local_similarity_mean", pa.float32()),
        ("local_similarity_max", pa.float32()),
        ("local_similarity_std", pa.float32()),
        ("object_count", pa.int32()),
        ("ungrounded_fraction", pa.float32()),
        ("image_embedding", STORED_EMBEDDING),
        ("parts_embedding", STORED_EMBEDDING),
        ("global_misalignment", STORED_EMBEDDING),
        ("local_misalignment", STORED_EMBEDDING),
        ("layers", STORED_EMBEDDING),
        ("feature_set_id", pa.string()),
    ]
)
"""One row for every input row; null where a row has no features."""


def as_features(rows: pa.Table, dimensions: int) -> pa.Table:
    """Rows of the last step in the exact schema of a ``features`` file, null where no step ran.

    Parameters
    ----------
    rows : with columns of the schema, embeddings and layers as lists of float32; others are left
        out
    dimensions : of the CLIP space, which is the length of every embedding
    """
    columns = [_as_feature(rows, field, dimensions) for field in FEATURES]
    return pa.Table.from_arrays(columns, schema=FEATURES)


def _as_feature(rows: pa.Table, field: pa.Field, dimensions: int) -> pa.Array | pa.ChunkedArray:
    if field.name not in rows.column_names:
        return pa.nulls(len(rows), field.type)
    if field.type == STORED_EMBEDDING:
        return _halved(rows[field.name], None if field.name == LAYERS else dimensions)
    return rows[field.name].cast(field.type)


def _halved(column: pa.ChunkedArray, dimensions: int | None) -> pa.ListArray:
    """Lists of float32, null where there is none -> the same of float16; as long as the first."""
    present = pc.is_valid(column).to_numpy(zero_copy_only=False)
    lists = column.combine_chunks().drop_null()
    values = lists.flatten().to_numpy(zero_copy_only=False)
    if dimensions is None:
        dimensions = len(lists[0]) if len(lists) else 0
    if len(values) != present.sum() * dimensions:
        raise ValueError(f"embeddings are not of {dimensions} dimensions")
    ends = np.concatenate([[0], np.cumsum(present)]) * dimensions
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(values.astype(np.float16)), mask=pa.array(~present)
    )


def with_feature_set(features: pa.Table, feature_set_id: str | None) -> pa.Table:
    """Rows of features that name their set, which other programs keep when they save a table."""
    place = FEATURES.get_field_index("feature_set_id")
    column = pa.repeat(pa.scalar(feature_set_id, pa.string()), len(features))
    return features.set_column(place, FEATURES.field(place), column)


def feature_set_of(rows: pa.Table) -> str | None:
    """The feature set of rows of features, by their column, else by their table's metadata.

    Raises
    ------
    UsageError
        If rows of several sets were put together.
    """
    found: set[str] = set()
    if "feature_set_id" in rows.column_names:
        found = {str(one) for one in pc.unique(rows["feature_set_id"]).to_pylist() if one}
    if len(found) > 1:
        raise UsageError(
            f"Rows of different feature sets were put into one table, "
            f"{' and '.join(repr(one) for one in sorted(found))}: featurize all images with one "
            "profile."
        )
    return found.pop() if found else decoded(rows.schema.metadata).get("feature_set_id")


def typed(rows: pa.Table) -> pa.Table:
    """Columns of features or scores in their own types, whatever a program made of these.

    Embeddings and labels stay as they are; :class:`item.heads.columns.FeatureArrays` reads any
    list, and what stands for a label is for its reader to say.

    Raises
    ------
    UsageError
        If the values of a column cannot be of its type.
    """
    for place, name in enumerate(rows.column_names):
        kind = _TYPES.get(name)
        column = rows[name]
        if kind is None or column.type == kind or name == "label" or kind == STORED_EMBEDDING:
            continue
        try:
            if pa.types.is_floating(column.type) and pa.types.is_integer(kind):
                column = pc.if_else(pc.is_nan(column), None, column)
            rows = rows.set_column(place, name, column.cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise UsageError(
                f"The column '{name}' of a table holds {column.type} that cannot be read as {kind}."
            ) from None
    return rows


SCORES = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("source", pa.string()),
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("global_logit", pa.float32()),
        ("logit", pa.float32()),
        ("score", pa.float32()),
        ("verdict", pa.string()),
        ("abstention", pa.string()),
        ("family", pa.string()),
        ("family_probability", pa.float32()),
        ("weakest_phrase", pa.string()),
        ("weakest_box", BOX),
        ("weakest_similarity", pa.float32()),
        ("global_similarity", pa.float32()),
        ("digital_source_type", pa.string()),
        ("explanation", pa.string()),
        ("head_id", pa.string()),
        ("feature_set_id", pa.string()),
        ("run_id", pa.string()),
        ("scored_at", pa.timestamp("ms", tz="UTC")),
    ]
)
"""What a head says of each row of ``features``, in the same order in a file of the same name."""

_TYPES = {field.name: field.type for field in (*FEATURES, *SCORES)}

EVIDENCE = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("thumbnail", pa.binary()),
    ]
)
"""Small upright JPEGs of the pictures that a night's report shows."""

REJECTS = pa.schema(
    [
        ("error_code", pa.string()),
        ("status", pa.string()),
        ("source", pa.string()),
        ("rows", pa.int64()),
        ("share", pa.float64()),
        ("reason", pa.string()),
        ("examples", pa.list_(pa.string())),
    ]
)
"""Rows of a night without features, by reason and source; ``share`` is of the source's rows."""


def decoded(metadata: Mapping[bytes, bytes] | Mapping[str, str] | None) -> dict[str, Any]:
    """The metadata of a file that this project wrote, keys without their prefix."""
    found: dict[str, Any] = {}
    for key, value in (metadata or {}).items():
        name = key.decode() if isinstance(key, bytes) else key
        if name.startswith(METADATA_PREFIX):
            found[name.removeprefix(METADATA_PREFIX)] = json.loads(value)
    return found


def encoded(values: Mapping[str, Any]) -> dict[str, str]:
    """Key-value metadata of a file, as :func:`decoded` reads them."""
    return {
        METADATA_PREFIX + key: json.dumps(value, sort_keys=True) for key, value in values.items()
    }
