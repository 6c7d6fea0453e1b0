"""Where the files of a public model come from, and proof that they are what they should be.

A model's files lie on the model hub, in a local folder or below an ``s3://`` prefix. Folders
and prefixes that ``jobs/models.py fetch`` made hold an ``item-model.json``, which gives them
the revision of what they are a copy of and a checksum for every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError, safe_open

from item.errors import UsageError
from item.models.files.contents import (
    MANIFEST,
    MODEL_FILES,
    PLAIN_NAME,
    Manifest,
    check_contents,
    check_revision,
    damaged,
    wanted,
)
from item.models.files.node_cache import file_sha256

JSON_FILES = ("*.json",)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./-]*", re.ASCII)


class ModelFiles(BaseModel):
    """Where a model's files come from."""

    # A source that is rejected may be a URL with a password in it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    source: str = Field(min_length=1)
    """``org/name`` on the model hub, a local folder, or ``s3://bucket/prefix``."""
    revision: str | None = None
    """Of a model on the hub: best a full commit, else a branch or tag, which is resolved and
    recorded. A mirror must hold that revision; any other folder is taken as it is."""
    endpoint_url: str | None = None
    """Of S3-compatible storage; jobs take their ``storage.endpoint_url`` where none is given."""
    allow_pickle: bool = False
    """Whether pickled weights are read where there are no safetensors: unpickling may run code
    of whoever made the file."""

    @field_validator("source")
    @classmethod
    def _can_be_reached(cls, source: str) -> str:
        if _is_s3(source):
            bucket = source[5:].strip("/").partition("/")[0]
            if not bucket:
                raise ValueError("write s3://bucket/prefix")
            if "@" in bucket or ":" in bucket.removeprefix("arn:"):
                raise ValueError("source must not hold credentials: put them in the environment")
        elif "://" in source:
            raise ValueError("source must be org/name, a local folder, or s3://bucket/prefix")
        elif not _is_on_hub(source):
            # Here, since a worker has another working folder.
            try:
                return str(_path(source))
            except FileNotFoundError:
                raise ValueError("source is relative, and the current folder is gone") from None
        return source

    @field_validator("revision")
    @classmethod
    def _is_a_revision(cls, revision: str | None) -> str | None:
        if revision is not None and not REVISION.fullmatch(revision):
            raise ValueError("revision must be a commit, a branch or a tag")
        return revision

    def through(self, endpoint_url: str | None) -> ModelFiles:
        """The same, reached through an S3 endpoint where it lies in S3 and names none itself."""
        if self.place != "s3" or self.endpoint_url is not None:
            return self
        return self.model_copy(update={"endpoint_url": endpoint_url})

    @property
    def place(self) -> Literal["hub", "folder", "s3"]:
        """What kind of source it is; a folder that exists here is one before it is a hub id."""
        if _is_s3(self.source):
            return "s3"
        return "hub" if _is_on_hub(self.source) else "folder"


def local_folder(files: ModelFiles, patterns: Sequence[str] = MODEL_FILES) -> Path:
    """The folder on this machine in which a model's files lie, fetched there if need be.

    A hub id goes through the usual Hugging Face cache and without network to what it holds.
    An ``s3://`` prefix is downloaded once a node into the folder that ITEM_MODEL_CACHE names.
    Where checksums are known, files are compared with them, once a node.

    Parameters
    ----------
    files : which model
    patterns : of the names of files to fetch; those in subfolders are never fetched

    Raises
    ------
    UsageError
        Something is missing, damaged or pickled, or cannot be fetched.
    """
    # Each kind's library takes long to import, and most processes need one of them.
    match files.place:
        case "hub":
            from item.models.files import hub

            commit = hub.commit(files.source, files.revision)
            folder = hub.snapshot(files.source, commit, patterns, files.allow_pickle)
            hub.check_blobs(files.source, folder)
        case "s3":
            from item.models.files import bucket

            listed = bucket.listing(files.source, files.endpoint_url)
            manifest = bucket.read_manifest(files.source, listed, files.endpoint_url)
            _check_listing(files, {name: one.size for name, one in listed.items()}, manifest)
            names = manifest.files if manifest else wanted(listed, patterns, files.allow_pickle)
            chosen = {name: listed[name] for name in names}
            folder = bucket.downloaded(files.source, chosen, manifest, files.endpoint_url)
        case "folder":
            folder = _path(files.source)
    _check_folder(files, folder)
    return folder


def configuration_folder(files: ModelFiles) -> Path:
    """A folder on this machine with the model's small files of JSON, without its weights.

    Raises
    ------
    UsageError
        Something is missing or damaged, or cannot be fetched.
    """
    match files.place:
        case "hub":
            from item.models.files import hub

            return hub.snapshot(files.source, hub.commit(files.source, files.revision), JSON_FILES)
        case "s3":
            from item.models.files import bucket

            listed = bucket.listing(files.source, files.endpoint_url)
            manifest = bucket.read_manifest(files.source, listed, files.endpoint_url)
            names = wanted(manifest.files if manifest else listed, JSON_FILES)
            if manifest:
                facts = {name: manifest.files[name] for name in names}
                manifest = manifest.model_copy(update={"files": facts})
            chosen = {name: listed[name] for name in names}
            return bucket.downloaded(files.source, chosen, manifest, files.endpoint_url)
        case "folder":
            return _path(files.source)


def resolved_revision(files: ModelFiles) -> str:
    """What exactly runs under a model's name.

    Returns
    -------
    ``org/name@<commit>`` for a model on the hub and for its mirrors; for any other folder or
    prefix, ``folder-name@sha256:<12 hex>`` over the names and contents of its model files. The
    latter are read, and fetched, for it.

    Raises
    ------
    UsageError
        The model is missing or its revision cannot be found out.
    """
    match files.place:
        case "hub":
            from item.models.files import hub

            return f"{files.source}@{hub.commit(files.source, files.revision)}"
        case "s3":
            from item.models.files import bucket

            listed = bucket.listing(files.source, files.endpoint_url)
            manifest = bucket.read_manifest(files.source, listed, files.endpoint_url)
            folder = None if manifest else local_folder(files)
        case "folder":
            folder = _path(files.source)
            manifest = _manifest(folder, _where(files))
    if manifest is not None:
        check_revision(manifest, files.revision, _where(files))
        return manifest.revision
    assert folder is not None
    names = wanted(_sizes(folder, _where(files)), allow_pickle=files.allow_pickle)
    contents = json.dumps([(name, file_sha256(folder / name)) for name in names])
    return f"{folder.name}@sha256:{hashlib.sha256(contents.encode()).hexdigest()[:12]}"


def pinned(files: ModelFiles) -> ModelFiles:
    """The same files for every process of a run, whatever happens to a branch or a mirror.

    A branch becomes its commit, a mirror must keep the one that it holds, and a folder's path
    no longer depends on where a process runs. UsageError as :func:`resolved_revision`.
    """
    match files.place:
        case "hub":
            from item.models.files import hub

            commit: str | None = hub.commit(files.source, files.revision)
            return files.model_copy(update={"revision": commit})
        case "s3":
            from item.models.files import bucket

            source = files.source
            listed = bucket.listing(source, files.endpoint_url)
            manifest = bucket.read_manifest(source, listed, files.endpoint_url)
        case "folder":
            folder = _path(files.source)
            source, manifest = str(folder), _manifest(folder, _where(files))
    commit = manifest.commit if manifest else files.revision
    return files.model_copy(update={"source": source, "revision": commit})


def check(files: ModelFiles, patterns: Sequence[str] = MODEL_FILES) -> None:
    """Make sure, without fetching or loading it, that a model is there.

    Raises
    ------
    UsageError
        With one sentence that says what is wrong: no such folder, model or revision, no
        configuration, only pickled weights, a damaged file, a gated model, or no network and
        not in the cache.
    """
    match files.place:
        case "hub":
            from item.models.files import hub

            cached = hub.cached(files.source, files.revision, patterns, files.allow_pickle)
            if cached and wanted(os.listdir(cached), ("*.safetensors",), files.allow_pickle):
                _check_folder(files, cached)
                return
            commit = hub.commit(files.source, files.revision)
            listed = hub.listing(files.source, commit)
            _check_listing(files, {name: one.size for name, one in listed.items()}, None)
        case "s3":
            from item.models.files import bucket

            found = bucket.listing(files.source, files.endpoint_url)
            manifest = bucket.read_manifest(files.source, found, files.endpoint_url)
            _check_listing(files, {name: one.size for name, one in found.items()}, manifest)
        case "folder":
            folder, where = _path(files.source), _where(files)
            _check_listing(files, _sizes(folder, where), _manifest(folder, where))
            safetensors_check(folder)


def safetensors_check(folder: Path) -> None:
    """UsageError if a safetensors file is cut off or unreadable, or a shard is missing.

    Headers are read, weights are not.
    """
    where = f"the folder {folder}"
    tensors: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as weights:
                tensors[path.name] = set(weights.keys())
        except (SafetensorError, OSError) as error:
            raise damaged(path.name, where, f"is not whole safetensors, {error}") from None
    for path in sorted(folder.glob("*.safetensors.index.json")):
        for tensor, shard in _weight_map(path, where).items():
            if shard not in tensors:
                raise UsageError(
                    f"The file '{shard}' is missing in {where}, which {path.name} needs: "
                    "fetch the model again."
                )
            if tensor not in tensors[shard]:
                raise damaged(shard, where, f"lacks '{tensor}', which {path.name} lists")


def _weight_map(path: Path, where: str) -> Mapping[str, str]:
    try:
        found = json.loads(path.read_bytes())["weight_map"]
        if all(PLAIN_NAME.fullmatch(shard) for shard in found.values()):
            return dict(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise damaged(path.name, where, "is no index of weights in that folder")


def _check_folder(files: ModelFiles, folder: Path) -> None:
    where = _where(files)
    manifest = _manifest(folder, where)
    _check_listing(files, _sizes(folder, where), manifest)
    for name, facts in manifest.files.items() if manifest else ():
        if file_sha256(folder / name) != facts.sha256:
            raise damaged(name, where, "has another checksum")
    safetensors_check(folder)


def _check_listing(files: ModelFiles, sizes: Mapping[str, int], manifest: Manifest | None) -> None:
    where = _where(files)
    if manifest is not None:
        check_revision(manifest, files.revision, where)
    check_contents(where, sizes, manifest, files.allow_pickle)


def _manifest(folder: Path, where: str) -> Manifest | None:
    try:
        return Manifest.parse((folder / MANIFEST).read_bytes(), where)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"The {MANIFEST} in {where} cannot be read ({error.strerror}).") from None


def _sizes(folder: Path, where: str) -> dict[str, int]:
    """Bytes of every file directly in a folder; UsageError if there is no such folder."""
    try:
        return {one.name: one.stat().st_size for one in folder.iterdir() if one.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"There is no {where.removeprefix('the ')}: set `files.source` to a folder of model "
            "files, to org/name on the model hub, or to s3://bucket/prefix."
        ) from None
    except OSError as error:
        raise UsageError(f"In {where} files cannot be read ({error.strerror}).") from None


def _where(files: ModelFiles) -> str:
    """A source as a sentence names it."""
    if files.place == "s3":
        return files.source
    return f"the model '{files.source}'" if files.place == "hub" else f"the folder {files.source}"


def _path(source: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(source)))


def _is_on_hub(source: str) -> bool:
    return bool(HUB_ID.fullmatch(source)) and not os.path.isdir(os.path.expanduser(source))


def _is_s3(source: str) -> bool:
    return source[:5].lower() == "s3://"
