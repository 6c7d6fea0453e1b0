"""What a head looks at: groups of numbers made from the columns of a features table.

A head names its groups, and the order in which it names them is the order of its columns.
Groups belong to one of two levels, the whole image or its objects, because a head weighs
the whole image first and lets the objects correct it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from item.errors import UsageError
from item.misalignment import centre, fit_regression, unexplained
from item.tables import LAYERS, STORED_EMBEDDING

Floats = NDArray[np.float32]

LOCAL_SCALARS = (
    *(f"local_similarity_{name}" for name in ("min", "mean", "max", "std")),
    *("object_count", "ungrounded_fraction"),
)
EMBEDDINGS = ("image_embedding", "parts_embedding", "global_misalignment", "local_misalignment")
"""The columns of a features table that hold a vector of the CLIP space."""
COLUMNS = (
    *EMBEDDINGS,
    "global_similarity",
    *LOCAL_SCALARS,
    *("width", "height", "byte_count", "jpeg_quality", "format"),
)
"""The columns of a features table that :meth:`FeatureArrays.of` reads, beside ``layers``, which
tables have since there are layers."""
FORMATS = ("jpeg", "png", "webp", "gif")


def columns_of(names: Iterable[str]) -> tuple[str, ...]:
    """What :meth:`FeatureArrays.of` reads of a table with columns of these names."""
    return (*COLUMNS, LAYERS) if LAYERS in names else COLUMNS


class Level(StrEnum):
    """Which part of the image a group speaks of."""

    GLOBAL = "global"
    LOCAL = "local"


class Group(StrEnum):
    """A set of feature columns; d is the dimension of the embedding space."""

    IMAGE = "image"
    """v, the image embedding: d columns."""
    CAPTION = "caption"
    """u, the caption embedding: d columns."""
    GLOBAL_MISALIGNMENT = "global_misalignment"
    """v - u: d columns."""
    GLOBAL_PRODUCT = "global_product"
    """v * u, whose sum is the similarity: d columns."""
    GLOBAL_RESIDUAL = "global_residual"
    """v - E[v | u], what the caption leaves unexplained of the image, regressed on the real
    training images (:func:`item.misalignment.unexplained`): d columns."""
    GLOBAL_SIMILARITY = "global_similarity"
    """v . u: one column."""
    PARTS = "parts"
    """p, the mean embedding of the image's parts: d columns."""
    LOCAL_RESIDUAL = "local_residual"
    """p - E[p | u], as the global residual: d columns."""
    LOCAL_MISALIGNMENT = "local_misalignment"
    """Mean of o_k - w_k over grounded objects: d columns."""
    LOCAL_SIMILARITIES = "local_similarities"
    """Pooled o_k . w_k, the count, the ungrounded fraction, and whether there is any grounded
    object: 7 columns."""
    LAYERS = "layers"
    """What the vision tower's stages see (:mod:`item.layers`): as many columns as the profile
    says. They keep their proportions: their directions come in the order of their variance, and
    those of little variance count little."""
    SHORTCUT = "shortcut"
    """What a detector must not need: size, bytes, bytes a pixel, format, JPEG quality. Only for
    the control that shows how much of a result they would explain."""

    @property
    def sees_captions(self) -> bool:
        """Whether it would be otherwise with another caption."""
        return self not in (Group.IMAGE, Group.PARTS, Group.LAYERS, Group.SHORTCUT)

    @property
    def level(self) -> Level:
        """Whether the group speaks of the whole image or of its objects."""
        local = self == Group.PARTS or self.startswith("local")
        return Level.LOCAL if local else Level.GLOBAL


@dataclass(frozen=True, eq=False)
class FeatureArrays:
    """The columns of n rows of a features table as arrays.

    Every array has n rows; embeddings are float32 of shape (n, d).
    """

    image: Floats
    caption: Floats
    parts: Floats
    local_misalignment: Floats
    global_similarity: Floats
    """(n,)"""
    local_scalars: Floats
    """(n, 6), in the order of ``LOCAL_SCALARS``."""
    shortcut: Floats
    """(n, 9)"""
    layers: Floats
    """(n, layers), without columns where the profile keeps none."""

    @classmethod
    def of(
        cls, table: pa.Table, dimensions: int | None = None, layers: int | None = None
    ) -> FeatureArrays:
        """From a features table with ``COLUMNS`` and perhaps ``layers``.

        Parameters
        ----------
        table : n rows, all of status ``ok``. NaN and null in a scalar stay NaN, a missing
            embedding becomes NaN; :meth:`complete` finds such rows.
        dimensions : of the embeddings; as the rows have it if None
        layers : how many numbers the column ``layers`` holds; as the rows have it if None

        Raises
        ------
        UsageError
            If there are embeddings of other dimensions.
        """
        if dimensions is None:
            found = (embedding_dimensions(table[name]) for name in EMBEDDINGS)
            dimensions = next((size for size in found if size is not None), 0)
        image, parts, difference, local = (_matrix(table[name], dimensions) for name in EMBEDDINGS)
        of_layers = _layers(table)
        if layers is None:
            layers = embedding_dimensions(of_layers) or 0
        return cls(
            image=image,
            caption=image - difference,
            parts=parts,
            local_misalignment=local,
            global_similarity=_vector(table["global_similarity"]),
            local_scalars=np.column_stack([_vector(table[name]) for name in LOCAL_SCALARS]),
            shortcut=_shortcut(table),
            layers=_matrix(of_layers, layers) if layers else np.zeros((len(table), 0), np.float32),
        )

    def __len__(self) -> int:
        return len(self.image)

    @property
    def dimensions(self) -> int:
        """Length of the embeddings."""
        return self.image.shape[1]

    @property
    def layer_columns(self) -> int:
        """Length of the layers."""
        return self.layers.shape[1]

    def take(self, rows: NDArray) -> FeatureArrays:
        """The given rows, by index (k,) or mask (n,)."""
        return FeatureArrays(
            **{field.name: getattr(self, field.name)[rows] for field in fields(self)}
        )

    def complete(self) -> NDArray[np.bool_]:
        """(n,) whether every number that a head may use is finite."""
        wide = (self.image, self.caption, self.parts, self.local_misalignment, self.layers)
        whole = np.isfinite(self.global_similarity)
        for array in (*wide, self.local_scalars):
            whole &= np.isfinite(array).all(axis=1)
        return whole

    @staticmethod
    def concat(parts: Iterable[FeatureArrays]) -> FeatureArrays:
        """Several tables' rows, one after the other."""
        parts = list(parts)
        return FeatureArrays(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(FeatureArrays)
            }
        )


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a head has learned of its features before it was trained; never of test rows.

    What a head does not need is empty: the modality means if it does not centre, regressions
    of groups that it does not have, the whitening if it does not whiten.
    """

    image_mean: Floats
    caption_mean: Floats
    global_regression: Floats
    """(d + 1, d), of v on u; see :func:`item.misalignment.fit_regression`."""
    local_regression: Floats
    """(d + 1, d), of p on u."""
    mean: Floats
    """(columns,) of all groups, in the order of the head."""
    scale: Floats
    """(columns,), 1 where a column is constant or whitened."""
    whitening: Floats
    """(wide columns, wide columns), of the groups of d columns together."""

    def tensors(self) -> dict[str, Floats]:
        """As named arrays, for safetensors."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Floats]) -> Statistics:
        """The inverse of :meth:`tensors`."""
        return cls(**{field.name: np.asarray(tensors[field.name]) for field in fields(cls)})


SHRINKAGE = 1.0
"""What is added to the real rows' covariance before it is inverted, in mean variances."""
NO_VECTOR = np.zeros(0, np.float32)
NO_MATRIX = np.zeros((0, 0), np.float32)


def fit_statistics(
    arrays: FeatureArrays,
    labels: NDArray,
    groups: Sequence[Group],
    centred: bool,
    whitened: bool = False,
) -> Statistics:
    """Modality means, regressions, and each column's mean and scale.

    Parameters
    ----------
    arrays : training rows
    labels : (n,), 1 generated, 0 real; residuals are regressed on the real rows
    groups : the head's groups
    centred : whether v and u are centred by modality (:func:`item.misalignment.centre`)
    whitened : whether the groups of d columns are whitened together by the covariance of the
        real rows, ``(Sigma + SHRINKAGE tr(Sigma) / n)^(-1/2)``, instead of scaled one by
        one. What photographs differ in among themselves then counts less: a linear head
        begins near the discriminant of Fisher (1936), with the covariance of the real class
        alone.
    """
    real = np.asarray(labels) == 0
    bare = Statistics(
        image_mean=arrays.image.mean(0) if centred else NO_VECTOR,
        caption_mean=arrays.caption.mean(0) if centred else NO_VECTOR,
        global_regression=NO_MATRIX,
        local_regression=NO_MATRIX,
        mean=NO_VECTOR,
        scale=NO_VECTOR,
        whitening=NO_MATRIX,
    )
    image, caption = _modalities(arrays.take(real), bare)
    if Group.GLOBAL_RESIDUAL in groups:
        bare = replace(bare, global_regression=fit_regression(image, caption))
    if Group.LOCAL_RESIDUAL in groups:
        bare = replace(bare, local_regression=fit_regression(arrays.parts[real], caption))
    columns = raw_features(arrays, groups, bare)
    deviation = columns.std(axis=0)
    scale = np.where(deviation > 1e-6, deviation, 1).astype(np.float32)
    whitening = NO_MATRIX
    widths_of = (arrays.dimensions, arrays.layer_columns)
    layers = np.repeat([group == Group.LAYERS for group in groups], widths(groups, *widths_of))
    if layers.any():
        scale[layers] = np.sqrt(np.square(deviation[layers]).mean()) or 1
    wide = _wide(groups, *widths_of)
    if whitened and wide.any():
        whitening = _whitening(columns[real][:, wide])
        scale[wide] = 1
    mean = columns.mean(axis=0, dtype=np.float64).astype(np.float32)
    return replace(bare, mean=mean, scale=scale, whitening=whitening)


def features(arrays: FeatureArrays, groups: Sequence[Group], statistics: Statistics) -> Floats:
    """Standardised, perhaps whitened columns of a head.

    Parameters
    ----------
    arrays : n rows
    groups : of the head, in its order
    statistics : of :func:`fit_statistics` for these groups

    Returns
    -------
    float32 ndarray of shape (n, columns).
    """
    raw = raw_features(arrays, groups, statistics)
    columns = (raw - statistics.mean) / statistics.scale
    if len(statistics.whitening):
        wide = _wide(groups, arrays.dimensions, arrays.layer_columns)
        # In float64: in float32 a row's last bits would depend on the rows beside it.
        columns[:, wide] = columns[:, wide].astype(np.float64) @ statistics.whitening
    return columns


def raw_features(arrays: FeatureArrays, groups: Sequence[Group], statistics: Statistics) -> Floats:
    """Columns of a head before they are standardised.

    Parameters
    ----------
    arrays : n rows
    groups : of the head, in its order
    statistics : modality means and regressions that the groups need

    Returns
    -------
    float32 ndarray of shape (n, columns).
    """
    image, caption = _modalities(arrays, statistics)
    makers = {
        Group.IMAGE: lambda: image,
        Group.CAPTION: lambda: caption,
        Group.GLOBAL_MISALIGNMENT: lambda: image - caption,
        Group.GLOBAL_PRODUCT: lambda: image * caption,
        Group.GLOBAL_RESIDUAL: lambda: unexplained(image, caption, statistics.global_regression),
        Group.GLOBAL_SIMILARITY: lambda: arrays.global_similarity[:, np.newaxis],
        Group.PARTS: lambda: arrays.parts,
        Group.LOCAL_RESIDUAL: lambda: unexplained(
            arrays.parts, caption, statistics.local_regression
        ),
        Group.LOCAL_MISALIGNMENT: lambda: arrays.local_misalignment,
        Group.LOCAL_SIMILARITIES: lambda: _local_similarities(arrays),
        Group.LAYERS: lambda: arrays.layers,
        Group.SHORTCUT: lambda: arrays.shortcut,
    }
    return np.concatenate([makers[group]() for group in groups], axis=1).astype(np.float32)


NARROW = {Group.GLOBAL_SIMILARITY: 1, Group.LOCAL_SIMILARITIES: 7, Group.SHORTCUT: 9}
"""Number of columns of the groups that are not as wide as an embedding."""


def widths(groups: Sequence[Group], dimensions: int, layers: int) -> list[int]:
    """Number of columns of each group in a space of ``dimensions``, with so many ``layers``."""
    other = {**NARROW, Group.LAYERS: layers}
    return [other.get(group, dimensions) for group in groups]


def local_columns(groups: Sequence[Group], dimensions: int, layers: int) -> NDArray[np.bool_]:
    """(columns,) which of a head's columns speak of objects."""
    of = [group.level == Level.LOCAL for group in groups]
    return np.repeat(of, widths(groups, dimensions, layers))


def _wide(groups: Sequence[Group], dimensions: int, layers: int) -> NDArray[np.bool_]:
    """(columns,) which columns belong to groups of d columns."""
    of = [group not in NARROW and group != Group.LAYERS for group in groups]
    return np.repeat(of, widths(groups, dimensions, layers))


def _whitening(rows: Floats) -> Floats:
    """Symmetric inverse root of the rows' shrunk covariance."""
    covariance = np.cov(rows.astype(np.float64), rowvar=False)
    shrunk = SHRINKAGE * max(float(np.trace(covariance)) / len(covariance), 1e-12)
    variances, directions = np.linalg.eigh(covariance + shrunk * np.eye(len(covariance)))
    return ((directions / np.sqrt(variances)) @ directions.T).astype(np.float32)


def _modalities(arrays: FeatureArrays, statistics: Statistics) -> tuple[Floats, Floats]:
    if not len(statistics.image_mean):
        return arrays.image, arrays.caption
    image = centre(arrays.image, statistics.image_mean)
    return image, centre(arrays.caption, statistics.caption_mean)


def _local_similarities(arrays: FeatureArrays) -> Floats:
    grounded = np.any(arrays.local_misalignment != 0, axis=1, keepdims=True)
    return np.concatenate([arrays.local_scalars, grounded], axis=1).astype(np.float32)


def _shortcut(table: pa.Table) -> Floats:
    width, height, size = (_vector(table[name]) for name in ("width", "height", "byte_count"))
    quality = _vector(table["jpeg_quality"])
    formats = np.array(table["format"].to_pylist(), dtype=object)
    with np.errstate(divide="ignore", invalid="ignore"):
        numbers = [
            *(np.log(width), np.log(height), np.log(size)),
            np.log(size / (width * height)),
            np.nan_to_num(quality, nan=0.0),
        ]
    columns = [*numbers, *(formats == name for name in FORMATS)]
    return np.nan_to_num(np.column_stack(columns).astype(np.float32), posinf=0.0, neginf=0.0)


def _layers(table: pa.Table) -> pa.ChunkedArray:
    if LAYERS in table.column_names:
        return table[LAYERS]
    return pa.chunked_array([pa.nulls(len(table), STORED_EMBEDDING)])


def embedding_dimensions(column: pa.ChunkedArray) -> int | None:
    """How long the embeddings of a column are, by its type or its first; None if there is none."""
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    for chunk in column.chunks:
        if chunk.null_count < len(chunk):
            return len(chunk.drop_null()[0])
    return None


def _matrix(column: pa.ChunkedArray, dimensions: int) -> Floats:
    """Lists of any kind (n, d) -> float32; a null row becomes NaN."""
    present = column.is_valid().to_numpy()
    rows = np.full((len(column), dimensions), np.nan, np.float32)
    lists = [chunk.drop_null() for chunk in column.chunks]
    lengths = {size for one in lists for size in pc.unique(pc.list_value_length(one)).to_pylist()}
    if others := sorted(lengths - {dimensions}):
        raise UsageError(
            f"The features hold a vector of {others[0]} dimensions among vectors of {dimensions} "
            "dimensions: featurize all images with one profile."
        )
    values = [one.flatten().to_numpy(zero_copy_only=False) for one in lists]
    if present.any():
        rows[present] = np.concatenate(values).reshape(-1, dimensions)
    return rows


def _vector(column: pa.ChunkedArray) -> Floats:
    return column.to_numpy().astype(np.float32)
