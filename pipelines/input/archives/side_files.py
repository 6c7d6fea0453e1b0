"""What lies beside a picture in an archive and says of it: captions, label, generator, source."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipelines.input.rows import InputRow, as_label

_TEXT, _JSON, _CLASS = 1, 2, 4
_KINDS = {
    ".txt": _TEXT,
    ".text": _TEXT,
    ".json": _JSON,
    ".jsn": _JSON,
    ".cls": _CLASS,
    ".class": _CLASS,
}
SIDE_EXTENSIONS = frozenset(_KINDS)
LONGEST_SIDE_FILE = 1 << 20
MOST_BYTES = 64 << 20
"""Of memory for what the side files of an archive say."""
_ENTRY_BYTES = 500
"""Of memory for an entry beside its texts, as measured."""

TOO_LONG = "side files of an archive are too large and not read"
UNREADABLE = "side files of an archive are damaged or encrypted and not used"
NO_JSON = "side files of an archive are not JSON objects and not used"
REPEATED = "side files of an archive have the name of another one and are not used"
LOOSE = "side files of an archive belong to no picture"
LOOSE_OR_LATE = "side files of an archive belong to no picture, or came too late after it"
CROWDED = "side files of an archive are apart from their picture, and too many to be used"
BAD_LABEL = "labels of side files are neither 0 nor 1 and are taken as unknown"
TWO_LABELS = "pictures of an archive have two labels and are taken as unknown"
NO_TEXT = "generators, sources or captions of side files are no text and not used"


@dataclass(slots=True)
class Said:
    """What the side files of one name say."""

    kinds: int
    label: int | None = None
    two_labels: bool = False
    generator: str | None = None
    source: str | None = None
    captions: list[str] | None = None
    text: list[str] | None = None
    used: int = 0
    """Kinds that a picture was told."""

    @property
    def may_label(self) -> bool:
        """Whether a file was there that can hold a label; a caption alone holds none."""
        return bool(self.kinds & (_JSON | _CLASS))


@dataclass(frozen=True, slots=True)
class SideFile:
    """A side file that was read: what it says, and what of it was not understood."""

    name: str
    said: Said
    unclear: list[str] = field(default_factory=list)


class SideFiles:
    """What side files say, by their names without extensions.

    Parameters
    ----------
    notices : counts what is not used, by sentences without a number
    most_bytes : of memory
    """

    def __init__(self, notices: Counter[str], most_bytes: int | None = None) -> None:
        self._notices = notices
        self._left = MOST_BYTES if most_bytes is None else most_bytes
        self._said: dict[str, Said] = {}

    def holds(self, name: str) -> bool:
        """Whether a side file of this name was taken, whatever the case of its extension."""
        stem, kind = _stem_and_kind(name)
        there = self._said.get(stem)
        return there is not None and bool(there.kinds & kind)

    def add(self, file: SideFile) -> bool:
        """Take a side file, unless memory is full; the first of two of one name counts."""
        stem, kind = _stem_and_kind(file.name)
        there = self._said.get(stem)
        if there is not None and there.kinds & kind:
            self._notices[REPEATED] += 1
            return True
        said = file.said
        texts = [stem, said.generator, said.source, *(said.captions or ()), *(said.text or ())]
        size = sum(sys.getsizeof(text) for text in texts if text)
        size += _ENTRY_BYTES if there is None else 0
        if size > self._left:
            return False
        self._left -= size
        self._notices.update(file.unclear)
        if there is None:
            self._said[stem] = said
        else:
            self._merge(there, said)
        return True

    def of(self, image: str) -> list[Said]:
        """Return what is said of a picture, the file whose name is most like its own first."""
        plain = _plain(image)
        names = dict.fromkeys([plain, os.path.splitext(plain)[0], sample_key(plain)])
        found = [self._said[name] for name in names if name in self._said]
        for said in found:
            said.used = said.kinds
        return found

    def unused(self) -> int:
        """Number of side files that were asked for by no picture."""
        return sum((said.kinds & ~said.used).bit_count() for said in self._said.values())

    def _merge(self, there: Said, said: Said) -> None:
        there.kinds |= said.kinds
        if None not in (there.label, said.label) and there.label != said.label:
            there.two_labels = True
            self._notices[TWO_LABELS] += 1
        for name in ("label", "generator", "source", "captions", "text"):
            if getattr(there, name) is None:
                setattr(there, name, getattr(said, name))


def read_side_file(name: str, content: bytes) -> SideFile:
    """Return what a side file says."""
    kind = _stem_and_kind(name)[1]
    file = SideFile(name, Said(kind))
    if kind == _TEXT:
        text = _text(content).strip()
        file.said.text = [text] if text else None
    elif kind == _CLASS:
        file.said.label = _label(_text(content), file.unclear)
    else:
        _read_json(content, file)
    return file


def unread_side_file(name: str, why: str) -> SideFile:
    """Return a side file of which nothing is known; `why` is one of the sentences above."""
    return SideFile(name, Said(_stem_and_kind(name)[1]), [why])


def describe(row: InputRow, found: Sequence[Said]) -> None:
    """Put what is said of a picture into its row; what comes first counts."""
    row.label = next(
        (
            None if said.two_labels else said.label
            for said in found
            if said.two_labels or said.label is not None
        ),
        None,
    )
    for said in found:
        row.captions = row.captions or said.captions or said.text
        row.generator = row.generator or said.generator
    row.source = next((said.source for said in found if said.source), row.source)


def _read_json(content: bytes, file: SideFile) -> None:
    """Take label, generator, source and captions; keys in any case, and as img2dataset's."""
    try:
        about = json.loads(content)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        file.unclear.append(NO_JSON)
        return
    values: dict[str, Any] = {}
    for key, value in sorted(about.items(), key=lambda item: not item[0].islower()):
        if value is not None:
            values.setdefault(key.lower(), value)
    said = file.said
    if "label" in values:
        said.label = _label(values["label"], file.unclear)
    said.generator = _word(values.get("generator"), file.unclear)
    said.source = _word(values.get("source"), file.unclear)
    captions = next((values[key] for key in ("captions", "caption", "text") if key in values), None)
    captions = [captions] if isinstance(captions, str) else captions
    if isinstance(captions, list):
        texts = [_text(text).strip() for text in captions if isinstance(text, str)]
        said.captions = [text for text in texts if text] or None
        if len(texts) < len(captions):
            file.unclear.append(NO_TEXT)
    elif captions is not None:
        file.unclear.append(NO_TEXT)


def _label(value: object, unclear: list[str]) -> int | None:
    label = as_label(value)
    if label is None and isinstance(value, str):
        with suppress(ValueError):
            label = as_label(float(value))  # "1.0"
    if label is None:
        unclear.append(BAD_LABEL)
    return label


def _word(value: object, unclear: list[str]) -> str | None:
    if value is None or isinstance(value, str):
        return sys.intern(_text(value)) if value else None  # few in an archive, often repeated
    unclear.append(NO_TEXT)
    return None


def sample_key(name: str) -> str:
    """Return what WebDataset calls the key: the path up to the first dot of its last part."""
    folder, slash, last = _plain(name).rpartition("/")
    return folder + slash + last.partition(".")[0]


def _plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _stem_and_kind(name: str) -> tuple[str, int]:
    stem, extension = os.path.splitext(_plain(name))
    return stem, _KINDS[extension.lower()]


def _text(value: bytes | str) -> str:
    """Return text that Arrow accepts: JSON may hold half a surrogate pair."""
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace")
    return value.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "backslashreplace")
