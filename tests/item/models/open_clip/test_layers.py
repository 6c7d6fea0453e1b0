"""What the blocks of an image tower see, beside the embedding."""

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

from item.errors import UsageError
from item.models.open_clip.encoder import OpenClipEncoder
from item.models.open_clip.layers import LayeredTower
from tests.support.tiny_checkpoints.clips import tiny_clip, tiny_siglip

KINDS = {"clip": tiny_clip, "siglip": tiny_siglip}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return {name: build(root / name) for name, build in KINDS.items()}


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    sizes = [(40, 60), (200, 100), (1, 1), (7, 100), (33, 31)]
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [16, 7])
def test_layers_stand_beside_the_same_embeddings(kind, columns, folders, pictures):
    encoder = OpenClipEncoder(folders[kind], batch_size=3, layer_columns=columns)
    plain = OpenClipEncoder(folders[kind], batch_size=3)
    embeddings, layers = encoder.embed_with_layers(pictures)
    assert layers.shape == (len(pictures), columns) and layers.dtype == np.float32
    np.testing.assert_allclose(embeddings, plain.embed_images(pictures), atol=1e-5)
    np.testing.assert_allclose(encoder.embed_images(pictures), embeddings, atol=1e-5)
    assert np.linalg.matrix_rank(layers, tol=1e-3) == len(pictures)
    for picture, row in zip(pictures, layers, strict=True):
        np.testing.assert_allclose(encoder.embed_with_layers([picture])[1][0], row, atol=1e-4)


def test_no_picture_has_no_layers(folders):
    embeddings, layers = OpenClipEncoder(folders["clip"], layer_columns=7).embed_with_layers([])
    assert embeddings.shape == (0, 24) and layers.shape == (0, 7)


def test_half_of_the_columns_see_the_picture_at_its_own_resolution(folders):
    encoder = OpenClipEncoder(folders["clip"], batch_size=4, layer_columns=16)
    picture = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    framed = picture.copy()
    framed[:12] = framed[-12:] = 0  # outside of the crop, inside of the squashed picture
    (_, first), (_, second) = (encoder.embed_with_layers([one]) for one in (picture, framed))
    assert abs(first[0, :8] - second[0, :8]).max() > 1e-3
    np.testing.assert_allclose(first[0, 8:], second[0, 8:], atol=0.05)


def test_class_tokens_are_those_of_the_blocks(folders, pictures):
    encoder = OpenClipEncoder(folders["clip"], layer_columns=16)
    tower = encoder.model.visual
    listener = LayeredTower(tower)
    with torch.inference_mode():
        tower(torch.randn(2, 3, encoder.fit.height, encoder.fit.width))
        pooled = listener.pooled()
    width = tower.transformer.width
    assert pooled.shape == (2, width * tower.transformer.layers)
    torch.testing.assert_close(pooled[:, :width].norm(dim=1), torch.ones(2))


def test_stages_of_a_convolutional_tower_are_pooled_by_channel():
    model = open_clip.create_model("RN50", pretrained=None).eval()
    listener = LayeredTower(model.visual)
    with torch.inference_mode():
        model.visual(torch.randn(1, 3, 224, 224))
    assert listener.pooled().shape == (1, 2 * (256 + 512 + 1024 + 2048))


def test_what_a_broken_batch_left_is_forgotten(folders, pictures):
    encoder = OpenClipEncoder(folders["clip"], batch_size=8, layer_columns=16)
    expected = encoder.embed_with_layers(pictures)[1]
    encoder._tower._seen.append(torch.zeros(9, 1, 1))
    np.testing.assert_allclose(encoder.embed_with_layers(pictures)[1], expected, atol=1e-5)


def test_tower_of_an_unknown_kind_is_refused_with_the_key():
    with pytest.raises(UsageError, match=r"a Linear, .* set profile\.clip\.layers=0"):
        LayeredTower(nn.Linear(2, 2))
