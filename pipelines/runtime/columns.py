"""Columns between stages: numpy views of Arrow's memory, and Arrow arrays of numpy's.

Pictures are most of what travels. Those of one size are Arrow's fixed-shape tensors, those of any
size ``large_binary``; numpy and torch read both where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

PIXELS = pa.large_binary()
"""Pictures of any size; their rows stand in another column."""


def tensor(height: int, width: int) -> pa.DataType:
    """The type of pictures (height, width, 3) of one size."""
    return pa.fixed_shape_tensor(pa.uint8(), (height, width, 3))


def values(column: pa.ChunkedArray, rows: NDArray[np.intp]) -> list[Any]:
    """What a stage is given of a column: of some rows, none of them null in a column of pictures.

    Returns
    -------
    A list: of pictures, views without a copy; of embeddings, float32 arrays; of anything else,
    plain Python values.
    """
    if isinstance(column.type, pa.FixedShapeTensorType):
        return _chosen([view for chunk in column.chunks for view in _tensor_view(chunk)], rows)
    if pa.types.is_large_binary(column.type):
        return _chosen([view for chunk in column.chunks for view in _binary_views(chunk)], rows)
    if pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type):
        return _chosen([view for chunk in column.chunks for view in _list_views(chunk)], rows)
    if pa.types.is_list(column.type) and pa.types.is_list(column.type.value_type):
        return _chosen([view for chunk in column.chunks for view in _nested_views(chunk)], rows)
    plain: list[Any] = column.take(rows).to_pylist()
    return plain


def array(found: Sequence[Any], rows: NDArray[np.intp], length: int, kind: pa.DataType) -> pa.Array:
    """An Arrow array of ``length`` values, those found at ``rows`` and else null.

    Parameters
    ----------
    found : as many values as rows; pictures and embeddings as arrays, None for null
    rows : rising
    length : of the result
    kind : its type
    """
    if isinstance(kind, pa.FixedShapeTensorType):
        return _tensor_array(found, rows, length, kind)
    there = np.zeros(length, dtype=bool)
    placed: list[Any] = [None] * length
    for row, value in zip(rows, found, strict=True):
        placed[row] = value
        there[row] = value is not None
    if pa.types.is_large_binary(kind):
        offsets, data = _joined(placed, np.uint8, np.int64)
        buffers = [_mask(there), pa.py_buffer(offsets), pa.py_buffer(data)]
        return pa.LargeBinaryArray.from_buffers(kind, length, buffers)
    if pa.types.is_list(kind) and pa.types.is_float32(kind.value_type):
        return _list_array(placed, there, kind)
    if pa.types.is_list(kind) and pa.types.is_list(kind.value_type):
        inner = [vector for vectors in placed if vectors is not None for vector in vectors]
        given = np.array([vector is not None for vector in inner], dtype=bool)
        counts = [0 if vectors is None else len(vectors) for vectors in placed]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        children = _list_array(inner, given, kind.value_type)
        buffers = [_mask(there), pa.py_buffer(offsets)]
        return pa.Array.from_buffers(kind, length, buffers, children=[children])
    return pa.array(placed, kind)


def _chosen(every: list[Any], rows: NDArray[np.intp]) -> list[Any]:
    return every if len(rows) == len(every) else [every[row] for row in rows]


def _tensor_view(chunk: pa.FixedShapeTensorArray) -> NDArray[np.uint8]:
    shape = tuple(chunk.type.shape)
    size = int(np.prod(shape))
    storage = chunk.storage
    # Not `flatten`: it leaves out nulls, which takes a copy.
    pixels = storage.values.to_numpy(zero_copy_only=True)
    start = storage.offset * size
    view: NDArray[np.uint8] = pixels[start : start + len(chunk) * size].reshape(-1, *shape)
    return view


def _tensor_array(
    found: Sequence[Any], rows: NDArray[np.intp], length: int, kind: pa.FixedShapeTensorType
) -> pa.Array:
    shape = tuple(kind.shape)
    size = int(np.prod(shape))
    if isinstance(found, np.ndarray) and len(found) == length:
        pixels = np.ascontiguousarray(found, dtype=np.uint8)
    else:
        pixels = np.zeros((length, *shape), np.uint8)
        for row, value in zip(rows, found, strict=True):
            if value is not None:
                pixels[row] = value
    given = [row for row, value in zip(rows, found, strict=True) if value is not None]
    there = np.zeros(length, dtype=bool)
    there[given] = True
    flat = pa.Array.from_buffers(
        pa.uint8(), length * size, [None, pa.py_buffer(pixels.reshape(-1))]
    )
    storage = pa.Array.from_buffers(
        pa.list_(pa.uint8(), size), length, [_mask(there)], children=[flat]
    )
    return pa.ExtensionArray.from_storage(kind, storage)


def _binary_views(chunk: pa.LargeBinaryArray) -> list[NDArray[np.uint8] | None]:
    _, offsets, data = chunk.buffers()
    places = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    pixels = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return _cut_up(pixels, places, chunk)


def _list_views(chunk: pa.ListArray) -> list[NDArray[np.float32] | None]:
    numbers = chunk.values.to_numpy(zero_copy_only=False)
    return _cut_up(numbers, chunk.offsets.to_numpy(), chunk)


def _nested_views(chunk: pa.ListArray) -> list[list[NDArray[np.float32] | None] | None]:
    return _cut_up(_list_views(chunk.values), chunk.offsets.to_numpy(), chunk)


def _cut_up(every: Any, places: NDArray[Any], chunk: pa.Array) -> list[Any]:
    """What lies between one place and the next, for each value of a chunk; None for null."""
    there = chunk.is_valid().to_numpy(zero_copy_only=False)
    return [
        every[start:end] if valid else None
        for start, end, valid in zip(places[:-1], places[1:], there, strict=True)
    ]


def _list_array(placed: Sequence[Any], there: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    offsets, numbers = _joined(placed, np.float32, np.int32)
    child = pa.array(numbers)
    buffers = [_mask(there), pa.py_buffer(offsets)]
    return pa.Array.from_buffers(kind, len(placed), buffers, children=[child])


def _joined(placed: Sequence[Any], number: type, place: type) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where each value starts and ends, and all values one after the other."""
    flat = [np.zeros(0, number) if one is None else np.ravel(one) for one in placed]
    ends: NDArray[Any] = np.cumsum([len(one) for one in flat], dtype=place)
    numbers: NDArray[Any] = np.concatenate([np.zeros(0, number), *flat], dtype=number)
    return np.concatenate([np.zeros(1, place), ends], dtype=place), numbers


def _mask(there: NDArray[np.bool_]) -> pa.Buffer | None:
    """Arrow's validity bits; None where nothing is null."""
    if there.all():
        return None
    return pa.py_buffer(np.packbits(there, bitorder="little"))
