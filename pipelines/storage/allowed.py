"""Which files the rows of an input may name.

Paths that a table brings along are hostile; ``Roots`` decides which of them may be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from item.errors import UsageError
from pipelines.storage.uris import HttpUrl, http_url, real_path, what_is_named
from pipelines.storage.urls import is_s3, local_path, redact, s3_path


@dataclass(frozen=True, slots=True)
class Location:
    """A file that may be read: a resolved local path, an S3 path, or an HTTP URL."""

    kind: Literal["local", "s3", "http"]
    path: str


class Roots:
    """The folders below which URIs may be read, whoever wrote them.

    Parameters
    ----------
    roots : local folders, ``s3://bucket/prefix`` and ``http(s)://host/path``

    Raises
    ------
    UsageError
        If one is none of these.
    """

    def __init__(self, roots: Iterable[str]) -> None:
        self._local: list[str] = []
        self._s3: list[str] = []
        self._http: list[HttpUrl] = []
        for root in roots:
            if is_s3(root):
                self._s3.append(s3_path(root))
            elif re.match(r"https?://", root, re.IGNORECASE):
                url = http_url(root)
                if url is None:
                    raise UsageError(f"{redact(root)} is not a URL of a valid host.")
                self._http.append(url)
            else:
                self._local.append(real_path(local_path(root)))

    def locate(self, uri: str, folder: str) -> Location | None:
        """Resolve a URI, or return None where it lies below none of the roots.

        Parameters
        ----------
        uri : hostile text; relative ones are resolved against `folder`
        folder : local folder or ``s3://`` prefix of the table that holds the URI
        """
        named = what_is_named(uri, folder)
        match named.kind:
            case "local":
                return self._in_local(named.text)
            case "s3":
                return self._in_s3(named.text)
            case "http":
                return self._in_http(named.text)
        return None

    def _in_local(self, path: str) -> Location | None:
        if "\0" in path:
            return None
        resolved = real_path(path)
        if any(resolved == root or _below(resolved, root) for root in self._local):
            return Location("local", resolved)
        return None

    def _in_s3(self, path: str) -> Location | None:
        # A gateway in front of a file system may resolve what S3 itself would not.
        if ".." in path.split("/"):
            return None
        return Location("s3", path) if any(_below(path, root) for root in self._s3) else None

    def _in_http(self, uri: str) -> Location | None:
        url = http_url(uri)
        if url is None or url.has_user or re.search(r"[\x00-\x1f\x7f\\]", uri):
            return None
        # A server may resolve these after it has decoded the path.
        decoded = unquote(url.path)
        if "\\" in decoded or any(part in (".", "..") for part in decoded.split("/")):
            return None
        for root in self._http:
            same_host = (url.scheme, url.host) == (root.scheme, root.host)
            if same_host and _below(url.normal_path, root.normal_path):
                return Location("http", url.sent)
        return None


def _below(path: str, root: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")
