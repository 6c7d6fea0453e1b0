"""Phrases of captions that name objects."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.errors import UsageError
from item.phrases import PhraseExtraction, PhraseExtractor


@pytest.fixture(scope="module")
def extract():
    return PhraseExtractor(PhraseExtraction())


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("A child in a pink dress .", ["child", "pink dress"]),
        ("Two small dogs play with their red ball .", ["two small dogs", "red ball"]),
        ("the man's hat is next to his dog", ["man's hat", "dog"]),
        ("the man 's hat is next to his dog", ["man's hat", "dog"]),
        ("a man in a blue t - shirt", ["man", "blue t-shirt"]),
        ("all of the dogs run to another man", ["dogs", "man"]),
        ("TWO BLACK DOGS CHASE A RED BALL", ["two black dogs", "red ball"]),
    ],
)
def test_determiners_and_possessive_pronouns_go_and_the_rest_stays(extract, caption, phrases):
    assert extract([caption]) == [phrases]


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("a photo of a cat", ["cat"]),
        ("a close up of a cat", ["cat"]),
        ("a view of mountains in the background", ["mountains"]),
        ("a woman in front of a church", ["woman", "church"]),
        ("a boy jumps in the air on a sunny day", ["boy"]),
        ("it is in front of something", []),
        ("two people look at each other while he watches them", ["two people"]),
    ],
)
def test_words_that_name_no_object_are_dropped(extract, caption, phrases):
    assert extract([caption]) == [phrases]


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("a group of people sitting around a table", ["people", "table"]),
        ("a couple of dogs on the beach", ["dogs", "beach"]),
        ("a lot of trees near a large body of water", ["trees", "water"]),
        ("a man on top of a hill", ["man", "hill"]),
        ("a couple walks along the beach", ["couple", "beach"]),
        ("a woman in a pink top", ["woman", "pink top"]),
    ],
)
def test_a_group_of_things_is_the_things(extract, caption, phrases):
    assert extract([caption]) == [phrases]


def test_one_object_is_named_once_by_its_longest_phrase(extract):
    caption = "a dog on the grass watches two large black dogs and another dog"
    assert extract([caption]) == [["two large black dogs", "grass"]]


def test_singular_and_plural_are_one_object(extract):
    assert extract(["a man stands behind the men"]) == [["man"]]


def test_no_more_than_the_configured_number_in_order_of_appearance(extract):
    caption = "a dog, a cat, a horse, a cow, a sheep, a bird and a bear"
    assert extract([caption]) == [["dog", "cat", "horse", "cow", "sheep"]]
    two = PhraseExtractor(PhraseExtraction(max_phrases=2))
    assert two([caption]) == [["dog", "cat"]]


@pytest.mark.parametrize("caption", ["", " \n ", ".", "!!! ??? ...", "\u202e\x00\x1b", "12 34"])
def test_captions_without_words_have_no_phrases(extract, caption):
    assert extract([caption]) == [[]]


def test_no_captions_give_no_lists(extract):
    assert extract([]) == []


def test_control_characters_do_not_reach_phrases(extract):
    assert extract(["a red\x00 dog\u200b\ud800 and\x1b a\u202e cat"]) == [["red dog", "cat"]]


def test_a_long_caption_is_cut_at_a_word(extract):
    caption = "a dog " + "! " * 252 + "elephant"
    assert len(caption) > 512 > caption.index("elephant")
    assert extract([caption + " house"]) == [["dog"]]
    assert extract(["a dog " * 1_000_000]) == [["dog"]]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80) | st.text(st.characters(), max_size=80))
def test_any_text_gives_printable_phrases_within_the_limit(extract, text):
    (phrases,) = extract([text])
    assert len(phrases) <= 5
    for phrase in phrases:
        assert phrase == phrase.strip() and any(map(str.isalpha, phrase))
        assert not any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in phrase)


CAPTIONS = [
    "A boy smiles in front of a stony wall in a city .",
    "Seven climbers are ascending a rock face whilst another man stands holding the rope .",
    "a large lake with a lone duck swimming in it with several people around the edge of it .",
    "A black dog and a brown dog are jumping up to catch a red toy .",
    "a laptop computer sitting on top of a wooden desk",
    "kite",
    "",
    "breaking moon as seen from the surface of the moon, top view, hyper detail",
]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(CAPTIONS), max_size=12), st.randoms(use_true_random=False))
def test_phrases_do_not_depend_on_the_other_captions(extract, captions, order):
    alone = {caption: extract([caption])[0] for caption in CAPTIONS}
    order.shuffle(captions)
    assert extract(captions) == [alone[caption] for caption in captions]


def test_vocabulary_does_not_grow_with_the_words_seen(extract):
    letters = random.Random(0)
    strings = extract._pipeline.vocab.strings
    lemmas = extract._pipeline.get_pipe("lemmatizer").cache
    extract(CAPTIONS)
    before = len(strings)
    extract([" ".join(letters.choices("abcdefgh", k=9)).replace(" ", "") for _ in range(50)])
    assert (len(strings), len(lemmas)) == (before, 0)


def test_a_missing_pipeline_is_the_users_to_install():
    with pytest.raises(UsageError, match=r"pip install en-no-such-model==3\.8\.0"):
        PhraseExtractor(PhraseExtraction(model="en_no_such_model"))


def test_another_version_of_the_pipeline_is_refused():
    with pytest.raises(UsageError, match=r"version 3\.8\.0 but .* asks for 2\.0\.0"):
        PhraseExtractor(PhraseExtraction(version="2.0.0"))
