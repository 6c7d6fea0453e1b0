"""How local and S3 files are reached, and whether they can be.

Credentials are never part of a configuration: s3fs finds them in the environment, as
every AWS tool does.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
import uuid
from pathlib import Path

from botocore.exceptions import (
    BotoCoreError,
    CredentialRetrievalError,
    HTTPClientError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as UnreachableError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from item.errors import UsageError
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import is_s3, local_path, redact, s3_path


def storage_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What reading and writing raises, locally and through s3fs, if the storage is at fault.

    To be called where an ``except`` stands: the libraries of S3 take a third of a second to import,
    in each process, and where they are not imported they raise nothing.

    Parameters
    ----------
    more : what else is to be caught
    """
    lazy = (("botocore.parsers", "ResponseParserError"), ("aiohttp", "ClientError"))
    loaded = (getattr(sys.modules.get(module), name, None) for module, name in lazy)
    return (*more, OSError, BotoCoreError, *filter(None, loaded))


class ReadError(OSError):
    """Reading failed in a way that may pass; the text says how and holds no credential."""


class HttpStatusError(ReadError):
    """A server answered, but not with the file; it may do so another time."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"HTTP {status}")


class RefusedError(OSError):
    """A server answered that it will never send the file; the text says how."""


def reason(error: BaseException) -> str:
    """Say why a read or write failed, in words that cannot hold a credential."""
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict) and response.get("Error", {}).get("Code"):
        return re.sub(r"\W", "", str(response["Error"]["Code"]))[:60]
    if isinstance(error, ReadError | RefusedError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return type(error).__name__


def filesystem(url: str, storage: Storage) -> tuple[AbstractFileSystem, str]:
    """Return the file system that `url` lies on and its path there.

    Parameters
    ----------
    url : a local path, ``file://`` or ``s3://bucket/key``
    storage : how S3 is reached

    Raises
    ------
    UsageError
        For any other scheme, and for a URL that holds credentials.
    """
    if is_s3(url):
        from pipelines.storage.s3 import s3_filesystem

        return s3_filesystem(storage), s3_path(url)
    return LocalFileSystem(), local_path(url)


def _for_checks(storage: Storage) -> Storage:
    """Answers within seconds, yet not put off by a request that fails now and then."""
    quick = {"connect_timeout": 3.0, "read_timeout": 10.0, "retries": min(storage.retries, 3)}
    return storage.model_copy(update=quick)


def check_readable(url: str, storage: Storage) -> None:
    """Make sure, within seconds, that something exists at `url` and may be read.

    Raises
    ------
    UsageError
        With one sentence that says what is wrong: nothing there, no such bucket,
        access denied, or an endpoint that does not answer.
    """
    if is_s3(url):
        from pipelines.storage.s3 import has, new_s3

        bucket, _, key = s3_path(url).partition("/")
        fs = new_s3(_for_checks(storage))
        try:
            if not has(fs, bucket, key):
                raise UsageError(f"There is nothing at {redact(url)}.")
        except storage_errors() as error:
            raise _usage_error(error, url, storage, "read") from None
        return
    path = local_path(url)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            with os.scandir(path) as entries:
                next(entries, None)
        elif stat.S_ISREG(mode):
            with open(path, "rb"):
                pass
        else:
            raise UsageError(f"{path} is neither a file nor a folder.")
    except OSError as error:
        raise _usage_error(error, path, storage, "read") from None


def check_writable(url: str, storage: Storage) -> None:
    """Make sure, within seconds, that files can be written below the folder `url`.

    Writes and removes a small hidden file; a local folder that does not exist yet is
    tried at the nearest one that does, and not made.

    Raises
    ------
    UsageError
        With one sentence that says what is wrong.
    """
    if is_s3(url):
        from pipelines.storage.s3 import new_s3

        probe = f"{s3_path(url)}/.{uuid.uuid4().hex}.probe"
        fs = new_s3(_for_checks(storage))
        try:
            fs.pipe_file(probe, b"")
            fs.rm_file(probe)
        except storage_errors() as error:
            raise _usage_error(error, url, storage, "write to") from None
        return
    folder = Path(local_path(url))
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UsageError(f"{folder} cannot be a folder because {nearest} is a file.")
    try:
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=".", suffix=".probe"):
            pass
    except OSError as error:
        raise _usage_error(error, str(folder), storage, "write to") from None


def _usage_error(error: Exception, url: str, storage: Storage, doing: str) -> UsageError:
    where = redact(url)
    if not is_s3(url):
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return UsageError(f"There is no file or folder at {where}.")
        return UsageError(f"This user may not {doing} {where} ({reason(error)}).")
    endpoint = (
        storage.endpoint_url
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    at = f" at {redact(endpoint)}" if endpoint else ""
    bucket = s3_path(url).partition("/")[0]
    match error:
        case FileNotFoundError():
            return UsageError(f"There is no bucket {bucket!r}{at}.")
        case PermissionError():
            return UsageError(
                f"The storage{at} denied access to {doing} {where} ({reason(error)}): check the "
                "credentials in the environment and the bucket's policy."
            )
        case (
            NoCredentialsError()
            | PartialCredentialsError()
            | CredentialRetrievalError()
            | NoAuthTokenError()
        ):
            return UsageError(
                f"No usable credentials to {doing} {where} were found in the environment: set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anonymous access."
            )
        case ParamValidationError():
            return UsageError(f"{where} is not a valid bucket and key.")
        case UnreachableError() | HTTPClientError() | TimeoutError():
            return UsageError(
                f"The storage endpoint{at} did not answer ({type(error).__name__}), which is "
                f"needed to {doing} {where}."
            )
    return UsageError(f"The storage{at} could not {doing} {where} ({reason(error)}).")
