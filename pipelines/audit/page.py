"""The audit report: one HTML file that needs nothing but itself.

Captions, phrases, sources and URIs are strangers' text. Jinja escapes them, `printable` takes
out what could reorder a line, and the page's policy lets only its own script run.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from item.statistics.calibration import Verdict
from item.statistics.prevalence import percent
from pipelines.audit import plots as audit_plots
from pipelines.audit import words as audit_words
from pipelines.audit.numbers import QUANTITIES, SCORED, Audit, Known
from pipelines.audit.words import VERDICTS, source_name
from pipelines.pages.svg_plots import Plot
from pipelines.results.tables import printable

MOST_LINES = 50
"""Lines of a table on the page; the file beside it has all."""

MOST_NIGHTS = 6
"""Nights whose run facts stand on the page."""

LONGEST_TEXT = 600
"""Characters of a stranger's text on a card."""

JPEG = b"\xff\xd8\xff"

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

FILES = (
    ("verdicts", "counts of verdicts in all, by source and by night, with intervals"),
    ("prevalence", "estimates of what is truly generated, with intervals and in words"),
    ("histogram", "how many pictures have which score"),
    ("drift", "change against the nights before"),
    ("suspicious", "the gallery"),
    ("review", "the most uncertain pictures, with a column for a person's decision"),
    ("rejects", "rows without a score, by reason and source"),
    ("run", "facts of the run"),
)

SECTIONS = (
    ("charts", "Charts"),
    ("suspicious", "Most suspicious"),
    ("review", "Most uncertain"),
    ("sources", "Numbers by source"),
    ("drift", "Change"),
    ("rejects", "Files without a score"),
    ("run", "How it was computed"),
    ("words", "Words"),
)


@dataclass(frozen=True)
class Box:
    """Where an object was found, in pixels of the full-size picture and as shares in percent."""

    number: int
    x: float
    y: float
    width: float
    height: float
    left: float
    top: float
    weakest: bool


@dataclass(frozen=True)
class Thing:
    """An object of a caption, in words."""

    text: str
    weakest: bool


@dataclass(frozen=True)
class Card:
    """A picture as the page shows it."""

    date: str
    uri: str
    source: str
    source_number: int
    verdict: str
    verdict_words: str
    score: str
    caption: str
    explanation: str
    says: str
    weakest: str
    objects: tuple[Thing, ...]
    boxes: tuple[Box, ...]
    picture: str
    """JPEG as base64; empty where the evidence table has none."""
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Lines:
    """A table as the page shows it; a cell is text, or a list of texts."""

    title: str
    columns: Sequence[tuple[str, bool]]
    """Heading, and whether the column holds words rather than numbers."""
    lines: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """What the template needs."""

    nights: str
    alarms: Sequence[str]
    facts: Sequence[tuple[str, str, str]]
    summary: Sequence[str]
    unknown: Sequence[str]
    plots: Sequence[Plot]
    gallery: Sequence[Card]
    sources: Sequence[tuple[int, str]]
    verdicts: Sequence[tuple[str, str]]
    review: Sequence[Card]
    review_note: str
    tables: Sequence[Lines]
    drift: Lines | None
    drift_note: str
    rejects: Lines | None
    run: Lines
    method: Sequence[str]
    files: Sequence[tuple[str, str]]
    glossary: Sequence[tuple[str, str]] = audit_words.GLOSSARY
    sections: Sequence[tuple[str, str]] = SECTIONS


def as_html(page: Page, folder: str) -> str:
    """The page as one file; ``folder`` holds the tables, relative to it."""
    templates = Environment(
        loader=PackageLoader("pipelines.audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert templates.loader is not None
    style, script = (
        templates.loader.get_source(templates, name)[0] for name in ("audit.css", "audit.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates.get_template("audit.html.j2").render(
        page=page,
        folder=quote(folder),
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        svg=lambda plot: Markup(plot.svg),
    )


def page_of(
    audit: Audit,
    known: Known,
    dates: Sequence[str],
    thumbnails: Mapping[tuple[str, str], bytes],
    review_pictures: int,
    psi: float,
) -> Page:
    """The report in words, cards, charts and tables.

    Parameters
    ----------
    thumbnails : JPEGs by date and URI
    review_pictures : how many of the review queue are shown
    psi : threshold of the population stability index
    """
    sources = list(dict.fromkeys(map(source_name, audit.suspicious["source"])))
    gallery, review = (
        [card(row, thumbnails, sources) for row in rows.to_dict("records")]
        for rows in (audit.suspicious, audit.queue.head(review_pictures))
    )
    missing = {(one.date, one.uri) for one in (*gallery, *review) if not one.picture}
    drift = audit.drift
    return Page(
        nights=audit_words.nights(dates),
        alarms=[_text(sentence) for sentence in alarms(drift)],
        facts=_facts(audit),
        summary=audit_words.summary(audit, known),
        unknown=audit_words.unknown(known, len(missing)),
        plots=plots(audit, known, psi),
        gallery=gallery,
        sources=list(enumerate(sources)),
        verdicts=[
            (verdict, VERDICTS[verdict])
            for verdict in SCORED
            if (audit.suspicious["verdict"] == verdict).any()
        ],
        review=review,
        review_note=audit_words.review_note(len(audit.queue), len(review)),
        tables=_source_tables(audit),
        drift=_drift_lines(drift),
        drift_note=audit_words.drift_note(audit, dates[0]),
        rejects=_reject_lines(audit.rejects),
        run=_run_lines(audit.run),
        method=audit_words.method(known),
        files=FILES,
    )


def alarms(drift: pd.DataFrame) -> list[str]:
    """What changed so much that a person should look, a sentence each."""
    return [str(sentence) for sentence in drift["sentence"][drift["alarm"].astype(bool)]]


def plots(audit: Audit, known: Known, psi: float) -> list[Plot]:
    """The charts that there are numbers for."""
    drawn = []
    if audit.verdicts["rows"].iloc[0]:
        drawn.append(audit_plots.source_bars(audit.verdicts))
    if audit.histogram["rows"].any():
        drawn.append(audit_plots.score_bars(audit.histogram, known.thresholds))
    if audit.drift["psi"].notna().any():
        drawn.append(audit_plots.drift_bars(audit.drift, psi))
    nights = audit.verdicts[audit.verdicts["scope"] == "night"]
    if nights["flagged_share"].notna().any():
        drawn.append(audit_plots.night_points(audit.verdicts))
    return drawn


# Cards


def card(
    row: Mapping[str, Any], thumbnails: Mapping[tuple[str, str], bytes], sources: Sequence[str]
) -> Card:
    """A picture in words, of a row that :meth:`AuditRows.texts` gave."""
    width, height = (max(int(_finite(row[side]) or 1), 1) for side in ("width", "height"))
    objects = list(row["objects"] or ())
    weakest = next((one for one in objects if _is_weakest(one, row)), None)
    source, caption = source_name(row["source"]), _text(row["caption"])
    thumbnail = thumbnails.get((row["date"], row["uri"]), b"")
    picture = base64.b64encode(thumbnail).decode() if thumbnail.startswith(JPEG) else ""
    found = [_box(number, one, one is weakest, width, height) for number, one in _numbered(objects)]
    return Card(
        date=row["date"],
        uri=_text(row["uri"]),
        source=source,
        source_number=sources.index(source) if source in sources else -1,
        verdict=row["verdict"],
        verdict_words=_verdict(row["verdict"]),
        score=f"{row['score']:.2f}",
        caption=caption,
        explanation=_text(row["explanation"]),
        says=_text(row["digital_source_type"]),
        weakest=_fit(row["weakest_phrase"], row["weakest_similarity"]),
        objects=tuple(_thing(one, one is weakest) for one in objects),
        boxes=tuple(box for box in found if box is not None),
        picture=picture,
        alt=f"The tool sees: {caption}" if caption else "A picture without a caption",
        width=width,
        height=height,
    )


def _numbered(objects: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    return list(enumerate(objects, 1))


def _is_weakest(one: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return bool(one["phrase"] == row["weakest_phrase"] and one["box"] == row["weakest_box"])


def _box(number: int, one: Mapping[str, Any], weakest: bool, width: int, height: int) -> Box | None:
    """Within the picture; None for an object that was not found in it."""
    if not one["grounded"] or not one["box"]:
        return None
    sides = [_finite(one["box"][side]) for side in ("x0", "y0", "x1", "y1")]
    if None in sides:
        return None
    x0, x1 = (min(max(float(sides[place] or 0), 0.0), width) for place in (0, 2))
    y0, y1 = (min(max(float(sides[place] or 0), 0.0), height) for place in (1, 3))
    if x0 >= x1 or y0 >= y1:
        return None
    return Box(
        number=number,
        x=round(x0, 2),
        y=round(y0, 2),
        width=round(x1 - x0, 2),
        height=round(y1 - y0, 2),
        left=round(100 * x0 / width, 2),
        top=round(100 * y0 / height, 2),
        weakest=weakest,
    )


def _thing(one: Mapping[str, Any], weakest: bool) -> Thing:
    fit = _fit(one["phrase"], one["similarity"])
    return Thing(fit if one["grounded"] else f"{fit}, not found in the picture", weakest)


def _fit(phrase: str | None, similarity: float | None) -> str:
    if phrase is None:
        return ""
    known = _finite(similarity)
    return _text(phrase) + ("" if known is None else f" (similarity {known:.2f})")


def _verdict(verdict: str) -> str:
    words = VERDICTS[Verdict(verdict)]
    return words[0].upper() + words[1:]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _text(text: str | None) -> str:
    """A stranger's text on one line, not too long."""
    line = printable(text or "")
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


# Tables


def _facts(audit: Audit) -> list[tuple[str, str, str]]:
    """The few numbers that stand first."""
    row, estimate = audit.verdicts.iloc[0], audit.prevalence.iloc[0]
    scored = sum(row[verdict] for verdict in SCORED)
    facts = [
        ("Rows", f"{row['rows']:,}", f"{row['not_scored']:,} without a score"),
        ("Flagged", f"{row['likely_generated']:,}", _span(row, "flagged_share", "low", "high")),
        ("Uncertain", f"{row['uncertain']:,}", _of(row["uncertain"], scored)),
        ("Likely real", f"{row['likely_real']:,}", _of(row["likely_real"], scored)),
    ]
    if pd.notna(estimate["prevalence"]):
        low, high = percent(estimate["prevalence_low"]), percent(estimate["prevalence_high"])
        facts.append(("Generated, estimated", percent(estimate["prevalence"]), f"{low} to {high}"))
    return facts


def _of(number: int, scored: int) -> str:
    return f"{percent(number / scored)} of those scored" if scored else ""


def _span(row: Mapping[str, Any], value: str, low: str, high: str) -> str:
    if pd.isna(row[value]):
        return "–"
    return f"{percent(row[value])} ({percent(row[low])} to {percent(row[high])})"


def _source_tables(audit: Audit) -> list[Lines]:
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
            _span(row, "flagged_share", "low", "high"),
        ]
        for row in rows
    ]
    estimates = [
        [
            _scope(row),
            f"{row['flagged']:,} of {row['scored']:,}",
            _span(row, "prevalence", "prevalence_low", "prevalence_high"),
            _span(row, "ppv", "ppv_low", "ppv_high"),
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
    return _text(source_name(row["name"]))


def _drift_lines(drift: pd.DataFrame) -> Lines | None:
    if drift.empty:
        return None
    lines = [
        [
            QUANTITIES[row["quantity"]],
            _number(row["psi"], ".2f"),
            _number(row["psi_by_chance"], ".2f"),
            _p_value(row["adjusted_p_value"]),
            "alarm" if row["alarm"] else "",
            _text(row["sentence"]),
        ]
        for row in drift.to_dict("records")
    ]
    columns = [("", True), ("Stability index", False), ("of it by chance", False)]
    columns += [("p-value", False), ("Alarm", True), ("In words", True)]
    return Lines("What was compared", columns, lines)


def _number(value: float, form: str) -> str:
    return "–" if pd.isna(value) else f"{value:{form}}"


def _p_value(value: float) -> str:
    return "below 0.0001" if value < 0.0001 else _number(value, ".2g")


def _reject_lines(rejects: pd.DataFrame) -> Lines | None:
    if rejects.empty:
        return None
    rows = rejects.to_dict("records")
    lines = [
        [
            row["reason"],
            _text(source_name(row["source"])),
            f"{row['rows']:,}",
            percent(row["share"]),
            LASTING[row["status"]],
            [_text(uri) for uri in row["examples"]],
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


def _run_lines(run: pd.DataFrame) -> Lines:
    """One column a night, or, of many nights, the first and the last."""
    nights = run.to_dict("records")
    if len(nights) > MOST_NIGHTS:
        nights = [*nights[: MOST_NIGHTS // 2], *nights[-MOST_NIGHTS // 2 :]]
    lines = [
        [words, *(_told(night, name, form) for night in nights)]
        for name, words, form in RUN_FACTS
        if name != "cost" or any(pd.notna(night["cost"]) for night in nights)
    ]
    left_out = len(run) - len(nights)
    note = f"{left_out:,} nights between them are in run.csv." if left_out else ""
    columns = [("", True), *((audit_words.day(night["date"]), True) for night in nights)]
    return Lines("Facts of the run", columns, lines, note)


def _told(night: Mapping[str, Any], name: str, form: str) -> str:
    value = night[name]
    if value is None or pd.isna(value):
        return "not known"
    if name == "cost":
        return f"{value:,.2f} {printable(night['currency'])}"
    return format(value, form) if form else printable(str(value))
