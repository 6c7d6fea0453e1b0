"""Boxes clipped, grown, cut out, and taken to the full-size picture and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from item.images.boxes import CropGrid, box_in_picture, crop, crop_grid, fitted_box, full_size_box
from tests.support.odd_files import quadrants


@pytest.mark.parametrize(("size", "shape"), [((700, 3), (1, 100, 3)), ((144, 97), (67, 100, 3))])
def test_boxes_go_to_full_size_and_back(size: tuple[int, int], shape: tuple[int, ...]) -> None:
    picture = np.zeros(shape, np.uint8)
    box = np.array([0, 0, shape[1], shape[0]], np.float32)
    full = full_size_box(box, picture, size)
    assert list(full.values()) == pytest.approx([0, 0, *size], rel=1e-6)
    assert box_in_picture(full, picture, size) == box.tolist()


# Clipped and grown

corners = st.tuples(*[st.floats(-600, 2600, width=32)] * 4).map(
    lambda c: np.array([*np.sort([c[0], c[2]]), *np.sort([c[1], c[3]])], np.float32)[[0, 2, 1, 3]]
)
sides = st.integers(1, 2000)


@settings(max_examples=300)
@given(corners, sides, sides, st.floats(0, 2), st.integers(1, 500))
def test_boxes_lie_inside_hold_what_was_found_and_are_large_enough(
    box: NDArray[np.float32], width: int, height: int, padding: float, min_side: int
) -> None:
    found = fitted_box(box, width, height, padding, min_side)
    assert found.dtype == np.float32
    for axis, length in enumerate((width, height)):
        start, end = found[axis::2].astype(np.float64)
        low, high = np.clip(box[axis::2].astype(np.float64), 0, length)
        side = min(min_side, length)
        assert 0 <= start <= low and high <= end <= length
        assert end - start >= side
        assert end - start <= max((high - low) * (1 + 2 * padding) * (1 + 1e-5), side + 1)


@pytest.mark.parametrize(
    ("box", "options", "expected"),
    [
        ([10.5, 20.25, 30, 40], {}, [10.5, 20.25, 30, 40]),
        ([-5, -5, 30, 140], {}, [0, 0, 30, 100]),
        ([10, 20, 30, 60], {"padding": 0.25}, [5, 10, 35, 70]),
        ([0, 80, 30, 100], {"padding": 0.5}, [0, 70, 45, 100]),
        ([50.2, 50.4, 50.6, 50.8], {}, [50, 50, 51, 51]),
        ([50, 50, 52, 60], {"min_side": 6}, [48, 50, 54, 60]),
        ([0, 98.5, 2, 100], {"min_side": 6}, [0, 94, 6, 100]),
        ([90, 90, 99, 99], {"min_side": 500}, [0, 0, 200, 100]),
        ([300, 40, 400, 50], {"min_side": 4}, [196, 40, 200, 50]),
    ],
)
def test_boxes_by_hand(box: list[float], options: dict[str, Any], expected: list[float]) -> None:
    assert fitted_box(np.array(box, np.float32), 200, 100, **options).tolist() == expected


# Cut out


def test_crop_widens_fractions_to_whole_pixels() -> None:
    pixels = np.asarray(quadrants())
    np.testing.assert_array_equal(crop(pixels, (1.5, 2.5, 3.2, 4)), pixels[2:4, 1:4])


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4))
def test_crop_of_any_box_is_a_part_of_the_picture(box: list[float]) -> None:
    height, width, _ = crop(np.asarray(quadrants()), box).shape
    assert 1 <= width <= 64
    assert 1 <= height <= 48


GRID = CropGrid(threshold=0.5)


def test_the_default_grid_by_hand():
    boxes = crop_grid(100, 200, GRID)
    assert len(boxes) == 2 * 2 + 3 * 3
    assert boxes.dtype == np.float32
    assert boxes[:4].tolist() == [
        [0, 0, 67, 134],
        [33, 0, 100, 134],
        [0, 66, 67, 200],
        [33, 66, 100, 200],
    ]
    assert boxes[4].tolist() == [0, 0, 50, 100]
    assert boxes[8].tolist() == [25, 50, 75, 150]


def test_scale_one_is_the_whole_picture():
    assert crop_grid(40, 30, CropGrid(threshold=0, scales=(1,))).tolist() == [[0, 0, 40, 30]]


def test_a_picture_below_the_least_side_is_one_crop():
    assert crop_grid(20, 31, GRID).tolist() == [[0, 0, 20, 31]]


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0 x 5"):
        crop_grid(0, 5, GRID)


grids = st.builds(
    CropGrid,
    threshold=st.just(0.0),
    scales=st.lists(st.floats(0.2, 1), min_size=1, max_size=3).map(tuple),
    overlap=st.floats(0, 0.7),
    min_side=st.integers(1, 40),
)


@settings(deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), grids)
def test_crops_lie_inside_cover_the_picture_and_never_repeat(width, height, grid):
    boxes = crop_grid(width, height, grid).astype(int)
    covered = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert x1 - x0 >= min(width, grid.min_side) and y1 - y0 >= min(height, grid.min_side)
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    assert len({tuple(box) for box in boxes}) == len(boxes)


@pytest.mark.parametrize(
    "wrong", [{"scales": ()}, {"scales": (0,)}, {"overlap": 1}, {"prompt": "x"}, {"sides": 1}]
)
def test_a_grid_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        CropGrid(threshold=0, **wrong)
