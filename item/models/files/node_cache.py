"""What a node keeps, so that none of its processes fetches or hashes model files twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from item.errors import JobError, UsageError, refusal_of_disk

VARIABLE = "ITEM_MODEL_CACHE"

_digests: dict[str, str] = {}


def folder() -> Path:
    """Where it lies: the environment's ITEM_MODEL_CACHE, else in the user's cache folder."""
    given = os.environ.get(VARIABLE)
    place = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "item")
    return place.expanduser().absolute()


@contextmanager
def alone(name: str) -> Iterator[Path]:
    """A folder of the cache, while no other process of the node works on ``name`` in it.

    Parameters
    ----------
    name : ``folder/what``

    Raises
    ------
    UsageError, MachineError
        The cache cannot be written, or is full.
    """
    place = folder() / name
    lock = FileLock(place.with_name(f"{place.name}.lock"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise unwritable(error) from None
    try:
        yield place.parent
    finally:
        lock.release()


def unwritable(error: OSError) -> JobError:
    """The refusal of a cache that takes no files."""
    reason = error.strerror or type(error).__name__
    return refusal_of_disk(
        error,
        f"The cache of model files, {folder()}, cannot be written ({reason}): set {VARIABLE} to a "
        "folder with room.",
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex, for which a node reads it once until it is changed.

    UsageError if it cannot be read.
    """
    try:
        return _file_sha256(path)
    except OSError as error:
        raise UsageError(f"The file {path} cannot be read ({error.strerror}).") from None


def _file_sha256(path: Path) -> str:
    key = _identity(path)
    if key not in _digests:
        with _kept(key) as kept:
            found = kept.read_text() if kept and kept.exists() else ""
            if len(found) != 64:
                found = sha256(path)
                if kept and _identity(path) == key:
                    with suppress(OSError):
                        kept.write_text(found)
        _digests[key] = found
    return _digests[key]


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> str:
    """Changes whenever the file is written: nobody sets a file's ctime back."""
    facts = path.stat()
    values = (os.path.realpath(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    return hashlib.sha256(repr(values).encode()).hexdigest()


@contextmanager
def _kept(key: str) -> Iterator[Path | None]:
    """Where a digest is kept, alone with it; None where nothing can be kept."""
    kept = folder() / "digests" / key
    lock = FileLock(kept.with_name(f"{key}.lock"))
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        yield None
        return
    try:
        yield kept
    finally:
        lock.release()
