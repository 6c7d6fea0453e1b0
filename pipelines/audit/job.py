"""An audit of published nights: read, count, and write the report with its numbers beside it.

::

    audits = plan_audit(configuration)   # everything is read and counted
    shown(audits)                     # the pictures that the report shows, to keep them
    write_report(audits)                     # REPORT.html, and REPORT/*.csv and *.parquet
"""

from __future__ import annotations

import datetime
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from item.errors import UsageError
from item.heads.head import Head
from pipelines.audit.configuration import ENDING, AuditConfiguration
from pipelines.audit.files import as_csv, as_parquet
from pipelines.audit.numbers import (
    Audit,
    Known,
    audit_of,
    known,
    with_pictures,
)
from pipelines.audit.page import as_html, page_of
from pipelines.audit.rows import AuditRows, nights, read
from pipelines.score.heads import load_head
from pipelines.storage.access import check_writable, filesystem
from pipelines.storage.atomic import write_atomically
from pipelines.storage.urls import redact
from pipelines.tables.identity import own_table
from pipelines.tables.published import nights_between


@dataclass(frozen=True)
class AuditPlan:
    """A report that has only to be written."""

    configuration: AuditConfiguration
    rows: AuditRows
    known: Known
    audit: Audit


def plan_audit(configuration: AuditConfiguration) -> AuditPlan:
    """Read the nights and count.

    Raises
    ------
    UsageError
        No such night, tables that do not belong together, a head that did not score the
        nights, or an output that cannot be written.
    """
    configuration = _of_root(configuration)
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
    return AuditPlan(options, rows, about, audit_of(rows, about, options))


def shown(job: AuditPlan) -> pd.DataFrame:
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


def write_report(job: AuditPlan) -> str:
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


def _of_root(configuration: AuditConfiguration) -> AuditConfiguration:
    """As if the root had been given, where one of its tables was, or one night of one.

    Raises
    ------
    UsageError
        If a night's folder was given and other nights are asked for.
    """
    given = configuration.input
    table = own_table(given, configuration.storage)
    if table is None or posixpath.basename(table.root) != table.kind:
        return configuration
    root = table.root.rpartition("/")[0]
    if table.night is None:
        return configuration.model_copy(update={"input": root})
    if configuration.date or configuration.first or configuration.last:
        asked = configuration.date and configuration.date.isoformat()
        if asked != table.night:
            raise UsageError(
                f"{redact(given)} is the night {table.night} alone: give {redact(root)} to choose "
                "another."
            )
    night = _night_called(table.night, given)
    return configuration.model_copy(update={"input": root, "date": night})


def _night_called(name: str, where: str) -> datetime.date:
    """The date that a night's folder is called after; UsageError if that is none."""
    try:
        return datetime.date.fromisoformat(name)
    except ValueError:
        raise UsageError(f"{redact(where)} is no night: date={name} names no day.") from None


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
