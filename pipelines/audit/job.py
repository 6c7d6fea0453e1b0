"""An audit of published nights: read, count, and write the report with its numbers beside it.

::

    audits = prepare(configuration)   # everything is read and counted
    shown(audits)                     # the pictures that the report shows, to keep them
    write(audits)                     # REPORT.html, and REPORT/*.csv and *.parquet
"""

from __future__ import annotations

import csv
import datetime
import io
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from item.errors import UsageError
from item.heads.head import Head
from pipelines.audit.numbers import (
    Audit,
    Known,
    audit_of,
    known,
    with_pictures,
)
from pipelines.audit.numbers import AuditOptions as AuditOptions
from pipelines.audit.page import as_html, page_of
from pipelines.audit.rows import AuditRows, nights, read
from pipelines.score.heads import load_head
from pipelines.storage.access import Storage, check_writable, filesystem
from pipelines.storage.atomic import write_atomically
from pipelines.storage.urls import redact
from pipelines.tables.published import nights_between

ENDING = ".html"


class AuditConfiguration(AuditOptions):
    """Everything that ``jobs/audit.py`` does, and nothing else."""

    input: str = Field(min_length=1)
    """Root that ``jobs/nightly.py`` wrote."""
    output: str = Field(min_length=1, pattern=r"[^/]\.html$")
    """The report; its numbers go into the folder of its name without ``.html``."""
    date: datetime.date | None = None
    """The night; the last one if neither it nor a range is given."""
    first: datetime.date | None = None
    """The nights from this one on."""
    last: datetime.date | None = None
    """The nights up to this one."""
    head: str | None = None
    """Folder of the head that scored the nights, for its error rates and thresholds."""
    storage: Storage = Storage()

    @model_validator(mode="after")
    def _names_nights_in_one_way(self) -> AuditConfiguration:
        if self.date and (self.first or self.last):
            raise ValueError("date names one night, first and last a range: give one or the other")
        if self.first and self.last and self.first > self.last:
            raise ValueError("first lies after last")
        return self


@dataclass(frozen=True)
class Auditing:
    """A report that has only to be written."""

    configuration: AuditConfiguration
    rows: AuditRows
    known: Known
    audit: Audit


def prepare(configuration: AuditConfiguration) -> Auditing:
    """Read the nights and count.

    Raises
    ------
    UsageError
        No such night, tables that do not belong together, a head that did not score the
        nights, or an output that cannot be written.
    """
    storage = configuration.storage
    chosen = _chosen(configuration)
    check_writable(posixpath.dirname(configuration.output) or ".", storage)
    head = load_head(configuration.head, storage) if configuration.head else None
    rows = read(
        configuration.input,
        chosen,
        storage,
        configuration.drift.nights,
        configuration.drift.rows_per_night,
    )
    options = configuration
    if head is not None:
        _check_scored_by(head, rows)
        options = configuration.model_copy(
            update={
                "error_rates": configuration.error_rates or head.description.error_rates,
                "thresholds": configuration.thresholds or head.description.thresholds,
            }
        )
    about = known(rows, options)
    return Auditing(options, rows, about, audit_of(rows, about, options))


def shown(job: Auditing) -> pd.DataFrame:
    """The rows whose pictures the report shows.

    Returns
    -------
    DataFrame with ``date``, ``uri`` and ``image_id``; the gallery, then the review queue.
    """
    audit, pictures = job.audit, job.configuration.review_pictures
    index = with_pictures(audit.suspicious.index, audit.queue.index, job.configuration)
    texts = pd.concat([audit.suspicious, audit.queue.head(pictures)])
    texts = texts[~texts.index.duplicated()].loc[index]
    return texts[["date", "uri", "image_id"]]


def write(job: Auditing) -> str:
    """Write the numbers, then the report; returns the report's path.

    Raises
    ------
    UsageError
        If the output cannot be written.
    """
    configuration = job.configuration
    folder = configuration.output.removesuffix(ENDING)
    page = page_of(
        job.audit,
        job.known,
        job.rows.dates,
        job.rows.thumbnails(shown(job)),
        configuration.review_pictures,
        configuration.drift.psi,
    )
    files = {}
    for name, table in job.audit.tables().items():
        files[f"{folder}/{name}.parquet"] = as_parquet(table)
        files[f"{folder}/{name}.csv"] = as_csv(table)
    files[configuration.output] = as_html(page, posixpath.basename(folder)).encode()
    for path, content in files.items():
        fs, place = filesystem(path, configuration.storage)
        write_atomically(fs, place, content)
    return configuration.output


def as_parquet(table: pd.DataFrame) -> bytes:
    """A table of numbers as a Parquet file; a column without any value is one of text."""
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    text = [
        field.with_type(pa.string()) if pa.types.is_null(field.type) else field
        for field in arrow.schema
    ]
    buffer = io.BytesIO()
    pq.write_table(arrow.cast(pa.schema(text)), buffer, compression="zstd")
    return buffer.getvalue()


def as_csv(table: pd.DataFrame) -> bytes:
    """A table of numbers as CSV that a spreadsheet opens without running a formula in it.

    Text that a spreadsheet would take for one gets an apostrophe before it (OWASP, "CSV
    Injection"); lists are joined by spaces. Text is quoted, so that a line break in it ends
    no cell. UTF-8 with a byte order mark, which Excel needs.
    """
    safe = table.map(_cell) if len(table) else table
    text = safe.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return text.encode("utf-8-sig")


def _cell(value: object) -> object:
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, str) and value.lstrip().startswith(FORMULA):
        return f"'{value}"
    return value


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet may run."""


def _chosen(configuration: AuditConfiguration) -> list[str]:
    """Dates of the nights that the report is of; UsageError if there are none."""
    there = nights(configuration.input, configuration.storage)
    where = redact(configuration.input)
    if not there:
        raise UsageError(
            f"There is no night at {where}: give the output of jobs/nightly.py, which has a "
            "folder features with date=… folders in it."
        )
    if not (configuration.date or configuration.first or configuration.last):
        return there[-1:]
    chosen = nights_between(
        there, configuration.date or configuration.first, configuration.date or configuration.last
    )
    if not chosen:
        raise UsageError(f"{where} has no night that was asked for: {_listed(there)}.")
    return chosen


def _listed(there: Sequence[str]) -> str:
    if len(there) == 1:
        return f"its only night is {there[0]}"
    return f"it has {len(there):,} nights, {there[0]} to {there[-1]}"


def _check_scored_by(head: Head, rows: AuditRows) -> None:
    others = sorted(set(rows.rows["head_id"].dropna().unique()) - {head.head_id})
    if others:
        raise UsageError(
            f"The head given is {head.head_id}, and the scores are by {', '.join(others)}: give "
            "the head that made them, or none."
        )
