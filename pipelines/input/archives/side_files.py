"""What lies beside a picture in an archive and says of it: captions, label, generator, source."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from pipelines.input.archives.tars import DamagedError
from pipelines.input.rows import InputRow, as_label

SIDE_EXTENSIONS = frozenset({".txt", ".json", ".cls"})
LONGEST_SIDE_FILE = 1 << 20
MOST_BYTES = 64 << 20
"""Of the side files of an archive that are kept in memory."""


class Body(Protocol):
    """An archive at one of its members."""

    def read(self, limit: int) -> bytes: ...


class SideFiles:
    """The side files of an archive by the name of their picture; extensions in any case."""

    def __init__(self) -> None:
        self._contents: dict[str, dict[str, bytes]] = {}
        self._bytes = 0
        self._pictures: set[str] = set()
        self._notices: Counter[str] = Counter()

    def add(self, name: str, size: int, body: Body) -> None:
        """Take a side file; one that is too long, or too many, are only counted."""
        stem, extension = os.path.splitext(_plain(name))
        if size > LONGEST_SIDE_FILE or self._bytes + size > MOST_BYTES:
            self._notices["side files of an archive are too large and not read"] += 1
            return
        try:
            content = body.read(size)
        except DamagedError:
            self._notices["side files of an archive are damaged and not read"] += 1
            raise
        self._bytes += size
        self._contents.setdefault(stem, {}).setdefault(extension.lower(), content)

    def expect(self, name: str) -> None:
        """Say that a picture is there."""
        plain = _plain(name)
        self._pictures |= {os.path.splitext(plain)[0], sample_key(plain)}

    def has(self, name: str) -> bool:
        """Whether something is known of a picture."""
        return bool(self._of(name))

    def described(self, name: str, row: InputRow) -> InputRow:
        """Put what is known of a picture into its row."""
        contents = self._of(name)
        if (caption := contents.get(".txt")) and (text := _text(caption.strip())):
            row.captions = [text]
        if (label := contents.get(".cls")) is not None:
            row.label = self._label(_text(label.strip()))
        if (about := contents.get(".json")) is not None:
            self._describe(row, about)
        return row

    def notices(self) -> Counter[str]:
        """Counts of what was not understood."""
        loose = [stem for stem in self._contents if stem not in self._pictures]
        found = Counter(self._notices)
        if number := sum(len(self._contents[stem]) for stem in loose):
            found["side files of an archive lie beside no picture"] += number
        return found

    def _of(self, name: str) -> Mapping[str, bytes]:
        plain = _plain(name)
        exact = self._contents.get(os.path.splitext(plain)[0], {})
        return {**self._contents.get(sample_key(plain), {}), **exact}

    def _label(self, value: object) -> int | None:
        label = as_label(value)
        if label is None and value is not None:
            self._notices["labels of side files are neither 0 nor 1 and are taken as unknown"] += 1
        return label

    def _describe(self, row: InputRow, document: bytes) -> None:
        """Take label, generator, source and captions from a JSON document, if it is one."""
        try:
            about = json.loads(document)
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict):
            self._notices["side files of an archive are not JSON objects and not used"] += 1
            return
        values: dict[str, Any] = {str(key).lower(): value for key, value in about.items()}
        if "label" in values:
            row.label = self._label(values["label"])
        if isinstance(values.get("generator"), str):
            row.generator = _text(values["generator"])
        if isinstance(values.get("source"), str):
            row.source = _text(values["source"])
        captions = values.get("captions", values.get("caption"))
        captions = [captions] if isinstance(captions, str) else captions
        if isinstance(captions, list):
            row.captions = [_text(text) for text in captions if isinstance(text, str)]


def sample_key(name: str) -> str:
    """Return what WebDataset calls the key: the path up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _text(value: bytes | str) -> str:
    """Return text that Arrow accepts: JSON may hold half a surrogate pair."""
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace")
    return value.decode("utf-8", "backslashreplace")
