"""A user's own classes."""

import numpy as np
import pytest

from item.captioning import captioner_revision, check_captioner, load_captioner
from item.embedding import CustomClip, dual_encoder_dimensions, load_dual_encoder, with_layers
from item.errors import UsageError
from item.models.custom import CustomModel

OWN = '''
import numpy as np

class Captions:
    """Calls every picture the same."""

    def __init__(self, sentence="a dog"):
        self.sentence = sentence

    def caption(self, pictures):
        return [self.sentence for _ in pictures]


class Colours:
    """The mean colour, as a direction."""

    dimensions = 3

    def embed_images(self, pictures):
        rows = [picture.mean(axis=(0, 1)) + 1 for picture in pictures]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32).reshape(-1, 3)

    embed_crops = embed_images

    def embed_texts(self, texts):
        return np.tile(np.float32([1, 0, 0]), (len(texts), 1))


class Layered(Colours):
    """Tells the darkest and the lightest value beside the mean colour."""

    layer_columns = 2

    def embed_with_layers(self, pictures):
        layers = [[picture.min(), picture.max()] for picture in pictures]
        return self.embed_images(pictures), np.array(layers, np.float32).reshape(-1, 2)


class Half:
    def embed_images(self, pictures):
        return None
'''


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def custom(name, **options):
    return CustomModel(model="custom", load=f"own_models:{name}", revision="1", options=options)


def clip(name, **settings):
    load = f"own_models:{name}"
    return CustomClip(model="custom", load=load, revision="1", dimensions=3, **settings)


def test_a_class_of_the_users_captions():
    settings = custom("Captions", sentence="a red ball")
    check_captioner(settings)
    assert load_captioner(settings).caption([None, None]) == ["a red ball"] * 2
    assert captioner_revision(settings) == "own_models:Captions@1"


def test_a_dual_encoder_of_the_users():
    settings = CustomClip(model="custom", load="own_models:Colours", revision="1", dimensions=3)
    assert load_dual_encoder(settings).embed_texts(["a"]).shape == (1, 3)
    assert dual_encoder_dimensions(settings) == 3


def test_layers_of_the_users_stand_beside_the_embeddings():
    picture = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    for layers, expected in ((2, [1, 6]), (0, None)):
        settings = clip("Layered", layers=layers)
        columns = with_layers(load_dual_encoder(settings), settings.layers, [picture])
        assert len(columns["image_embedding"]) == 1
        [found] = columns["layers"]
        assert found is None if expected is None else found.tolist() == expected


def test_other_layers_than_announced_are_refused():
    with pytest.raises(
        UsageError, match=r"2 columns of layers, not 9: set profile\.clip\.layers=2"
    ):
        load_dual_encoder(clip("Layered", layers=9))
    with pytest.raises(UsageError, match="lacks layer_columns, embed_with_layers"):
        load_dual_encoder(clip("Colours", layers=2))


@pytest.mark.parametrize(
    ("load", "sentence"),
    [
        ("no_such_module:Captions", "no_such_module:Captions cannot be imported .*PYTHONPATH"),
        ("own_models:Missing", "The module own_models has no class Missing"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(load, sentence):
    settings = CustomModel(model="custom", load=load, revision="1")
    for call in (check_captioner, load_captioner):
        with pytest.raises(UsageError, match=sentence):
            call(settings)


def test_wrong_options_and_missing_methods_are_one_sentence():
    with pytest.raises(UsageError, match="does not take these options"):
        load_captioner(custom("Captions", colour="red"))
    with pytest.raises(UsageError, match=r"The class own_models:Colours lacks caption\."):
        load_captioner(custom("Colours"))
    settings = CustomClip(model="custom", load="own_models:Half", revision="1", dimensions=3)
    with pytest.raises(UsageError, match="lacks dimensions, embed_crops, embed_texts"):
        load_dual_encoder(settings)


def test_other_dimensions_than_announced_are_refused():
    settings = CustomClip(model="custom", load="own_models:Colours", revision="1", dimensions=4)
    with pytest.raises(
        UsageError, match=r"has 3 dimensions, not 4: set profile\.clip\.dimensions=3"
    ):
        load_dual_encoder(settings)
