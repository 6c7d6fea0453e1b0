"""WebDataset tars: which members are rows, and what lies beside them says of them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Literal

from fsspec.implementations.local import LocalFileSystem

from item.tables import ErrorCode
from pipelines.input.files import extension, is_hidden, may_be_image, open_file, readable, uri_of
from pipelines.input.rows import TABLE_BYTES, InputRow, as_label
from pipelines.input.tars import DamagedError, Member, Tar
from pipelines.storage.access import Storage, filesystem
from pipelines.storage.fetching import TooLargeError
from pipelines.storage.urls import is_s3, join, redact
from pipelines.tables.row_keys import RowChoice

logger = logging.getLogger(__name__)

_SIDE_EXTENSIONS = frozenset({".txt", ".json", ".cls"})
_LONGEST_SIDE_FILE = 1 << 20


def rows(
    root: str,
    name: str,
    date: str,
    choice: RowChoice,
    storage: Storage,
    *,
    max_bytes: int,
    version: str,
    uri_roots: Sequence[str] = (),
) -> Iterator[InputRow]:
    """Yield the rows of an archive that are chosen, in order.

    Parameters
    ----------
    root, name : where the archive is
    date : date of all its rows
    choice : which rows
    storage : how S3 is reached
    max_bytes : size above which a member is rejected unread
    version : of the archive
    uri_roots : where the archive may lie if it is a link
    """
    archive = uri_of(root, name)
    sample = _Sample()
    loose = 0
    seen: Counter[str] = Counter()
    broken: str | None = None
    with _open_tar(root, name, storage, uri_roots) as tar:
        try:
            for member in tar.members():
                role = _role(member)
                if role == "none":
                    continue
                if sample.ends_before(member):
                    loose += sample.loose
                    yield from sample.rows()
                    sample = _Sample()
                if role == "side":
                    sample.add_side(member, tar)
                    continue
                row = InputRow(
                    _member_uri(archive, member),
                    date,
                    version,
                    archive,
                    _stem(name),
                    seen[member.name],
                )
                seen[member.name] += 1
                done = choice.leaves_out([date], [row.uri], [row.occurrence], [version])[0]
                whole = _fill(row, member, tar, max_bytes, read=not done)
                sample.add_image(member, None if done else row)
                if not whole:
                    break
        except DamagedError as error:
            broken = str(error)
    loose += sample.loose
    yield from sample.rows()
    if broken and not choice.leaves_out([date], [archive], [0], [version])[0]:
        row = InputRow(archive, date, version, archive, _stem(name))
        yield row.fail(ErrorCode.UNREADABLE_ARCHIVE, broken)
    if loose:
        logger.warning("%s: %d side files lie beside no image.", redact(archive), loose)


def keys(
    root: str, name: str, storage: Storage, uri_roots: Sequence[str] = ()
) -> list[tuple[str, int]] | None:
    """Return URI and occurrence of each row of an archive without reading a picture.

    None where that would mean reading the whole archive: on S3, or gzipped.
    """
    if is_s3(root):
        return None
    archive = uri_of(root, name)
    found: list[tuple[str, int]] = []
    seen: Counter[str] = Counter()
    within_image = False
    with _open_tar(root, name, storage, uri_roots) as tar:
        if not tar.seekable:
            return None
        try:
            for member in tar.members():
                if _role(member) != "image":
                    continue
                found.append((_member_uri(archive, member), seen[member.name]))
                seen[member.name] += 1
                within_image = member.regular
                if within_image:
                    tar.skip()
                within_image = False
        except DamagedError:
            if not within_image:  # whose row says it otherwise
                found.append((archive, 0))
    return found


def _member_uri(archive: str, member: Member) -> str:
    return f"{archive}!{member.name}"


def _fill(row: InputRow, member: Member, tar: Tar, max_bytes: int, *, read: bool) -> bool:
    """Read a member into its row; return False where the archive ends within it."""
    if not member.regular:
        row.fail(ErrorCode.MISSING_BYTES, "The member is a link and not a file.")
        return True
    if row.occurrence:
        row.fail(ErrorCode.DUPLICATE_URI)
    elif member.size > max_bytes:
        row.fail(ErrorCode.TOO_MANY_BYTES, str(TooLargeError(max_bytes, member.size)))
    try:
        if read and row.code is None:
            row.bytes = tar.read(member.size)
        else:
            tar.skip()
    except DamagedError as error:
        row.fail(ErrorCode.UNREADABLE_ARCHIVE, str(error))
        return False
    return True


@contextmanager
def _open_tar(root: str, name: str, storage: Storage, uri_roots: Sequence[str]) -> Iterator[Tar]:
    fs, path = filesystem(join(root, name), storage)
    local = isinstance(fs, LocalFileSystem)
    handle: IO[bytes]
    if local:
        handle = open_file(root, name, storage, uri_roots)
    else:
        handle = fs.open(path, "rb", cache_type="readahead", block_size=8 << 20)
    with handle:
        gzipped = handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        if local and not gzipped:
            yield Tar(handle, length=os.fstat(handle.fileno()).st_size)
        else:
            yield Tar.open(handle, gzipped=gzipped)


def _role(member: Member) -> Literal["image", "side", "none"]:
    # "./000.jpg" is no hidden file, and "../000.jpg" is only a name.
    parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
    if member.folder or not parts or is_hidden("/".join(parts)):
        return "none"
    if extension(member.name) in _SIDE_EXTENSIONS:
        return "side" if member.regular else "none"
    return "image" if may_be_image(member.name) else "none"


def _stem(name: str) -> str:
    base = readable(name.rpartition("/")[2])
    return re.sub(r"(?i)(\.tar|\.tar\.gz|\.tgz)$", "", base)


def _sample_key(name: str) -> str:
    """Return what WebDataset calls the key: the path up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


class _Sample:
    """Members next to each other that have one key: images and what is said of them."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._images: list[tuple[str, InputRow]] = []
        self._sides: dict[str, bytes] = {}
        self._bytes = 0
        self._has_image = False

    def ends_before(self, member: Member) -> bool:
        """Whether the next member belongs to another sample, or this one got too large."""
        if self._key is None:
            return False
        full = self._bytes > TABLE_BYTES // 2 or len(self._images) + len(self._sides) >= 1000
        return full or _sample_key(member.name) != self._key

    @property
    def loose(self) -> int:
        """Number of side files without an image."""
        return 0 if self._has_image else len(self._sides)

    def add_image(self, member: Member, row: InputRow | None) -> None:
        self._key = _sample_key(member.name)
        self._has_image = True
        if row is not None:
            self._images.append((member.name, row))
            self._bytes += len(row.bytes or b"")

    def add_side(self, member: Member, tar: Tar) -> None:
        self._key = _sample_key(member.name)
        if member.size <= _LONGEST_SIDE_FILE:
            self._sides[member.name] = tar.read(member.size)
            self._bytes += member.size

    def rows(self) -> Iterator[InputRow]:
        for name, row in self._images:
            caption, about, label = (self._side(name, ext) for ext in (".txt", ".json", ".cls"))
            if caption is not None and (text := _text(caption.strip())):
                row.captions = [text]
            if label is not None:
                row.label = {b"0": 0, b"1": 1}.get(label.strip())
            if about is not None:
                _describe(row, about)
            yield row

    def _side(self, image: str, extension: str) -> bytes | None:
        exact = self._sides.get(os.path.splitext(image)[0] + extension)
        return self._sides.get(_sample_key(image) + extension) if exact is None else exact


def _describe(row: InputRow, document: bytes) -> None:
    """Take label, generator, source and captions from a JSON document, if it is one."""
    try:
        about = json.loads(document)
    except (ValueError, RecursionError):
        return
    if not isinstance(about, dict):
        return
    if "label" in about:
        row.label = as_label(about["label"])
    if isinstance(about.get("generator"), str):
        row.generator = _text(about["generator"])
    if isinstance(about.get("source"), str):
        row.source = _text(about["source"])
    captions = about.get("captions")
    captions = [captions] if isinstance(captions, str) else captions
    if isinstance(captions, list):
        row.captions = [_text(text) for text in captions if isinstance(text, str)]


def _text(value: bytes | str) -> str:
    """Return text that Arrow accepts: JSON may hold half a surrogate pair."""
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace")
    return value.decode("utf-8", "backslashreplace")
