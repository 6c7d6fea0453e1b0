"""The report's tables, line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from item.explanation.printable import printable_line
from item.statistics.prevalence import percent
from pipelines.audit import words as audit_words
from pipelines.audit.format import number_as, one_line, p_value_as, with_interval
from pipelines.audit.numbers import QUANTITIES, Audit
from pipelines.audit.words import source_name

MOST_LINES = 50
"""Lines of a table on the page; the file beside it has all."""


MOST_NIGHTS = 6
"""Nights whose run facts stand on the page."""


COUNTED = {
    "Rows": "rows",
    "Likely generated": "likely_generated",
    "Uncertain": "uncertain",
    "Likely real": "likely_real",
    "Without a score": "not_scored",
    "Rejected": "rejected",
    "Failed": "failed",
}
"""Heading and column of the verdicts' table."""


LASTING = {"rejected": "would end the same", "failed": "may succeed"}


RUN_FACTS = (
    ("rows", "Rows", ",d"),
    ("models", "Models", ""),
    ("head_id", "Head", ""),
    ("feature_set_id", "Feature set", ""),
    ("started_at", "Started at", ""),
    ("seconds", "Seconds", ",.0f"),
    ("images_per_second", "Pictures a second", ",.1f"),
    ("reuse_rate", "Pictures known from before", ".1%"),
    ("cpus", "CPU cores", "g"),
    ("gpus", "GPUs", "g"),
    ("cost", "Cost", ""),
)
"""Columns of the run table, what they are called, and how their numbers are written."""


@dataclass(frozen=True)
class Lines:
    """A table as the page shows it; a cell is text, or a list of texts."""

    title: str
    columns: Sequence[tuple[str, bool]]
    """Heading, and whether the column holds words rather than numbers."""
    lines: Sequence[Sequence[Any]]
    note: str = ""


def source_tables(audit: Audit) -> list[Lines]:
    together = audit.verdicts.merge(audit.prevalence, on=["scope", "name"])
    order = {"all": 0, "night": 1, "source": 2}
    rows = together.sort_values(
        "scope", key=lambda scopes: scopes.map(order), kind="stable"
    ).to_dict("records")
    heads = [("", True), *((name, False) for name in COUNTED)]
    counts = [
        [
            _scope(row),
            *(f"{row[name]:,}" for name in COUNTED.values()),
            with_interval(row, "flagged_share", "low", "high"),
        ]
        for row in rows
    ]
    estimates = [
        [
            _scope(row),
            f"{row['flagged']:,} of {row['scored']:,}",
            with_interval(row, "prevalence", "prevalence_low", "prevalence_high"),
            with_interval(row, "ppv", "ppv_low", "ppv_high"),
            row["words"],
        ]
        for row in rows
    ]
    note = _cut_note(rows, "verdicts")
    return [
        Lines(
            "Verdicts, with 95% intervals of the share flagged",
            [*heads, ("Share flagged", False)],
            counts[:MOST_LINES],
            note,
        ),
        Lines(
            "Estimates of what is truly generated, with 95% intervals",
            [
                ("", True),
                ("Flagged", False),
                ("Generated", False),
                ("Of those flagged", False),
                ("In words", True),
            ],
            estimates[:MOST_LINES],
            note.replace("verdicts.csv", "prevalence.csv"),
        ),
    ]


def _scope(row: Mapping[str, Any]) -> str:
    match row["scope"]:
        case "all":
            return "all"
        case "night":
            return audit_words.day(row["name"])
    return one_line(source_name(row["name"]))


def drift_lines(drift: pd.DataFrame) -> Lines | None:
    if drift.empty:
        return None
    lines = [
        [
            QUANTITIES[row["quantity"]],
            number_as(row["psi"], ".2f"),
            number_as(row["psi_by_chance"], ".2f"),
            p_value_as(row["adjusted_p_value"]),
            "alarm" if row["alarm"] else "",
            one_line(row["sentence"]),
        ]
        for row in drift.to_dict("records")
    ]
    columns = [("", True), ("Stability index", False), ("of it by chance", False)]
    columns += [("p-value", False), ("Alarm", True), ("In words", True)]
    return Lines("What was compared", columns, lines)


def reject_lines(rejects: pd.DataFrame) -> Lines | None:
    if rejects.empty:
        return None
    rows = rejects.to_dict("records")
    lines = [
        [
            row["reason"],
            one_line(source_name(row["source"])),
            f"{row['rows']:,}",
            percent(row["share"]),
            LASTING[row["status"]],
            [one_line(uri) for uri in row["examples"]],
        ]
        for row in rows
    ]
    columns = [("Reason", True), ("Source", True), ("Rows", False), ("Of the source", False)]
    return Lines(
        "Rows without a score, by reason and source",
        [*columns, ("Another try", True), ("Examples", True)],
        lines[:MOST_LINES],
        _cut_note(rows, "rejects"),
    )


def _cut_note(rows: Sequence[Any], name: str) -> str:
    more = len(rows) - MOST_LINES
    return f"{more:,} more lines are in {name}.csv." if more > 0 else ""


def run_lines(run: pd.DataFrame) -> Lines:
    """One column a night, or, of many nights, the first and the last."""
    nights = run.to_dict("records")
    if len(nights) > MOST_NIGHTS:
        nights = [*nights[: MOST_NIGHTS // 2], *nights[-MOST_NIGHTS // 2 :]]
    lines = [
        [words, *(_run_fact(night, name, form) for night in nights)]
        for name, words, form in RUN_FACTS
        if name != "cost" or any(pd.notna(night["cost"]) for night in nights)
    ]
    left_out = len(run) - len(nights)
    note = f"{left_out:,} nights between them are in run.csv." if left_out else ""
    columns = [("", True), *((audit_words.day(night["date"]), True) for night in nights)]
    return Lines("Facts of the run", columns, lines, note)


def _run_fact(night: Mapping[str, Any], name: str, form: str) -> str:
    value = night[name]
    if value is None or pd.isna(value):
        return "not known"
    if name == "cost":
        return f"{value:,.2f} {printable_line(night['currency'])}"
    return format(value, form) if form else printable_line(str(value))
