"""Model files in S3, against a real server: downloaded once a node, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from item.errors import MachineError, UsageError
from item.models.files import node_cache
from item.models.files.source import ModelFiles, check, local_folder, pinned, resolved_revision
from tests.conftest import REPOSITORY
from tests.support.flaky_s3 import FlakyS3
from tests.support.model_files import COMMIT, mirrored, sentence, tiny_model, weights, write


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ITEM_MODEL_CACHE", str(tmp_path / "node"))
    return tmp_path / "node"


@pytest.fixture
def mirror(s3: Any, bucket: str, tmp_path: Path) -> ModelFiles:
    """The mirror of a model in S3."""
    folder = mirrored(tmp_path / "made")
    put(s3, bucket, {path.name: path.read_bytes() for path in folder.iterdir()})
    return ModelFiles(source=f"s3://{bucket}/models/captioner")


def put(s3: Any, bucket: str, files: Mapping[str, bytes]) -> None:
    s3.fill(bucket, {f"models/captioner/{name}": content for name, content in files.items()})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_mirror_is_downloaded_with_the_revision_of_what_it_copies(
    mirror: ModelFiles, cache: Path
) -> None:
    check(mirror)
    assert resolved_revision(mirror) == f"org/tiny@{COMMIT}"
    assert pinned(mirror).revision == COMMIT
    assert not list(cache.rglob("*.safetensors"))
    folder = local_folder(mirror)
    assert folder.is_relative_to(cache)
    assert folder.name == "captioner"
    assert [path.name for path in (cache / "s3").iterdir() if path.is_dir()] == [folder.parent.name]
    assert not folder.parent.name.startswith(".")  # where it lies as long as files are missing
    found = contents(folder)
    assert found.pop("item-model.json")
    assert found == tiny_model()


def test_files_are_downloaded_once(mirror: ModelFiles, s3: Any, bucket: str) -> None:
    folder = local_folder(mirror)
    s3.client.delete_object(Bucket=bucket, Key="models/captioner/vocab.txt")
    put(s3, bucket, {"vocab.txt": b"pig\ncow\n"})  # would fail its checksum
    assert local_folder(mirror) == folder
    assert contents(folder)["vocab.txt"] == b"cat\ndog\n"


def test_two_processes_download_once(
    mirror: ModelFiles, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FlakyS3(s3.endpoint, share=0.0) as counted:
        monkeypatch.setenv("AWS_ENDPOINT_URL", counted.endpoint)
        key = local_folder(mirror).parent.name
        download_and_look = counted.counts.requests["GET"]
        local_folder(mirror)
        look = counted.counts.requests["GET"] - download_and_look
        assert download_and_look == look + len(tiny_model())
        monkeypatch.setenv("ITEM_MODEL_CACHE", str(tmp_path / "other node"))
        code = (
            "from item.models.files.source import *\n"
            f"print(local_folder(ModelFiles(source={mirror.source!r})))"
        )
        with node_cache.alone(f"s3/{key}"):  # until both have come so far
            started = [
                subprocess.Popen(
                    [sys.executable, "-c", code],
                    cwd=REPOSITORY,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for _ in range(2)
            ]
            before = download_and_look + look
            until = time.monotonic() + 60
            while counted.counts.requests["GET"] < before + 2 * look:
                assert time.monotonic() < until
                time.sleep(0.02)
            time.sleep(0.2)  # in which nothing else is asked for
            assert counted.counts.requests["GET"] == before + 2 * look
        folders = {one.communicate(timeout=60)[0].strip() for one in started}
        assert [one.returncode for one in started] == [0, 0]
        assert counted.counts.requests["GET"] == 2 * download_and_look + 2 * look
    assert len(folders) == 1
    assert set(contents(Path(folders.pop()))) == {*tiny_model(), "item-model.json"}


def test_damaged_object_is_refused_and_what_came_before_it_is_kept(
    mirror: ModelFiles, s3: Any, bucket: str, cache: Path
) -> None:
    put(s3, bucket, {"model.safetensors": weights(seed=8)})
    check(mirror)
    text = sentence(lambda: local_folder(mirror))
    assert text.startswith(f"The file 'model.safetensors' in {mirror.source} is damaged (it has")
    assert [path.name for path in cache.rglob("*.json")] == ["config.json"]
    assert not [path for path in (cache / "s3").iterdir() if path.name[0] != "." and path.is_dir()]
    config = tiny_model()["config.json"]
    # It would fail its checksum were it fetched again.
    put(s3, bucket, {"model.safetensors": weights(), "config.json": b"x" * len(config)})
    assert contents(local_folder(mirror))["config.json"] == config


@pytest.mark.parametrize("call", [check, local_folder])
def test_incomplete_mirror_is_refused(
    call: Callable[[ModelFiles], Any], mirror: ModelFiles, s3: Any, bucket: str
) -> None:
    put(s3, bucket, {"model.safetensors": weights()[:-9]})
    assert "'model.safetensors'" in (text := sentence(lambda: call(mirror)))
    assert "bytes, not" in text
    s3.client.delete_object(Bucket=bucket, Key="models/captioner/model.safetensors")
    assert "'model.safetensors' is missing" in sentence(lambda: call(mirror))


@pytest.mark.parametrize("call", [check, local_folder, resolved_revision, pinned])
def test_hostile_manifest_is_refused(
    call: Callable[[ModelFiles], Any], mirror: ModelFiles, s3: Any, bucket: str, tmp_path: Path
) -> None:
    content = (tmp_path / "made" / "item-model.json").read_bytes()
    put(s3, bucket, {"item-model.json": content.replace(b"vocab.txt", b"../../../vocab.txt")})
    assert "which is no file of that folder" in sentence(lambda: call(mirror))
    assert not list(tmp_path.rglob("node/**/vocab.txt"))


def test_other_revision_than_asked_for_is_refused(mirror: ModelFiles) -> None:
    files = mirror.model_copy(update={"revision": "f" * 40})
    for call in (check, local_folder, resolved_revision):
        text = sentence(lambda call=call: call(files))  # type: ignore[misc]
        assert f"lies org/tiny@{COMMIT}, not revision {'f' * 40}" in text


def test_plain_prefix_has_the_revision_of_the_same_local_folder(
    s3: Any, bucket: str, tmp_path: Path
) -> None:
    others = {"README.md": b"#", "pytorch_model.bin": b"1", "sub/config.json": b"{}"}
    put(s3, bucket, tiny_model() | others)
    files = ModelFiles(source=f"s3://{bucket}/models/captioner/")
    check(files)
    local = ModelFiles(source=str(write(tmp_path / "captioner", tiny_model())))
    assert resolved_revision(files) == resolved_revision(local)
    assert contents(local_folder(files)) == tiny_model()
    put(s3, bucket, tiny_model(seed=1))
    assert contents(local_folder(files)) == tiny_model(seed=1)


def test_pickled_weights_are_refused_unless_allowed(s3: Any, bucket: str) -> None:
    put(s3, bucket, {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    files = ModelFiles(source=f"s3://{bucket}/models/captioner")
    for call in (check, local_folder):
        assert "`files.allow_pickle`" in sentence(lambda call=call: call(files))  # type: ignore[misc]
    allowed = files.model_copy(update={"allow_pickle": True})
    assert set(contents(local_folder(allowed))) == {"config.json", "pytorch_model.bin"}


@pytest.mark.parametrize("call", [check, local_folder])
def test_what_is_wrong_with_the_storage_is_one_sentence(
    call: Callable[[ModelFiles], Any], mirror: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = sentence(lambda: call(ModelFiles(source=f"{mirror.source}/none")))
    assert text == f"There is nothing at {mirror.source}/none in the storage."
    text = sentence(lambda: call(ModelFiles(source="s3://no-such-bucket-of-ours/x")))
    assert text == "There is nothing at s3://no-such-bucket-of-ours/x in the storage."
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    assert "No usable credentials for s3://" in sentence(lambda: call(mirror))
    assert "testing" not in sentence(lambda: call(mirror))


def test_storage_that_does_not_answer_is_one_sentence(
    mirror: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    text = sentence(lambda: check(mirror))
    assert text.startswith(f"The storage gave no answer when asked for {mirror.source} (")


def test_cache_that_cannot_be_written_is_named(
    mirror: ModelFiles, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(cache.parent, {"file": b""})
    monkeypatch.setenv("ITEM_MODEL_CACHE", str(cache.parent / "file"))
    text = sentence(lambda: local_folder(mirror))
    assert "cannot be written (" in text
    assert "set ITEM_MODEL_CACHE to a folder with room" in text


def test_full_cache_is_no_fault_of_the_user_and_the_next_start_goes_on(
    mirror: ModelFiles, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler = small_disk / "of_others"
    filler.write_bytes(bytes(90_000))
    monkeypatch.setenv("ITEM_MODEL_CACHE", str(small_disk / "cache"))
    with pytest.raises(MachineError, match=r"cannot be written .No space left.*folder with room"):
        local_folder(mirror)
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    assert (local_folder(mirror) / "vocab.txt").read_bytes() == b"cat\ndog\n"


def test_storage_with_another_address_is_reached_through_it(
    s3: Any, mirror: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UsageError, match="gave no answer"):
        check(mirror)
    reached = mirror.through(s3.endpoint)
    check(reached)
    assert pinned(reached).endpoint_url == s3.endpoint
    assert resolved_revision(pinned(reached)) == f"org/tiny@{COMMIT}"
    assert (local_folder(pinned(reached)) / "vocab.txt").read_bytes() == b"cat\ndog\n"


def test_an_address_of_its_own_stays_and_other_places_need_none(mirror: ModelFiles) -> None:
    own = mirror.model_copy(update={"endpoint_url": "https://own.example"})
    assert own.through("https://jobs.example").endpoint_url == "https://own.example"
    assert ModelFiles(source="org/name").through("https://jobs.example").endpoint_url is None
