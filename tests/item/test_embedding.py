"""The dual encoder that settings name."""

import numpy as np
import pytest

from item.embedding import (
    MiniClip,
    check_dual_encoder,
    dual_encoder_dimensions,
    dual_encoder_revision,
    embed_regions,
    load_dual_encoder,
)
from item.errors import UsageError
from item.mini import checkpoint
from tests.support.untrained_weights import write_dual_encoder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path)
    return tmp_path


def test_dimensions_known_ahead_are_those_of_the_model(folder):
    write_dual_encoder(folder)
    check_dual_encoder(MiniClip())
    encoder = load_dual_encoder(MiniClip())
    picture = np.zeros((20, 30, 3), np.uint8)
    width = dual_encoder_dimensions(MiniClip())
    assert encoder.dimensions == width
    assert encoder.embed_images([picture]).shape == (1, width)
    box = np.array([[0, 0, 9, 9]])
    assert embed_regions(encoder, [picture], [box])[0].shape == (1, width)
    assert encoder.embed_texts(["a cat"]).shape == (1, width)


@pytest.mark.usefixtures("folder")
def test_missing_weights_are_one_sentence():
    for call in (check_dual_encoder, dual_encoder_revision, load_dual_encoder):
        with pytest.raises(UsageError, match=r"'dual_encoder\.safetensors' are missing"):
            call(MiniClip())


def test_the_revision_follows_the_weights(folder):
    write_dual_encoder(folder, seed=0)
    first = dual_encoder_revision(MiniClip())
    write_dual_encoder(folder, seed=1)
    assert dual_encoder_revision(MiniClip()) != first
