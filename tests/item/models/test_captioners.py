"""BLIP, BLIP-2 and Florence-2, with tiny random weights but the library's own code."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from item.errors import UsageError
from item.models.captioners import FAMILIES, TransformersCaptioner, captioner_family
from tests.support.photographs import SHIPPED, photograph
from tests.support.tiny_checkpoints.captioners import tiny_blip, tiny_blip2, tiny_florence2

BUILDERS = {"blip": tiny_blip, "blip-2": tiny_blip2, "florence2": tiny_florence2}
PICTURES = [
    *(np.asarray(photograph(name)) for name in list(SHIPPED)[:4]),
    np.full((1, 1, 3), 200, np.uint8),
    np.tile(np.arange(300, dtype=np.uint8)[:, None, None], (1, 2, 3)),
]

families = pytest.mark.parametrize("family", BUILDERS)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """A tiny repository of every family."""
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def captions(repositories):
    """Captions of PICTURES by every family, as a captioner of the default settings has them."""
    return {
        name: TransformersCaptioner(folder).caption(PICTURES)
        for name, folder in repositories.items()
    }


@pytest.fixture
def copied(repositories, tmp_path):
    """Copies a repository, so that a test may damage it."""
    return lambda family: shutil.copytree(repositories[family], tmp_path / "copy")


@cache
def library(folder, family):
    """Processor and model as a user of transformers loads them."""
    model = getattr(transformers, FAMILIES[family].model).from_pretrained(folder)
    return transformers.AutoProcessor.from_pretrained(folder), model


def library_inputs(processor, family, picture):
    text = "<CAPTION>" if family == "florence2" else None
    return processor(images=Image.fromarray(picture), text=text, return_tensors="pt")


def library_captions(folder, family, **search):
    """One picture at a time through processor, ``generate`` and ``batch_decode``."""
    processor, model = library(folder, family)
    search = {"num_beams": 3, "min_new_tokens": 5, "max_new_tokens": 60} | search
    captions = []
    for picture in PICTURES:
        inputs = library_inputs(processor, family, picture)
        tokens = model.generate(**inputs, do_sample=False, length_penalty=1.0, **search)
        captions += processor.batch_decode(tokens, skip_special_tokens=True)
    return [caption.strip() for caption in captions]


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Parity with the library


@families
def test_captions_are_those_of_the_librarys_own_pipeline(repositories, captions, family):
    assert captions[family] == library_captions(repositories[family], family)
    assert len(set(captions[family])) == len(PICTURES)


@families
def test_the_model_sees_what_the_librarys_processor_gives(repositories, family, monkeypatch):
    captioner = TransformersCaptioner(repositories[family])
    processor, _ = library(repositories[family], family)
    seen, generate = [], captioner._model.generate

    def watched(past_key_values=None, **inputs):
        seen.append(inputs)
        return generate(past_key_values=past_key_values, **inputs)

    monkeypatch.setattr(captioner._model, "generate", watched)
    captioner.caption(PICTURES)
    expected = [library_inputs(processor, family, picture) for picture in PICTURES]
    assert seen[0].keys() == expected[0].keys()
    for name in seen[0]:
        assert torch.equal(seen[0][name], torch.cat([inputs[name] for inputs in expected]))


@families
def test_beams_and_lengths_are_those_that_were_asked_for(repositories, family):
    folder, lengths = repositories[family], {"min_tokens": 7, "max_tokens": 9}
    greedy = TransformersCaptioner(folder, beams=1, **lengths).caption(PICTURES)
    search = {"num_beams": 1, "min_new_tokens": 7, "max_new_tokens": 9}
    assert greedy == library_captions(folder, family, **search)
    assert greedy != TransformersCaptioner(folder, beams=3, **lengths).caption(PICTURES)


def test_lengths_count_tokens(repositories, captions):
    words = [len(caption.split()) for caption in captions["blip"]]
    assert 5 <= min(words) < 12
    captioner = TransformersCaptioner(repositories["blip"], min_tokens=12, max_tokens=12)
    assert {len(caption.split()) for caption in captioner.caption(PICTURES)} == {12}


# The promise of a captioner


@families
def test_a_caption_does_not_depend_on_the_other_pictures(repositories, captions, family):
    captioner = TransformersCaptioner(repositories[family], batch_size=4)
    assert captioner.caption(PICTURES[::-1]) == captions[family][::-1]
    assert [captioner.caption([picture])[0] for picture in PICTURES] == captions[family]


@families
def test_captions_are_plain_words(captions, family):
    for caption in captions[family]:
        assert caption == " ".join(caption.split()) != ""
        assert not set(caption) & set("<>[]\n")
        assert "does the image describe" not in caption


@families
def test_no_pictures_no_captions(repositories, family):
    assert TransformersCaptioner(repositories[family]).caption([]) == []


@families
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_deterministic_too(repositories, family, precision):
    folder = repositories[family]
    captioner = TransformersCaptioner(folder, precision=precision)
    found = captioner.caption(PICTURES)
    assert captioner.caption(PICTURES) == found
    assert all(len(caption.split()) > 1 for caption in found)
    assert getattr(torch, precision) in {weight.dtype for weight in captioner._model.parameters()}


def test_pictures_may_be_views_and_read_only(repositories, captions):
    captioner = TransformersCaptioner(repositories["blip"])
    read_only = PICTURES[0].copy()
    read_only.flags.writeable = False
    view = np.stack([PICTURES[0]] * 2, axis=1)[::-1].repeat(2, axis=0)[::-2, 0]
    assert not view.flags.c_contiguous
    assert captioner.caption([read_only, view]) == [captions["blip"][0]] * 2


@families
def test_a_repository_cannot_switch_sampling_on(captions, family, copied):
    folder = copied(family)
    sampling = {"do_sample": True, "temperature": 50.0, "top_p": 0.9, "num_return_sequences": 2}
    change_json(folder / "generation_config.json", **sampling, max_time=1e-9, length_penalty=9.0)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= sampling
    change_json(folder / "config.json", **config, **sampling)
    assert TransformersCaptioner(folder).caption(PICTURES) == captions[family]


def test_a_repositorys_ban_on_repeats_is_kept(captions, copied):
    folder = copied("florence2")
    change_json(folder / "generation_config.json", no_repeat_ngram_size=2, early_stopping=True)
    found = TransformersCaptioner(folder).caption(PICTURES)
    assert found == library_captions(folder, "florence2")
    assert found != captions["florence2"]
    pairs = [list(itertools.pairwise(caption.split())) for caption in found]
    assert all(len(set(each)) == len(each) for each in pairs)


@families
def test_a_batch_that_does_not_fit_is_halved(repositories, captions, family, monkeypatch):
    captioner = TransformersCaptioner(repositories[family], batch_size=6)
    sizes, generate = [], captioner._model.generate

    def scarce(**inputs):
        sizes.append(len(inputs["pixel_values"]))
        if len(sizes) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    monkeypatch.setattr(captioner._model, "generate", scarce)
    assert captioner.halvings == 0
    assert captioner.caption(PICTURES) == captions[family]
    assert sizes == [6, 3, 3]
    assert captioner.halvings == 1


# What a folder may hold


def test_asking_for_the_family_loads_nothing(repositories):
    code = (
        "import sys, pathlib; from item.models.captioners import captioner_family\n"
        "print([captioner_family(pathlib.Path(folder)) for folder in sys.argv[1:]])\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, *map(str, repositories.values())]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.splitlines() == [str(list(BUILDERS)), "set()"]


def test_the_hubs_and_the_librarys_file_layouts_are_both_read(repositories, captions, tmp_path):
    """The hub has a preprocessor_config.json; transformers 5 saves a processor_config.json."""
    assert (repositories["blip"] / "preprocessor_config.json").is_file()
    processor, model = library(repositories["blip"], "blip")
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    assert TransformersCaptioner(tmp_path).caption(PICTURES) == captions["blip"]


def refusal(folder, **options):
    """The one sentence by which a folder is refused."""
    with pytest.raises(UsageError) as refused:
        TransformersCaptioner(folder, **options)
    sentence = str(refused.value)
    assert sentence.endswith(".") and "\n" not in sentence and ". " not in sentence
    assert f"'{folder}'" in sentence
    return sentence


def test_a_missing_folder_is_refused(tmp_path):
    assert "no captioner" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model_type": ', "\x00"])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert "names no model_type" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["clip", None, ["blip"], {"blip": 1}])
def test_another_kind_of_model_is_refused(copied, kind):
    folder = copied("blip")
    change_json(folder / "config.json", model_type=kind)
    assert "supported: blip, blip-2, florence2." in refusal(folder)
    with pytest.raises(UsageError, match="supported"):
        captioner_family(folder)


def test_a_captioner_with_code_of_its_own_is_refused(copied):
    folder = copied("florence2")
    change_json(folder / "config.json", auto_map={"AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    assert "never run" in refusal(folder)


@families
def test_truncated_weights_are_refused(copied, family, capfd):
    folder = copied(family)
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    assert "SafetensorError" in refusal(folder)
    assert capfd.readouterr() == ("", "")


@families
def test_a_missing_processor_or_tokenizer_is_refused(copied, family):
    folder = copied(family)
    (folder / "tokenizer.json").rename(folder / "elsewhere")
    assert "no tokenizer" in refusal(folder)
    (folder / "elsewhere").rename(folder / "tokenizer.json")
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    assert "no processor" in refusal(folder)


@families
def test_a_damaged_processor_or_tokenizer_is_refused(copied, family):
    folder = copied(family)
    [processor] = folder.glob("*processor_config.json")
    for path in (processor, folder / "tokenizer.json"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert "cannot be loaded" in refusal(folder)
        path.write_bytes(content)


def test_weights_that_lack_a_tensor_are_refused(copied):
    folder = copied("blip")
    weights = load_file(folder / "model.safetensors")
    del weights["text_decoder.bert.embeddings.position_embeddings.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "1 tensors are missing" in refusal(folder)


def test_weights_of_another_size_are_refused(copied, capfd):
    folder = copied("blip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] *= 2
    change_json(folder / "config.json", **config)
    assert "of another shape" in refusal(folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "settings", [{"size": {"shortest_edge": 32}}, {"do_resize": False}, {"do_center_crop": True}]
)
def test_a_processor_that_does_not_squash_is_refused(copied, settings):
    folder = copied("florence2")
    path = folder / "processor_config.json"
    images = json.loads(path.read_text())["image_processor"]
    change_json(path, image_processor=images | {"crop_size": {"height": 9, "width": 9}} | settings)
    assert "one height and width" in refusal(folder)


def test_pickled_weights_are_read_only_if_allowed(captions, copied):
    folder = copied("blip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "files.allow_pickle" in refusal(folder)
    captioner = TransformersCaptioner(folder, allow_pickle=True)
    assert captioner.caption(PICTURES) == captions["blip"]


def test_pickled_code_never_runs(copied, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it ran"),)

    folder = copied("blip")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    assert "cannot be loaded" in refusal(folder, allow_pickle=True)
    assert not (tmp_path / "it ran").exists()
