"""Each model finds the picture that it reads, and nothing else is made."""

import numpy as np
import pytest

from item.errors import UsageError
from item.images.fit import Squash
from item.layers import CentreCrop
from item.mini.whole_pictures import CROP_SIDE, SIDE
from item.models.open_clip.preprocessing import OpenClipFit
from item.models.processor_fit import ProcessorFit
from item.profiles import load_profile
from item.profiles.inputs import PIXELS, picture_inputs
from tests.support.tiny_checkpoints.profile import tiny

CUSTOM = {"model": "custom", "load": "a.module:Class", "revision": "1"}


def test_the_models_of_mini_share_one_picture():
    inputs = picture_inputs(load_profile("mini"))
    assert inputs.names == ("encoder_input", "layers_input")
    assert inputs.captioner == inputs.grounder == inputs.encoder == "encoder_input"
    assert inputs.crops is None
    expected = {"encoder_input": Squash(SIDE), "layers_input": CentreCrop(CROP_SIDE)}
    assert inputs.fits == expected
    made = inputs.of(np.zeros((40, 60, 3), np.uint8))
    assert {name: one.shape[:2] for name, one in made.items()} == {
        "encoder_input": (SIDE, SIDE),
        "layers_input": (CROP_SIDE, CROP_SIDE),
    }


def test_public_models_read_what_their_own_files_say(tmp_path):
    inputs = picture_inputs(tiny(tmp_path, {}))
    assert inputs.grounder == inputs.crops == PIXELS
    assert isinstance(inputs.fits[inputs.captioner], ProcessorFit)
    assert isinstance(inputs.fits[inputs.encoder], OpenClipFit)
    picture = np.zeros((40, 60, 3), np.uint8)
    assert inputs.of(picture)[PIXELS] is picture


def test_embeddings_alone_need_no_pixels(tmp_path):
    profile = tiny(tmp_path, {"captioner": {"model": "none"}})
    assert picture_inputs(profile).names == ("encoder_input", "layers_input")
    profile = tiny(tmp_path, {"captioner": {"model": "none"}, "clip.layers": 0})
    assert picture_inputs(profile).names == ("encoder_input",)


def test_models_of_the_users_read_pictures_as_they_are_decoded():
    profile = load_profile("mini", {"captioner": CUSTOM})
    inputs = picture_inputs(profile)
    assert inputs.captioner == PIXELS and inputs.encoder == "encoder_input"
    encoder = CUSTOM | {"dimensions": 8, "layers": 4}
    inputs = picture_inputs(load_profile("mini", {"captioner": CUSTOM, "clip": encoder}))
    assert inputs.names == (PIXELS,) and inputs.middle is None and not inputs.fits


def test_missing_configuration_is_one_sentence(tmp_path):
    profile = tiny(tmp_path, {})
    for file in (tmp_path / "clip").glob("*.json"):
        file.unlink()
    with pytest.raises(UsageError, match=r"open_clip_config\.json"):
        picture_inputs(profile.model_copy(update={"name": "other"}))
