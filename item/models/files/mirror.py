"""Copies of models for machines without a network, in a local folder or in S3."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from fsspec.implementations.local import LocalFileSystem

from item.errors import UsageError, refusal_of_disk
from item.models.files import bucket, hub, node_cache
from item.models.files.contents import (
    MANIFEST,
    FileFacts,
    Manifest,
    check_contents,
    damaged,
    wanted,
)
from item.models.files.source import ModelFiles, check, local_folder, resolved_revision

CHUNK = 8 << 20


class Progress(Protocol):
    """Is told what happens to a model."""

    def __call__(self, member: str, doing: str, done: int, total: int) -> None:
        """``doing`` is checking, fetching or writing; ``done`` and ``total`` are in bytes."""
        ...


def untold(member: str, doing: str, done: int, total: int) -> None:
    """The progress that nobody wants to see."""


@dataclass(frozen=True)
class Mirrored:
    """A model's copy."""

    files: ModelFiles
    """Where it lies."""
    revision: str
    size: int
    """Bytes of all its files."""
    fetched: tuple[str, ...]
    """Names of the files that were not there, or not as they should be."""


def mirror(
    files: Mapping[str, ModelFiles], to: str, progress: Progress = untold
) -> dict[str, Mirrored]:
    """Copy models into ``to/<member>/``, each with an ``item-model.json``.

    What a mirror already holds is compared with its checksums, and only what is missing or
    damaged is fetched; nothing is asked of the hub where all is there at a full commit. Files
    from the hub are compared with the hub's own digests. An interrupted copy is never taken
    for a whole one, and is continued.

    Parameters
    ----------
    files : by member, such as ``captioner``
    to : local folder or ``s3://bucket/prefix``; for the latter, a model must find room in this
        machine's cache while it is copied
    progress : told what is done

    Raises
    ------
    UsageError
        A model cannot be had, or ``to`` cannot be written.
    """
    return {member: _mirror(member, one, to, progress) for member, one in files.items()}


def _mirror(member: str, files: ModelFiles, to: str, progress: Progress) -> Mirrored:
    place = _Place(f"{to.rstrip('/')}/{member}")
    key = hashlib.sha256(place.url.encode()).hexdigest()[:24]
    with node_cache.alone(f"mirrors/{key}") as cache:
        try:
            with place.sentences():
                manifest, fetched = _copy(
                    files, place, place.stage(cache / key), partial(_Told, progress, member)
                )
        except OSError as error:
            reason = error.strerror or type(error).__name__
            sentence = f"The copy {place.url} cannot be made ({reason})."
            raise refusal_of_disk(error, sentence) from None
    there = files.model_copy(update={"source": place.url, "endpoint_url": None})
    check(there)
    size = sum(one.size for one in manifest.files.values())
    return Mirrored(there, manifest.revision, size, tuple(fetched))


def _copy(
    files: ModelFiles, place: _Place, stage: Path, told: Callable[[str], _Told]
) -> tuple[Manifest, list[str]]:
    """The manifest of the complete copy, and the files that had to be fetched for it."""
    source, _, commit = resolved_revision(files).rpartition("@")
    before = place.manifest()
    sound: dict[str, FileFacts] = {}
    if before and (before.source, before.commit) == (source, commit):
        sound = place.sound(before, told("checking"))
        named = files.revision in (None, commit, before.requested)
        if named and len(sound) == len(before.files):
            return before, []
    origin: _Origin = _Hub(source, commit) if files.place == "hub" else _Folder(files)
    sizes = {name: one.size for name, one in origin.listed.items()}
    check_contents(f"the model '{files.source}'", sizes, None, files.allow_pickle)
    names = wanted(sizes, allow_pickle=files.allow_pickle)
    missing = [name for name in names if name not in sound]
    _fetch(origin, missing, stage, told("fetching"))
    facts = sound | {name: _facts(stage / name) for name in missing}
    manifest = Manifest(source=source, commit=commit, requested=files.revision, files=facts)
    place.publish(stage, missing, manifest, before, told("writing"))
    return manifest, missing


class _Told:
    """Adds up what is done of one thing."""

    def __init__(self, progress: Progress, member: str, doing: str) -> None:
        self.progress, self.member, self.doing = progress, member, doing
        self.done = self.total = 0

    def of(self, total: int) -> None:
        self.total = total
        self.advanced(0)

    def advanced(self, size: int) -> None:
        self.done += size
        self.progress(self.member, self.doing, self.done, self.total)


class _Origin(Protocol):
    listed: Mapping[str, hub.Listed]

    def fetch(self, name: str, folder: Path, told: _Told, anew: bool, /) -> None: ...


class _Hub:
    def __init__(self, source: str, commit: str) -> None:
        self.source, self.commit = source, commit
        self.listed: Mapping[str, hub.Listed] = hub.listing(source, commit)

    def fetch(self, name: str, folder: Path, told: _Told, anew: bool) -> None:
        hub.fetch(self.source, self.commit, name, folder, told.advanced, anew)


class _Folder:
    def __init__(self, files: ModelFiles) -> None:
        self.folder = local_folder(files)
        self.listed: Mapping[str, hub.Listed] = {
            path.name: hub.Listed(path.stat().st_size, node_cache.file_sha256(path))
            for path in self.folder.iterdir()
            if path.is_file()
        }

    def fetch(self, name: str, folder: Path, told: _Told, _anew: bool) -> None:
        shutil.copyfile(self.folder / name, folder / name)
        told.advanced(self.listed[name].size)


def _fetch(origin: _Origin, names: Sequence[str], stage: Path, told: _Told) -> None:
    """Bring files into ``stage``, but those that an interrupted run left there whole."""
    stage.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not origin.listed[name].matches(stage / name)]
    told.of(sum(origin.listed[name].size for name in missing))
    for name in missing:
        # The second time past the cache of this machine, which may hold a damaged copy.
        for anew in (False, True):
            (stage / name).unlink(missing_ok=True)
            before = told.done
            origin.fetch(name, stage, told, anew)
            told.advanced(before + origin.listed[name].size - told.done)
            if origin.listed[name].matches(stage / name):
                break
            told.done = before
        else:
            raise damaged(name, "the source", "has another checksum than its listing says")


def _facts(path: Path) -> FileFacts:
    return FileFacts(sha256=node_cache.file_sha256(path), size=path.stat().st_size)


class _Place:
    """A member's folder or prefix in a mirror."""

    def __init__(self, url: str) -> None:
        self.on_s3 = url[:5].lower() == "s3://"
        self.url = url if self.on_s3 else os.path.abspath(os.path.expanduser(url))
        self.path = bucket.path(url) if self.on_s3 else self.url
        self.fs = bucket.filesystem() if self.on_s3 else LocalFileSystem()

    def stage(self, cached: Path) -> Path:
        """Where files are gathered first; locally on the same disk, to be moved."""
        folder = Path(self.path)
        return cached if self.on_s3 else folder.with_name(f".{folder.name}.partial")

    def sentences(self) -> AbstractContextManager[None]:
        """Turns errors of the storage into sentences; those of a disk stay what they are."""
        return bucket.sentences(self.url) if self.on_s3 else nullcontext()

    def manifest(self) -> Manifest | None:
        """That of an earlier copy, if it can be read."""
        try:
            return Manifest.parse(self.fs.cat_file(f"{self.path}/{MANIFEST}"), self.url)
        except (FileNotFoundError, UsageError):
            return None

    def sound(self, manifest: Manifest, told: _Told) -> dict[str, FileFacts]:
        """Files that are as the manifest says, every byte of them read."""
        told.of(sum(facts.size for facts in manifest.files.values()))
        return {
            name: facts
            for name, facts in manifest.files.items()
            if self._sha256(name, told) == facts.sha256
        }

    def _sha256(self, name: str, told: _Told) -> str | None:
        digest = hashlib.sha256()
        try:
            with self.fs.open(f"{self.path}/{name}", "rb", block_size=CHUNK) as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    told.advanced(len(chunk))
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def publish(
        self,
        stage: Path,
        names: Sequence[str],
        manifest: Manifest,
        before: Manifest | None,
        told: _Told,
    ) -> None:
        """Put gathered files in their place.

        The manifest comes first: until the last file is there, it tells what is missing.
        """
        told.of(sum(manifest.files[name].size for name in names))
        (stage / MANIFEST).write_bytes(manifest.as_bytes())
        if not self.on_s3:
            Path(self.path).mkdir(parents=True, exist_ok=True)
        for name in (MANIFEST, *names):
            if self.on_s3:
                self.fs.put_file(str(stage / name), f"{self.path}/{name}")
            else:
                os.replace(stage / name, Path(self.path, name))
            told.advanced(manifest.files[name].size if name != MANIFEST else 0)
        for name in set(before.files if before else ()) - set(manifest.files):
            if self.fs.exists(f"{self.path}/{name}"):
                self.fs.rm_file(f"{self.path}/{name}")
        shutil.rmtree(stage)
