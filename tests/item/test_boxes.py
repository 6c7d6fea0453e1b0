"""Boxes taken from a decoded picture to the full-size one and back."""

from __future__ import annotations

import numpy as np
import pytest

from item.boxes import box_in_picture, full_size_box


@pytest.mark.parametrize(("size", "shape"), [((700, 3), (1, 100, 3)), ((144, 97), (67, 100, 3))])
def test_boxes_go_to_full_size_and_back(size: tuple[int, int], shape: tuple[int, ...]) -> None:
    picture = np.zeros(shape, np.uint8)
    box = np.array([0, 0, shape[1], shape[0]], np.float32)
    full = full_size_box(box, picture, size)
    assert list(full.values()) == pytest.approx([0, 0, *size], rel=1e-6)
    assert box_in_picture(full, picture, size) == box.tolist()
