"""Model files in S3-compatible storage, which a node downloads once."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import s3fs
from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError

from item.errors import NO_ROOM, UsageError
from item.models.files import node_cache
from item.models.files.contents import MANIFEST, Manifest, damaged


@dataclass(frozen=True)
class Listed:
    """A file as the storage lists it."""

    size: int
    tag: str
    """Changes with the content."""


def filesystem(endpoint_url: str | None = None) -> s3fs.S3FileSystem:
    """S3-compatible storage, with the environment's credentials.

    Parameters
    ----------
    endpoint_url : of the storage; None for the one that the environment names
    """
    named = sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))
    return _filesystem(endpoint_url, hash(tuple(named)))


@lru_cache(maxsize=2)
def _filesystem(endpoint_url: str | None, _environment: int) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        endpoint_url=endpoint_url,
        config_kwargs={
            "connect_timeout": 10.0,
            "read_timeout": 60.0,
            "retries": {"mode": "standard"},
            # Several S3-compatible servers refuse the checksums that botocore adds otherwise.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def path(url: str) -> str:
    """``bucket/prefix`` of an ``s3://`` URL."""
    return url[5:].strip("/")


def listing(url: str, endpoint_url: str | None = None) -> dict[str, Listed]:
    """Files directly below a prefix; UsageError if there are none or they cannot be read."""
    prefix = path(url) + "/"
    with sentences(url):
        entries = filesystem(endpoint_url).ls(prefix, detail=True)
    found = {
        entry["name"].removeprefix(prefix): Listed(entry["size"], entry.get("ETag", ""))
        for entry in entries
        if entry["type"] == "file" and entry["name"].startswith(prefix)
    }
    found.pop("", None)  # the empty object that stands for a folder in some tools
    if not found:
        raise UsageError(f"There are no model files at {url}.")
    return found


def read_manifest(
    url: str, listed: Iterable[str], endpoint_url: str | None = None
) -> Manifest | None:
    """The manifest of a mirror in S3, if it has one; UsageError if it is damaged."""
    if MANIFEST not in listed:
        return None
    with sentences(url):
        content = filesystem(endpoint_url).cat_file(posixpath.join(path(url), MANIFEST))
    return Manifest.parse(content, url)


def downloaded(
    url: str,
    listed: Mapping[str, Listed],
    manifest: Manifest | None,
    endpoint_url: str | None = None,
) -> Path:
    """A folder in this node's cache with the files, fetched unless another process did so.

    It appears under its name when all files are there and, with a manifest, have its checksums.
    What was fetched before an interruption is not fetched again.

    Parameters
    ----------
    url : ``s3://bucket/prefix``
    listed : the files to fetch
    manifest : of the prefix, if it has one, which lists the same files
    endpoint_url : as for :func:`filesystem`

    Raises
    ------
    UsageError
        A file is damaged, cannot be read, or finds no room.
    """
    state: object = manifest.model_dump() if manifest else None
    if state is None:
        place = [url] if endpoint_url is None else [url, endpoint_url]
        state = [*place, sorted((name, one.size, one.tag) for name, one in listed.items())]
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:24]
    last = posixpath.basename(path(url))
    with node_cache.alone(f"s3/{key}") as cache:
        complete, partial = cache / key, cache / f".{key}.partial"
        try:
            if not complete.is_dir():
                _gather(url, listed, manifest, partial / last, endpoint_url)
                partial.rename(complete)
        except OSError as error:
            raise node_cache.unwritable(error) from None
    return complete / last


def _gather(
    url: str,
    listed: Mapping[str, Listed],
    manifest: Manifest | None,
    folder: Path,
    endpoint_url: str | None,
) -> None:
    """Fetch what is not yet in ``folder``, where a file has its name only when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in listed:
        if (folder / name).exists():
            continue
        aside = folder / f".{uuid.uuid4().hex}"
        try:
            with sentences(url):
                filesystem(endpoint_url).get_file(posixpath.join(path(url), name), str(aside))
            if aside.stat().st_size != listed[name].size:
                raise damaged(name, url, "broke off")
            if manifest and node_cache.sha256(aside) != manifest.files[name].sha256:
                raise damaged(name, url, "has another checksum")
            os.replace(aside, folder / name)
        finally:
            aside.unlink(missing_ok=True)
    if manifest:
        (folder / MANIFEST).write_bytes(manifest.as_bytes())


@contextmanager
def sentences(url: str) -> Iterator[None]:
    """Errors of the storage, each as the sentence that tells a user what to do."""
    try:
        yield
    except FileNotFoundError:
        raise UsageError(f"There is nothing at {url} in the storage.") from None
    except PermissionError:
        raise UsageError(
            f"The storage denied access to {url}: check the credentials in the environment and "
            "the bucket's policy."
        ) from None
    except (NoCredentialsError, PartialCredentialsError):
        raise UsageError(
            f"No usable credentials for {url} were found in the environment: set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from None
    except (BotoCoreError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise  # of this machine's disk, not of the storage
        raise UsageError(
            f"The storage gave no answer when asked for {url} ({type(error).__name__})."
        ) from None
