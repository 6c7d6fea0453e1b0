"""The bytes of one file: local, in S3 or over HTTP, never more than asked for."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import closing
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3 import PoolManager, ProxyManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from pipelines.storage.access import HttpStatusError, Storage, _s3, reason
from pipelines.storage.allowed import Location


class TooLargeError(Exception):
    """A file has more bytes than the caller allows."""

    def __init__(self, limit: int, size: int | None = None) -> None:
        self.size = size
        known = f"{size:,} bytes" if size is not None else "more bytes"
        super().__init__(f"The file has {known}; the limit is {limit:,}.")


def fetch(location: Location, storage: Storage, limit: int, size: int | None = None) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Parameters
    ----------
    location : what `Roots.locate` allowed
    storage : timeouts and retries
    limit : bytes above which the file is not read whole
    size : bytes that a listing gave, if there was one

    Raises
    ------
    TooLargeError
        If the file is larger than `limit`.
    FileNotFoundError
        If no regular file is there.
    OSError, BotoCoreError
        If reading failed after the configured retries.
    """
    if size is not None and size > limit:
        raise TooLargeError(limit, size)
    match location.kind:
        case "local":
            return _fetch_local(location.path, limit)
        case "s3":
            return _fetch_s3(location.path, storage, limit)
        case "http":
            return _fetch_http(location.path, storage, limit)


def _fetch_local(path: str, limit: int) -> bytes:
    # The path is resolved: a link in its last part was put there since. Opening a named
    # pipe would wait for a writer for ever.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO):
            raise FileNotFoundError(errno.ENOENT, "not a file") from None
        raise
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode):
        os.close(handle)
        raise FileNotFoundError(errno.ENOENT, "not a file")
    with os.fdopen(handle, "rb") as file:
        if about.st_size > limit:
            raise TooLargeError(limit, about.st_size)
        return _bounded(file.read(limit + 1), limit)


def _fetch_s3(path: str, storage: Storage, limit: int) -> bytes:
    try:
        content: bytes = _s3(storage).cat_file(path, start=0, end=limit + 1)
    except OSError as error:
        if reason(error) in ("InvalidRange", "416"):  # an object without bytes has no range
            return b""
        raise
    return _bounded(content, limit)


_PASSING = frozenset({408, 429, *range(500, 600)})
"""HTTP answers after which another try may succeed."""


def _fetch_http(url: str, storage: Storage, limit: int) -> bytes:
    """An allowed server never sends the reader elsewhere: a redirect is an error."""
    pool = _pool(storage.read_timeout, _proxy(url))
    retries = Retry(
        total=storage.retries,
        status_forcelist=_PASSING,
        backoff_factor=0.2,
        backoff_max=5.0,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    while True:
        try:
            response = pool.request(
                "GET", url, retries=retries, redirect=False, preload_content=False
            )
        except HTTPError as error:
            raise ConnectionError(type(error).__name__) from error
        with closing(response):
            if response.status in (404, 410):
                raise FileNotFoundError(errno.ENOENT, "HTTP 404")
            if response.status >= 300:
                raise HttpStatusError(response.status)
            try:
                return _bounded(response.read(limit + 1), limit)
            except HTTPError as error:  # urllib3 repeats no request whose body broke off
                retries = _after(error, url, response.retries)
        retries.sleep()


def _after(error: HTTPError, url: str, left: Retry | None) -> Retry:
    """What is left of the repetitions once a body broke off; ConnectionError if nothing is."""
    try:
        assert left is not None
        return left.increment("GET", url, error=error)
    except HTTPError:
        raise ConnectionError(type(error).__name__) from error


@lru_cache(maxsize=8)
def _pool(seconds: float, proxy: str | None) -> PoolManager:
    """Connections of this process; ``seconds`` is how long each waits for an answer."""
    options: dict[str, Any] = {"timeout": Timeout(connect=seconds, read=seconds), "maxsize": 16}
    return ProxyManager(proxy, **options) if proxy else PoolManager(**options)


def _proxy(url: str) -> str | None:
    """What the environment says of proxies for this URL."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


def _bounded(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise TooLargeError(limit)
    return content
