"""The bytes of one file: local, in S3 or over HTTP, never more than asked for."""

from __future__ import annotations

import errno
import os
import stat

from item.tables import ErrorCode
from pipelines.storage.access import ReadError, RefusedError, reason, storage_errors
from pipelines.storage.allowed import Location
from pipelines.storage.configuration import Storage
from pipelines.storage.web import TooLongError, fetch_http


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
        If no regular file is there, or a server says that there is none.
    RefusedError
        If a server says that it will not send the file, now or later.
    OSError
        If reading failed after the configured retries; another try may succeed.
    """
    if size is not None and size > limit:
        raise TooLargeError(limit, size)
    match location.kind:
        case "local":
            return _fetch_local(location.path, limit)
        case "s3":
            return _fetch_s3(location.path, storage, limit)
        case "http":
            try:
                return fetch_http(location.path, storage, limit)
            except TooLongError as error:
                raise TooLargeError(limit, error.size) from None


def row_failure(error: Exception) -> tuple[ErrorCode, str]:
    """Return the code and the message of a row whose bytes `fetch` could not read.

    Raises
    ------
    Exception
        `error` itself, if it is none of those that `fetch` raises.
    """
    match error:
        case TooLargeError():
            return ErrorCode.TOO_MANY_BYTES, str(error)
        case FileNotFoundError() | IsADirectoryError():
            return ErrorCode.URI_NOT_FOUND, ErrorCode.URI_NOT_FOUND.sentence
        case RefusedError():
            return ErrorCode.URI_REFUSED, f"The server does not send the file: {reason(error)}."
    if isinstance(error, storage_errors()):
        return ErrorCode.URI_UNREADABLE, f"Reading the URI failed: {reason(error)}."
    raise error


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
        content = _bounded(file.read(limit + 1), limit)
    if len(content) < about.st_size:
        raise ReadError("the file was cut while it was read")
    return content


def _fetch_s3(path: str, storage: Storage, limit: int) -> bytes:
    if path.partition("/")[2] == "":
        raise FileNotFoundError(errno.ENOENT, "not a key")
    from pipelines.storage.s3 import s3_filesystem

    try:
        content: bytes = s3_filesystem(storage).cat_file(path, start=0, end=limit + 1)
    except storage_errors() as error:
        why = reason(error)
        if why in ("InvalidRange", "416"):  # an object without bytes has no range
            return b""
        if why == "KeyTooLongError":
            raise FileNotFoundError(errno.ENOENT, "no key is that long") from None
        if isinstance(error, OSError):
            raise
        raise ReadError(why) from error
    return _bounded(content, limit)


def _bounded(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise TooLargeError(limit)
    return content
