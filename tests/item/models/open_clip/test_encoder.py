"""Embeddings are open_clip's own, from repositories as its users upload them."""

import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import open_clip
import PIL.Image
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file

from item.errors import UsageError
from item.models.open_clip import encoder as open_clip_encoder
from item.models.open_clip.encoder import OpenClipEncoder
from item.models.open_clip.files import hub_id
from item.models.open_clip.preprocessing import Preprocessing, read_fit
from tests.support.tiny_checkpoints.clips import (
    change_config,
    tiny_clip,
    tiny_roberta_clip,
    tiny_siglip,
)

KINDS = {"clip": tiny_clip, "siglip": tiny_siglip, "roberta": tiny_roberta_clip}
SIZES = [(40, 60), (200, 100), (1, 1), (7, 100), (100, 7), (32, 32), (31, 33), (160, 160), (2, 3)]
TEXTS = [
    "a red dog",
    "",
    "the cat, on a table. " * 30,
    "A photo of two BOATS!",
    "a red dog",
    "under_score &amp; 42 cafÃ©",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return {name: build(root / name) for name, build in KINDS.items()}


@pytest.fixture(scope="module")
def encoders(folders):
    return {name: OpenClipEncoder(folder, batch_size=4) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def pictures():
    return [noise(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture
def clip_copy(folders, tmp_path):
    return shutil.copytree(folders["clip"], tmp_path / "clip")


@pytest.fixture
def siglip_copy(folders, tmp_path):
    return shutil.copytree(folders["siglip"], tmp_path / "siglip")


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def as_open_clip_does(folder, tmp_path):
    """open_clip's model, preprocessing and tokenizer of the repository."""
    copy = shutil.copytree(folder, tmp_path / "reference")
    if (
        "hf_model_name"
        in json.loads((copy / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    ):
        change_config(copy, model_cfg__text_cfg__hf_model_name=str(copy))  # no hub to ask
    name = f"local-dir:{copy}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_embeddings_are_those_of_open_clip(kind, folders, encoders, pictures, tmp_path):
    model, preprocess, tokenize = as_open_clip_does(folders[kind], tmp_path)
    images = torch.stack([preprocess(PIL.Image.fromarray(one)) for one in pictures])
    expected = model.encode_image(images, normalize=True).numpy()
    np.testing.assert_allclose(encoders[kind].embed_images(pictures), expected, atol=1e-5)
    whole = [np.array([[0, 0, one.shape[1], one.shape[0]]]) for one in pictures]
    regions = np.concatenate(encoders[kind].embed_regions(pictures, whole))
    np.testing.assert_allclose(regions, expected, atol=1e-5)
    expected = model.encode_text(tokenize(TEXTS), normalize=True).numpy()
    np.testing.assert_allclose(encoders[kind].embed_texts(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_unit_rows_that_differ(kind, encoders, pictures):
    encoder = encoders[kind]
    for rows in (encoder.embed_images(pictures[:4]), encoder.embed_texts(TEXTS[:4])):
        assert rows.dtype == np.float32
        assert rows.shape == (4, encoder.dimensions)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
        assert np.linalg.matrix_rank(rows, tol=1e-2) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_change_nothing_beyond_rounding(kind, encoders, pictures):
    encoder = encoders[kind]
    alone = np.concatenate([encoder.embed_images([picture]) for picture in pictures])
    np.testing.assert_allclose(encoder.embed_images(pictures), alone, atol=1e-5)
    alone = np.concatenate([encoder.embed_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.embed_texts(TEXTS), alone, atol=1e-5)


@pytest.mark.parametrize("method", ["embed_images", "embed_texts"])
def test_nothing_gives_no_rows(method, encoders):
    rows = getattr(encoders["clip"], method)([])
    assert rows.shape == (0, 24)
    assert rows.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_threads_get_what_one_caller_gets(kind, encoders, pictures):
    encoder = encoders[kind]
    boxes = [np.array([[0, 0, one.shape[1], one.shape[0]]]) for one in pictures]

    def everything(_):
        rows = encoder.embed_images(pictures), encoder.embed_texts(TEXTS)
        return [*rows, *encoder.embed_regions(pictures, boxes)]

    alone = everything(None)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(everything, range(8)):
            for rows, expected in zip(found, alone, strict=True):
                np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_crops_cut_on_the_device_are_embedded_alike(kind, encoders, pictures, monkeypatch):
    encoder = encoders[kind]
    large = [one for one in pictures if min(one.shape[:2]) > 20]
    boxes = [np.array([[0, 0, 15, 12], [4, 2, one.shape[1], one.shape[0]]]) for one in large]
    expected = encoder.embed_regions(large, boxes)
    monkeypatch.setattr(encoder, "cuts_on_device", True)
    for found, rows in zip(encoder.embed_regions(large, boxes), expected, strict=True):
        assert (found * rows).sum(axis=1).min() > 0.999
    assert encoder.embed_regions([], []) == []


def test_read_only_and_strided_pictures_are_embedded(encoders):
    picture = noise(40, 60)
    strided = np.repeat(picture, 2, axis=1)[:, ::2]
    strided.flags.writeable = False
    rows = encoders["clip"].embed_images([picture, strided])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


# Texts.


def test_a_text_is_embedded_once_and_the_longest_first(folders):
    encoder = OpenClipEncoder(folders["clip"], batch_size=2)
    seen = []
    encoder.model.text.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    short, long = "a dog", "a dog and a cat and a boat " * 20
    rows = encoder.embed_texts([short, long, short, "a cat", short])
    assert [list(tokens.shape) for tokens in seen] == [[2, 77], [1, 8]]
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_array_equal(rows[0], rows[4])


def test_a_tower_that_is_not_causal_reads_its_whole_context(folders):
    encoder = OpenClipEncoder(folders["siglip"], batch_size=2)
    seen = []
    encoder.model.text.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    encoder.embed_texts(["a dog"])
    assert seen == [16]


@given(st.text(max_size=40))
def test_any_text_has_an_embedding(encoders, text):
    for encoder in encoders.values():
        assert np.linalg.norm(encoder.embed_texts([text])) == pytest.approx(1, abs=1e-5)


def test_a_text_is_cut_where_no_context_reaches(encoders):
    long = "a  photo of a dog " * 10_000
    rows = encoders["clip"].embed_texts([long, long[:2000], "dog" * 100_000])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_words_of_old_captions_are_forgotten(folders, monkeypatch):
    encoder = OpenClipEncoder(folders["clip"], batch_size=4)
    monkeypatch.setattr(open_clip_encoder, "CACHED_WORDS", 10)
    texts = [f"{chr(97 + i)}x a<end_of_text>b" for i in range(26)]
    before = encoder.embed_texts(texts)
    assert len(encoder.tokenizer.cache) == 2
    np.testing.assert_allclose(encoder.embed_texts(texts), before, atol=1e-6)


# Pictures.

FITTINGS = [
    {"resize_mode": mode, "interpolation": interpolation, "fill_color": fill}
    for mode, fill in (("shortest", 0), ("longest", 0), ("longest", 127), ("squash", 0))
    for interpolation in ("bicubic", "bilinear")
]


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.sampled_from([(32, 32), (33, 33), (24, 40), (40, 24)]),
    keys=st.sampled_from(FITTINGS),
)
@example(height=35, width=32, size=(32, 32), keys=FITTINGS[0])  # halves are rounded to even
@example(height=32, width=35, size=(32, 32), keys=FITTINGS[0])
@example(height=33, width=32, size=(32, 32), keys=FITTINGS[0])
def test_pictures_fit_exactly_as_with_open_clips_own_transforms(height, width, size, keys):
    thin = max(height * size[1], width * size[0]) >= 8 * min(height * size[1], width * size[0])
    if thin and keys["resize_mode"] != "squash":  # other tests
        return
    picture = noise(height, width)
    reference = PreprocessCfg(size=size, mean=(0, 0, 0), std=(1, 1, 1), **keys)
    expected = image_transform_v2(reference, is_train=False)(PIL.Image.fromarray(picture))
    found = np.full((*size, 3), 55, np.uint8)
    Preprocessing(**keys).fit(picture, found)
    np.testing.assert_array_equal(found, (expected * 255).round().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("size", [(2, 300), (300, 2), (5, 512), (37, 600), (600, 37), (1, 512)])
def test_only_the_middle_of_a_thin_picture_is_resized(size, monkeypatch):
    picture = noise(*size)
    whole = image_transform_v2(PreprocessCfg(size=64, mean=(0,) * 3, std=(1,) * 3), is_train=False)
    expected = (whole(PIL.Image.fromarray(picture)) * 255).round().permute(1, 2, 0).numpy()
    pixels = []
    resize = PIL.Image.Image.resize

    def watched(self, size, *args, **keys):
        pixels.append(size[0] * size[1])
        return resize(self, size, *args, **keys)

    monkeypatch.setattr(PIL.Image.Image, "resize", watched)
    found = np.empty((64, 64, 3), np.uint8)
    Preprocessing().fit(picture, found)
    assert max(pixels) <= 64 * max(64, *size)
    # Pillow keeps the borders of a box in single precision: a rounding here and there.
    difference = np.abs(found - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 2e-3


@pytest.mark.parametrize("size", [(1, 512), (512, 1)])
def test_the_longest_side_may_shrink_the_other_to_a_line(size):
    found = np.empty((32, 32, 3), np.uint8)
    Preprocessing(resize_mode="longest", fill_color=9).fit(
        np.full((*size, 3), 200, np.uint8), found
    )
    line = (found == 200).all(axis=2)
    assert line.sum() == 32
    assert (found[~line] == 9).all()


def test_threads_resize_as_one_does(folders, encoders, pictures):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        encoder = OpenClipEncoder(folders["clip"], batch_size=4)
    finally:
        torch.set_num_threads(threads)
    found = encoder.embed_images(pictures)
    np.testing.assert_allclose(found, encoders["clip"].embed_images(pictures), atol=1e-6)


# Batches, precision, compilation.


def test_a_batch_that_does_not_fit_is_halved_and_counted(folders, encoders, pictures):
    encoder = OpenClipEncoder(folders["clip"], batch_size=8)

    def full(_, given):
        if len(given[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    encoder.model.visual.register_forward_pre_hook(full)
    encoder.model.text.register_forward_pre_hook(full)
    expected = encoders["clip"]
    np.testing.assert_allclose(
        encoder.embed_images(pictures), expected.embed_images(pictures), atol=1e-5
    )
    assert encoder.halvings == 2
    np.testing.assert_allclose(encoder.embed_texts(TEXTS), expected.embed_texts(TEXTS), atol=1e-5)
    assert encoder.halvings == 4  # five different texts: 5, 3, 2


def test_sizes_are_found_for_both_towers_with_inputs_of_full_size(folders, monkeypatch):
    measured = {}

    def measure(run, name, share):
        measured[name] = (len(run(3)), share)
        return 3 + len(measured)

    monkeypatch.setattr(open_clip_encoder, "automatic_size", measure)
    for folder in (folders["clip"], folders["siglip"]):
        OpenClipEncoder(folder, share=0.5)
    OpenClipEncoder(folders["clip"], precision="bfloat16", share=0.5)
    assert list(measured.values()) == [(3, 0.5)] * 6


def test_texts_are_measured_at_the_whole_context(encoders):
    seen = []
    text = encoders["clip"].model.text
    handle = text.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    encoders["clip"]._full_texts(2)
    handle.remove()
    assert seen == [(2, 77)]


def test_lower_precision_comes_near(folders, encoders, pictures):
    encoder = OpenClipEncoder(folders["clip"], precision="bfloat16", batch_size=4)
    assert encoder.model.visual.proj.dtype == torch.bfloat16
    for found, expected in (
        (encoder.embed_images(pictures), encoders["clip"].embed_images(pictures)),
        (encoder.embed_texts(TEXTS), encoders["clip"].embed_texts(TEXTS)),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        similarity = (found * expected).sum(axis=1)
        assert similarity.min() > 0.99
        assert not np.array_equal(found, expected)


def test_values_beyond_float16_are_told(clip_copy):
    weights = load_file(clip_copy / "open_clip_model.safetensors")
    weights["visual.proj"] *= 1e6
    (clip_copy / "open_clip_model.safetensors").unlink()
    torch.save(weights, clip_copy / "open_clip_pytorch_model.bin")
    encoder = OpenClipEncoder(clip_copy, precision="float16", allow_pickle=True)
    with pytest.raises(UsageError, match=r"set profile\.clip\.precision to bfloat16"):
        encoder.embed_images([noise(9, 9)])


def test_compiled_towers_see_batches_of_one_shape(folders, encoders, pictures):
    # The real compiler takes minutes here; what is left to test is what it is given.
    with torch.compiler.set_stance("force_eager"):
        encoder = OpenClipEncoder(folders["clip"], batch_size=4, compiled=True)
        seen = set()
        for tower in (encoder.model.visual, encoder.model.text):
            tower.register_forward_pre_hook(lambda _, given: seen.add(tuple(given[0].shape)))
        images, texts = encoder.embed_images(pictures), encoder.embed_texts(TEXTS)
    assert encoder.model.visual._compiled_call_impl is not None
    assert encoder.model.text._compiled_call_impl is not None
    assert seen == {(4, 3, 32, 32), (4, 77)}
    np.testing.assert_allclose(images, encoders["clip"].embed_images(pictures), atol=1e-5)
    np.testing.assert_allclose(texts, encoders["clip"].embed_texts(TEXTS), atol=1e-5)


# What the repository says.


@pytest.mark.parametrize("quick", [True, False])
@torch.no_grad()
def test_the_repository_chooses_its_gelu(quick, clip_copy, encoders, tmp_path):
    change_config(clip_copy, model_cfg__quick_gelu=quick)
    encoder = OpenClipEncoder(clip_copy)
    for tower in (encoder.model.visual, encoder.model.text):
        assert quick == any(isinstance(part, QuickGELU) for part in tower.modules())
    picture = noise(32, 32)
    model, preprocess, tokenize = as_open_clip_does(clip_copy, tmp_path)
    rows = encoder.embed_images([picture]), encoder.embed_texts(["a dog"])
    expected = (
        model.encode_image(preprocess(PIL.Image.fromarray(picture))[None], normalize=True),
        model.encode_text(tokenize(["a dog"]), normalize=True),
    )
    quick_rows = encoders["clip"].embed_images([picture]), encoders["clip"].embed_texts(["a dog"])
    for found, its, with_quick in zip(rows, expected, quick_rows, strict=True):
        np.testing.assert_allclose(found, its.numpy(), atol=1e-5)
        assert quick == (np.abs(found - with_quick).max() < 1e-4)


@torch.no_grad()
def test_the_repository_chooses_its_colours_and_resizing(clip_copy, encoders, tmp_path):
    change_config(
        clip_copy,
        preprocess_cfg__mean=[0.1, 0.2, 0.3],
        preprocess_cfg__std=[0.9, 0.8, 0.7],
        preprocess_cfg__resize_mode="longest",
        preprocess_cfg__interpolation="bilinear",
        preprocess_cfg__fill_color=77,
        preprocess_cfg__size=None,
    )
    picture = noise(50, 90)
    model, preprocess, _ = as_open_clip_does(clip_copy, tmp_path)
    expected = model.encode_image(preprocess(PIL.Image.fromarray(picture))[None], normalize=True)
    found = OpenClipEncoder(clip_copy).embed_images([picture])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert np.abs(found - encoders["clip"].embed_images([picture])).max() > 1e-3


def test_open_clips_weights_go_before_others_in_the_folder(clip_copy, encoders):
    for name in ("aaa.safetensors", "model.safetensors", "open_clip_pytorch_model.bin"):
        (clip_copy / name).write_bytes(b"timm's, say")
    picture = noise(32, 32)
    found = OpenClipEncoder(clip_copy).embed_images([picture])
    np.testing.assert_array_equal(found, encoders["clip"].embed_images([picture]))


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors"])
def test_weights_may_have_another_name(name, clip_copy):
    (clip_copy / "open_clip_model.safetensors").rename(clip_copy / name)
    assert OpenClipEncoder(clip_copy).dimensions == 24


# What is missing, damaged or hostile.


def refused(folder, **keys):
    """The sentence with which the repository is refused."""
    with pytest.raises(UsageError) as caught:
        OpenClipEncoder(folder, batch_size=1, **keys)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 500
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return sentence


def test_a_missing_folder_is_refused(tmp_path):
    sentence = refused(tmp_path / "none")
    assert sentence.startswith("There is no folder")


def test_a_folder_of_something_else_is_refused(clip_copy):
    (clip_copy / "open_clip_config.json").unlink()
    assert "There is no open_clip_config.json in the folder" in refused(clip_copy)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b"{}", b'{"model_cfg": {}}'])
def test_a_damaged_configuration_is_refused(content, clip_copy):
    (clip_copy / "open_clip_config.json").write_bytes(content)
    assert "open_clip_config.json in" in refused(clip_copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"preprocess_cfg__resize_mode": "stretch"},
        {"preprocess_cfg__mean": [0.5]},
        {"preprocess_cfg__std": [0, 0, 0]},
        {"preprocess_cfg": [1]},
    ],
)
def test_an_unknown_preprocessing_is_refused(changes, clip_copy):
    change_config(clip_copy, **changes)
    assert refused(clip_copy).startswith("The preprocess_cfg of open_clip_config.json")


def test_missing_weights_are_refused(clip_copy):
    (clip_copy / "open_clip_model.safetensors").unlink()
    assert refused(clip_copy).startswith("There are no safetensors weights")


def test_pickled_weights_are_read_only_if_the_user_says_so(clip_copy, encoders):
    safe = clip_copy / "open_clip_model.safetensors"
    torch.save(load_file(safe), clip_copy / "open_clip_pytorch_model.bin")
    safe.unlink()
    assert "`files.allow_pickle`" in refused(clip_copy)
    picture = noise(32, 32)
    found = OpenClipEncoder(clip_copy, allow_pickle=True).embed_images([picture])
    np.testing.assert_array_equal(found, encoders["clip"].embed_images([picture]))


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("old", [True, False])
def test_a_pickles_code_never_runs(old, clip_copy, tmp_path):
    (clip_copy / "open_clip_model.safetensors").unlink()
    path = clip_copy / "open_clip_pytorch_model.bin"
    trap = {"state_dict": Trap(tmp_path / "ran")}
    if old:
        path.write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, path)
    assert "damaged" in refused(clip_copy, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("length", [0, 7, 2000, -1])
def test_truncated_weights_are_refused(length, clip_copy):
    path = clip_copy / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "are damaged" in refused(clip_copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_cfg__vision_cfg__width": 48},
        {"model_cfg__vision_cfg__layers": 3},
        {"model_cfg__vision_cfg__layers": 1},
        {"model_cfg__text_cfg__width": 32},
        {"model_cfg__embed_dim": 25},
    ],
)
def test_weights_of_other_shapes_are_refused(changes, clip_copy):
    change_config(clip_copy, **changes)
    assert "are not those of the architecture" in refused(clip_copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_cfg__vision_cfg__eyes": 2},
        {"model_cfg__vision_cfg__pool_type": "newest"},
        {"model_cfg__vision_cfg__width": 0},
        {"model_cfg__text_cfg__heads": 3},
        {"model_cfg__method": "later"},
    ],
)
def test_an_architecture_that_open_clip_does_not_know_is_refused(changes, clip_copy):
    change_config(clip_copy, **changes)
    sentence = refused(clip_copy)
    assert "is not known to open_clip 3" in sentence


@pytest.mark.parametrize("name", ["vit_of_tomorrow", "hf-hub:someone/else", "local-dir:/tmp", 3])
def test_an_architecture_that_timm_does_not_know_is_refused(name, siglip_copy):
    change_config(siglip_copy, model_cfg__vision_cfg__timm_model_name=name)
    assert f"The architecture '{name}'" in refused(siglip_copy)


def test_a_text_tower_without_configuration_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["roberta"], tmp_path / "roberta")
    (folder / "config.json").unlink()
    assert "is a roberta-base: copy that model's config.json there" in refused(folder)


def test_missing_tokenizer_files_are_refused(siglip_copy):
    for path in siglip_copy.glob("tokenizer*"):
        path.unlink()
    assert refused(siglip_copy).startswith("The tokenizer in")


def test_a_tokenizer_of_another_model_is_told(folders, tmp_path):
    folder = shutil.copytree(folders["roberta"], tmp_path / "roberta")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 7}))
    path = folder / "open_clip_model.safetensors"
    weights = load_file(path)
    path.unlink()
    name = "text.transformer.embeddings.word_embeddings.weight"
    weights[name] = weights[name][:7]
    torch.save(weights, folder / "model.pth")
    encoder = OpenClipEncoder(folder, allow_pickle=True, batch_size=2)
    with pytest.raises(UsageError, match="but the text tower knows only 7"):
        encoder.embed_texts(["a woman"])


@pytest.mark.parametrize(
    "asked",
    [
        {"trust_remote_code": True},
        {"reduction_mask": "syntax"},
        {"bpe_path": "elsewhere"},
        ["clean"],
    ],
)
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_repository_may_not_ask_for_more_of_its_tokenizer(asked, kind, folders, tmp_path):
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    change_config(folder, model_cfg__text_cfg__tokenizer_kwargs=asked)
    assert "may only hold clean, language, strip_sep_token" in refused(folder)


def test_a_repositorys_own_code_never_runs(siglip_copy, tmp_path):
    (siglip_copy / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Trap: ...\n")
    path = siglip_copy / "tokenizer_config.json"
    config = json.loads(path.read_text())
    auto = {"auto_map": {"AutoTokenizer": [None, "trap.Trap"]}, "tokenizer_class": "Trap"}
    path.write_text(json.dumps({**config, **auto}))
    try:
        OpenClipEncoder(siglip_copy, batch_size=1).embed_texts(["a dog"])
    except UsageError as error:
        assert "The tokenizer in" in str(error)
    assert not (tmp_path / "ran").exists()


# Names.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("ViT-L-14/openai", "timm/vit_large_patch14_clip_224.openai"),
        ("ViT-L-14-quickgelu/openai", "timm/vit_large_patch14_clip_224.openai"),
        ("ViT-B-16-SigLIP/webli", "timm/ViT-B-16-SigLIP"),
        ("ViT-B-32/laion2B-s34B-b79K", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("ViTamin-S/datacomp1b", "jienengchen/ViTamin-S"),  # registered with its file's name
        ("hf-hub:timm/ViT-B-16-SigLIP", "timm/ViT-B-16-SigLIP"),
        ("hf-hub:ViT-L-41/openai", "ViT-L-41/openai"),
        ("timm/ViT-B-16-SigLIP", "timm/ViT-B-16-SigLIP"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("/mirror/clip", "/mirror/clip"),
        ("s3://mirror/ViT-L-14/openai", "s3://mirror/ViT-L-14/openai"),
        ("clip", "clip"),
        ("ViT-L-41", "ViT-L-41"),
        ("", ""),
    ],
)
def test_sources_become_hub_ids(source, expected):
    assert hub_id(source) == expected


def test_every_pair_of_open_clip_has_a_repository():
    for name, tag in open_clip.list_pretrained():
        owner, repository = hub_id(f"{name}/{tag}").split("/")
        assert owner and repository
        assert hub_id(f"{owner}/{repository}") == f"{owner}/{repository}"


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("ViT-L-14/openia", "ViT-L-14/openai"),
        ("ViT-L-14/x", "ViT-L-14/openai"),
        ("ViT-L-14", "ViT-L-14/openai"),
        ("ViT-L-14/", "ViT-L-14/openai"),
        ("vit-l-14/openai", "ViT-L-14/openai"),
        ("ViT-L-41/openai", "ViT-L-14/openai"),
        ("ViT-B16-SigLIP/webli", "ViT-B-16-SigLIP/webli"),
    ],
)
def test_pairs_that_are_not_known_get_a_hint(source, meant):
    with pytest.raises(UsageError) as caught:
        hub_id(source)
    assert meant in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_an_architecture_without_weights_is_refused():
    with pytest.raises(UsageError, match="no weights of ViT-B-16-plus: choose another"):
        hub_id("ViT-B-16-plus/openai")


def test_a_pair_that_is_not_on_the_hub_is_refused(monkeypatch):
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED["ViT-B-32"], "mine", {"url": "https://host/file.pt"}
    )
    with pytest.raises(UsageError, match="ViT-B-32/mine are not on the hub"):
        hub_id("ViT-B-32/mine")


def test_a_folder_called_like_a_pair_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ViT-L-14" / "mine").mkdir(parents=True)
    assert hub_id("ViT-L-14/mine") == "ViT-L-14/mine"


def test_open_clip_is_imported_only_by_whom_needs_it(folders):
    code = (
        "import sys; from item.models.open_clip.files import hub_id; "
        "from item.models.open_clip.preprocessing import read_config; "
        "from pathlib import Path; "
        f"config = read_config(Path({str(folders['clip'])!r})); "
        "assert config['model_cfg']['embed_dim'] == 24; "
        "assert hub_id('timm/ViT-B-16-SigLIP') == 'timm/ViT-B-16-SigLIP'; "
        "print({'open_clip', 'timm', 'torch', 'transformers', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("size", ["large", None, [32], [32, "wide"]])
def test_an_image_size_of_another_kind_is_one_sentence(size, folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "copy")
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = size
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match="neither a number nor a height and a width"):
        read_fit(folder)
