"""The nights of a dump: which there are, and which were asked for."""

from __future__ import annotations

import datetime
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from item.errors import UsageError
from pipelines.nightly.configuration import NightlyConfiguration
from pipelines.storage.access import Storage, filesystem
from pipelines.storage.urls import join, normalise, redact
from pipelines.tables.published import nights_between


@dataclass(frozen=True)
class Night:
    """A night of the dump."""

    date: str
    prefixes: tuple[str, ...]
    done: bool


def nights_of(inputs: Sequence[str], storage: Storage) -> dict[str, list[str]]:
    """Prefixes by date, of dump roots and of prefixes that are nights themselves."""
    found: dict[str, list[str]] = {}
    for one in inputs:
        own = _date_of(one)
        if own:
            found.setdefault(own, []).append(one)
            continue
        fs, path = filesystem(one, storage)
        names = [posixpath.basename(entry["name"].rstrip("/")) for entry in fs.ls(path, True)]
        dates = {date: name for name in names if (date := _date_of(name))}
        if not dates:
            raise UsageError(
                f"There is no night at {redact(one)}: nights are folders such as date=2026-11-23."
            )
        for night, name in sorted(dates.items()):
            found.setdefault(night, []).append(join(one, name))
    return found


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


def _date_of(prefix: str) -> str | None:
    """The date that a folder's name says, if it is one."""
    name = posixpath.basename(normalise(prefix) if "/" in prefix else prefix)
    match = re.fullmatch(r"date=(\d{4}-\d{2}-\d{2})", name)
    try:
        return datetime.date.fromisoformat(match[1]).isoformat() if match else None
    except ValueError:
        return None
