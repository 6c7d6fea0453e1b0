"""Paths and URLs as text: one spelling, joined, and shown without their secrets."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from item.errors import UsageError

_USER_INFO = r"(?:[^/\s?#]*@|[^/\s:@]*:[^\s@?#]*@)?"


_URL = re.compile(rf"\b([a-zA-Z][a-zA-Z0-9+.-]*://){_USER_INFO}([^\s?#]*)(?:[?#]\S*)?")


def redact(text: str) -> str:
    """Return `text` with user names, passwords and query strings taken out of its URLs."""
    return _URL.sub(r"\1\2", text)


_SECRET_PARAMETER = re.compile(
    r"^(x-(amz|goog|ms)-.*|awsaccesskeyid|googleaccessid|signature|sig|policy|key-pair-id|expires"
    r"|.*(token|secret|password|credential|api_?key|access_?key|auth).*|key|pwd)$",
    re.IGNORECASE,
)


_MAY_HOLD_SECRETS = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^?#]*@|[^#]*\?)")


def public_uri(uri: str) -> str:
    """Return a URI as tables may show it: without user name, password and signature.

    Query parameters that say which picture is meant stay, so that two pictures do not
    become one.
    """
    if not _MAY_HOLD_SECRETS.match(uri):
        return uri
    head, mark, query = uri.partition("?")
    if "@" in head:
        head = _URL.sub(r"\1\2", head)
    if not mark or head[:5].lower() in ("s3://", "file:"):
        return head + mark + query
    kept = [
        pair
        for pair in parse_qsl(query, keep_blank_values=True)
        if not _SECRET_PARAMETER.match(pair[0])
    ]
    return head + ("?" + urlencode(kept) if kept else "")


def is_s3(url: str) -> bool:
    """Whether `url` names something in S3-compatible storage."""
    return url[:5].lower() == "s3://"


def join(url: str, *parts: str) -> str:
    """Return the path or URL of something below `url`, joined with ``/``."""
    return "/".join([url.rstrip("/") if url != "/" else "", *(part.strip("/") for part in parts)])


def normalise(url: str) -> str:
    """Return `url` as an absolute local path or as ``s3://bucket/key``, no slash at its end."""
    return "s3://" + s3_path(url) if is_s3(url) else local_path(url)


def local_path(url: str) -> str:
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", url)
    if match is None:
        if not url:
            raise UsageError("A path is empty: give a local path or an s3:// URL.")
        return os.path.abspath(os.path.expanduser(url))
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise UsageError(f"{redact(url)} is neither a local path nor an s3:// URL.")
    return os.path.abspath(unquote(parts.path))


def s3_path(url: str) -> str:
    path = url[5:].strip("/")
    bucket = path.partition("/")[0]
    if (":" in bucket and not bucket.startswith("arn:")) or "@" in bucket:
        raise UsageError(
            f"{redact(url)} must not hold credentials: put them in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
        )
    if not bucket:
        raise UsageError("An s3:// URL names no bucket: write s3://bucket/prefix.")
    return path
