"""Crops that a device cuts are those that Pillow cuts."""

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from item.images.boxes import whole_pixels
from item.models.open_clip.device_crops import cut
from item.models.open_clip.preprocessing import OpenClipFit, Preprocessing
from item.models.upload import upload

SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))
CPU = torch.device("cpu")


def photograph(generator, height, width):
    """Colours that change slowly and are never at their limits.

    At its limits a colour is cut off between the two axes, and which axis Pillow takes first hangs
    on its version.
    """
    coarse = generator.integers(60, 196, (-(-height // 8) + 1, -(-width // 8) + 1, 3), np.uint8)
    smooth = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)
    return np.array(smooth)


@st.composite
def crops(draw):
    """A few pictures and a box in one of each."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(SIZES, min_size=1, max_size=3))
    pictures = [photograph(generator, *size) for size in sizes]
    boxes = []
    for picture in pictures:
        height, width = picture.shape[:2]
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        box = (x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))
        boxes.append(whole_pixels(picture, box))
    return pictures, boxes


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@settings(max_examples=40, deadline=None)
@given(crops())
def test_device_and_pillow_cut_the_same(size, mode, interpolation, given_crops):
    pictures, boxes = given_crops
    how = Preprocessing(interpolation=interpolation, resize_mode=mode, fill_color=7)
    fit = OpenClipFit(how, *size)
    found = cut(upload(pictures, CPU), range(len(pictures)), np.stack(boxes), fit).numpy()
    for crop, picture, (x0, y0, x1, y1) in zip(found, pictures, boxes, strict=True):
        expected = fit(picture[y0:y1, x0:x1])
        assert np.abs(crop.astype(int) - expected).max() <= 2


def test_many_crops_of_one_picture_keep_their_order():
    generator = np.random.default_rng(0)
    picture = photograph(generator, 60, 80)
    fit = OpenClipFit(Preprocessing(), 16, 16)
    boxes = np.array([[x, y, x + 20, y + 30] for x in range(0, 60, 6) for y in range(0, 30, 4)])
    found = cut(upload([picture], CPU), [0] * len(boxes), boxes, fit)
    assert found.shape == (len(boxes), 16, 16, 3) and found.dtype == torch.uint8
    for crop, (x0, y0, x1, y1) in zip(found.numpy(), boxes, strict=True):
        assert np.abs(crop.astype(int) - fit(picture[y0:y1, x0:x1])).max() <= 1
