"""The dual encoder's promises, which hold whatever its weights are."""

import numpy as np
import pytest
import torch

from item.mini.dual_encoder import (
    AttentionPooling,
    JointSpace,
    MiniDualEncoder,
    expected_names,
)
from item.mini.whole_pictures import WHOLE
from tests.support.untrained_weights import write_dual_encoder

WIDTH = 384


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return MiniDualEncoder(write_dual_encoder(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    sizes = [(60, 90), (300, 200), (7, 7), (40, 41), (1, 500)]
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_pictures_become_unit_rows_that_no_neighbour_changes(encoder, pictures):
    embed = encoder.embed_images
    rows = embed(pictures)
    assert rows.shape == (len(pictures), WIDTH)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    encoder.forget()
    alone = np.concatenate([embed([picture]) for picture in pictures])
    np.testing.assert_allclose(rows, alone, atol=1e-4)


def test_texts_become_unit_rows_that_no_neighbour_changes(encoder):
    texts = ["a cat", "", "a photo of two dogs that play with a red ball in the snow", "cat " * 99]
    rows = encoder.embed_texts(texts)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    encoder.forget()
    alone = np.concatenate([encoder.embed_texts([text]) for text in texts])
    np.testing.assert_allclose(rows, alone, atol=1e-4)


@pytest.mark.parametrize("columns", [1, 100, 256])
def test_layers_stand_beside_the_same_embeddings(columns, pictures, tmp_path):
    encoder = MiniDualEncoder(write_dual_encoder(tmp_path), layer_columns=columns)
    embeddings, layers = encoder.embed_with_layers(pictures)
    assert layers.shape == (len(pictures), columns) and layers.dtype == np.float32
    np.testing.assert_array_equal(embeddings, encoder.embed_images(pictures))
    encoder.forget()
    alone = [encoder.embed_with_layers([picture])[1] for picture in pictures]
    np.testing.assert_allclose(layers, np.concatenate(alone), atol=1e-3)
    assert encoder.embed_with_layers([])[1].shape == (0, columns)


def test_fewer_layers_are_the_first_of_more(pictures, tmp_path):
    weights = write_dual_encoder(tmp_path)
    few, many = (MiniDualEncoder(weights, layer_columns=count) for count in (8, 64))
    first = few.embed_with_layers(pictures)[1]
    np.testing.assert_allclose(first, many.embed_with_layers(pictures)[1][:, :8], atol=1e-3)


@pytest.mark.parametrize("method", ["embed_images", "embed_texts"])
def test_nothing_gives_no_rows(encoder, method):
    rows = getattr(encoder, method)([])
    assert rows.shape == (0, WIDTH)
    assert rows.dtype == np.float32


def test_the_region_of_a_whole_picture_is_the_picture(encoder, pictures):
    boxes = [np.array([[0.0, 0.0, p.shape[1], p.shape[0]]], np.float32) for p in pictures]
    regions = encoder.embed_regions(pictures, boxes)
    expected = encoder.embed_images(pictures)
    np.testing.assert_allclose(np.concatenate(regions), expected, atol=1e-5)


def test_regions_follow_their_boxes_whatever_their_number(encoder, pictures):
    boxes = [
        np.array([[0, 0, 10, 10], [20, 20, 60, 50]], np.float32),
        np.zeros((0, 4), np.float32),
        np.array([[0, 0, 7, 7]], np.float32),
        np.array([[0, 0, 10, 10], [20, 20, 39, 38]], np.float32),
        np.array([[0, 0, 0.01, 1]], np.float32),
    ]
    regions = encoder.embed_regions(pictures, boxes)
    assert [rows.shape for rows in regions] == [(len(of), WIDTH) for of in boxes]
    for picture, of_picture, rows in zip(pictures, boxes, regions, strict=True):
        for box, row in zip(of_picture, rows, strict=True):
            alone = encoder.embed_regions([picture], [box[np.newaxis]])[0][0]
            np.testing.assert_allclose(row, alone, atol=1e-4)
            assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
    assert encoder.embed_regions([], []) == []


def test_fitted_pictures_have_the_same_embeddings(encoder, pictures):
    expected = encoder.embed_images(pictures)
    found = encoder.embed_images(list(map(WHOLE, pictures)))
    np.testing.assert_array_equal(found, expected)


def test_different_inputs_have_different_embeddings(encoder, pictures):
    assert np.linalg.matrix_rank(encoder.embed_images(pictures[:3]), tol=1e-3) == 3
    assert np.linalg.matrix_rank(encoder.embed_texts(["a cat", "a dog", "snow"]), tol=1e-3) == 3


def test_a_picture_is_embedded_alike_every_time(encoder, pictures):
    first = encoder.embed_images(pictures[:2])
    encoder.forget()
    assert np.array_equal(encoder.embed_images(pictures[:2]), first)


def test_a_text_that_comes_again_is_not_embedded_again(encoder, monkeypatch):
    calls = []
    genuine = encoder._embed_new
    monkeypatch.setattr(encoder, "_embed_new", lambda texts: calls.append(texts) or genuine(texts))
    encoder.forget()
    twice = encoder.embed_texts(["a cat", "a dog", "a cat"])
    assert np.array_equal(twice[0], twice[2])
    assert np.array_equal(encoder.embed_texts(["a dog"])[0], twice[1])
    assert [sorted(texts) for texts in calls] == [["a cat", "a dog"]]


def test_remembered_texts_are_bounded(encoder, monkeypatch):
    monkeypatch.setattr("item.mini.dual_encoder.TEXTS_KEPT", 3)
    encoder.forget()
    rows = encoder.embed_texts(["a cat", "a dog"])
    again = encoder.embed_texts(["a dog", "a bird", "a cat", "a cow"])
    assert len(encoder._texts) <= 4
    np.testing.assert_allclose(again[[2, 0]], rows, atol=1e-5)


def test_class_names_move_the_image_side():
    torch.manual_seed(0)
    space = JointSpace().eval()
    maps = torch.randn(1, 320, 7, 7)
    first, second = (space.images(maps, names) for names in torch.randn(2, 1, WIDTH))
    assert (first - second).norm() > 0.01


def test_pooling_ignores_what_the_mask_hides():
    torch.manual_seed(0)
    pool = AttentionPooling(16).eval()
    tokens = torch.randn(1, 5, 16)
    cover = torch.tensor([[[1.0, 1, 1, 0, 0]]])
    changed = tokens.clone()
    changed[:, 3:] = 100.0
    torch.testing.assert_close(pool(tokens, cover), pool(changed, cover))
    torch.testing.assert_close(pool(tokens, cover), pool(tokens[:, :3], torch.ones(1, 1, 3)))


def test_half_a_token_weighs_half():
    torch.manual_seed(0)
    pool = AttentionPooling(16).eval()
    tokens = torch.randn(1, 3, 16)
    halves = pool(tokens, torch.tensor([[[0.5, 0.5, 0.5], [0.5, 1, 1]]]))
    twice = tokens[:, [0, 1, 1, 2, 2]]
    ones = pool(twice, torch.ones(1, 1, 5))
    torch.testing.assert_close(halves[:, 0], pool(tokens, torch.ones(1, 1, 3))[:, 0])
    torch.testing.assert_close(halves[:, 1], ones[:, 0])


def test_pooling_does_not_see_the_order_of_tokens():
    torch.manual_seed(0)
    pool = AttentionPooling(16).eval()
    tokens = torch.randn(2, 5, 16)
    cover = torch.ones(2, 1, 5)
    torch.testing.assert_close(pool(tokens, cover), pool(tokens.flip(1), cover))


def test_expected_name_is_the_mean_weighted_by_probability():
    names = torch.eye(3)
    logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log()
    assert expected_names(logits, names).tolist() == [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]
