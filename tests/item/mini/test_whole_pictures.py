"""Maps that two models read."""

import numpy as np
import pytest
import torch

from item.layers import centre_crop
from item.mini import backbone as module
from item.mini import whole_pictures as whole_module
from item.mini.backbone import CHANNELS, POOLED, Backbone, normalise
from item.mini.whole_pictures import (
    BATCH,
    CROP_SIDE,
    MIDDLE,
    SIDE,
    WHOLE,
    WholePictures,
    whole_pictures,
)


@pytest.fixture(scope="module")
def backbone():
    return Backbone()


@pytest.fixture
def whole(backbone):
    return WholePictures(backbone)


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    sizes = [(60, 90), (300, 200), (7, 7), (40, 41), (1, 500), (90, 60)]
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


@pytest.fixture
def sizes(monkeypatch):
    """How many pictures went through the backbone at once, call by call."""
    found = []

    def counted(pictures, side):
        found.append(len(pictures))
        return normalise(pictures, side)

    monkeypatch.setattr(module, "normalise", counted)
    return found


def test_maps_are_those_of_the_backbone(whole, backbone, pictures):
    with torch.inference_mode():
        expected = backbone(normalise(pictures, SIDE))
    torch.testing.assert_close(whole.maps(pictures), expected, atol=1e-4, rtol=0)


def test_batches_have_one_size(whole, pictures, sizes):
    assert whole.maps(pictures).shape == (len(pictures), CHANNELS, 8, 8)
    assert sizes == [BATCH, BATCH]


def test_the_second_model_computes_nothing(whole, pictures, sizes):
    first = whole.maps(pictures)
    del sizes[:]
    assert torch.equal(whole.maps(pictures[::-1]), first.flip(0))
    assert sizes == []


def test_equal_bytes_of_another_shape_are_another_picture(whole):
    flat = np.arange(60, dtype=np.uint8)
    wide, tall = flat.reshape(2, 10, 3), flat.reshape(10, 2, 3)
    maps = whole.maps([wide, tall, wide])
    assert torch.equal(maps[0], maps[2])
    assert not torch.allclose(maps[0], maps[1])


def test_what_is_remembered_is_bounded(whole, pictures, sizes, monkeypatch):
    monkeypatch.setattr(whole_module, "KEPT", 2)
    first = whole.maps(pictures)
    del sizes[:]
    torch.testing.assert_close(whole.maps(pictures), first, atol=1e-4, rtol=0)
    assert sizes == [BATCH]


def test_no_pictures_have_no_maps(whole):
    assert whole.maps([]).shape == (0, CHANNELS, 8, 8)


def test_layers_are_pooled_stages_of_squashed_pictures_and_of_their_crops(
    whole, backbone, pictures
):
    layers = whole.layers(pictures)
    assert layers.shape == (len(pictures), 2 * POOLED)
    crops = [centre_crop(picture, CROP_SIDE) for picture in pictures]
    with torch.inference_mode():
        expected = [
            backbone.with_layers(normalise(part, side))[1]
            for part, side in ((pictures, SIDE), (crops, CROP_SIDE))
        ]
    torch.testing.assert_close(layers, torch.cat(expected, dim=1), atol=1e-4, rtol=1e-3)


def test_fitted_pictures_are_read_as_they_are(whole, pictures):
    maps, layers = whole.maps_and_layers(pictures)
    whole.forget()
    middles = list(map(MIDDLE, pictures))
    again = whole.maps_and_layers(list(map(WHOLE, pictures)), middles)
    assert torch.equal(maps, again[0]) and torch.equal(layers, again[1])


def test_layers_cost_a_pass_of_the_crops_alone(whole, pictures, sizes):
    whole.maps(pictures)
    del sizes[:]
    whole.layers(pictures)
    assert sizes == [BATCH, BATCH]


def test_no_pictures_have_no_layers(whole):
    assert whole.layers([]).shape == (0, 2 * POOLED)


def test_a_process_has_one():
    assert whole_pictures() is whole_pictures()
