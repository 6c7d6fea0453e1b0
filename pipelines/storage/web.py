"""The bytes of one file over HTTP: one bad answer is one error, of two kinds.

What may pass is a `ReadError`, and repeated where that may help: connections that fail or break
off, bodies shorter than was promised, answers that are no HTTP, 408, 425, 429 and 5xx. What
lasts is a `FileNotFoundError` for 404 and 410, else a `RefusedError`.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import time
from contextlib import closing, suppress
from functools import lru_cache
from http.client import BadStatusLine, RemoteDisconnected
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3 import HTTPResponse, PoolManager, ProxyManager, Retry, Timeout
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    IncompleteRead,
    LocationValueError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as TimedOutError

from pipelines.storage.access import HttpStatusError, ReadError, RefusedError
from pipelines.storage.configuration import Storage
from pipelines.storage.retries import count_repeated_request

# It shows whole URLs, signatures too, where a header is broken.
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)

_GONE = frozenset({404, 410})

_REPEATED = frozenset({408, 425, 429, *range(500, 600)})
"""Another try within seconds may succeed."""

_PASSING = frozenset({302, 303, 307, 401, 403, 407, 409, 421, 423})
"""Another day may succeed: a server says so of its redirect, or grants what it refused."""

_LASTING = (frozenset(range(300, 500)) | {305, 306}) - _PASSING - _REPEATED - _GONE

_LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more by Retry-After is left alone until the next run."""

_SLOWEST = 10
"""How often ``read_timeout`` a body may take, however steadily it drips."""

_CHUNK = 1 << 16


class TooLongError(Exception):
    """A body has more bytes than the caller allows."""

    def __init__(self, size: int | None) -> None:
        self.size = size
        super().__init__("too long")


def fetch_http(url: str, storage: Storage, limit: int) -> bytes:
    """Return the body of an answer of at most `limit` bytes.

    No redirect is followed: where it leads nobody has allowed.

    Raises
    ------
    TooLongError
        If the body is longer than `limit`.
    FileNotFoundError, RefusedError
        If the server says that there is no such file, or that it will not send it.
    ReadError
        If reading failed after the configured retries.
    """
    left = Retry(total=storage.retries, backoff_factor=0.2, backoff_max=5.0)
    while True:
        wait = None
        try:
            with closing(_ask(url, storage)) as response:
                if response.status in (200, 203):
                    return _body(response, limit, _SLOWEST * storage.read_timeout)
                with suppress(HTTPError):  # a short answer leaves its connection to the next
                    response.read1(_CHUNK)
                failure = _refusal(response.status)
                again = response.status in _REPEATED
                wait = _asked_to_wait(response)
        except HTTPError as error:
            failure, again = _failure(error), _may_pass_soon(error)
        if not again or (wait or 0) > _LONGEST_WAIT:
            raise failure
        try:
            left = left.increment("GET", url, error=failure)
        except MaxRetryError:
            raise failure from None
        count_repeated_request()
        time.sleep(left.get_backoff_time() if wait is None else wait)


def _ask(url: str, storage: Storage) -> HTTPResponse:
    pool = _pool(storage.connect_timeout, storage.read_timeout, _proxy(url))
    response = pool.request("GET", url, retries=False, redirect=False, preload_content=False)
    assert isinstance(response, HTTPResponse)
    return response


def _body(response: HTTPResponse, limit: int, seconds: float) -> bytes:
    size = response.length_remaining
    if size is not None and size > limit:
        raise TooLongError(size)
    last = time.monotonic() + seconds
    content = bytearray()
    while chunk := response.read1(_CHUNK):  # raises if fewer bytes come than were promised
        content += chunk
        if len(content) > limit:
            raise TooLongError(None)
        if time.monotonic() > last:
            raise TimedOutError("the body drips")
    if size is None and not content and not response.chunked:
        raise ProtocolError("the connection ended within the headers or after them")
    return bytes(content)


def _refusal(status: int) -> OSError:
    if status in _GONE:
        return FileNotFoundError(errno.ENOENT, f"HTTP {status}")
    if status in _LASTING:
        return RefusedError(f"HTTP {status}")
    return HttpStatusError(status)


def _asked_to_wait(response: HTTPResponse) -> float | None:
    """Return the seconds of a Retry-After header, None without a valid one."""
    try:
        return Retry().get_retry_after(response)
    except (HTTPError, ValueError, OverflowError):
        return None


def _failure(error: HTTPError) -> OSError:
    match error:
        case LocationValueError():
            return RefusedError("the address is not valid")
        case NameResolutionError():
            return ReadError("the host is not known")
        case ProxyError():
            return ReadError("the proxy cannot be reached")
        case NewConnectionError():
            return ReadError("no connection to the server")
        case TimedOutError():
            return ReadError("no answer in time")
        case SSLError():
            return ReadError("the TLS connection failed")
        case DecodeError():
            return ReadError("the body is not encoded as was said")
        case ProtocolError():
            return ReadError(_broken(error.args[-1] if error.args else None))
    return ReadError(type(error).__name__)


def _broken(cause: object) -> str:
    if isinstance(cause, IncompleteRead):
        return "the body is shorter than was said"
    if isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected):
        return "the answer is not HTTP"
    return "the connection broke off"


def _may_pass_soon(error: HTTPError) -> bool:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, socket.gaierror):
        return cause.errno not in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
    return not isinstance(error, LocationValueError | ssl.SSLCertVerificationError) and not (
        isinstance(cause, ssl.SSLCertVerificationError)
    )


@lru_cache(maxsize=8)
def _pool(connect: float, read: float, proxy: str | None) -> PoolManager:
    """Connections of this process."""
    # As many of one host as there may be threads that read.
    options: dict[str, Any] = {"timeout": Timeout(connect=connect, read=read), "maxsize": 256}
    return ProxyManager(proxy, **options) if proxy else PoolManager(**options)


def _proxy(url: str) -> str | None:
    """What the environment says of proxies for this URL."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)
