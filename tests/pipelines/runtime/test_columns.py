"""Columns go to numpy and back unchanged, and pictures without a copy."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.tables import EMBEDDING
from pipelines.runtime.columns import PIXELS, array, tensor, values

PICTURES = tensor(2, 3)
VECTORS = st.lists(st.floats(-8, 8, width=32), max_size=4).map(
    lambda numbers: np.array(numbers, np.float32)
)
BYTES = st.binary(max_size=9).map(lambda data: np.frombuffer(data, np.uint8))
KINDS = {
    "tensors": (PICTURES, st.integers(0, 255).map(lambda n: np.full((2, 3, 3), n, np.uint8))),
    "pixels": (PIXELS, BYTES),
    "embeddings": (EMBEDDING, VECTORS),
    "embeddings of objects": (
        pa.list_(EMBEDDING),
        st.lists(st.none() | VECTORS, max_size=3),
    ),
    "texts": (pa.list_(pa.string()), st.lists(st.text(max_size=3), max_size=3)),
    "numbers": (pa.int32(), st.integers(-9, 9)),
}


@st.composite
def columns(draw, kind, value):
    """A column in a few chunks, each with what lies before and after it, and what is in it."""
    chunks, every = [], []
    for _ in range(draw(st.integers(1, 3))):
        found = draw(st.lists(st.none() | value, max_size=5))
        rows = np.flatnonzero([one is not None for one in found])
        chunk = array([found[row] for row in rows], rows, len(found), kind)
        start = draw(st.integers(0, len(found)))
        chunks.append(chunk.slice(start))
        every += found[start:]
    return pa.chunked_array(chunks, kind), every


def same(first, second):
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_columns_come_back_as_they_were(name, data):
    kind, value = KINDS[name]
    column, every = data.draw(columns(kind, value))
    column.validate(full=True)
    rows = np.flatnonzero([one is not None for one in every])
    found = values(column, rows)
    assert same(list(found), [every[row] for row in rows])


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_arrow_reads_what_numpy_wrote(name, data):
    kind, value = KINDS[name]
    found = data.draw(st.lists(st.none() | value, max_size=6))
    written = array(found, np.arange(len(found)), len(found), kind)
    written.validate(full=True)
    there = written.storage if name == "tensors" else written
    told = [list(one) if isinstance(one, bytes) else one for one in there.to_pylist()]
    assert told == plain(found, flat=name == "tensors")


def plain(found, flat=False):
    """The same in Python's own lists."""
    if isinstance(found, np.ndarray):
        return (found.ravel() if flat else found).tolist()
    if isinstance(found, list):
        return [plain(one, flat) for one in found]
    return found


def test_pictures_of_one_size_are_seen_where_they_lie():
    pictures = np.arange(4 * 18, dtype=np.uint8).reshape(4, 2, 3, 3)
    written = array(pictures, np.arange(4), 4, PICTURES)
    column = pa.chunked_array([written])
    for some in (column, column.slice(1, 2)):
        for rows in (np.arange(len(some)), np.array([1])):
            found = values(some, rows)
            assert len(found) == len(rows)
            assert all(np.shares_memory(picture, pictures) for picture in found)


def test_pictures_of_any_size_are_seen_where_they_lie():
    written = array([np.zeros(30, np.uint8), np.ones(6, np.uint8)], np.array([0, 2]), 3, PIXELS)
    memory = np.frombuffer(written.buffers()[2], np.uint8)
    first, last = values(pa.chunked_array([written]), np.array([0, 2]))
    assert np.shares_memory(first, memory) and np.shares_memory(last, memory)


def test_columns_of_nothing_have_no_rows():
    for kind, _ in KINDS.values():
        assert len(array([], np.array([], int), 0, kind)) == 0
        nulls = array([], np.array([], int), 3, kind)
        assert len(nulls) == nulls.null_count == 3
