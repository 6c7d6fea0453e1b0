"""Digests are computed once a node, and never of another state of a file."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from item.errors import UsageError
from item.models.files import node_cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(node_cache.VARIABLE, str(tmp_path / "node"))
    monkeypatch.setattr(node_cache, "_digests", {})
    return tmp_path / "node"


def digests(cache: Path) -> list[Path]:
    return [path for path in (cache / "digests").iterdir() if path.suffix != ".lock"]


def test_digest_is_kept_for_the_next_process_of_the_node(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    assert node_cache.file_sha256(file) == hashlib.sha256(b"abc").hexdigest()
    (kept,) = digests(cache)
    kept.write_text("f" * 64)  # shows whether the file itself is read again
    assert node_cache.file_sha256(file) == hashlib.sha256(b"abc").hexdigest()
    monkeypatch.setattr(node_cache, "_digests", {})
    assert node_cache.file_sha256(file) == "f" * 64


def test_digest_that_was_written_in_part_is_computed_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    node_cache.file_sha256(file)
    digests(cache)[0].write_text("f" * 20)
    monkeypatch.setattr(node_cache, "_digests", {})
    assert node_cache.file_sha256(file) == hashlib.sha256(b"abc").hexdigest()


def test_file_of_same_size_and_time_but_other_content_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    before = file.stat()
    node_cache.file_sha256(file)
    time.sleep(0.02)  # more than a tick of the file system's clock
    file.write_bytes(b"xyz")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert node_cache.file_sha256(file) == hashlib.sha256(b"xyz").hexdigest()


def test_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    monkeypatch.setenv(node_cache.VARIABLE, str(tmp_path / "file"))
    found = node_cache.file_sha256(tmp_path / "file")
    assert found == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(UsageError, match="ITEM_MODEL_CACHE"), node_cache.alone("s3/x"):
        pass


def test_unreadable_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^The file .* cannot be read \(No such file"):
        node_cache.file_sha256(tmp_path / "none")


def test_cache_lies_in_the_users_cache_folder_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(node_cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert node_cache.folder() == tmp_path / "item"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert node_cache.folder() == tmp_path / ".cache" / "item"
