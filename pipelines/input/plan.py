"""From whatever a user points at to a plan of what will be read.

`plan` lists the inputs and says before any work what is wrong with them; it never reads a
picture. ``pipelines.input.reading`` turns the plan into rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date as Date
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from item.errors import UsageError
from pipelines.input.columns import ColumnNames, InputFile
from pipelines.input.files import Kind, date_in, extension, kind_of
from pipelines.input.kinds import NAMES, kind_of_input
from pipelines.input.listing import ListedFile, Listing, listing
from pipelines.input.pieces import Piece, Survey, cut
from pipelines.storage.access import check_readable, filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.places import Places
from pipelines.storage.urls import redact
from pipelines.tables.row_keys import RowKeys, file_states


class InputOptions(BaseModel):
    """What a user may say about an input beyond where it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: Literal["auto", "images", "parquet", "webdataset", "list"] = "auto"
    """What the input is; ``auto`` looks."""
    columns: ColumnNames = ColumnNames()
    """What the columns of its tables are called."""
    uri_roots: Places = ()
    """Further folders and prefixes below which URIs of a table and links may lead."""
    date: Date | None = None
    """For rows without a date and without ``date=YYYY-MM-DD`` folders; today if unset."""
    rows_per_task: int = Field(default=1024, ge=1)
    """Rows that one task reads, at most."""
    read_threads: int = Field(default=16, ge=1, le=256)
    """Reads that a task does at once."""


@dataclass(frozen=True, eq=False)
class InputPlan:
    """What will be read, in units of one task.

    Attributes
    ----------
    places : what the user pointed at, as URIs
    kinds : what each of them was found to be
    pieces : units of reading
    rows : number of rows, or None where counting would mean reading everything
    dates : every date that occurs, sorted
    ignored : files that are not read, by extension, ``hidden`` or what else they are
    notes : sentences about the input that its owner should see
    default_date : of rows for which nothing says another one
    night : the date of all rows, whatever they say; None where each row has its own
    uri_roots : what may be read: the places, and what the user allowed
    files : states of all files that are there, of whatever kind
    """

    places: tuple[str, ...]
    kinds: tuple[Kind, ...]
    pieces: tuple[Piece, ...]
    rows: int | None
    dates: tuple[str, ...]
    ignored: Mapping[str, int]
    notes: tuple[str, ...]
    default_date: str
    night: str | None
    columns: ColumnNames
    uri_roots: tuple[str, ...]
    read_threads: int
    files: RowKeys
    listing_digest: str

    def fingerprint(self) -> str:
        """Return a hash of kinds, paths, sizes and modification marks of all files read."""
        return self.listing_digest

    def input_file(self, root: str, name: str) -> InputFile:
        """Return where a listed file stands, and its date."""
        return InputFile.of(root, name, self.night, self.default_date)

    def is_gone(self, files: Sequence[str], versions: Sequence[str]) -> NDArray[np.bool_]:
        """Whether rows are of files that were below the places and are not, or are others now.

        Parameters
        ----------
        files, versions : of rows that are there already
        """
        mine = [any(_is_below(file, place) for place in self.places) for file in files]
        return np.array(mine, bool) & ~self.files.contains(file_states(files, versions))

    def remarks(self) -> list[str]:
        """Return what its owner should know before the work begins."""
        left_out = [f"{number:,} {kind}" for kind, number in sorted(self.ignored.items())]
        return [*self.notes, *([f"Not read: {', '.join(left_out)}."] if left_out else [])]


def _is_below(file: str, place: str) -> bool:
    return file == place or file.startswith(place.rstrip("/") + "/")


def plan(
    places: Sequence[str],
    options: InputOptions,
    storage: Storage,
    today: Date,
    *,
    night: str | None = None,
    leave_out: Iterable[str] = (),
) -> InputPlan:
    """List inputs and check them, without reading a picture.

    Parameters
    ----------
    places : local files or folders, or ``s3://bucket/prefix``
    options : what the user said about them
    storage : how S3 is reached
    today : UTC date of rows for which nothing else gives one
    night : the date of all rows, if the folders are one night
    leave_out : folders below the places that are not read, such as the output

    Raises
    ------
    UsageError
        If an input is missing, empty, ambiguous, unreadable or has no known columns.
    """
    _check_roots(places, options, storage)
    listed = [listing(place, storage, options.uri_roots, leave_out) for place in places]
    notes = [note for one in listed for note in one.notes]
    ignored: Counter[str] = Counter()
    kinds: list[Kind] = []
    mine: list[tuple[Kind, ListedFile]] = []
    there: set[str] = set()
    twice = 0
    for place, one in zip(places, listed, strict=True):
        ignored.update(one.ignored)
        kind = kind_of_input(place, options.kind, one.files)
        kinds.append(kind)
        for file in one.files:
            if kind != kind_of(file.name):
                ignored[extension(file.name) or "without extension"] += 1
            elif len(places) > 1 and file.uri in there:
                twice += 1
            else:
                mine.append((kind, file))
                if len(places) > 1:
                    there.add(file.uri)
    if twice:
        notes.append(f"{twice:,} files are given twice and read once.")
    if not mine:
        raise UsageError(_nothing_to_read(places, kinds, ignored))
    default = (options.date or today).isoformat()
    found = InputPlan(
        places=tuple(one.scope for one in listed),
        kinds=tuple(kinds),
        pieces=(),
        rows=0,
        dates=(),
        ignored=dict(sorted(ignored.items())),
        notes=tuple(notes),
        default_date=date_in(listed[0].root) or default if len(listed) == 1 else default,
        night=night,
        columns=options.columns,
        uri_roots=_uri_roots(listed, options),
        read_threads=options.read_threads,
        files=_states([file for one in listed for file in one.files]),
        listing_digest=_fingerprint(mine),
    )
    survey = Survey(
        found.input_file, storage, options.columns, found.uri_roots, options.rows_per_task
    )
    what = cut(mine, survey, options.read_threads)
    if what.rows == 0:
        raise UsageError(f"The tables at {' and '.join(map(redact, places))} have no rows.")
    return replace(
        found,
        pieces=what.pieces,
        rows=what.rows,
        dates=tuple(sorted(what.dates)),
        notes=(*notes, *what.notes),
    )


def _check_roots(places: Sequence[str], options: InputOptions, storage: Storage) -> None:
    for place in places:
        check_readable(place, storage)
    for root in options.uri_roots:
        if root[:7].lower() != "http://" and root[:8].lower() != "https://":
            filesystem(root, storage)


def _nothing_to_read(
    places: Sequence[str], kinds: Sequence[Kind], ignored: Mapping[str, int]
) -> str:
    left_out = ", ".join(f"{count} {what}" for what, count in sorted(ignored.items()))
    return (
        f"There is nothing to read at {' and '.join(map(redact, places))}: no "
        f"{' and no '.join(NAMES[kind] for kind in dict.fromkeys(kinds))} there"
        + (f" (left out: {left_out})." if left_out else ".")
    )


def _uri_roots(listed: Sequence[Listing], options: InputOptions) -> tuple[str, ...]:
    """What may be read; a file that the user named is, wherever a link leads."""
    named = [one.scope for one in listed if one.scope != one.root and len(one.files) == 1]
    return tuple(dict.fromkeys([*(one.root for one in listed), *named, *options.uri_roots]))


def _states(files: Sequence[ListedFile]) -> RowKeys:
    return RowKeys(file_states([one.uri for one in files], [one.version for one in files]))


def _fingerprint(files: Iterable[tuple[Kind, ListedFile]]) -> str:
    digest = blake2b(digest_size=16)
    for kind, file in files:
        line = f"{kind}\0{file.name}\0{file.version}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
