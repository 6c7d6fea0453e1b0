"""Phrases of captions, the crop grid, and grounding with a small true encoder."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from item.crop_grid import CropGrid, CropGridGrounder, crop_grid
from item.errors import UsageError
from item.phrases import PhraseExtraction, PhraseExtractor

# Phrases


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


# The crop grid

GRID = CropGrid(threshold=0.5)


def test_the_default_grid_by_hand():
    boxes = crop_grid(100, 200, GRID)
    assert len(boxes) == 2 * 2 + 3 * 3
    assert boxes.dtype == np.float32
    assert boxes[:4].tolist() == [
        [0, 0, 67, 134],
        [33, 0, 100, 134],
        [0, 66, 67, 200],
        [33, 66, 100, 200],
    ]
    assert boxes[4].tolist() == [0, 0, 50, 100]
    assert boxes[8].tolist() == [25, 50, 75, 150]


def test_scale_one_is_the_whole_picture():
    assert crop_grid(40, 30, CropGrid(threshold=0, scales=(1,))).tolist() == [[0, 0, 40, 30]]


def test_a_picture_below_the_least_side_is_one_crop():
    assert crop_grid(20, 31, GRID).tolist() == [[0, 0, 20, 31]]


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0 x 5"):
        crop_grid(0, 5, GRID)


grids = st.builds(
    CropGrid,
    threshold=st.just(0.0),
    scales=st.lists(st.floats(0.2, 1), min_size=1, max_size=3).map(tuple),
    overlap=st.floats(0, 0.7),
    min_side=st.integers(1, 40),
)


@settings(deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), grids)
def test_crops_lie_inside_cover_the_picture_and_never_repeat(width, height, grid):
    boxes = crop_grid(width, height, grid).astype(int)
    covered = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert x1 - x0 >= min(width, grid.min_side) and y1 - y0 >= min(height, grid.min_side)
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    assert len({tuple(box) for box in boxes}) == len(boxes)


@pytest.mark.parametrize(
    "wrong", [{"scales": ()}, {"scales": (0,)}, {"overlap": 1}, {"prompt": "x"}, {"sides": 1}]
)
def test_a_grid_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        CropGrid(threshold=0, **wrong)


# Grounding

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


class MeanColour:
    """A dual encoder whose space is colour: pictures are their mean, texts the one they name."""

    dimensions = 3

    def __init__(self):
        self.calls = []

    def embed_images(self, pictures):
        return self._unit([picture.reshape(-1, 3).mean(axis=0) for picture in pictures])

    def embed_crops(self, crops):
        self.calls.append(("crops", len(crops)))
        return self.embed_images(crops)

    def embed_texts(self, texts):
        self.calls.append(("texts", list(texts)))
        named = [[c for word, c in COLOURS.items() if word in text.split()] for text in texts]
        return self._unit([np.sum(colours, axis=0) for colours in named])

    def _unit(self, rows):
        rows = np.asarray(rows, np.float32).reshape(-1, 3)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


@pytest.fixture
def encoder():
    return MeanColour()


@pytest.fixture
def ground(encoder):
    return CropGridGrounder(encoder, CropGrid(threshold=0.9))


def quadrants(top_left, top_right, bottom_left, bottom_right, side=64):
    """A picture of four squares of a named colour or black, each of ``side`` pixels."""
    rows = [[top_left, top_right], [bottom_left, bottom_right]]
    colours = 255 * np.array([[COLOURS.get(name, (0, 0, 0)) for name in row] for row in rows])
    return colours.astype(np.uint8).repeat(side, axis=0).repeat(side, axis=1)


def test_a_phrase_is_found_in_the_quadrant_that_shows_it(ground):
    picture = quadrants("red", "green", "blue", "green")
    found = ground([picture], [["red square", "blue square"]])[0]
    assert [g.box.tolist() for g in found] == [[0, 0, 64, 64], [0, 64, 64, 128]]
    assert [g.score for g in found] == pytest.approx([1, 1])
    assert all(g.grounded for g in found)


def test_a_phrase_that_the_picture_does_not_show_is_not_grounded(ground):
    (red,) = ground([quadrants("green", "blue", "blue", "green")], [["red square"]])[0]
    assert not red.grounded
    assert red.score == pytest.approx(0)


def test_a_score_at_the_threshold_is_grounded(encoder):
    picture = quadrants("red", "red", "red", "red")
    score = CropGridGrounder(encoder, GRID)([picture], [["red"]])[0][0].score
    at = CropGridGrounder(encoder, CropGrid(threshold=score))
    above = CropGridGrounder(encoder, CropGrid(threshold=0.9999, prompt="green and {phrase}"))
    assert at([picture], [["red"]])[0][0].grounded
    assert not above([picture], [["red"]])[0][0].grounded


def test_of_equal_crops_the_first_box_wins(ground):
    (red,) = ground([quadrants("red", "red", "red", "red")], [["red"]])[0]
    assert red.box.tolist() == crop_grid(128, 128, GRID)[0].tolist()


def test_embeddings_are_those_of_the_box_and_the_prompt(ground, encoder):
    picture = quadrants("red", "green", "blue", "green")
    (green,) = ground([picture], [["green square"]])[0]
    x0, y0, x1, y1 = green.box.astype(int)
    np.testing.assert_array_equal(green.embedding, encoder.embed_crops([picture[y0:y1, x0:x1]])[0])
    np.testing.assert_array_equal(
        green.phrase_embedding, encoder.embed_texts(["a photo of green square"])[0]
    )
    assert green.score == pytest.approx(float(green.embedding @ green.phrase_embedding))


def test_pictures_of_all_sizes_keep_their_own_phrases_and_boxes(ground):
    pictures = [
        quadrants("red", "blue", "blue", "blue"),
        quadrants("red", "red", "red", "red", side=5),
        quadrants("blue", "blue", "blue", "red", side=100),
    ]
    found = ground(pictures, [["red", "blue"], [], ["red"]])
    assert [len(groundings) for groundings in found] == [2, 0, 1]
    assert found[0][0].box.tolist() == [0, 0, 64, 64]
    assert found[2][0].box.tolist() == [100, 100, 200, 200]


def test_a_batch_is_two_calls_with_each_phrase_once(ground, encoder):
    picture = quadrants("red", "green", "blue", "green")
    ground([picture] * 3, [["red", "blue"], [], ["blue", "red"]])
    prompts = ["a photo of red", "a photo of blue"]
    assert sorted(encoder.calls) == [("crops", 3 * 13), ("texts", prompts)]


def test_pictures_without_phrases_have_parts_but_no_objects(ground, encoder):
    pictures = [quadrants("red", "red", "red", "red"), quadrants("red", "blue", "red", "red")]
    assert ground(pictures, [[], []]) == [[], []]
    assert encoder.calls == [("crops", 2 * 13)]
    same, mixed = ground.parts(pictures)
    np.testing.assert_allclose(same.embeddings, same.embeddings[:1].repeat(13, 0), atol=1e-6)
    assert len(mixed.boxes) == len(mixed.embeddings) == 13
    assert np.ptp(mixed.embeddings, axis=0).max() > 0.1


def test_phrases_for_another_number_of_pictures_are_a_mistake(ground):
    with pytest.raises(ValueError, match="1 pictures but phrases for 2"):
        ground([quadrants("red", "red", "red", "red")], [["red"], []])


def test_braces_in_a_phrase_are_only_text(ground, encoder):
    ground([quadrants("red", "red", "red", "red")], [["red {phrase} {0}"]])
    assert ("texts", ["a photo of red {phrase} {0}"]) in encoder.calls
