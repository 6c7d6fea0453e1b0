"""What lies where a user points: files with their versions, and what is left out."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from item.errors import UsageError
from pipelines.input.files import is_hidden, readable, uri_of
from pipelines.storage.access import filesystem, reason, storage_errors
from pipelines.storage.allowed import Roots
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import is_s3, normalise, redact

OUTPUT = "files of the output"
OUTSIDE = "linked folders that lead out of the input"
SEEN = "linked folders that are read under another name"


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of an input.

    Attributes
    ----------
    root : real path of a local folder, or an ``s3://`` prefix
    name : path below it; the key byte for byte on S3
    size : bytes
    stamp : modification mark, or the ETag on S3
    """

    root: str
    name: str
    size: int
    stamp: str

    @property
    def uri(self) -> str:
        """What names the file and nothing else."""
        return uri_of(self.root, self.name)

    @property
    def version(self) -> str:
        """Another one whenever the file changed."""
        return f"{self.size}-{self.stamp}"


@dataclass(eq=False)
class Listing:
    """Visible files of one place, sorted by name.

    Attributes
    ----------
    scope : URI of the place; everything listed is it or lies below it
    root : folder or prefix that the names are below
    files : what may be read
    ignored : files that are not, by what they are
    notes : sentences about what is left out
    """

    scope: str
    root: str
    files: list[ListedFile] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def listing(
    place: str, storage: Storage, uri_roots: Sequence[str] = (), leave_out: Iterable[str] = ()
) -> Listing:
    """List a folder, a prefix or one file.

    Parameters
    ----------
    place : local file or folder, or ``s3://bucket/prefix``
    storage : how S3 is reached
    uri_roots : where linked folders may lead to, beside the folder itself
    leave_out : folders and prefixes that are passed over, such as the output

    Raises
    ------
    UsageError
        If it cannot be listed.
    """
    skipped = {normalise(one) for one in leave_out}
    place = normalise(place)
    if is_s3(place):
        found = _list_s3(place, storage, skipped)
    else:
        found = _list_local(place, uri_roots, {os.path.realpath(one) for one in skipped})
    found.files.sort(key=lambda file: file.name)
    return found


# Local folders


def _list_local(path: str, uri_roots: Sequence[str], skipped: set[str]) -> Listing:
    if os.path.isfile(path):
        root, name = os.path.realpath(os.path.dirname(path)), os.path.basename(path)
        about = os.stat(path)
        found = Listing(uri_of(root, name), root)
        found.files.append(ListedFile(root, name, about.st_size, str(about.st_mtime_ns)))
        return found
    root = os.path.realpath(path)
    found = Listing(uri_of(root, ""), root)
    try:
        _Walk(found, Roots([root, *uri_roots]), skipped).run()
    except OSError as error:
        where = getattr(error, "filename", None) or path
        raise UsageError(f"{readable(where)} cannot be listed ({reason(error)}).") from None
    return found


class _Walk:
    """Goes through a folder, then through what its links lead to; every folder once."""

    def __init__(self, found: Listing, allowed: Roots, skipped: set[str]) -> None:
        self.found = found
        self.allowed = allowed
        self.skipped = skipped
        self.seen: set[tuple[int, int]] = set()
        self.links: list[str] = []

    def run(self) -> None:
        self._folders("")
        while self.links:
            links, self.links = sorted(self.links), []
            for name in links:
                self._follow(name)

    def _follow(self, name: str) -> None:
        path = os.path.join(self.found.root, name)
        target = os.path.realpath(path)
        if self.allowed.locate(path, self.found.root) is None:
            self.found.ignored[OUTSIDE] += 1
            self.found.notes.append(
                f"The linked folder {readable(name)} leads out of the input and is not read: "
                f"allow it with --set reading.uri_roots=[{readable(target)}]."
            )
        elif self._is_seen(path):
            self.found.ignored[SEEN] += 1
        else:
            self._folders(name)

    def _is_seen(self, path: str) -> bool:
        about = os.stat(path)
        return (about.st_dev, about.st_ino) in self.seen

    def _folders(self, first: str) -> None:
        folders = [first]
        while folders:
            folder = folders.pop()
            path = os.path.join(self.found.root, folder)
            if os.path.realpath(path) in self.skipped:
                self.found.ignored[OUTPUT] += sum(len(files) for _, _, files in os.walk(path))
                continue
            about = os.stat(path)
            if not _is_in_hidden(folder):  # else a visible link to a hidden folder is passed over
                if (about.st_dev, about.st_ino) in self.seen:
                    continue
                self.seen.add((about.st_dev, about.st_ino))
            with os.scandir(path) as entries:
                folders.extend(self._entries(folder, entries))

    def _entries(self, folder: str, entries: Iterable[os.DirEntry[str]]) -> Iterator[str]:
        """Take files and links; yield folders."""
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield name
                continue
            try:
                about = entry.stat()
            except OSError:  # a link to nowhere: a row, so that it is reported
                self._take(name, 0, "")
                continue
            if stat.S_ISDIR(about.st_mode):
                if is_hidden(name):
                    self.found.ignored["hidden"] += 1
                else:
                    self.links.append(name)
            elif not stat.S_ISREG(about.st_mode):
                self.found.ignored["special files"] += 1
            else:
                self._take(name, about.st_size, str(about.st_mtime_ns))

    def _take(self, name: str, size: int, stamp: str) -> None:
        if is_hidden(name):
            self.found.ignored["hidden"] += 1
        else:
            self.found.files.append(ListedFile(self.found.root, name, size, stamp))


def _is_in_hidden(folder: str) -> bool:
    return is_hidden(f"{folder}/x.jpg") if folder else False


# S3


def _list_s3(place: str, storage: Storage, skipped: set[str]) -> Listing:
    fs, path = filesystem(place, storage)
    bucket, _, key = path.partition("/")
    try:
        objects = _objects(fs.call_s3, bucket, f"{key}/" if key else "")
        first = next(objects, None)
        if first is None and key:
            one = next(_objects(fs.call_s3, bucket, key), None)
            if one is not None and one["Key"] == key:
                parent, _, name = place.rpartition("/")
                return Listing(place, parent, [_listed(parent, name, one)])
        found = Listing(place, place)
        if first is not None:
            _take_object(found, first, len(key) + bool(key), skipped)
        for one in objects:
            _take_object(found, one, len(key) + bool(key), skipped)
    except storage_errors() as error:
        raise UsageError(f"{redact(place)} cannot be listed ({reason(error)}).") from None
    return found


def _objects(call: Callable[..., dict[str, Any]], bucket: str, prefix: str) -> Iterator[Any]:
    """Every object below a prefix, whose key is kept byte for byte."""
    more: dict[str, str] = {}
    while True:
        page = call("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        yield from page.get("Contents", ())
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _take_object(found: Listing, about: Any, start: int, skipped: set[str]) -> None:
    name, size = about["Key"][start:], int(about["Size"])
    if not name or name.endswith("/"):
        found.ignored["names with a slash at the end" if size else "folder markers"] += 1
    elif is_hidden(name):
        found.ignored["hidden"] += 1
    elif skipped and any(uri_of(found.root, name).startswith(f"{one}/") for one in skipped):
        found.ignored[OUTPUT] += 1
    else:
        found.files.append(_listed(found.root, name, about))


def _listed(root: str, name: str, about: Any) -> ListedFile:
    stamp = str(about.get("ETag") or about.get("LastModified") or "").strip('"')
    return ListedFile(root, name, int(about["Size"]), stamp)
