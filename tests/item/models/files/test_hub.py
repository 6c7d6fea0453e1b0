"""Models on the hub, with the real client against a small hub on this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from item.models.files import hub as client
from item.models.files.source import ModelFiles, check, local_folder, pinned, resolved_revision
from tests.support.hub_server import HubServer
from tests.support.model_files import killed_while_held, own_hub, sentence, tiny_model, weights

TINY = ModelFiles(source="org/tiny")
EVERY_CALL = pytest.mark.parametrize("call", [check, local_folder])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with own_hub(monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture
def offline(hub: HubServer) -> Callable[[], None]:
    """Takes the network away, as another process would find it."""

    def take_away() -> None:
        hub.stop()
        client.commit.cache_clear()

    return take_away


def at(commit: str) -> ModelFiles:
    return ModelFiles(source="org/tiny", revision=commit)


def test_only_the_files_of_a_model_are_fetched_and_only_once(hub: HubServer) -> None:
    others = {"README.md": b"#", "pytorch_model.bin": b"1", "onnx/config.json": b"{}"}
    commit = hub.add("org/tiny", tiny_model() | others)
    folder = local_folder(at(commit))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == tiny_model()
    assert hub.files_sent() == sorted(tiny_model())
    hub.requests.clear()
    assert local_folder(at(commit)) == folder
    check(at(commit))
    assert resolved_revision(at(commit)) == f"org/tiny@{commit}"
    assert hub.requests == []


def test_check_fetches_nothing(hub: HubServer) -> None:
    commit = hub.add("org/tiny", tiny_model())
    check(TINY)
    check(at(commit))
    assert hub.files_sent() == []


def test_branch_is_resolved_to_its_commit_and_stays_there_in_a_process(hub: HubServer) -> None:
    first = hub.add("org/tiny", tiny_model())
    tagged = hub.add("org/tiny", tiny_model(seed=3), branch="v3")
    assert resolved_revision(TINY) == f"org/tiny@{first}"
    assert resolved_revision(at("v3")) == f"org/tiny@{tagged}"
    assert pinned(at("v3")) == at(tagged)
    second = hub.add("org/tiny", tiny_model(seed=1))
    assert resolved_revision(TINY) == f"org/tiny@{first}"
    assert (local_folder(TINY) / "config.json").read_bytes() == tiny_model()["config.json"]
    client.commit.cache_clear()  # a new process
    assert resolved_revision(TINY) == f"org/tiny@{second}"


def test_cached_model_needs_no_network(hub: HubServer, offline: Callable[[], None]) -> None:
    commit = hub.add("org/tiny", tiny_model())
    folder = local_folder(TINY)
    offline()
    for files in (TINY, at("main"), at(commit)):
        check(files)
        assert local_folder(files) == folder
        assert resolved_revision(files) == f"org/tiny@{commit}"


def test_cache_of_an_older_library_is_used_and_completed(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("org/tiny", tiny_model())
    folder = local_folder(at(commit))
    shutil.rmtree(folder.parents[1] / "trees")
    monkeypatch.setattr(huggingface_hub._tree_cache, "_IN_MEMORY_TREE_CACHE", {})
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        check(at(commit))
        assert local_folder(at(commit)) == folder
    (folder / "vocab.txt").unlink()
    assert (local_folder(at(commit)) / "vocab.txt").read_bytes() == tiny_model()["vocab.txt"]


def test_of_two_libraries_weights_only_those_of_open_clip_are_fetched(hub: HubServer) -> None:
    ours = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": weights()}
    hub.add("org/tiny", ours | {"model.safetensors": weights(), "config.json": b"{}"})
    assert sorted(os.listdir(local_folder(TINY))) == ["config.json", *sorted(ours)]


def test_model_that_is_neither_cached_nor_reachable_is_one_sentence(
    hub: HubServer, offline: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("org/tiny", tiny_model())
    offline()
    for files in (TINY, at(commit)):
        for call in (check, local_folder):
            text = sentence(lambda call=call, files=files: call(files))  # type: ignore[misc]
            assert text.startswith("The model 'org/tiny' is not on this machine and the hub ca")
            assert "jobs/models.py fetch --profile" in text
            assert "`files.source`" in text
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in sentence(lambda: check(TINY))
    assert "HF_HUB_OFFLINE is set" in sentence(lambda: local_folder(at(commit)))


@EVERY_CALL
def test_unknown_model_and_unknown_revision_are_told_apart(
    hub: HubServer, call: Callable[[ModelFiles], Any]
) -> None:
    hub.add("org/tiny", tiny_model())
    text = sentence(lambda: call(ModelFiles(source="org/none")))
    assert text.startswith("There is no folder 'org/none' here, and the model hub has no such")
    for revision in ("v9", "0" * 40):
        text = sentence(lambda revision=revision: call(at(revision)))  # type: ignore[misc]
        assert text.startswith(f"The model 'org/tiny' has no revision '{revision}'")


@EVERY_CALL
@pytest.mark.parametrize("revision", [None, "0" * 40])
def test_name_that_no_model_has_is_a_sentence(
    hub: HubServer, call: Callable[[ModelFiles], Any], revision: str | None
) -> None:
    files = ModelFiles(source="org/a--b", revision=revision)
    assert sentence(lambda: call(files)) == "'org/a--b' is not a name that the model hub may have."
    assert hub.requests == []


@EVERY_CALL
def test_gated_model_says_how_to_get_it(hub: HubServer, call: Callable[[ModelFiles], Any]) -> None:
    hub.add("org/tiny", tiny_model())
    hub.repositories["org/tiny"].gated = True
    text = sentence(lambda: call(TINY))
    assert text.startswith("The model 'org/tiny' is gated: accept its conditions")
    assert "hf auth login" in text


@EVERY_CALL
def test_hub_in_trouble_is_told_and_the_cache_does_instead(
    hub: HubServer, call: Callable[[ModelFiles], Any]
) -> None:
    hub.add("org/tiny", tiny_model())
    hub.down = 503
    assert "The model hub answered 503" in sentence(lambda: call(TINY))
    hub.down = None
    local_folder(TINY)
    hub.down = 503
    client.commit.cache_clear()
    call(TINY)


@EVERY_CALL
def test_pickled_weights_are_refused_unless_allowed(
    hub: HubServer, call: Callable[[ModelFiles], Any]
) -> None:
    commit = hub.add("org/tiny", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    text = sentence(lambda: call(TINY))
    assert "safetensors" in text
    assert "pytorch_model.bin" not in hub.files_sent()
    allowed = ModelFiles(source="org/tiny", allow_pickle=True)
    call(allowed)
    folder = local_folder(allowed)
    assert (folder / "pytorch_model.bin").read_bytes() == b"pickle"
    check(allowed)
    assert resolved_revision(allowed) == f"org/tiny@{commit}"


@EVERY_CALL
def test_repository_without_a_model_is_refused(
    hub: HubServer, call: Callable[[ModelFiles], Any]
) -> None:
    hub.add("org/tiny", {"README.md": b"#", "model.safetensors": weights()})
    text = sentence(lambda: call(TINY))
    assert text.startswith("There is no config.json or open_clip_config.json in the model 'org/t")


def test_cut_off_answer_is_not_taken_for_a_file(hub: HubServer) -> None:
    hub.add("org/tiny", tiny_model())
    hub.sends_instead["model.safetensors"] = weights()[:-8]
    assert sentence(lambda: local_folder(TINY)) == (
        "Fetching the model 'org/tiny' broke off: try again."
    )
    hub.sends_instead.clear()
    assert (local_folder(TINY) / "model.safetensors").read_bytes() == weights()


def test_damage_in_the_cache_is_found_once_and_named(hub: HubServer) -> None:
    hub.add("org/tiny", tiny_model())
    folder = local_folder(TINY)
    (folder / "model.safetensors").resolve().write_bytes(weights(seed=5))
    text = sentence(lambda: local_folder(TINY))
    assert text.startswith("The file 'model.safetensors' of the model 'org/tiny' is damaged")
    assert f"delete the folder {folder.parents[1]}" in text
    (folder / "model.safetensors").resolve().write_bytes(weights())
    assert local_folder(TINY) == folder


def test_killed_download_is_not_taken_for_a_whole_model(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("org/tiny", tiny_model())
    code = (
        "from item.models.files.source import *\n"
        f"local_folder(ModelFiles(source='org/tiny', revision='{commit}'))"
    )
    killed_while_held(code, hub)
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        for call in (check, local_folder):
            text = sentence(lambda call=call: call(at(commit)))  # type: ignore[misc]
            assert text.startswith("The model 'org/tiny' is not on this machine")
    folder = local_folder(at(commit))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == tiny_model()
