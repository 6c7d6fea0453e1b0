"""Crops at a picture's own resolution, pooled stages, and a projection that stays the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from item.layers import centre_crop, pooled_maps, pooled_tokens, random_projection

SIDES = st.integers(1, 400)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@given(height=SIDES, width=SIDES, side=st.integers(8, 96))
@settings(max_examples=60)
def test_any_picture_has_a_crop_of_its_own_values(height, width, side):
    crop = centre_crop(np.full((height, width, 3), 77, np.uint8), side)
    assert crop.shape == (side, side, 3)
    assert (crop == 77).all()


def test_crop_of_a_picture_that_is_little_larger_is_its_middle():
    picture = noise(70, 68)
    np.testing.assert_array_equal(centre_crop(picture, 64), picture[3:67, 2:66])


def test_large_picture_is_shrunk_until_the_crop_takes_most_of_it():
    picture = np.zeros((640, 1280, 3), np.uint8)
    picture[:, 640:] = 200
    crop = centre_crop(picture, 56)
    assert (crop[:, :26] < 3).all() and (crop[:, 30:] > 197).all()
    left = np.zeros((640, 640, 3), np.uint8)
    left[:, 30:] = 200  # the crop leaves out a sixteenth of the side, 40 pixels
    assert (centre_crop(left, 56) > 190).all()


def test_small_picture_is_mirrored_not_enlarged():
    picture = noise(6, 8)
    crop = centre_crop(picture, 8)
    np.testing.assert_array_equal(crop[1:7], picture)
    np.testing.assert_array_equal(crop[0], picture[0])
    np.testing.assert_array_equal(crop[7], picture[5])


def test_maps_are_pooled_to_mean_and_deviation():
    maps = [torch.randn(2, 3, 4, 5), torch.randn(2, 1, 7, 7).bfloat16()]
    pooled = pooled_maps(maps)
    assert pooled.shape == (2, 8) and pooled.dtype == torch.float32
    first = maps[0].flatten(2)
    torch.testing.assert_close(pooled[:, :3], first.mean(2))
    torch.testing.assert_close(pooled[:, 3:6], first.std(2, correction=0))


def test_deviation_of_a_map_far_from_zero_is_exact():
    maps = 1000 + torch.tensor([[[[0.0, 0.1], [0.1, 0.0]]]])
    assert pooled_maps([maps])[0, 1].item() == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize("with_class_token", [True, False])
def test_tokens_are_pooled_to_unit_vectors_of_each_block(with_class_token):
    blocks = [torch.randn(2, 5, 4), torch.randn(2, 5, 4)]
    pooled = pooled_tokens(blocks, with_class_token)
    assert pooled.shape == (2, 8)
    torch.testing.assert_close(pooled.unflatten(1, (2, 4)).norm(dim=2), torch.ones(2, 2))
    token = blocks[1][:, 0] if with_class_token else blocks[1].mean(1)
    torch.testing.assert_close(pooled[:, 4:], token / token.norm(dim=1, keepdim=True))


def test_random_projection_is_the_same_on_every_machine_and_keeps_distances():
    matrix = random_projection(1000, 256)
    assert matrix.shape == (1000, 256) and matrix.dtype == np.float32
    assert "".join("+" if value > 0 else "-" for value in matrix[0, :16]) == "-+-++--+------+-"
    vectors = np.random.default_rng(0).normal(size=(20, 1000))
    lengths = np.linalg.norm(vectors @ matrix, axis=1) / np.linalg.norm(vectors, axis=1)
    assert (abs(lengths - 1) < 0.2).all()
