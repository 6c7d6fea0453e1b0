"""The model hub, through huggingface_hub: what it has, and one sentence where it does not."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import Any

import huggingface_hub.errors as hub_errors
from huggingface_hub import (
    HfApi,
    constants,
    get_cached_repo_tree,
    hf_hub_download,
    snapshot_download,
)
from tqdm.auto import tqdm

from item.errors import NO_ROOM, JobError, UsageError, refusal_of_disk
from item.models.files.contents import CONFIGS, MODEL_FILES, PICKLED, wanted
from item.models.files.node_cache import file_sha256

HTTPError = hub_errors.HTTPError  # type: ignore[attr-defined]  # of httpx, or of what follows it
SHA256 = re.compile(r"[0-9a-f]{64}")
UNREACHABLE = (hub_errors.LocalEntryNotFoundError, HTTPError, ConnectionError, TimeoutError)


@dataclass(frozen=True)
class Listed:
    """A file as the hub lists it: large ones by their SHA-256, small ones as git does."""

    size: int
    sha256: str | None = None
    git_blob: str | None = None

    def matches(self, path: Path) -> bool:
        """Whether a local file is this one."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256:
            return file_sha256(path) == self.sha256
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return self.git_blob in (None, blob.hexdigest())


# A branch that moves while a process runs must not give it files of two commits.
@lru_cache(maxsize=256)
def commit(source: str, revision: str | None) -> str:
    """The commit that a branch, a tag or nothing stands for; what the cache knows if offline.

    Parameters
    ----------
    source : ``org/name``
    revision : commit, branch, tag, or None for the default branch

    Raises
    ------
    UsageError
        The hub has no such model or revision, or cannot be reached and the cache has none.
    """
    api = HfApi()
    with _sentences(source, revision):
        try:
            return api.resolve_revision(source, revision=revision).resolved
        except hub_errors.RevisionNotFoundError:
            raise
        except hub_errors.HfHubHTTPError as error:
            # Removed from the hub, private or gated by now: what is cached goes on working.
            with suppress(hub_errors.RevisionResolutionError):
                return api.resolve_revision(
                    source, revision=revision, local_files_only=True
                ).resolved
            raise error


def cached(
    source: str,
    revision: str | None,
    patterns: Sequence[str] = MODEL_FILES,
    allow_pickle: bool = False,
) -> Path | None:
    """The folder of a snapshot in this machine's cache; None if not all of it is there.

    Caches of older libraries do not tell what a snapshot should hold: it is taken as it is.
    """
    try:
        names = _names(source, revision)
        chosen = [*patterns, *PICKLED] if names is None else wanted(names, patterns, allow_pickle)
        return Path(
            snapshot_download(
                source,
                revision=revision,
                local_files_only=True,
                allow_patterns=chosen if names is None else [escape(name) for name in chosen],
            )
        )
    except (hub_errors.LocalEntryNotFoundError, hub_errors.HFValidationError):
        return None


def snapshot(
    source: str,
    commit: str,
    patterns: Sequence[str] = MODEL_FILES,
    allow_pickle: bool = False,
) -> Path:
    """The folder of a commit's files in this machine's cache; missing ones are fetched.

    Nothing is asked of the hub where all are there. UsageError if one cannot be had.
    """
    with _sentences(source, commit):
        found = cached(source, commit, patterns, allow_pickle)
        if found and _names(source, commit) is not None:
            return found
        try:
            # Fails at once where snapshot_download tries for half a minute.
            siblings = HfApi().model_info(source, revision=commit).siblings or ()
        except (HTTPError, hub_errors.OfflineModeIsEnabled):
            if found is None:
                raise
            return found
        names = wanted([one.rfilename for one in siblings], patterns, allow_pickle)
        return Path(
            snapshot_download(
                source, revision=commit, allow_patterns=[escape(name) for name in names]
            )
        )


def _names(source: str, revision: str | None) -> list[str] | None:
    """Names of a revision's files as the cache knows them; None if it does not."""
    try:
        return [one.path for one in get_cached_repo_tree(source, revision=revision)]
    except hub_errors.CachedRepoTreeNotFoundError:
        return None


def listing(source: str, commit: str) -> dict[str, Listed]:
    """Files in a repository's top folder; UsageError if they may not be fetched."""
    with _sentences(source, commit):
        api = HfApi()
        siblings = api.model_info(source, revision=commit, files_metadata=True).siblings or ()
        found = {
            one.rfilename: Listed(
                size=(one.lfs.size if one.lfs else one.size) or 0,
                sha256=one.lfs.sha256 if one.lfs else None,
                git_blob=None if one.lfs else one.blob_id,
            )
            for one in siblings
            if "/" not in one.rfilename
        }
        # Anybody may list a gated repository; only a file tells whether it may be fetched.
        for name in sorted(set(found) & set(CONFIGS))[:1]:
            api.file_exists(source, name, revision=commit)
    return found


def fetch(
    source: str,
    commit: str,
    name: str,
    folder: Path,
    advanced: Callable[[int], None],
    anew: bool = False,
) -> None:
    """Bring one file into ``folder``, from the cache if it is there; UsageError if impossible.

    Parameters
    ----------
    advanced : told how many bytes have come since it was last told
    anew : whether the hub is asked even so
    """

    class Bytes(tqdm):
        def __init__(self, *values: Any, **options: Any) -> None:
            super().__init__(*values, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            advanced(int(n or 0))

        def update_transfer(self, n: float | None = 1) -> None:
            """Nothing: what comes is counted when it is written."""

        def set_transfer_postfix_str(self, *values: Any, **options: Any) -> None:
            """Nothing: nothing is shown."""

    with _sentences(source, commit):
        hf_hub_download(
            source, name, revision=commit, local_dir=folder, force_download=anew, tqdm_class=Bytes
        )


def check_blobs(source: str, folder: Path) -> None:
    """UsageError if a large file in the cache is not the one whose SHA-256 it is kept by."""
    for path in sorted(folder.iterdir()):
        blob = Path(os.readlink(path)) if path.is_symlink() else path
        by_digest = blob.parent.name == "blobs" and SHA256.fullmatch(blob.name)
        if by_digest and (not path.exists() or file_sha256(path) != blob.name):
            raise UsageError(
                f"The file '{path.name}' of the model '{source}' is damaged in the cache: delete "
                f"the folder {folder.parents[1]} and run again."
            )


@contextmanager
def _sentences(source: str, revision: str | None) -> Iterator[None]:
    """Errors of the hub's client, each as the sentence that tells a user what to do."""
    try:
        yield
    except hub_errors.GatedRepoError:
        raise UsageError(
            f"The model '{source}' is gated: accept its conditions on its page of the model hub, "
            "then log in with 'hf auth login' or set HF_TOKEN."
        ) from None
    except hub_errors.RepositoryNotFoundError:
        raise UsageError(
            f"There is no folder '{source}' here, and the model hub has no such model or keeps it "
            "private: check `files.source`, or log in with 'hf auth login'."
        ) from None
    except hub_errors.RevisionNotFoundError:
        raise UsageError(
            f"The model '{source}' has no revision '{revision}': set `files.revision` to a commit, "
            "branch or tag of its page."
        ) from None
    except hub_errors.HFValidationError:
        raise UsageError(f"'{source}' is not a name that the model hub may have.") from None
    except (HTTPError, OSError, hub_errors.RevisionResolutionError, RuntimeError) as error:
        # RuntimeError is what hf_xet raises.
        raise _sentence(error, source) from None


def _sentence(error: Exception, source: str) -> JobError:
    answered = next(
        (one for one in (error, error.__cause__) if isinstance(one, hub_errors.HfHubHTTPError)),
        None,
    )
    if answered is not None:
        return UsageError(
            f"The model hub answered {answered.response.status_code} when asked for the model "
            f"'{source}': try again later."
        )
    if isinstance(error, OSError) and error.errno in (*NO_ROOM, errno.EACCES, errno.EROFS):
        return refusal_of_disk(
            error,
            f"The model '{source}' finds no place on the disk ({error.strerror}): make room, or "
            "set HF_HOME to a folder with room.",
        )
    if isinstance(error, (OSError, RuntimeError)) and not isinstance(error, UNREACHABLE):
        return UsageError(f"Fetching the model '{source}' broke off: try again.")
    why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub cannot be reached"
    return UsageError(
        f"The model '{source}' is not on this machine and {why}: run 'python jobs/models.py fetch "
        "--profile PROFILE --to DIR' where there is a network, and set its `files.source` to the "
        "model's folder in DIR."
    )
