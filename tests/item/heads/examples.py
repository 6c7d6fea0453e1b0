"""Rows of a features table in which generated pictures fit their captions worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from item.heads.columns import FeatureArrays, Group
from item.tables import FEATURES, STORED_EMBEDDING

DIMENSIONS = 8
LAYERS = 3
FEATURE_SET = "toy-0123456789ab"
DIFFERENCES = (
    *(Group.GLOBAL_MISALIGNMENT, Group.GLOBAL_SIMILARITY),
    *(Group.LOCAL_MISALIGNMENT, Group.LOCAL_SIMILARITIES),
)
"""The groups in which these rows show their labels."""


def features_table(
    rows: int = 400, seed: int = 0, signal: float = 1.0, first: int = 0, **columns: Any
) -> pa.Table:
    """Rows of the true schema; labels alternate, and a third has no object.

    The label shows in the first dimensions of both misalignments, in the local one of a
    third of the rows only. ``columns`` replaces columns by name.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(rows) % 2
    image = _unit(rng.normal(size=(rows, DIMENSIONS)))
    caption = image + rng.normal(scale=0.3, size=image.shape)
    caption[:, :2] -= signal * 0.25 * label[:, np.newaxis]
    local = rng.normal(scale=0.3, size=image.shape)
    local[:, 0] += signal * label
    local[np.arange(rows) % 3 == 0] = 0
    names = [f"{seed}-{number}" for number in range(first, first + rows)]
    values: dict[str, Any] = {
        "image_id": [f"id-{name}" for name in names],
        "uri": [f"pictures/{name}.jpg" for name in names],
        "source": ["photographs" if one == 0 else None for one in label],
        "status": ["ok"] * rows,
        "width": [64] * rows,
        "height": [48] * rows,
        "byte_count": [1000] * rows,
        "format": ["jpeg"] * rows,
        "label": label,
        "generator": [f"model-{number % 4 // 2}" if number % 2 else None for number in range(rows)],
        "caption": ["a cat on a mat"] * rows,
        "global_similarity": (image * caption).sum(axis=1),
        "object_count": (np.arange(rows) % 3 > 0).astype(int),
        "ungrounded_fraction": np.zeros(rows),
        "image_embedding": image,
        "global_misalignment": image - caption,
        "local_misalignment": local,
        "layers": rng.normal(size=(rows, LAYERS)),
        "parts_embedding": _unit(image + rng.normal(scale=0.1, size=image.shape)),
    }
    for name in ("min", "mean", "max", "std"):
        values[f"local_similarity_{name}"] = rng.normal(scale=0.1, size=rows)
    values |= columns
    return pa.Table.from_arrays(
        [_column(values.get(field.name, [None] * rows), field.type) for field in FEATURES],
        schema=FEATURES,
    )


def labelled(rows: int = 400, seed: int = 0, **columns: Any) -> tuple[FeatureArrays, NDArray]:
    """Features of rows and their labels (n,)."""
    table = features_table(rows, seed, **columns)
    return FeatureArrays.of(table), table["label"].to_numpy()


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    if kind == STORED_EMBEDDING:
        return pa.array([None if one is None else np.float16(one) for one in values], kind)
    return pa.array(values, kind, from_pandas=False)


def _unit(rows: NDArray) -> NDArray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
