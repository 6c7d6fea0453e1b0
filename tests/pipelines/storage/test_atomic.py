"""Files are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipelines.storage.access import filesystem
from pipelines.storage.atomic import write_atomically
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join

STORAGE = Storage(retries=0)


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("where", ["local", "s3"])
def test_written_file_is_whole_and_alone(where, from_file, tmp_path, bucket) -> None:
    root = str(tmp_path / "new") if where == "local" else f"s3://{bucket}/new"
    fs, path = filesystem(join(root, "t.bin"), STORAGE)
    source = tmp_path / "source"
    source.write_bytes(b"second")
    write_atomically(fs, path, b"first")
    write_atomically(fs, path, source if from_file else b"second")
    assert fs.cat_file(path) == b"second"
    assert [name.rpartition("/")[2] for name in fs.find(filesystem(root, STORAGE)[1])] == ["t.bin"]
    assert source.exists()


def test_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    fs, path = filesystem(str(tmp_path / "t.bin"), STORAGE)
    write_atomically(fs, path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        write_atomically(fs, path, b"new")
    assert os.listdir(tmp_path) == ["t.bin"]
    assert Path(path).read_bytes() == b"old"
