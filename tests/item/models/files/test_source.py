"""Local folders and mirrors of model files; :mod:`test_hub` and :mod:`test_bucket` have more."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from item.models.files.source import (
    ModelFiles,
    check,
    local_folder,
    pinned,
    resolved_revision,
    safetensors_check,
)
from item.settings import validated
from tests.support.model_files import COMMIT, mirrored, sentence, tiny_model, weights, write


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ITEM_MODEL_CACHE", str(tmp_path / "node"))
    return tmp_path / "node"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"source": "https://host/model"}, "source must be org/name"),
        ({"source": "s3://key:secret@bucket/x"}, "must not hold credentials"),
        ({"source": "s3://"}, "write s3://bucket/prefix"),
        ({"source": ""}, "at least 1 character"),
        ({"source": "org/name", "revision": "../../x"}, "a commit, a branch or a tag"),
        ({"source": "org/name", "revision": "a b"}, "a commit, a branch or a tag"),
        ({"source": "org/name", "revison": "main"}, "did you mean 'revision'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values: dict[str, Any], reason: str) -> None:
    text = sentence(lambda: validated(ModelFiles, values, "profile"))
    assert reason in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("org/name-1.0", "hub"),
        ("ViT-L-14/openai", "hub"),
        ("org/here", "folder"),
        ("name", "folder"),
        ("./org/name", "folder"),
        ("/org/name", "folder"),
        ("~/name", "folder"),
        ("a/b/c", "folder"),
        ("s3://bucket/prefix", "s3"),
        ("S3://bucket/prefix", "s3"),
    ],
)
def test_source_is_told_by_its_form_and_a_folder_that_exists_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, place: str
) -> None:
    (tmp_path / "org" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert ModelFiles(source=source).place == place


def test_local_folder_is_used_as_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "blip", tiny_model())
    monkeypatch.chdir(tmp_path)
    for source in (str(folder), "blip", "./blip/"):
        check(ModelFiles(source=source))
        assert local_folder(ModelFiles(source=source)) == folder
    assert local_folder(ModelFiles(source=str(folder), revision="main")) == folder


def test_revision_of_a_folder_follows_its_model_files_and_nothing_else(tmp_path: Path) -> None:
    files = ModelFiles(source=str(write(tmp_path / "a" / "blip", tiny_model())))
    first = resolved_revision(files)
    name, _, digest = first.partition("@sha256:")
    assert name == "blip"
    assert len(digest) == 12
    (tmp_path / "a" / "blip" / "README.md").write_text("changed")
    os.utime(tmp_path / "a" / "blip" / "config.json")
    assert resolved_revision(files) == first
    elsewhere = write(tmp_path / "b" / "blip", tiny_model())
    assert resolved_revision(ModelFiles(source=str(elsewhere))) == first
    (elsewhere / "vocab.txt").rename(elsewhere / "words.txt")
    renamed = resolved_revision(ModelFiles(source=str(elsewhere)))
    write(tmp_path / "a" / "blip", {"model.safetensors": weights(seed=1)})
    assert len({first, renamed, resolved_revision(files)}) == 3


def test_pickled_weights_count_in_the_revision_if_they_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "old", {"config.json": b"{}", "pytorch_model.bin": b"1"})
    assert "`files.allow_pickle`" in sentence(lambda: local_folder(ModelFiles(source=str(folder))))
    files = ModelFiles(source=str(folder), allow_pickle=True)
    check(files)
    assert local_folder(files) == folder
    first = resolved_revision(files)
    (folder / "pytorch_model.bin").write_bytes(b"2")
    assert resolved_revision(files) != first


@pytest.mark.parametrize("call", [check, local_folder, resolved_revision, pinned])
def test_missing_folder_is_a_sentence(call: Callable[[ModelFiles], Any], tmp_path: Path) -> None:
    files = ModelFiles(source=str(tmp_path / "none"))
    if call is pinned:  # which only makes the path absolute
        assert pinned(files) == files
        return
    text = sentence(lambda: call(files))
    assert text.startswith(f"There is no folder {tmp_path / 'none'}: set `files.source`")


@pytest.mark.parametrize("call", [check, local_folder])
@pytest.mark.parametrize("kept", [3, 20, -4])
def test_cut_off_weights_are_found_without_loading_them(
    call: Callable[[ModelFiles], Any], tmp_path: Path, kept: int
) -> None:
    folder = write(tmp_path, tiny_model())
    (folder / "model.safetensors").write_bytes(weights()[:kept])
    text = sentence(lambda: call(ModelFiles(source=str(folder))))
    assert text.startswith(f"The file 'model.safetensors' in the folder {folder} is damaged")


def shards(folder: Path, **weight_map: str) -> Path:
    for number in (1, 2):
        shard = save({f"t{number}": np.zeros(3, np.float32)})
        write(folder, {f"model-{number}.safetensors": shard})
    index = json.dumps({"weight_map": weight_map}).encode()
    return write(folder, {"model.safetensors.index.json": index})


def test_complete_shards_pass(tmp_path: Path) -> None:
    safetensors_check(shards(tmp_path, t1="model-1.safetensors", t2="model-2.safetensors"))


@pytest.mark.parametrize(
    ("weight_map", "reason"),
    [
        ({"t1": "model-1.safetensors", "t3": "model-3.safetensors"}, "'model-3.safetensors' is mi"),
        ({"t1": "model-1.safetensors", "t2": "model-1.safetensors"}, "lacks 't2'"),
        ({"t1": "../model-1.safetensors"}, "is no index of weights in that folder"),
        ({"t1": "/tmp/model-1.safetensors"}, "is no index of weights in that folder"),
        ({"t1": 7}, "is no index of weights in that folder"),
    ],
)
def test_index_must_fit_its_shards_and_stay_in_the_folder(
    tmp_path: Path, weight_map: dict[str, Any], reason: str
) -> None:
    folder = shards(tmp_path, **weight_map)
    assert reason in sentence(lambda: safetensors_check(folder))


def test_index_that_is_no_json_is_a_sentence(tmp_path: Path) -> None:
    for content in (b"{", b"[]", b'{"weight_map": []}', b"{}"):
        write(tmp_path, {"model.safetensors.index.json": content})
        assert "is no index of weights" in sentence(lambda: safetensors_check(tmp_path))


def test_mirror_has_the_revision_of_what_it_copies(tmp_path: Path) -> None:
    files = ModelFiles(source=str(mirrored(tmp_path / "captioner")))
    check(files)
    assert resolved_revision(files) == f"org/tiny@{COMMIT}"
    assert local_folder(files) == tmp_path / "captioner"
    check(files.model_copy(update={"revision": COMMIT}))


def test_mirror_of_another_revision_is_refused(tmp_path: Path) -> None:
    source = str(mirrored(tmp_path / "captioner"))
    for call in (check, local_folder, resolved_revision):
        for revision in ("main", "f" * 40):
            files = ModelFiles(source=source, revision=revision)
            text = sentence(lambda call=call, files=files: call(files))  # type: ignore[misc]
            assert f"lies org/tiny@{COMMIT}, not revision {revision}" in text


def test_damaged_mirror_is_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    folder = mirrored(tmp_path / "captioner")
    files = ModelFiles(source=str(folder))
    local_folder(files)
    write(folder, {"model.safetensors": weights(seed=9)})  # whole, of the same size
    check(files)
    text = sentence(lambda: local_folder(files))
    assert text.startswith(f"The file 'model.safetensors' in the folder {folder} is damaged")
    assert "checksum" in text


@pytest.mark.parametrize("call", [check, local_folder])
def test_incomplete_or_enlarged_mirror_is_refused(
    call: Callable[[ModelFiles], Any], tmp_path: Path
) -> None:
    folder = mirrored(tmp_path / "captioner")
    files = ModelFiles(source=str(folder))
    write(folder, {"vocab.txt": b"cat\n"})
    assert "'vocab.txt'" in (text := sentence(lambda: call(files)))
    assert "has 4 bytes, not 8" in text
    (folder / "vocab.txt").unlink()
    assert "'vocab.txt' is missing" in sentence(lambda: call(files))
    mirrored(folder)
    write(folder, {"README.md": b"no model file", "generation_config.json": b"{}"})
    assert "'generation_config.json'" in sentence(lambda: call(files))


@pytest.mark.parametrize("call", [check, local_folder, resolved_revision])
def test_hostile_manifest_reads_nothing_outside_its_folder(
    call: Callable[[ModelFiles], Any], tmp_path: Path
) -> None:
    folder = mirrored(tmp_path / "captioner")
    write(tmp_path, {"secret.json": b"{}"})
    manifest = folder / "item-model.json"
    manifest.write_text(manifest.read_text().replace("vocab.txt", "../secret.json"))
    text = sentence(lambda: call(ModelFiles(source=str(folder))))
    assert "'../secret.json', which is no file of that folder" in text


def test_pinned_folder_is_the_same_wherever_a_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "plain", tiny_model())
    mirrored(tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    plain, copy = (pinned(ModelFiles(source=name)) for name in ("plain", "copy"))
    assert plain == ModelFiles(source=str(tmp_path / "plain"))
    assert copy == ModelFiles(source=str(tmp_path / "copy"), revision=COMMIT)


def test_unreadable_file_is_a_sentence(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", tiny_model())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    text = sentence(lambda: local_folder(ModelFiles(source=str(folder))))
    assert text == f"There are no safetensors weights in the folder {folder}."
