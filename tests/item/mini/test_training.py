"""Training of the mini models: losses fall, words are exchanged right, metrics are right."""

import random

import numpy as np
import pytest
import torch

from item.mini import dual_encoder_training
from item.mini.captioner import (
    END,
    MAX_WORDS,
    PAD,
    SPECIAL,
    START,
    UNKNOWN,
    load_decoder,
    save_decoder,
)
from item.mini.captioner_training import (
    CaptionerRecipe,
    _renamed,
    _swap_class,
    caption_metrics,
    captions_of,
    encode,
    language_of,
    train_captioner,
    vocabulary_of,
)
from item.mini.dual_encoder_training import (
    DualEncoderRecipe,
    info_nce,
    retrieval,
    train_dual_encoder,
)
from item.mini.imagenet_words import everyday_names
from item.mini.photographs import VIEWS, Photographs, cache_maps
from item.mini.text_backbone import TextBackbone, TokenStates

THINGS = ("dog", "cat", "red car", "horse", "bird", "boat", "tree", "guitar")
PLACES = ("the snow", "a street")


@pytest.fixture(scope="module")
def photographs():
    """Sixteen photographs of noise, each with two captions of its own."""
    generator = np.random.default_rng(0)
    pairs = [(thing, place) for thing in THINGS for place in PLACES]

    def noise(*shape):
        return generator.normal(size=(len(pairs), *shape)).astype(np.float16)

    return Photographs(
        views=[noise(7, 7, 320), noise(7, 7, 320)],
        logits=[torch.from_numpy(noise(1000)).float() for _ in range(2)],
        grid=noise(3, 4, 4, 320),
        captions=[[f"A {one} in {two} .", f"There is a {one} in {two} ."] for one, two in pairs],
        phrases=[[one] for one, _ in pairs],
    )


class Losses(list):
    """Collects the loss from each line that training says."""

    def __call__(self, line):
        self.append(float(line.rsplit(" ", 1)[1]))


# Toy runs


def test_training_the_dual_encoder_lowers_its_loss(photographs):
    said = Losses()
    recipe = DualEncoderRecipe(epochs=6, batch=8, phrase_batch=4, dropout=0.0)
    space, names = train_dual_encoder(photographs, recipe, said)
    assert len(said) == recipe.epochs
    assert said[-1] < 0.8 * said[0]
    assert names.shape == (1000, 384)
    assert not space.training


def test_training_the_captioner_lowers_its_loss(photographs):
    said = Losses()
    recipe = CaptionerRecipe(epochs=6, batch=8, minimum_count=1, dropout=0.0)
    decoder, language = train_captioner(photographs, recipe, said)
    assert len(said) == recipe.epochs
    assert said[-1] < 0.8 * said[0]
    assert not decoder.training
    captions = captions_of(decoder, language, photographs.subset(np.array([3, 5])))
    assert len(captions) == 2
    assert {word for caption in captions for word in caption.split()} <= set(language.vocabulary)


def test_views_and_grid_are_cached_once(tmp_path):
    pictures = [np.full((100 + row, 150, 3), 40 * row, np.uint8) for row in range(3)]
    said = []
    cache_maps(pictures, tmp_path, said.append)
    assert len(said) == len(VIEWS) + 1
    for view in VIEWS:
        assert np.load(tmp_path / f"{view}.npy").shape == (3, 7, 7, 320)
    grid = np.load(tmp_path / "grid.npy")
    assert grid.dtype == np.float16
    assert (grid.shape[0], *grid.shape[2:]) == (3, 4, 4, 320)
    assert not list(tmp_path.glob("*.partial.npy"))
    cache_maps(pictures, tmp_path, said.append)
    assert len(said) == len(VIEWS) + 1


# Losses and metrics


def test_info_nce_of_perfect_matches_is_near_zero():
    assert info_nce(100.0 * torch.eye(5)).item() == pytest.approx(0, abs=1e-6)


def test_info_nce_of_no_knowledge_is_the_logarithm_of_the_choices():
    assert info_nce(torch.zeros(8, 8)).item() == pytest.approx(np.log(8), rel=1e-5)


def test_info_nce_treats_rows_and_columns_alike():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(info_nce(logits), info_nce(logits.T))


class Shelf:
    """A space that puts the n-th image and every caption "n" at place n, or captions beside."""

    def __init__(self, beside=0):
        self.beside = beside

    def images(self, maps, _names):
        return torch.eye(64)[maps[:, 0, 0, 0].long()]

    def texts(self, states, _mask):
        return torch.eye(64)[states[:, 0, 0].long() + self.beside]


class Numbers:
    """A text backbone that reads numbers."""

    def __call__(self, texts):
        states = torch.tensor([[[float(text)]] for text in texts])
        return states, torch.ones(len(texts), 1, dtype=torch.bool)


@pytest.mark.parametrize(("beside", "found"), [(0, 1.0), (30, 0.0)])
def test_retrieval_on_perfect_and_on_useless_embeddings(monkeypatch, beside, found):
    monkeypatch.setattr(dual_encoder_training, "TextBackbone", Numbers)
    maps = np.zeros((12, 7, 7, 320), np.float16)
    maps[:, 0, 0, 0] = np.arange(12)
    numbered = Photographs(
        [maps], [torch.zeros(12, 1000)], None, [[str(n)] * 2 for n in range(12)], [[]] * 12
    )
    recalls = retrieval(Shelf(beside), torch.zeros(1000, 384), numbered)
    assert recalls["image_to_text_r1"] == pytest.approx(found, abs=0.1)
    assert recalls["text_to_image_r1"] == pytest.approx(found, abs=0.1)
    assert set(recalls) == {
        f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)
    }


def test_metrics_of_a_reference_against_itself_are_perfect():
    pytest.importorskip("pycocoevalcap")
    references = [["A dog runs in the snow ."], ["Two men play the guitar on a stage ."]]
    same = caption_metrics(
        ["a dog runs in the snow", "two men play the guitar on a stage"], references
    )
    assert same["bleu4"] == pytest.approx(1.0, abs=1e-6)
    other = caption_metrics(
        ["two men play the guitar on a stage", "a dog runs in the snow"], references
    )
    assert other["bleu4"] < 0.1
    assert other["cider"] < same["cider"]


# Photographs


def test_a_subset_takes_the_same_rows_everywhere(photographs):
    rows = np.array([5, 1])
    some = photographs.subset(rows)
    assert len(some) == 2
    assert some.captions == [photographs.captions[5], photographs.captions[1]]
    assert some.phrases == [photographs.phrases[5], photographs.phrases[1]]
    torch.testing.assert_close(some.maps([0, 1], [1, 0]), photographs.maps([5, 1], [1, 0]))
    torch.testing.assert_close(
        some.class_logits([0, 1], [1, 0]), photographs.class_logits([5, 1], [1, 0])
    )
    np.testing.assert_array_equal(some.grid, photographs.grid[rows])


def test_maps_have_channels_first(photographs):
    maps = photographs.maps([2], [1])
    assert maps.shape == (1, 320, 7, 7)
    assert maps[0, 17, 3, 4] == photographs.views[1][2, 3, 4, 17]


def test_token_states_are_those_of_the_backbone_padded():
    text = TextBackbone()
    texts = ["a cat", "a dog runs through the deep snow"]
    states, mask = TokenStates(text, texts).of(texts)
    expected, expected_mask = text(texts)
    assert torch.equal(mask, expected_mask)
    torch.testing.assert_close(states[mask], expected[mask], atol=2e-3, rtol=2e-3)
    assert not states[~mask].any()


# Words


def test_the_vocabulary_holds_common_words_and_class_names():
    captions = [["A zyx runs", "a zyx"], ["a qwv sits"]]
    found = vocabulary_of(captions, CaptionerRecipe(minimum_count=2))
    assert tuple(found[: len(SPECIAL)]) == SPECIAL
    assert {"a", "zyx", "zebra", "zebras", "cup", "coffee"} <= set(found)
    assert "qwv" not in found
    assert len(set(found)) == len(found)
    plain = vocabulary_of(captions, CaptionerRecipe(minimum_count=2, concepts=False))
    assert plain == [*SPECIAL, "a", "zyx"]


def test_encoded_captions_are_padded_between_start_and_end():
    index = {"a": 4, "cat": 5}
    found = encode([[["a", "cat"], ["a"]], [["dog"], []]], index)
    assert found.tolist() == [
        [[START, 4, 5, END], [START, 4, END, PAD]],
        [[START, UNKNOWN, END, PAD], [START, END, PAD, PAD]],
    ]


def test_encoded_captions_are_cut_at_the_longest_caption():
    found = encode([[["a"] * 50]], {"a": 4})
    assert found.shape == (1, 1, MAX_WORDS + 2)
    assert found[0, 0, -1] == END


@pytest.mark.parametrize(
    ("words", "old", "new", "renamed"),
    [
        ("a dog runs", "dog", "zebra", "a zebra runs"),
        ("two dogs and a dog", "dog", "zebra", "two zebras and a zebra"),
        ("a cup of coffee", "cup of coffee", "pizza", "a pizza"),
        ("coffee", "cup of coffee", "pizza", "pizza"),
        ("a small school bus", "school bus", "red panda", "a small red panda"),
        ("two dogs", "dog", "school puppy", "two school puppies"),
        ("a hotdog", "dog", "cat", "a hotdog"),
    ],
)
def test_a_name_is_exchanged_with_its_modifiers_and_number(words, old, new, renamed):
    assert _renamed(words.split(), old.split(), new) == renamed.split()


def test_a_class_that_the_captions_name_is_exchanged_in_both():
    names = everyday_names()
    rows_of = {"zebra": names.index("zebra")}
    captions = [["two", "dogs", "run"], ["a", "dog", "in", "snow"]]
    classes = torch.tensor([207, 281, 208])
    _swap_class(captions, classes, torch.tensor([0.6, 0.2, 0.1]), names, rows_of, random.Random(0))
    assert captions == [["two", "zebras", "run"], ["a", "zebra", "in", "snow"]]
    assert classes.tolist() == [rows_of["zebra"], 281, rows_of["zebra"]]


@pytest.mark.parametrize(
    ("caption", "probability"), [("a man in snow", 0.9), ("a dog in snow", 0.05)]
)
def test_classes_not_named_or_not_likely_stay(caption, probability):
    names = everyday_names()
    captions, classes = [caption.split()], torch.tensor([207])
    _swap_class(
        captions, classes, torch.tensor([probability]), names, {"zebra": 340}, random.Random(0)
    )
    assert captions == [caption.split()]
    assert classes.tolist() == [207]


def test_a_language_names_each_class_in_its_own_words():
    vocabulary = vocabulary_of([["a dog"]], CaptionerRecipe(minimum_count=1))
    language = language_of(vocabulary)
    called = language.name_words[963].tolist()
    assert {vocabulary[word] for word in called if word != PAD} == {"pizza", "pizzas"}
    assert language.names.shape == (1000, 384)


def test_a_language_without_concepts_names_nothing():
    language = language_of([*SPECIAL, "a"], concepts=False)
    assert not language.names.any()
    assert (language.name_words == PAD).all()


def test_a_trained_captioner_is_saved_and_loaded(photographs, tmp_path):
    recipe = CaptionerRecipe(epochs=1, batch=2, minimum_count=1)
    decoder, language = train_captioner(photographs, recipe, lambda _: None)
    save_decoder(decoder, language, tmp_path / "captioner.safetensors")
    again, words = load_decoder(tmp_path / "captioner.safetensors")
    assert words.vocabulary == language.vocabulary
    assert torch.equal(words.name_words, language.name_words)
    for one, other in zip(again.parameters(), decoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
