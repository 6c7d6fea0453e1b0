"""Grounding by a grid of crops, with a small true encoder."""

import numpy as np
import pytest

from item.grounding import CropGridGrounder
from item.images.boxes import CropGrid, crop_grid

GRID = CropGrid(threshold=0.5)


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
