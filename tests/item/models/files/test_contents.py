"""Which files make up a model, and what a manifest may say of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from item.errors import UsageError
from item.models.files.contents import FileFacts, Manifest, check_contents, wanted

SHA = "a" * 64


def manifest(**changes: Any) -> bytes:
    values = {
        "source": "org/tiny",
        "commit": "0" * 40,
        "files": {"config.json": {"sha256": SHA, "size": 2}},
    }
    return json.dumps(values | changes).encode()


def test_wanted_files_are_configuration_tokenizer_and_safetensors_of_the_top_folder() -> None:
    names = [
        *("README.md", "config.json", "flax_model.msgpack", "handler.py", "merges.txt"),
        *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        *("model.safetensors.index.json", "onnx/config.json", "pytorch_model.bin", "spiece.model"),
        *(".hidden.json", "item-model.json", "tf_model.h5", "tokenizer.json"),
    ]
    assert wanted(names) == [
        *("config.json", "merges.txt", "model-00001-of-00002.safetensors"),
        *("model-00002-of-00002.safetensors", "model.safetensors.index.json", "spiece.model"),
        "tokenizer.json",
    ]
    assert wanted(names, ("tok*",)) == ["tokenizer.json"]


def test_pickled_weights_are_wanted_only_if_allowed_and_without_safetensors() -> None:
    names = ["config.json", "pytorch_model.bin", "training_args.bin", "optimizer.pt"]
    assert wanted(names) == ["config.json"]
    assert wanted(names, allow_pickle=True) == ["config.json", "pytorch_model.bin"]
    assert wanted([*names, "model.safetensors"], allow_pickle=True) == [
        *("config.json", "model.safetensors")
    ]


def test_weights_of_open_clip_are_preferred_to_those_beside_them() -> None:
    names = ["config.json", "model.safetensors", "open_clip_config.json"]
    assert wanted(names) == names
    both = [*names, "open_clip_model.safetensors", "model.safetensors.index.json"]
    assert wanted(both) == ["config.json", "open_clip_config.json", "open_clip_model.safetensors"]
    pickled = ["config.json", "open_clip_pytorch_model.bin", "pytorch_model.bin"]
    assert wanted(pickled, allow_pickle=True) == pickled[:2]


def test_manifest_survives_being_written_and_read() -> None:
    once = Manifest(
        source="org/tiny",
        commit="0" * 40,
        requested="main",
        files={"config.json": FileFacts(sha256=SHA, size=2)},
    )
    assert Manifest.parse(once.as_bytes(), "x") == once
    assert once.revision == "org/tiny@" + "0" * 40


@pytest.mark.parametrize(
    "name",
    [
        *("../config.json", "/etc/passwd", "a/../../b.json", "sub/config.json", "..", ".", ""),
        *("..\\config.json", "C:config.json", ".hidden", "a\nb.json", "x" * 201),
        "item-model.json",
    ],
)
def test_manifest_that_names_anything_but_plain_files_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="refused") as caught:
        Manifest.parse(manifest(files={name: {"sha256": SHA, "size": 1}}), "the folder x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"\xff\xfe", b"null"),
        manifest(commit="main"),
        manifest(source="a\x1b[31m"),
        manifest(version=2),
        manifest(files={"config.json": {"sha256": "short", "size": 1}}),
        manifest(files={"config.json": {"sha256": SHA, "size": -1}}),
        manifest(extra=1),
    ],
)
def test_damaged_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match=r"^The item-model.json in here is damaged: run "):
        Manifest.parse(content, "here")


@pytest.mark.parametrize(
    ("names", "allow_pickle", "sentence"),
    [
        ([], False, "There is no config.json or open_clip_config.json in here"),
        (["model.safetensors"], False, "There is no config.json or open_clip_config.json"),
        (["config.json"], False, "There are no safetensors weights in here"),
        (["config.json", "training_args.bin"], True, "There are no safetensors weights in here"),
        (["config.json", "pytorch_model.bin"], False, "`files.allow_pickle`"),
        (["config.json", "pytorch_model.bin"], True, None),
        (["open_clip_config.json", "open_clip_model.safetensors", "x.bin"], False, None),
    ],
)
def test_folder_without_configuration_or_readable_weights_is_refused(
    names: list[str], allow_pickle: bool, sentence: str | None
) -> None:
    sizes = dict.fromkeys(names, 1)
    if sentence is None:
        check_contents("here", sizes, None, allow_pickle)
        return
    with pytest.raises(UsageError) as caught:
        check_contents("here", sizes, None, allow_pickle)
    assert sentence in str(caught.value)
