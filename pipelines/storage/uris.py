"""What a row names, as text: one spelling for each object, and no secret in it.

A key is an absolute local path, ``s3://bucket/key`` byte for byte, or a normalised HTTP URL.
Anything else keeps its spelling.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, unquote, unquote_to_bytes

import idna


def local_uri(path: str) -> str:
    """Return the key of an absolute local path: itself, if it is text.

    Parameters
    ----------
    path : as Python gives it, with surrogates for bytes that are not UTF-8

    Returns
    -------
    The path, or ``file://`` and its percent-encoded bytes. Different for different paths.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote(_bytes(path), safe="/")
    return path


def canonical_uri(text: str, folder: str) -> str:
    """Return the key of what a table names: the same for every spelling of one object.

    Parameters
    ----------
    text : what the table says, of any content; relative text is resolved against `folder`
    folder : absolute local folder or ``s3://bucket/prefix`` of the table
    """
    named = what_is_named(without_secrets(text), folder)
    match named.kind:
        case "local":
            return local_uri(_local_key(named.text))
        case "s3":
            return _text("s3://" + named.text)
        case "http":
            url = http_url(named.text)
            if url is not None:
                return url.key
    return _text(named.text)


# What a text names


@dataclass(frozen=True, slots=True)
class Named:
    """What a text names, whether or not it may be read.

    ``text`` is an absolute local path, ``bucket/key``, an HTTP URL or anything else.
    """

    kind: Literal["local", "s3", "http", "other"]
    text: str


_SCHEME = re.compile(r"((?:[a-z0-9]+::)*)([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
S3_SCHEMES = frozenset({"s3", "s3a", "s3n"})


def what_is_named(text: str, folder: str) -> Named:
    """Tell what `text` in a table that lies in `folder` names; see `canonical_uri`."""
    scheme = _SCHEME.match(text)
    if scheme is None:
        if re.match(r"file:/", text, re.IGNORECASE):  # as Hadoop and Spark write it
            return Named("local", _unquoted(text[5:]))
        if re.match(r"(file|data|https?|s3):", text, re.IGNORECASE):
            return Named("other", text)
        if text.startswith("/"):
            return Named("local", text)
        if not folder.startswith("s3://"):
            return Named("local", os.path.join(folder, text))
        return _below_s3(folder[len("s3://") :], text)
    name = scheme[2].lower()
    rest = text[scheme.end() :]
    if scheme[1]:
        return Named("other", text)
    if name in S3_SCHEMES:
        return Named("s3", rest)
    if name in ("http", "https"):
        return Named("http", text)
    if name == "file":
        host, slash, path = rest.partition("/")
        if host.lower() in ("", "localhost") and slash:
            return Named("local", _unquoted("/" + path))
    return Named("other", text)


def _below_s3(folder: str, text: str) -> Named:
    bucket, *prefix = folder.split("/")
    return Named("s3", "/".join([bucket, *_dotless(prefix, text.split("/"))]))


def _dotless(kept: list[str], segments: list[str]) -> list[str]:
    """Go from `kept` along `segments`, ``.`` and ``..`` resolved as RFC 3986 does.

    Empty segments count. A ``..`` that leads out stays.
    """
    kept = list(kept)
    for segment in segments:
        if segment == ".." and kept and kept[-1] != "..":
            kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", "..") and kept[-1:] != [".."]:
        kept.append("")
    return kept


def _local_key(path: str) -> str:
    end = len(path)
    while end > 1 and (path[end - 1] == "/" or path[end - 2 : end] == "/."):
        end -= 1
    parent, name = os.path.split(path[:end])
    if name in ("", ".."):
        return real_path(path[:end])
    return os.path.join(_real_folder(parent), name)


_LONGEST_PATH = 4096


def real_path(path: str) -> str:
    """Return an absolute path without links and dots; one that cannot exist stays text."""
    if len(path) > _LONGEST_PATH:
        path = os.path.normpath(path)
    if "\0" in path or len(path) > _LONGEST_PATH:
        return "/" + os.path.normpath(path).lstrip("/")
    return os.path.realpath(path)


_real_folder = lru_cache(maxsize=1 << 14)(real_path)  # millions of rows share few folders


def _unquoted(path: str) -> str:
    return os.fsdecode(unquote_to_bytes(_bytes(path)))


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair out of a JSON document
        return text.encode("utf-8", "surrogatepass")


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


# HTTP


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """The parts of an HTTP URL, without user information and fragment.

    ``host`` is in lower case, with the port if it is not the scheme's own. ``path`` and
    ``query`` are as a request has them: what may not stand there is percent-encoded.
    """

    scheme: str
    host: str
    path: str
    query: str
    has_user: bool

    @property
    def sent(self) -> str:
        """The URL to ask for."""
        return self._with(self.path, self.query)

    @property
    def normal_path(self) -> str:
        """The path without needless escapes."""
        return _normal(self.path)

    @property
    def key(self) -> str:
        """The same for all spellings that RFC 3986 (6.2.2) calls equivalent."""
        return self._with(self.normal_path, _normal(self.query))

    def _with(self, path: str, query: str) -> str:
        return f"{self.scheme}://{self.host}{path}{'?' if query else ''}{query}"


_HTTP = re.compile(r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Za-z:.%]+\]|[\w.%-]+)(?::([0-9]*))?")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_PORTS = {"http": 80, "https": 443}
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


def http_url(text: str) -> HttpUrl | None:
    """Take an HTTP URL apart as RFC 3986 does; None if it has no valid host or port."""
    found = _HTTP.fullmatch(text)
    if found is None:
        return None
    scheme, authority, path, query = found[1].lower(), found[2], found[3], found[4] or ""
    _, at, host = authority.rpartition("@")
    canonical = _host(scheme, host)
    if canonical is None:
        return None
    return HttpUrl(
        scheme,
        canonical,
        _within(_encoded(path, "/:@!$&'()*+,;=~").replace("%2E", ".")) or "/",
        _encoded(query, "/:@!$&'()*+,;=~?"),
        bool(at),
    )


@lru_cache(maxsize=1024)
def _host(scheme: str, text: str) -> str | None:
    found = _HOST.fullmatch(text)
    if found is None:
        return None
    host = _normal(found[1]).lower()
    port = int((found[2] or str(_PORTS[scheme])).lstrip("0")[:6] or 0)
    if port > 65535 or "%" in host:
        return None
    try:
        host = ".".join(
            label if label.isascii() else idna.encode(label, strict=True, std3_rules=True).decode()
            for label in host.split(".")
        )
    except idna.IDNAError:
        return None
    return host if port == _PORTS[scheme] else f"{host}:{port}"


def _encoded(part: str, safe: str) -> str:
    part = _STRAY_PERCENT.sub("%25", part)
    part = _ESCAPE.sub(lambda escape: escape[0].upper(), part)
    return quote(_bytes(part), safe=safe + "%")


def _normal(part: str) -> str:
    """Decode the escapes of characters that need none."""
    return _ESCAPE.sub(_decoded, part)


def _decoded(escape: re.Match[str]) -> str:
    character = chr(int(escape[0][1:], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0]


def _within(path: str) -> str:
    """Resolve the dots of an absolute path; what leads out of it goes, as in RFC 3986."""
    if "/." not in path:
        return path
    segments = _dotless([], path.split("/")[1:])
    return "/" + "/".join(segment for segment in segments if segment != "..")


# Secrets


_OBJECT_STORES = S3_SCHEMES | {"gs", "gcs"}
"""Their keys may hold any character: there is no query."""

_NAMES_CONTAINER = frozenset({"abfs", "abfss", "wasb", "wasbs"})
"""What stands before ``@`` is a container."""

_BUCKET = re.compile(r"[\w.-]+|arn:[^/@]*")
_HOST_AFTER_AT = re.compile(
    r"@(?=(?:\[[0-9A-Fa-f:.]+\]|localhost|[\w-]+(?:\.[\w-]+)+|[\w-]+(?=:[0-9]))(?::[0-9]+)?"
    r"(?:[/?#\s]|$))"
)
_BUCKET_AFTER_AT = re.compile(r"@(?=[a-z0-9][a-z0-9.-]+(?:[/\s]|$))")


def without_secrets(uri: str) -> str:
    """Return `uri` without user information and without the signature of a presigned URL.

    What is no secret of a known scheme stays, so that two objects do not become one.
    """
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return uri
    name = scheme[2].lower()
    rest = uri[scheme.end() :]
    bare = without_user(name, rest)
    if name not in _OBJECT_STORES:
        bare = without_signature(bare)
    return uri if bare == rest else scheme[0] + bare


def without_user(scheme: str, rest: str) -> str:
    """Return what follows ``scheme://`` without user name and password.

    An authority that is malformed, since a password was not percent-encoded, ends at an ``@``
    further on: the first before something like a host, else the last.
    """
    if "@" not in rest:
        return rest
    authority = _authority(scheme, rest)
    if ":" not in authority and ("@" not in authority or scheme in _NAMES_CONTAINER):
        return rest
    host = authority.rpartition("@")[2]
    if _is_host(scheme, host):
        return rest[len(authority) - len(host) :]
    after = (_BUCKET_AFTER_AT if scheme in _OBJECT_STORES else _HOST_AFTER_AT).search(rest)
    return rest[after.end() if after else rest.rindex("@") + 1 :]


def ends_in_password(scheme: str, rest: str) -> bool:
    """Whether what follows ``scheme://`` looks like ``user:part of a password``."""
    host = _authority(scheme, rest).rstrip(".,;)'\"")
    if "@" in rest or ":" not in host or _is_host(scheme, host):
        return False
    before = host.removesuffix(":")  # the colon of a sentence may follow a port
    return ":" not in before or not _is_host(scheme, before)


def _authority(scheme: str, rest: str) -> str:
    ends = "[/]" if scheme in _OBJECT_STORES else "[/?#]"
    return re.split(ends, rest, maxsplit=1)[0]


def _is_host(scheme: str, text: str) -> bool:
    if scheme in _OBJECT_STORES:
        return _BUCKET.fullmatch(text) is not None
    if _HOST.fullmatch(text) is None or "%" in text:
        return False
    # "anna:/..." is rather a password that begins with a slash than an empty port.
    return not text.endswith(":") or "." in text or text.startswith("[")


@dataclass(frozen=True)
class _Signature:
    """A way to sign URLs: parameters of which one set must be there, and all that belong to it."""

    known_by: tuple[frozenset[str], ...]
    parameters: frozenset[str]


def _signature(*known_by: str, also: str) -> _Signature:
    sets = tuple(frozenset(names.split()) for names in known_by)
    return _Signature(sets, frozenset(also.split()).union(*sets))


_SIGNATURES = (
    _signature(  # AWS, version 4
        "x-amz-signature",
        also="x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signedheaders "
        "x-amz-security-token",
    ),
    _signature("awsaccesskeyid signature expires", also="x-amz-security-token"),  # AWS, version 2
    _signature(  # CloudFront
        "key-pair-id signature expires", "key-pair-id signature policy", also=""
    ),
    _signature(  # Google, version 4
        "x-goog-signature",
        also="x-goog-algorithm x-goog-credential x-goog-date x-goog-expires x-goog-signedheaders",
    ),
    _signature("googleaccessid signature expires", also=""),  # Google, version 2
    _signature(  # Azure
        "sv sig se",
        "sv sig si",
        also="st sr sp spr sip ss srt skoid sktid skt ske sks skv saoid suoid scid sdd ses",
    ),
)


def without_signature(rest: str) -> str:
    """Return a URL, or the rest of one, without the parameters that sign it."""
    head, mark, tail = rest.partition("?")
    if not mark:
        return rest
    query, hash, fragment = tail.partition("#")
    pairs = query.split("&")
    names = [unquote(pair.partition("=")[0]).lower() for pair in pairs]
    there = frozenset(names)
    secret: set[str] = set()
    for signature in _SIGNATURES:
        if any(known <= there for known in signature.known_by):
            secret |= signature.parameters
    if not secret:
        return rest
    kept = [pair for pair, name in zip(pairs, names, strict=True) if name not in secret]
    return head + ("?" + "&".join(kept) if kept else "") + hash + fragment
