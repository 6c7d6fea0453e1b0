"""The nights of a dump: which there are, which were asked for, and what is none."""

from __future__ import annotations

import datetime
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from item.errors import UsageError
from pipelines.nightly.configuration import NightlyConfiguration
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join, normalise, redact
from pipelines.tables.published import nights_between

NAMED = 5
"""Names that are no nights that a sentence tells."""


@dataclass(frozen=True)
class Night:
    """A night of the dump."""

    date: str
    prefixes: tuple[str, ...]
    done: bool


@dataclass(frozen=True)
class FoundNights:
    """What lies at dump roots.

    Attributes
    ----------
    prefixes : folders of each night, by date
    others : names of folders and files that belong to no night
    """

    prefixes: Mapping[str, list[str]]
    others: tuple[str, ...]

    def remarks(self) -> list[str]:
        """A sentence about what is read in no night."""
        if not self.others:
            return []
        names = ", ".join(self.others[:NAMED])
        more = len(self.others) - NAMED
        return [
            f"Not read, because {len(self.others):,} names are no nights: {names}"
            + (f" and {more:,} more." if more > 0 else ".")
        ]


def nights_of(
    inputs: Sequence[str], storage: Storage, layout: str, output: str = ""
) -> FoundNights:
    """Find the nights at dump roots and at prefixes that are nights themselves.

    Parameters
    ----------
    inputs : dump roots, or folders of nights
    storage : how S3 is reached
    layout : how folders of nights are named, as ``strftime`` writes it
    output : root of the audit, which is no night where it lies in a dump

    Raises
    ------
    UsageError
        If there is no night at an input.
    """
    prefixes: dict[str, list[str]] = {}
    others: list[str] = []
    for one in dict.fromkeys(map(normalise, inputs)):
        own = _date_at_end(one, layout)
        found = [(own, one)] if own else list(_below(one, layout, storage, others, output))
        if not found:
            example = datetime.date(2026, 11, 23).strftime(layout)
            raise UsageError(
                f"There is no night at {redact(one)}: nights are folders such as {example}. Say "
                "how they are named with --set night_folders=date=%Y-%m-%d or the like."
            )
        for date, prefix in sorted(found):
            prefixes.setdefault(date, []).append(prefix)
    return FoundNights(prefixes, tuple(others))


def chosen_nights(configuration: NightlyConfiguration, there: Sequence[str]) -> list[str]:
    """The nights of the dump that were asked for; UsageError if one that was named is missing."""
    chosen = nights_between(
        there, configuration.date or configuration.first, configuration.date or configuration.last
    )
    if not chosen:
        raise UsageError(
            f"The dump has no night that was asked for: its nights are {there[0]} to {there[-1]}."
        )
    return chosen


def _below(
    root: str, layout: str, storage: Storage, others: list[str], output: str
) -> Iterator[tuple[str, str]]:
    """Date and prefix of each night below a dump root; the rest goes to ``others``."""
    parts = layout.split("/")
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        here = join(root, folder) if folder else root
        for name, is_folder in _entries(here, storage):
            inner = f"{folder}/{name}" if folder else name
            prefix = join(root, inner)
            depth = inner.count("/") + 1
            date = date_of_night(inner, layout) if is_folder and depth == len(parts) else None
            if date:
                yield date, prefix
            elif is_folder and depth < len(parts) and _fits(name, parts[depth - 1]):
                waiting.append(inner)
            elif not name.startswith((".", "_")) and not (output and prefix == normalise(output)):
                others.append(inner)


def _entries(folder: str, storage: Storage) -> list[tuple[str, bool]]:
    """Name of everything in a folder, and whether it is a folder."""
    fs, path = filesystem(folder, storage)
    listed = fs.ls(path, detail=True)
    entries = [
        (posixpath.basename(one["name"].rstrip("/")), fs.isdir(one["name"]))
        if one.get("islink")
        else (posixpath.basename(one["name"].rstrip("/")), one["type"] == "directory")
        for one in listed
    ]
    return sorted(entries)


def date_of_night(name: str, layout: str) -> str | None:
    """The date that the name of a night's folder says, None if it is no such name.

    A number that is all there is to a folder's name, as in ``month=1``, may lack its zero.
    """
    try:
        date = datetime.datetime.strptime(name, layout).date()
    except ValueError:
        return None
    pairs = zip(name.split("/"), layout.split("/"), strict=True)
    return date.isoformat() if all(_spelled(date, text, part) for text, part in pairs) else None


def _spelled(date: datetime.date, text: str, part: str) -> bool:
    """Whether a folder's name is as the layout would write it."""
    whole = date.strftime(part)
    if part.count("%") == 1:
        return _unpadded(text) == _unpadded(whole)
    return text == whole


def _unpadded(text: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def _fits(name: str, part: str) -> bool:
    try:
        datetime.datetime.strptime(name, part)
    except ValueError:
        return False
    return True


def _date_at_end(prefix: str, layout: str) -> str | None:
    """The date of a folder that is a night itself."""
    depth = layout.count("/") + 1
    return date_of_night("/".join(prefix.split("/")[-depth:]), layout)
