"""The one place through which jobs reach local folders and S3-compatible storage.

Credentials are never part of a configuration: s3fs finds them in the environment, as
every AWS tool does. Paths that a table brings along are hostile; ``Roots`` decides
which of them may be read.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import shutil
import stat
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import s3fs
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
from pydantic import BaseModel, ConfigDict, Field, field_validator

from item.errors import UsageError


class Storage(BaseModel):
    """How S3-compatible storage is reached. Holds no credentials.

    Unset fields fall back to what the environment says (``AWS_ENDPOINT_URL``,
    ``AWS_REGION`` and the like).
    """

    # A rejected value may be a URL with a password in it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    endpoint_url: str | None = None
    anonymous: bool = False
    region: str | None = None
    retries: int = Field(default=5, ge=0, le=100)
    connect_timeout: float = Field(default=10.0, gt=0, description="seconds")
    read_timeout: float = Field(default=60.0, gt=0, description="seconds")

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_is_a_plain_url(cls, value: str | None) -> str | None:
        if value is None:
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("endpoint_url must look like https://host or http://host:port")
        if "@" in parts.netloc or parts.query:
            raise ValueError("endpoint_url must not hold credentials: put them in the environment")
        return value


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


def reason(error: BaseException) -> str:
    """Say why a read or write failed, in words that cannot hold a credential."""
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict) and response.get("Error", {}).get("Code"):
        return re.sub(r"\W", "", str(response["Error"]["Code"]))[:60]
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return type(error).__name__


def is_s3(url: str) -> bool:
    """Whether `url` names something in S3-compatible storage."""
    return url[:5].lower() == "s3://"


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
        return _s3(storage), _s3_path(url)
    return LocalFileSystem(), _local_path(url)


def join(url: str, *parts: str) -> str:
    """Return the path or URL of something below `url`, joined with ``/``."""
    return "/".join([url.rstrip("/") if url != "/" else "", *(part.strip("/") for part in parts)])


def normalise(url: str) -> str:
    """Return `url` as an absolute local path or as ``s3://bucket/key``, no slash at its end."""
    return "s3://" + _s3_path(url) if is_s3(url) else _local_path(url)


def _local_path(url: str) -> str:
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", url)
    if match is None:
        if not url:
            raise UsageError("A path is empty: give a local path or an s3:// URL.")
        return os.path.abspath(os.path.expanduser(url))
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise UsageError(f"{redact(url)} is neither a local path nor an s3:// URL.")
    return os.path.abspath(unquote(parts.path))


def _s3_path(url: str) -> str:
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


_retries = 0


def take_retries() -> int:
    """How many S3 requests this process had to repeat since it was last asked."""
    global _retries
    taken, _retries = _retries, 0
    return taken


class _CountingS3(s3fs.S3FileSystem):
    """Counts the requests that botocore repeats, those that fail in the end included.

    What aiohttp sends again because the server had closed an idle connection is not counted.
    """

    async def set_session(self, refresh: bool = False, kwargs: dict[str, Any] | None = None) -> Any:
        client = await super().set_session(refresh=refresh, kwargs=kwargs or {})
        name = "count-repeated-requests"
        client.meta.events.register_first("needs-retry.s3", _count_repeated, unique_id=name)
        return client


def _count_repeated(attempts: int, **_: Any) -> None:
    """Handle botocore's event after each request; `attempts` counts those of one call."""
    global _retries
    _retries += attempts > 1


def _new_s3(storage: Storage) -> s3fs.S3FileSystem:
    fs = _CountingS3(
        anon=storage.anonymous,
        endpoint_url=storage.endpoint_url,
        client_kwargs={"region_name": storage.region} if storage.region else {},
        config_kwargs={
            "connect_timeout": storage.connect_timeout,
            "read_timeout": storage.read_timeout,
            "retries": {"mode": "standard", "total_max_attempts": storage.retries + 1},
            # Several S3-compatible servers refuse the checksums that botocore adds otherwise.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    # botocore retries requests; s3fs adds one retry for a body that breaks off.
    fs.retries = 2 if storage.retries else 1
    return fs


# fsspec's own cache keys on the thread, which would open a session for each reader thread.
_s3 = lru_cache(maxsize=8)(_new_s3)


def write_atomically(fs: AbstractFileSystem, path: str, content: bytes | Path) -> None:
    """Write a whole file so that no reader ever sees a part of it.

    Locally: a hidden file in the same folder, flushed to disk, then renamed. On S3 a
    single upload, which appears when it is complete.

    Parameters
    ----------
    fs, path : from `filesystem`; missing local folders are made
    content : the bytes, or a local file to copy, which stays where it is
    """
    if not isinstance(fs, LocalFileSystem):
        if isinstance(content, Path):
            fs.put_file(str(content), path)
        else:
            fs.pipe_file(path, content)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex}.tmp")
    try:
        with open(aside, "xb") as file:
            if isinstance(content, Path):
                with open(content, "rb") as original:
                    shutil.copyfileobj(original, file, 1 << 20)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def _flush_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def replacing(fs: AbstractFileSystem, path: str) -> Iterator[Path]:
    """A local file to write, which takes the place of `path` in one step when the block ends.

    Locally it lies hidden beside `path` and is renamed. On S3 it lies in the folder for
    temporary files, which must have room for it, and is uploaded; the upload appears when
    it is complete. If the block raises, nothing changes.
    """
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryDirectory() as folder:
            aside = Path(folder, posixpath.basename(path))
            yield aside
            fs.put_file(str(aside), path)
        return
    target = Path(path)
    # A new folder appears together with its file: nobody ever lists it empty.
    new_folder = not target.parent.exists()
    beside = target.parent if new_folder else target
    hidden = beside.with_name(f".{beside.name[:200]}.{uuid.uuid4().hex}.tmp")
    aside = hidden / target.name if new_folder else hidden
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        if new_folder and not target.parent.exists():
            os.rename(hidden, target.parent)
        else:
            os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
        if new_folder and hidden.exists():
            hidden.rmdir()
    _flush_folder(target.parent)


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
        path = _s3_path(url)
        bucket, _, key = path.partition("/")
        fs = _new_s3(_for_checks(storage))
        try:
            if not _s3_has(fs, bucket, key):
                raise UsageError(f"There is nothing at {redact(url)}.")
        except (OSError, BotoCoreError) as error:
            raise _usage_error(error, url, storage, "read") from None
        return
    path = _local_path(url)
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


def _s3_has(fs: s3fs.S3FileSystem, bucket: str, key: str) -> bool:
    prefix = f"{key}/" if key else ""
    try:
        found = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        if found.get("KeyCount", len(found.get("Contents", ()))) or not key:
            return True
    except PermissionError:
        # A policy may allow reading one object and not listing its bucket.
        if not key:
            raise
        fs.call_s3("head_object", Bucket=bucket, Key=key)
        return True
    try:
        fs.call_s3("head_object", Bucket=bucket, Key=key)
    except FileNotFoundError:
        return False
    return True


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
        path = _s3_path(url)
        probe = f"{path}/.{uuid.uuid4().hex}.probe"
        fs = _new_s3(_for_checks(storage))
        try:
            fs.pipe_file(probe, b"")
            fs.rm_file(probe)
        except (OSError, BotoCoreError) as error:
            raise _usage_error(error, url, storage, "write to") from None
        return
    folder = Path(_local_path(url))
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
    bucket = _s3_path(url).partition("/")[0]
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


class TooLargeError(Exception):
    """A file has more bytes than the caller allows."""

    def __init__(self, limit: int, size: int | None = None) -> None:
        self.size = size
        known = f"{size:,} bytes" if size is not None else "more bytes"
        super().__init__(f"The file has {known}; the limit is {limit:,}.")


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
                self._s3.append(_s3_path(root))
            elif root[:7].lower() == "http://" or root[:8].lower() == "https://":
                parts = urlsplit(root)
                self._http.append((parts.scheme, parts.netloc.lower(), unquote(parts.path)))
            else:
                self._local.append(os.path.realpath(_local_path(root)))

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
                return self._in_s3(posixpath.normpath(posixpath.join(_s3_path(folder), uri)))
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


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An allowed server must not send the reader to a host that is not allowed."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_HTTP = urllib.request.build_opener(_NoRedirects)


def _fetch_http(url: str, storage: Storage, limit: int) -> bytes:
    for attempt in range(storage.retries + 1):
        if attempt:
            time.sleep(min(0.1 * 2**attempt, 5.0))
        try:
            response: IO[bytes]
            with _HTTP.open(url, timeout=storage.read_timeout) as response:
                return _bounded(response.read(limit + 1), limit)
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise FileNotFoundError(errno.ENOENT, "HTTP 404") from None
            lasting = error.code < 500 and error.code not in (408, 429)
            if lasting or attempt == storage.retries:
                raise
        except OSError:
            if attempt == storage.retries:
                raise
    raise AssertionError("the last attempt returns or raises")


def _bounded(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise TooLargeError(limit)
    return content
