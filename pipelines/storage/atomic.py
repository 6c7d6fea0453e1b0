"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem


@contextmanager
def _told_with(path: str | Path) -> Iterator[None]:
    """Name the file in errors that do not: a write to an open file knows no name."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise type(error)(
            error.errno, f"{error.strerror or os.strerror(error.errno)}: {path}"
        ) from error


def write_atomically(fs: AbstractFileSystem, path: str, content: bytes | Path) -> None:
    """Write a whole file so that no reader ever sees a part of it.

    Locally: a hidden file in the same folder, flushed to disk, then renamed. On S3 a
    single upload, which appears when it is complete.

    Parameters
    ----------
    fs, path : from `filesystem`; missing local folders are made
    content : the bytes, or a local file to copy, which stays where it is
    """
    if not isinstance(fs, LocalFileSystem):
        if isinstance(content, Path):
            fs.put_file(str(content), path)
        else:
            fs.pipe_file(path, content)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex}.tmp")
    try:
        with _told_with(target), open(aside, "xb") as file:
            if isinstance(content, Path):
                with open(content, "rb") as original:
                    shutil.copyfileobj(original, file, 1 << 20)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def _flush_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def replacing(fs: AbstractFileSystem, path: str) -> Iterator[Path]:
    """A local file to write, which takes the place of `path` in one step when the block ends.

    Locally it lies hidden beside `path` and is renamed. On S3 it lies in the folder for
    temporary files, which must have room for it, and is uploaded; the upload appears when
    it is complete. If the block raises, nothing changes.
    """
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryDirectory() as folder:
            aside = Path(folder, posixpath.basename(path))
            yield aside
            fs.put_file(str(aside), path)
        return
    target = Path(path)
    # A new folder appears together with its file: nobody ever lists it empty.
    new_folder = not target.parent.exists()
    beside = target.parent if new_folder else target
    hidden = beside.with_name(f".{beside.name[:200]}.{uuid.uuid4().hex}.tmp")
    aside = hidden / target.name if new_folder else hidden
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _told_with(target):
            yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        if new_folder and not target.parent.exists():
            os.rename(hidden, target.parent)
        else:
            os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
        if new_folder and hidden.exists():
            hidden.rmdir()
    _flush_folder(target.parent)
