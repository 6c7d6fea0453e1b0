"""Detectors of the real architectures: the library's own boxes, in any batch, from any picture."""

import importlib
import json
import pickle
import sys
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from item.errors import UsageError
from item.images.boxes import fitted_box
from item.models.batching import CPU_BATCH
from item.models.detectors import Detector, detector_family
from tests.support.photographs import photograph
from tests.support.tiny_checkpoints.detectors import tiny_grounding_dino, tiny_owlv2, tiny_owlvit

BUILDERS = {"owlv2": tiny_owlv2, "owlvit": tiny_owlvit, "grounding-dino": tiny_grounding_dino}
OWLS = ("owlv2", "owlvit")
PHRASES = ["dog", "red car", "two old women", "house"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def detectors(folders):
    """One of each family; tests do not change them."""
    return {name: Detector(folder, threshold=0.5, batch_size=3) for name, folder in folders.items()}


@pytest.fixture(params=BUILDERS)
def folder(folders, request):
    return folders[request.param]


@pytest.fixture(params=BUILDERS)
def detector(detectors, request):
    return detectors[request.param]


@pytest.fixture
def damaged(folders, tmp_path):
    """A copy of a repository, to be damaged."""

    def copy(family="owlv2"):
        for path in folders[family].iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return copy


@cache
def noise(height, width, seed=0):
    """Large patches of random colour."""
    patches = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(patches).resize((width, height)))


def as_rows(found):
    """Boxes and scores of nested lists as one array (n, 5)."""
    return np.array([[*one.box, one.score] for some in found for one in some], np.float64)


def assert_valid(box, picture):
    x0, y0, x1, y1 = box
    assert box.dtype == np.float32 and box.shape == (4,)
    assert 0 <= x0 < x1 <= picture.shape[1] and 0 <= y0 < y1 <= picture.shape[0]
    assert x1 - x0 >= 1 and y1 - y0 >= 1


# Parity with the library


def library(folder):
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder)
    return model.eval(), AutoProcessor.from_pretrained(folder)


PICTURES = {
    "landscape": np.asarray(photograph("coffee")),
    "portrait": noise(140, 97),
    "large": noise(400, 300),
    "three pixels high": noise(3, 30),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("family", OWLS)
def test_owl_finds_the_librarys_boxes(folders, detectors, family, name):
    """The library is asked for one phrase at a time: of a box it tells the best phrase only."""
    model, processor = library(folders[family])
    picture = PICTURES[name]
    size = picture.shape[:2]
    for phrase, one in zip(PHRASES, detectors[family].best([picture], [PHRASES])[0], strict=True):
        inputs = processor(
            text=[[f"a photo of a {phrase}"]], images=Image.fromarray(picture), return_tensors="pt"
        )
        with torch.inference_mode():
            output = model(**inputs)
        (found,) = processor.post_process_grounded_object_detection(
            output, threshold=0.0, target_sizes=[size]
        )
        best = found["scores"].argmax()
        assert one.score == pytest.approx(found["scores"][best].item(), abs=1e-5)
        expected = fitted_box(found["boxes"][best].numpy(), *size[::-1])
        np.testing.assert_allclose(one.box, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["landscape", "portrait", "large"])
def test_grounding_dino_finds_the_librarys_boxes(folders, detectors, name):
    model, processor = library(folders["grounding-dino"])
    picture = PICTURES[name]
    size = picture.shape[:2]
    inputs = processor(text=[PHRASES], images=Image.fromarray(picture), return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs)
    (found,) = processor.post_process_grounded_object_detection(
        output, threshold=-1, text_threshold=0, target_sizes=[size]
    )
    text = ". ".join(PHRASES) + "."
    offsets = processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    got = detectors["grounding-dino"].best([picture], [PHRASES])[0]
    for phrase, one in zip(PHRASES, got, strict=True):
        start = text.index(phrase)
        span = [a >= start and b <= start + len(phrase) and b > a for a, b in offsets]
        scores = output.logits[0, :, : len(span)].sigmoid()[:, span].amax(dim=1)
        best = scores.argmax()
        assert one.score == pytest.approx(scores[best].item(), abs=1e-5)
        expected = fitted_box(found["boxes"][best].numpy(), *size[::-1])
        np.testing.assert_allclose(one.box, expected, atol=1e-3)


def test_the_library_gives_grounding_dinos_box_the_same_label(folders, detectors):
    model, processor = library(folders["grounding-dino"])
    picture = PICTURES["landscape"]
    inputs = processor(text=[PHRASES], images=Image.fromarray(picture), return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs)
    got = detectors["grounding-dino"].best([picture], [PHRASES])[0]
    for phrase, one in zip(PHRASES, got, strict=True):
        (found,) = processor.post_process_grounded_object_detection(
            output, threshold=-1, text_threshold=one.score - 1e-5, target_sizes=[(96, 144)]
        )
        boxes = [fitted_box(box.numpy(), 144, 96) for box in found["boxes"]]
        place = int(np.argmin([np.abs(box - one.box).max() for box in boxes]))
        assert set(found["text_labels"][place].split()) & set(phrase.split())


# Batches


def test_results_do_not_depend_on_the_batch(detector):
    shapes = [(96, 144), (144, 96), (96, 144), (60, 60), (96, 144), (96, 144)]
    pictures = [noise(*shape, seed) for seed, shape in enumerate(shapes)]
    phrases = [PHRASES[:1], PHRASES, ["two old women on a small boat"], PHRASES[:2], PHRASES, []]
    together = detector.best(pictures, phrases)
    alone = [detector.best([one], [some])[0] for one, some in zip(pictures, phrases, strict=True)]
    assert [len(some) for some in together] == [1, 4, 1, 2, 4, 0]
    np.testing.assert_allclose(as_rows(together), as_rows(alone), atol=1e-4)
    assert len(np.unique(as_rows(together).round(3), axis=0)) > 6  # they are not all alike


def test_phrases_of_owl_do_not_depend_on_each_other(detectors):
    picture = PICTURES["landscape"]
    for family in OWLS:
        together = detectors[family].best([picture], [PHRASES])
        alone = [detectors[family].best([picture], [[phrase]])[0] for phrase in PHRASES]
        np.testing.assert_allclose(as_rows(together), as_rows(alone), atol=1e-4)
        assert len(set(as_rows(together)[:, 4].round(3))) == len(PHRASES)


def watch(detector, look):
    """Call ``look`` with the model's inputs before each run."""
    return detector.model.register_forward_pre_hook(lambda *seen: look(seen[-1]), with_kwargs=True)


@pytest.fixture
def runs(detector):
    """Pictures in each run of the model, as they happen."""
    seen = []
    hook = watch(detector, lambda inputs: seen.append(len(inputs["pixel_values"])))
    yield seen
    hook.remove()


def test_pictures_without_phrases_are_not_run_and_the_others_once(detector, runs):
    pictures = [noise(40, 60, seed) for seed in range(5)]
    found = detector.best(pictures, [PHRASES, [], ["dog"], [], PHRASES])
    assert [len(some) for some in found] == [4, 0, 1, 0, 4]
    assert runs == [3]


def test_pictures_with_as_many_phrases_share_a_batch(detector):
    counts = []
    pictures = [noise(40, 60, seed) for seed in range(6)]

    def phrases_of(inputs):
        stops = (inputs["input_ids"] == 1012).sum(dim=1)  # of GroundingDINO, one a phrase
        each = len(inputs["input_ids"]) // len(inputs["pixel_values"])
        counts.append(max(stops.max().item(), each))

    hook = watch(detector, phrases_of)
    detector.best(pictures, [PHRASES, ["dog"]] * 3)
    hook.remove()
    assert counts == [1, 4]


def test_nothing_in_nothing_out(detector, runs):
    assert detector.best([], []) == []
    assert detector.best([noise(4, 4)], [[]]) == [[]]
    assert runs == []


def test_phrases_for_other_pictures_are_a_mistake(detector):
    with pytest.raises(ValueError, match="1 pictures but phrases for 2"):
        detector.best([noise(4, 4)], [["dog"], ["cat"]])


def test_a_batch_that_does_not_fit_is_halved_and_counted(folder):
    detector = Detector(folder, threshold=0.5, batch_size=4)
    pictures = [noise(40, 60, seed) for seed in range(4)]
    expected = detector.best(pictures, [PHRASES] * 4)
    assert detector.halvings == 0

    def run_out(inputs):
        if len(inputs["pixel_values"]) > 1:
            raise torch.OutOfMemoryError("no memory for more than one")

    watch(detector, run_out)
    found = detector.best(pictures, [PHRASES] * 4)
    assert detector.halvings == 2
    np.testing.assert_allclose(as_rows(found), as_rows(expected), atol=1e-4)


def test_the_batch_size_is_found_by_passing_blank_pictures(folder):
    detector = Detector(folder, threshold=0.5)
    assert detector._batches.size == CPU_BATCH
    seen = []
    watch(detector, lambda inputs: seen.append(len(inputs["pixel_values"])))
    detector._rehearse(2)
    assert seen == [2]


# Scores and boxes


@pytest.mark.parametrize("family", OWLS)
def test_of_equal_boxes_the_first_wins(folders, family):
    detector = Detector(folders[family], threshold=0.5)
    head = detector.model.class_head
    for layer in (head.dense0, head.logit_shift, head.logit_scale):
        layer.weight.zero_()
        layer.bias.fill_(0.5)
    outputs = []
    detector.model.register_forward_hook(lambda *seen: outputs.append(seen[-1]))
    (one,) = detector.best([noise(64, 64)], [["dog"]])[0]
    assert outputs[0].logits.unique().numel() == 1
    cx, cy, w, h = 64 * outputs[0].pred_boxes[0, 0].numpy()
    corners = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], np.float32)
    np.testing.assert_allclose(one.box, fitted_box(corners, 64, 64), atol=1e-3)


def test_padding_and_least_side_are_those_of_the_constructor(folder):
    picture = noise(120, 160)
    plain = Detector(folder, threshold=0.5).best([picture], [PHRASES])[0]
    wide = Detector(folder, threshold=0.5, padding=0.4, min_side=25)
    for one, other in zip(plain, wide.best([picture], [PHRASES])[0], strict=True):
        assert other.score == one.score
        x0, y0, x1, y1 = other.box
        assert x1 - x0 >= 25 and y1 - y0 >= 25
        if (one.box % 1).all():  # neither clipped nor grown to whole pixels
            expected = fitted_box(one.box, 160, 120, padding=0.4, min_side=25)
            np.testing.assert_allclose(other.box, expected, atol=1e-3)


@pytest.mark.parametrize("wrong", [{"padding": -0.1}, {"min_side": 0}])
def test_margins_that_make_no_sense_are_refused(folders, wrong):
    with pytest.raises(ValueError, match="below"):
        Detector(folders["owlv2"], threshold=0.5, **wrong)


def test_bfloat16_scores_are_close_to_those_of_float32(folder):
    half = Detector(folder, threshold=0.5, precision="bfloat16")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    (one,) = half.best([PICTURES["landscape"]], [["dog"]])[0]
    (exact,) = Detector(folder, threshold=0.5).best([PICTURES["landscape"]], [["dog"]])[0]
    assert one.score == pytest.approx(exact.score, abs=0.05)
    assert_valid(one.box, PICTURES["landscape"])


def test_numbers_that_overflow_are_refused(folders):
    detector = Detector(folders["owlv2"], threshold=0.5, precision="float16")
    detector.model.class_head.dense0.weight *= 1e7
    with pytest.raises(UsageError, match="overflows in float16"):
        detector.best([noise(40, 40)], [["dog"]])


# Odd pictures and phrases


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2000, 3), (3, 300), (3, 3)])
def test_pictures_of_any_shape_have_boxes(detector, shape):
    picture = noise(*shape)
    found = detector.best([picture], [PHRASES])[0]
    assert len(found) == len(PHRASES)
    for one in found:
        assert_valid(one.box, picture)
        assert 0 < one.score < 1


def test_a_long_phrase_is_cut_where_the_context_ends(detectors):
    picture = PICTURES["landscape"]
    # OWL: 16 tokens less two ends and "a photo of a".
    # GroundingDINO: 64 tokens less two ends, shared by two phrases with a full stop each.
    for family, words in {"owlv2": 10, "owlvit": 10, "grounding-dino": 30}.items():
        whole = detectors[family].best([picture], [["dog " * 60, "red car"]])
        cut = detectors[family].best([picture], [["dog " * words, "red car"]])
        shorter = detectors[family].best([picture], [["dog " * (words - 1), "red car"]])
        np.testing.assert_array_equal(as_rows(whole), as_rows(cut))
        assert as_rows(shorter)[0].tolist() != as_rows(cut)[0].tolist()


def test_more_phrases_than_the_context_holds_score_nothing(detectors):
    phrases = [f"{a}{b}" for a in "abcdefg" for b in "hijklmnop"]
    found = detectors["grounding-dino"].best([noise(60, 90)], [phrases])[0]
    scores = [one.score for one in found]
    assert len(scores) == 63
    assert all(scores[:31]) and not any(scores[31:])
    assert all(one.score for one in detectors["owlv2"].best([noise(60, 90)], [phrases])[0])


ODD = ["", " ", ".", "?!", "😀", "\ud800", "[SEP]", "[PAD] [CLS]", "<|endoftext|>", "ß狗", "\x00"]


@pytest.mark.parametrize("odd", ODD)
def test_any_text_is_a_phrase_and_leaves_the_others_alone(detector, odd):
    picture = PICTURES["portrait"]
    first, one, last = detector.best([picture], [["dog", odd, "red car"]])[0]
    assert_valid(one.box, picture)
    assert 0 <= one.score < 1
    if one.score == 0:
        np.testing.assert_allclose(
            as_rows([[first, last]]),
            as_rows(detector.best([picture], [["dog", "red car"]])),
            atol=1e-4,
        )


def test_a_text_without_words_is_never_found_by_grounding_dino(detectors):
    (found,) = detectors["grounding-dino"].best([noise(60, 90)], [["", "?", " . "]])
    assert [detection.score for detection in found] == [0, 0, 0]


def test_a_full_stop_does_not_split_a_phrase_of_grounding_dino(detectors):
    detect = detectors["grounding-dino"].best
    picture = PICTURES["landscape"]
    dotted = detect([picture], [["red st. house", "dog."]])
    plain = detect([picture], [["red st house", "dog"]])
    split = detect([picture], [["red st", "house", "dog"]])
    np.testing.assert_array_equal(as_rows(dotted), as_rows(plain))
    assert as_rows(split)[0].tolist() != as_rows(plain)[0].tolist()


def test_a_phrase_that_comes_twice_is_found_once(detector):
    picture = PICTURES["landscape"]
    dog, car, again = detector.best([picture], [["dog", "red car", "dog"]])[0]
    once = detector.best([picture], [["dog", "red car"]])
    assert as_rows([[dog, car]]).tolist() == as_rows(once).tolist()
    assert as_rows([[again]]).tolist() == as_rows([[dog]]).tolist()


# Files


def test_importing_the_module_does_not_import_transformers(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("item", "transformers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)  # to import it would raise
    assert importlib.import_module("item.models.detectors").Detector is not Detector


def test_a_missing_folder_is_the_users_to_name(tmp_path):
    with pytest.raises(UsageError, match=r"no detector in '.*nowhere'"):
        Detector(tmp_path / "nowhere", threshold=0.5)


def test_another_family_is_refused_with_those_that_are_supported(damaged):
    folder = damaged()
    (folder / "config.json").write_text(json.dumps({"model_type": "blip"}))
    with pytest.raises(UsageError, match=r"'blip'.*owlv2, owlvit, grounding-dino"):
        Detector(folder, threshold=0.5)


def test_the_family_is_known_before_anything_is_loaded(folders):
    for family, folder in folders.items():
        assert detector_family(folder) == family


@pytest.mark.parametrize("content", ["{", "[]", '{"architectures": []}'])
def test_a_damaged_configuration_is_refused(damaged, content):
    folder = damaged()
    (folder / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"config\.json in .* damaged|of type None"):
        Detector(folder, threshold=0.5)


def make_pickled(folder):
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()


def test_pickled_weights_need_the_users_word(damaged):
    folder = damaged()
    expected = Detector(folder, threshold=0.5).best([noise(40, 60)], [PHRASES])
    make_pickled(folder)
    with pytest.raises(UsageError, match=r"files\.allow_pickle"):
        Detector(folder, threshold=0.5)
    found = Detector(folder, threshold=0.5, allow_pickle=True).best([noise(40, 60)], [PHRASES])
    np.testing.assert_array_equal(as_rows(found), as_rows(expected))


class Hostile:
    def __reduce__(self):
        return print, ("hostile code ran",)


def test_allowed_pickles_still_run_no_code(damaged, capfd):
    folder = damaged()
    make_pickled(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Hostile()}))
    with pytest.raises(UsageError, match="cannot be loaded"):
        Detector(folder, threshold=0.5, allow_pickle=True)
    assert "hostile" not in capfd.readouterr().out


@pytest.mark.parametrize("family", BUILDERS)
def test_truncated_weights_are_refused(damaged, family):
    weights = damaged(family) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UsageError, match="cannot be loaded, perhaps because a file is damaged"):
        Detector(weights.parent, threshold=0.5)


def test_weights_that_lack_a_tensor_are_refused(damaged):
    weights = damaged() / "model.safetensors"
    tensors = load_file(weights)
    del tensors["class_head.dense0.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UsageError, match=r"1 tensors .* class_head\.dense0\.weight"):
        Detector(weights.parent, threshold=0.5)


@pytest.mark.parametrize("family", ["owlv2", "grounding-dino"])
@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("content", [None, "{"])
def test_a_missing_or_damaged_file_is_named_in_a_sentence(damaged, capfd, family, name, content):
    path = damaged(family) / name
    path.write_text(content) if content else path.unlink()
    with pytest.raises(UsageError) as refused:
        Detector(path.parent, threshold=0.5)
    assert capfd.readouterr().err == ""
    assert str(path.parent) in str(refused.value) and "\n" not in str(refused.value)


def test_weights_of_another_width_are_refused(damaged):
    weights = damaged() / "model.safetensors"
    tensors = load_file(weights)
    tensors["class_head.dense0.weight"] = tensors["class_head.dense0.weight"][:8].clone()
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UsageError, match=r"1 tensors .* class_head\.dense0\.weight"):
        Detector(weights.parent, threshold=0.5)


def test_files_of_older_repositories_are_read(damaged, detectors):
    """As on the hub: a vocabulary and merges, and the image processor's own configuration."""
    folder = damaged()
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer.json").unlink()
    processor = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(processor["image_processor"]))
    (folder / "processor_config.json").unlink()
    found = Detector(folder, threshold=0.5).best([noise(40, 60)], [PHRASES])
    expected = detectors["owlv2"].best([noise(40, 60)], [PHRASES])
    np.testing.assert_array_equal(as_rows(found), as_rows(expected))
