"""The trained weights that come with the package, on photographs that nobody trained on."""

import itertools

import numpy as np
import pytest

from item.mini.captioner import MAX_WORDS, MiniCaptioner
from item.mini.checkpoint import FOLDER
from item.mini.dual_encoder import MiniDualEncoder

data = pytest.importorskip("skimage.data")
datasets = pytest.importorskip("sklearn.datasets")

CAPTIONS = {
    "chelsea": "a close up of a cat with green eyes",
    "coffee": "a cup of coffee on a wooden table",
    "astronaut": "a woman in an orange space suit smiles",
    "rocket": "a rocket stands on its launch pad at night",
    "china": "a chinese temple with many roofs",
    "flower": "an orange flower in a green garden",
}


@pytest.fixture(scope="module")
def photographs():
    china, flower = datasets.load_sample_images().images
    named = {name: getattr(data, name)() for name in ("chelsea", "coffee", "astronaut", "rocket")}
    return {**named, "china": china, "flower": flower}


@pytest.fixture(scope="module")
def encoder():
    return MiniDualEncoder()


@pytest.fixture(scope="module")
def captioner():
    return MiniCaptioner()


def test_all_files_together_are_small():
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert {"dual_encoder.safetensors", "captioner.safetensors", "captioner.json"} <= set(sizes)
    assert sum(sizes.values()) < 20e6, sizes


def test_a_model_card_lies_beside_them():
    (card,) = FOLDER.glob("*.md")
    text = card.read_text().lower()
    for word in ("dual encoder", "captioner", "licen", "imagenet"):
        assert word in text, word


def test_the_cat_is_called_a_cat(captioner, photographs):
    (caption,) = captioner.caption([photographs["chelsea"]])
    assert "cat" in caption.split(), caption


def test_a_photograph_has_the_same_caption_alone_and_in_a_batch(captioner, photographs):
    pictures = list(photographs.values())
    captions = captioner.caption(pictures)
    assert captions == captioner.caption(pictures)
    assert captions == [captioner.caption([picture])[0] for picture in pictures]


def test_captions_are_sentences_of_known_words(captioner, photographs):
    for caption in captioner.caption(list(photographs.values())):
        words = caption.split()
        assert 3 <= len(words) <= MAX_WORDS, caption
        assert not any("<" in word for word in words), caption
        assert all(one != two for one, two in itertools.pairwise(words)), caption


@pytest.fixture(scope="module")
def similarities(encoder, photographs):
    """Photographs in rows, captions in columns, in the order of CAPTIONS."""
    images = encoder.embed_images([photographs[name] for name in CAPTIONS])
    return images @ encoder.embed_texts(list(CAPTIONS.values())).T


def test_the_right_caption_is_among_the_two_best_of_every_photograph(similarities):
    ranks = (similarities > np.diag(similarities)[:, np.newaxis]).sum(axis=1)
    assert ranks.max() <= 1, dict(zip(CAPTIONS, ranks, strict=True))
    assert (ranks == 0).sum() >= 4, dict(zip(CAPTIONS, ranks, strict=True))


def test_right_captions_fit_clearly_better_than_wrong_ones(similarities):
    right = np.diag(similarities)
    wrong = similarities[~np.eye(len(similarities), dtype=bool)]
    assert right.mean() > wrong.mean() + 0.2


def test_regions_and_images_share_a_space(encoder, photographs):
    """Most of a photograph is nearest to the whole of it."""
    pictures = list(photographs.values())
    most = [
        np.array([[0.1 * w, 0.1 * h, 0.9 * w, 0.9 * h]]) for h, w in (p.shape[:2] for p in pictures)
    ]
    regions = np.concatenate(encoder.embed_regions(pictures, most))
    similarities = regions @ encoder.embed_images(pictures).T
    assert similarities.argmax(axis=1).tolist() == list(range(len(pictures))), similarities.round(2)
