"""Paths and URLs that a user typed: one spelling, joined, and shown without their secrets."""

from __future__ import annotations

import os
import re

from item.errors import UsageError
from pipelines.storage.uris import (
    S3_SCHEMES,
    ends_in_password,
    what_is_named,
    without_signature,
    without_user,
)

_SCHEME = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*)://")
_WORD = re.compile(r"\S*")


def redact(text: str) -> str:
    """Return `text` with user names, passwords and query strings taken out of its URLs."""
    shown = ""
    start = 0
    while scheme := _SCHEME.search(text, start):
        shown += text[start : scheme.end()]
        name = scheme[1].lower()
        rest, start = _word(text, scheme.end())
        if ends_in_password(name, rest) and "@" in text[start:]:
            rest, start = _word(text, text.index("@", start) + 1)
        bare = without_user(name, rest)
        # A key in S3 has no query: it may hold any character.
        shown += without_signature(bare) if name in S3_SCHEMES else re.split("[?#]", bare)[0]
    return shown + text[start:]


def _word(text: str, start: int) -> tuple[str, int]:
    found = _WORD.match(text, start)
    assert found is not None
    return found[0], found.end()


def is_s3(url: str) -> bool:
    """Whether `url` names something in S3-compatible storage."""
    return url.partition("://")[0].lower() in S3_SCHEMES and "://" in url


def join(url: str, *parts: str) -> str:
    """Return the path or URL of something below the folder `url`, its name as it is."""
    return "/".join([url.rstrip("/") if url != "/" else "", *parts])


def normalise(url: str) -> str:
    """Return `url` as an absolute local path or as ``s3://bucket/key``, no slash at its end."""
    return "s3://" + s3_path(url) if is_s3(url) else local_path(url)


def local_path(url: str) -> str:
    if not url:
        raise UsageError("A path is empty: give a local path or an s3:// URL.")
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", url) is None:
        return os.path.abspath(os.path.expanduser(url))
    named = what_is_named(url, "/")
    if named.kind != "local":
        raise UsageError(f"{redact(url)} is neither a local path nor an s3:// URL.")
    return os.path.abspath(named.text)


def s3_path(url: str) -> str:
    """Return bucket and key of a prefix or file that a user typed, no slash at its end."""
    path = url.partition("://")[2].rstrip("/")
    bucket = path.partition("/")[0]
    if (":" in bucket and not bucket.startswith("arn:")) or "@" in bucket:
        raise UsageError(
            f"{redact(url)} must not hold credentials: put them in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
        )
    if not bucket:
        raise UsageError("An s3:// URL names no bucket: write s3://bucket/prefix.")
    return path
