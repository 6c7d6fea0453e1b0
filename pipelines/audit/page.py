"""The audit report: one HTML file that needs nothing but itself.

Captions, phrases, sources and URIs are strangers' text. Jinja escapes them, `printable` takes
out what could reorder a line, and the page's policy lets only its own script run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from item.statistics.prevalence import percent
from pipelines.audit import plots as audit_plots
from pipelines.audit import words as audit_words
from pipelines.audit.cards import Card, card
from pipelines.audit.format import one_line, share_of, with_interval
from pipelines.audit.lines import Lines, drift_lines, reject_lines, run_lines, source_tables
from pipelines.audit.numbers import SCORED, Audit, Known
from pipelines.audit.words import VERDICTS, source_name
from pipelines.pages.svg_plots import Plot

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
class Page:
    """What the template needs."""

    nights: str
    alarms: Sequence[str]
    facts: Sequence[tuple[str, str, str]]
    summary: Sequence[str]
    unknown: Sequence[str]
    left_out: Sequence[str]
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
        alarms=[one_line(sentence) for sentence in alarms(drift)],
        facts=_facts(audit),
        summary=audit_words.summary(audit, known),
        unknown=audit_words.unknown(known, len(missing)),
        left_out=[one_line(sentence) for sentence in audit.left_out],
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
        tables=source_tables(audit),
        drift=drift_lines(drift),
        drift_note=audit_words.drift_note(audit, dates[0]),
        rejects=reject_lines(audit.rejects),
        run=run_lines(audit.run),
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
    if len(audit.families):
        drawn.append(audit_plots.family_bars(audit.families))
    if audit.drift["psi"].notna().any():
        drawn.append(audit_plots.drift_bars(audit.drift, psi))
    nights = audit.verdicts[audit.verdicts["scope"] == "night"]
    if nights["flagged_share"].notna().any():
        drawn.append(audit_plots.night_points(audit.verdicts))
    return drawn


def _facts(audit: Audit) -> list[tuple[str, str, str]]:
    """The few numbers that stand first."""
    row, estimate = audit.verdicts.iloc[0], audit.prevalence.iloc[0]
    scored = sum(row[verdict] for verdict in SCORED)
    facts = [
        ("Rows", f"{row['rows']:,}", f"{row['not_scored']:,} without a score"),
        (
            "Flagged",
            f"{row['likely_generated']:,}",
            with_interval(row, "flagged_share", "low", "high"),
        ),
        ("Uncertain", f"{row['uncertain']:,}", share_of(row["uncertain"], scored)),
        ("Likely real", f"{row['likely_real']:,}", share_of(row["likely_real"], scored)),
    ]
    if pd.notna(estimate["prevalence"]):
        low, high = percent(estimate["prevalence_low"]), percent(estimate["prevalence_high"])
        facts.append(("Generated, estimated", percent(estimate["prevalence"]), f"{low} to {high}"))
    return facts
