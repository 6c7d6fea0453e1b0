"""The captioner that settings name."""

import pytest
from pydantic import ValidationError

from item.captioning import (
    MiniCaptioning,
    captioner_revision,
    check_captioner,
    first_caption,
    load_captioner,
)
from item.errors import UsageError
from item.mini import captioner, checkpoint
from tests.support.untrained_weights import write_captioner


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path)
    monkeypatch.setattr(captioner, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("beams", [0, 17, "many"])
def test_widths_of_the_search_out_of_range_are_refused(beams):
    with pytest.raises(ValidationError):
        MiniCaptioning(beams=beams)


def test_the_loaded_captioner_searches_as_wide_as_told(folder):
    write_captioner(folder)
    assert load_captioner(MiniCaptioning(beams=2)).beams == 2


@pytest.mark.usefixtures("folder")
def test_missing_weights_are_one_sentence():
    for call in (check_captioner, captioner_revision, load_captioner):
        with pytest.raises(UsageError, match=r"'captioner\.safetensors' are missing"):
            call(MiniCaptioning())


def test_the_check_passes_and_the_revision_follows_the_weights(folder):
    write_captioner(folder, seed=0)
    check_captioner(MiniCaptioning())
    first = captioner_revision(MiniCaptioning())
    write_captioner(folder, seed=1)
    assert captioner_revision(MiniCaptioning()) != first


@pytest.mark.parametrize(
    ("captions", "caption"),
    [
        (["a dog", "a cat"], "a dog"),
        (["", " \n", "two\tdogs \n run"], "two dogs run"),
        ([None, "a cup"], "a cup"),
        ([" "], None),
        ([], None),
        (None, None),
    ],
)
def test_first_caption_that_says_anything(captions: list[str] | None, caption: str | None) -> None:
    assert first_caption(captions) == caption
