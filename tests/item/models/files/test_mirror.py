"""Mirrors of models: whole, checked, made again only where something is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from item.models.files import hub as client
from item.models.files.mirror import Mirrored, mirror
from item.models.files.source import ModelFiles, check, local_folder, resolved_revision
from tests.support.hub_server import HubServer
from tests.support.model_files import (
    killed_while_held,
    own_hub,
    sentence,
    tiny_model,
    weights,
    write,
)

TINY = ModelFiles(source="org/tiny")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with own_hub(monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture
def commit(hub: HubServer) -> str:
    others = {"README.md": b"#", "pytorch_model.bin": b"1", "onnx/config.json": b"{}"}
    return hub.add("org/tiny", tiny_model() | others)


@pytest.fixture
def to(tmp_path: Path) -> str:
    return str(tmp_path / "mirror")


def pin(commit: str) -> ModelFiles:
    return ModelFiles(source="org/tiny", revision=commit)


def made(files: ModelFiles, to: str) -> Mirrored:
    return mirror({"captioner": files}, to)["captioner"]


def contents(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_mirror_needs_no_hub_and_has_its_revision(hub: HubServer, commit: str, to: str) -> None:
    copy = made(pin(commit), to)
    assert copy.files == ModelFiles(source=f"{to}/captioner", revision=commit)
    assert copy.revision == f"org/tiny@{commit}"
    assert copy.size == sum(map(len, tiny_model().values()))
    assert copy.fetched == tuple(sorted(tiny_model()))
    hub.stop()
    check(copy.files)
    assert resolved_revision(copy.files) == resolved_revision(pin(commit))
    found = contents(local_folder(copy.files))
    manifest = json.loads(found.pop("item-model.json"))
    assert found == tiny_model()
    assert set(manifest["files"]) == set(tiny_model())
    assert os.listdir(to) == ["captioner"]


def test_second_run_at_a_commit_asks_the_hub_nothing(hub: HubServer, commit: str, to: str) -> None:
    made(pin(commit), to)
    hub.requests.clear()
    assert made(pin(commit), to).fetched == ()
    assert hub.requests == []


def test_only_what_is_missing_or_damaged_is_fetched(hub: HubServer, commit: str, to: str) -> None:
    made(pin(commit), to)
    write(Path(to, "captioner"), {"model.safetensors": weights(seed=7)})
    Path(to, "captioner", "vocab.txt").unlink()
    hub.requests.clear()
    copy = made(pin(commit), to)
    assert copy.fetched == ("model.safetensors", "vocab.txt")
    assert hub.files_sent() == ["model.safetensors", "vocab.txt"]
    assert local_folder(copy.files)
    Path(to, "captioner", "item-model.json").write_text("{")
    assert len(made(pin(commit), to).fetched) == 3


def test_mirror_of_a_branch_serves_that_branch_and_its_commit(
    hub: HubServer, commit: str, to: str
) -> None:
    branch = ModelFiles(source="org/tiny", revision="main")
    copy = made(branch, to)
    check(copy.files)
    check(copy.files.model_copy(update={"revision": commit}))
    hub.repositories["org/tiny"].refs["v1"] = commit
    again = made(pin("v1"), to)
    assert again.fetched == ()
    check(again.files)


def test_new_commit_replaces_the_old_one_and_its_files(
    hub: HubServer, commit: str, to: str
) -> None:
    made(TINY, to)
    later = {"merges.txt": b"a b", "model.safetensors": weights(1), "config.json": b'{"n": 2}'}
    second = hub.add("org/tiny", later)
    client.commit.cache_clear()
    copy = made(TINY, to)
    assert second != commit
    assert copy.revision == f"org/tiny@{second}"
    found = contents(local_folder(copy.files))
    del found["item-model.json"]
    assert found == later


def test_killed_run_leaves_no_mirror_and_is_continued(hub: HubServer, commit: str, to: str) -> None:
    code = (
        "from item.models.files.mirror import *\n"
        f"files = ModelFiles(source='org/tiny', revision='{commit}')\n"
        f"mirror({{'captioner': files}}, {to!r})"
    )
    killed_while_held(code, hub)
    partial = ModelFiles(source=f"{to}/captioner")
    assert "There is no folder" in sentence(lambda: check(partial))
    hub.requests.clear()
    copy = made(pin(commit), to)
    assert hub.files_sent() == ["model.safetensors", "vocab.txt"]
    assert contents(local_folder(copy.files)).keys() == {*tiny_model(), "item-model.json"}
    assert os.listdir(to) == ["captioner"]


def test_run_that_stops_while_files_are_moved_leaves_a_mirror_that_says_so(
    hub: HubServer, commit: str, to: str
) -> None:
    folder = write(Path(to, "captioner"), {})
    (folder / "model.safetensors").mkdir()  # no file can be moved there
    text = sentence(lambda: made(pin(commit), to))
    assert text.startswith(f"The copy {folder} cannot be made (")
    (folder / "model.safetensors").rmdir()
    there = ModelFiles(source=str(folder))
    for call in (check, local_folder):
        assert "'model.safetensors' is missing" in sentence(lambda call=call: call(there))  # type: ignore[misc]
    hub.requests.clear()
    made(pin(commit), to)
    assert hub.files_sent() == []
    local_folder(there)


def test_file_that_is_not_what_the_hub_lists_is_refused(
    hub: HubServer, commit: str, to: str
) -> None:
    for name, content in (
        ("model.safetensors", weights(seed=4)),
        ("vocab.txt", b"cow\npig\n"),  # small files are listed as git does
    ):
        hub.sends_instead = {name: content}
        text = sentence(lambda: made(pin(commit), to))
        assert text.startswith(f"The file '{name}' in the source is damaged")
        assert not Path(to, "captioner").exists()
    hub.sends_instead = {}
    made(pin(commit), to)


def test_damaged_file_in_the_cache_is_not_copied(hub: HubServer, commit: str, to: str) -> None:
    cached = local_folder(pin(commit))
    (cached / "model.safetensors").resolve().write_bytes(weights(seed=5))
    hub.requests.clear()
    copy = made(pin(commit), to)
    assert hub.files_sent() == ["model.safetensors"]
    assert contents(local_folder(copy.files))["model.safetensors"] == weights()


def test_pickled_weights_are_copied_only_if_allowed(hub: HubServer, to: str) -> None:
    hub.add("org/tiny", {"config.json": b"{}", "pytorch_model.bin": b"1", "optimizer.pt": b"2"})
    assert "`files.allow_pickle`" in sentence(lambda: made(TINY, to))
    copy = made(TINY.model_copy(update={"allow_pickle": True}), to)
    assert copy.fetched == ("config.json", "pytorch_model.bin")
    local_folder(copy.files)


def test_folders_and_mirrors_keep_their_revision(
    hub: HubServer, commit: str, tmp_path: Path, to: str
) -> None:
    plain = ModelFiles(source=str(write(tmp_path / "own", tiny_model())))
    first = mirror({"captioner": pin(commit), "clip": plain}, to)
    assert first["clip"].revision == resolved_revision(plain)
    assert resolved_revision(first["clip"].files) == resolved_revision(plain)
    hub.stop()
    again = mirror({name: one.files for name, one in first.items()}, str(tmp_path / "second"))
    assert {name: one.revision for name, one in again.items()} == {
        name: one.revision for name, one in first.items()
    }
    check(again["captioner"].files)


def test_file_of_the_users_that_would_be_loaded_is_pointed_out(commit: str, to: str) -> None:
    write(Path(to, "captioner"), {"pytorch_model.bin": b"1", "notes.md": b""})
    assert "'pytorch_model.bin'" in sentence(lambda: made(pin(commit), to))
    assert Path(to, "captioner", "pytorch_model.bin").exists()


def test_folder_that_cannot_be_written_is_one_sentence(commit: str, tmp_path: Path) -> None:
    write(tmp_path, {"file": b""})
    text = sentence(lambda: made(pin(commit), str(tmp_path / "file")))
    assert text.startswith(f"The copy {tmp_path / 'file' / 'captioner'} cannot be made (")


def test_progress_ends_at_the_total_of_each_kind_of_work(commit: str, to: str) -> None:
    size = sum(map(len, tiny_model().values()))
    for kinds in ({"fetching", "writing"}, {"checking"}):
        told: dict[str, tuple[int, int]] = {}

        def progress(
            member: str,
            doing: str,
            done: int,
            total: int,
            told: dict[str, tuple[int, int]] = told,
        ) -> None:
            assert member == "captioner"
            assert 0 <= done <= total
            told[doing] = (done, total)

        mirror({"captioner": pin(commit)}, to, progress)
        assert told == dict.fromkeys(kinds, (size, size))


def test_mirror_in_s3_is_made_completed_and_used(
    hub: HubServer, commit: str, s3: Any, bucket: str, tmp_path: Path
) -> None:
    def objects() -> Mapping[str, int]:
        found = s3.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {one["Key"]: one["Size"] for one in found}

    to = f"s3://{bucket}/models/"
    copy = made(pin(commit), to)
    assert copy.files.source == f"s3://{bucket}/models/captioner"
    assert {key.rpartition("/")[2] for key in objects()} == {*tiny_model(), "item-model.json"}
    s3.fill(bucket, {"models/captioner/model.safetensors": weights(seed=2)})
    s3.client.delete_object(Bucket=bucket, Key="models/captioner/vocab.txt")
    assert "'vocab.txt' is missing" in sentence(lambda: check(copy.files))
    hub.requests.clear()
    assert made(pin(commit), to).fetched == ("model.safetensors", "vocab.txt")
    assert hub.files_sent() == ["model.safetensors", "vocab.txt"]
    hub.stop()
    assert made(pin(commit), to).fetched == ()
    assert resolved_revision(copy.files) == f"org/tiny@{commit}"
    assert contents(local_folder(copy.files))["model.safetensors"] == weights()
    assert not list((tmp_path / "node" / "mirrors").glob("*/*"))


@pytest.mark.usefixtures("s3")
def test_missing_bucket_is_one_sentence(commit: str) -> None:
    text = sentence(lambda: made(pin(commit), "s3://no-such-bucket-of-ours/models"))
    assert text.startswith("There is nothing at s3://no-such-bucket-of-ours/models/captioner")
