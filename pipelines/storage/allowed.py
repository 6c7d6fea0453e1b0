"""Which files the rows of an input may name.

Paths that a table brings along are hostile; ``Roots`` decides which of them may be read.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pipelines.storage.urls import is_s3, local_path, s3_path


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
    """

    def __init__(self, roots: Iterable[str]) -> None:
        self._local: list[str] = []
        self._s3: list[str] = []
        self._http: list[tuple[str, str, str]] = []
        for root in roots:
            if is_s3(root):
                self._s3.append(s3_path(root))
            elif root[:7].lower() == "http://" or root[:8].lower() == "https://":
                parts = urlsplit(root)
                self._http.append((parts.scheme, parts.netloc.lower(), unquote(parts.path)))
            else:
                self._local.append(os.path.realpath(local_path(root)))

    def locate(self, uri: str, folder: str) -> Location | None:
        """Resolve a URI, or return None where it lies below none of the roots.

        Parameters
        ----------
        uri : hostile text; relative ones are resolved against `folder`
        folder : local folder or ``s3://`` prefix of the table that holds the URI
        """
        scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", uri)
        if scheme is None:
            if re.match(r"(?i)(file|data|https?|s3):", uri):
                return None
            if is_s3(folder):
                if uri.startswith("/"):
                    return None
                return self._in_s3(posixpath.normpath(posixpath.join(s3_path(folder), uri)))
            return self._in_local(os.path.join(folder, uri))
        match scheme[1].lower():
            case "s3":
                return self._in_s3(uri[5:])
            case "http" | "https":
                return self._in_http(uri)
            case "file":
                rest = uri[7:]
                host, slash, path = rest.partition("/")
                if host not in ("", "localhost"):
                    return None
                return self._in_local(slash + unquote(path))
        return None

    def _in_local(self, path: str) -> Location | None:
        if "\0" in path:
            return None
        resolved = os.path.realpath(path)
        if any(resolved == root or _below(resolved, root) for root in self._local):
            return Location("local", resolved)
        return None

    def _in_s3(self, path: str) -> Location | None:
        # A gateway in front of a file system may resolve dots that S3 itself would not.
        if any(part in (".", "..") for part in path.split("/")):
            return None
        return Location("s3", path) if any(_below(path, root) for root in self._s3) else None

    def _in_http(self, uri: str) -> Location | None:
        if re.search(r"[\s\x00-\x1f\x7f\\]", uri):
            return None
        try:
            parts = urlsplit(uri)
        except ValueError:
            return None
        path = unquote(parts.path)
        if "\\" in path or any(part in (".", "..") for part in path.split("/")):
            return None
        for scheme, host, root in self._http:
            same_host = (parts.scheme, parts.netloc.lower()) == (scheme, host)
            if same_host and _below(path, root):
                quoted = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
                query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
                return Location("http", urlunsplit((scheme, parts.netloc, quoted, query, "")))
        return None


def _below(path: str, root: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")
