"""Training of the captioner: losses fall, words are exchanged right, metrics are right."""

import random

import numpy as np
import pytest
import torch

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
from item.mini.imagenet_words import everyday_names


def test_training_the_captioner_lowers_its_loss(photographs, losses):
    recipe = CaptionerRecipe(epochs=6, batch=8, minimum_count=1, dropout=0.0)
    decoder, language = train_captioner(photographs, recipe, losses)
    assert len(losses) == recipe.epochs
    assert losses[-1] < 0.8 * losses[0]
    assert not decoder.training
    captions = captions_of(decoder, language, photographs.subset(np.array([3, 5])))
    assert len(captions) == 2
    assert {word for caption in captions for word in caption.split()} <= set(language.vocabulary)


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
