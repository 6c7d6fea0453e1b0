"""A detector with a crop grid behind it."""

import numpy as np
import pytest
from PIL import Image

from item.grounding import CropGridGrounder, DetectorGrounder
from item.images.boxes import CropGrid
from item.models.detectors import Detector
from tests.support.photographs import photograph
from tests.support.tiny_checkpoints.detectors import tiny_grounding_dino, tiny_owlv2, tiny_owlvit

BUILDERS = {"owlv2": tiny_owlv2, "owlvit": tiny_owlvit, "grounding-dino": tiny_grounding_dino}
PHRASES = ["dog", "red car", "two old women", "house"]
LANDSCAPE = np.asarray(photograph("coffee"))


def noise(height, width):
    """Large patches of random colour."""
    patches = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(patches).resize((width, height)))


def as_rows(found):
    """Boxes and scores of nested lists as one array (n, 5)."""
    return np.array([[*one.box, one.score] for row in found for one in row], np.float64)


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request, tmp_path_factory):
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def detector(folder):
    return Detector(folder, threshold=0.5, batch_size=3)


class MeanColour:
    """A dual encoder whose space is colour: pictures are their mean, texts their first letters."""

    dimensions = 3

    def embed_images(self, pictures):
        return self._unit([picture.reshape(-1, 3).mean(axis=0) for picture in pictures])

    embed_crops = embed_images

    def embed_texts(self, texts):
        return self._unit(
            [[ord(c) for c in text.removeprefix("a photo of ")[:3]] for text in texts]
        )

    def _unit(self, rows):
        rows = np.asarray(rows, np.float32).reshape(-1, 3)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def grid():
    return CropGridGrounder(MeanColour(), CropGrid(threshold=0.0))


def middling(folder, pictures, phrases):
    """A detector that finds about half of the phrases, and what it would find at best."""
    best = Detector(folder, threshold=1).best(pictures, phrases)
    scores = sorted(one.score for some in best for one in some)
    return Detector(folder, threshold=scores[len(scores) // 2]), best


def test_what_the_detector_does_not_find_has_the_grids_best_crop(folder, grid):
    pictures = [LANDSCAPE, noise(60, 90), noise(90, 60)]
    phrases = [PHRASES, [], ["dog", "bird"]]
    detector, best = middling(folder, pictures, phrases)
    parts, found = DetectorGrounder(detector, grid).ground(pictures, phrases)
    crops = grid(pictures, phrases)
    assert [len(some) for some in found] == [4, 0, 2]
    grounded = [one.grounded for some in found for one in some]
    assert sum(grounded) == 3 and len(grounded) == 6
    for of_picture, of_grid, of_detector in zip(found, crops, best, strict=True):
        for one, crop, box in zip(of_picture, of_grid, of_detector, strict=True):
            assert one.score == pytest.approx(box.score, abs=1e-6)
            if one.grounded:
                np.testing.assert_allclose(one.box, box.box, atol=1e-3)
                assert one.embedding is None and one.phrase_embedding is None
            else:
                assert one.score < detector.threshold
                np.testing.assert_array_equal(one.box, crop.box)
                np.testing.assert_array_equal(one.embedding, crop.embedding)
                np.testing.assert_array_equal(one.phrase_embedding, crop.phrase_embedding)
    for some, expected in zip(parts, grid.parts(pictures), strict=True):
        np.testing.assert_array_equal(some.boxes, expected.boxes)
        np.testing.assert_array_equal(some.embeddings, expected.embeddings)


def test_a_call_gives_the_groundings_alone(detector, grid):
    ground = DetectorGrounder(detector, grid)
    pictures, phrases = [noise(60, 90)], [PHRASES]
    assert as_rows(ground(pictures, phrases)).tolist() == (
        as_rows(ground.ground(pictures, phrases)[1]).tolist()
    )
    assert ground([], []) == []
    assert ground.halvings == 0


def test_a_grounder_refuses_phrases_for_other_pictures(detector, grid):
    with pytest.raises(ValueError, match="2 pictures but phrases for 1"):
        DetectorGrounder(detector, grid)([noise(4, 4)] * 2, [["dog"]])
