"""What a report says in sentences, for a reader who knows neither the code nor statistics.

Two things no sentence may claim: that a flag proves anything, and that the object which fits
its words least is the reason for a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import pandas as pd

from item.explanation.printable import printable_line
from item.heads.head import ErrorRates
from item.statistics.calibration import Verdict
from item.statistics.prevalence import ASSUMPTION, percent
from pipelines.audit.numbers import FLAGGED, SCORED, Audit, Known

VERDICTS = {
    Verdict.LIKELY_GENERATED: "likely generated",
    Verdict.UNCERTAIN: "uncertain",
    Verdict.LIKELY_REAL: "likely real",
    Verdict.NOT_SCORED: "without a score",
}

NO_SOURCE = "(no source)"

GLOSSARY = (
    (
        "Score",
        "A number from 0 to 1: the probability that the tool gives to a picture being generated, "
        "if half of all pictures were. Where most pictures are photographs, a picture with a high "
        "score is less likely to be generated than the score says.",
    ),
    (
        "Flagged, likely generated",
        "The score lies above the upper threshold. It is a suspicion to follow, not a proof.",
    ),
    (
        "Uncertain",
        "The score lies between the thresholds, or the tool holds back: the picture is unlike "
        "those that it learned from, or has no caption.",
    ),
    ("Likely real", "The score lies below the lower threshold. That is no proof either."),
    (
        "95% interval",
        "The range in which the true number lies in 95 of 100 such cases, if chance alone is at "
        "work. A wide range means that few pictures were counted.",
    ),
    (
        "Prevalence",
        "The estimated share of pictures that truly are generated: the share flagged, corrected "
        "for photographs flagged by mistake and for generated pictures missed.",
    ),
    (
        "Predictive value",
        "Of 100 flagged pictures, how many truly are generated, at that prevalence.",
    ),
    (
        "Similarity",
        "How well a picture, or a part of it, fits words, as a model measures it (cosine of two "
        "embeddings). 1 is a perfect fit, 0 is none.",
    ),
    (
        "Population stability index",
        "How differently a quantity is spread on two sets of nights. Below 0.1 is hardly any "
        "change, above 0.25 a great one.",
    ),
    (
        "Drift",
        "Pictures that change from one night to the next. The tool may then err more often than "
        "was measured, so look at a sample before you trust its numbers.",
    ),
)


def source_name(source: Any) -> str:
    """A source as people read it; None and NaN are no source."""
    return printable_line("" if pd.isna(source) else source) or NO_SOURCE


def day(night: str) -> str:
    """A date as people say it, such as ``23 November 2026``."""
    return f"{date.fromisoformat(night):%d %B %Y}".lstrip("0")


def nights(dates: Sequence[str]) -> str:
    """One night, or the first and the last of several."""
    if len(dates) == 1:
        return day(dates[0])
    return f"{day(dates[0])} to {day(dates[-1])} ({len(dates):,} nights)"


def summary(audit: Audit, known: Known) -> list[str]:
    """What the night comes to."""
    row = audit.verdicts.iloc[0]
    scored = sum(int(row[verdict]) for verdict in SCORED)
    if not row["rows"]:
        return ["Nothing came in."]
    sources = int((audit.verdicts["scope"] == "source").sum())
    came = f"{_number(row['rows'], 'row')} came in from {_number(sources, 'source')}"
    if not scored:
        return [f"{came}, and none of them has a score, so nothing can be said of them."]
    without = row["rows"] - scored
    rest = (
        f"{_number(without, 'row')} could not be looked at and {_are(without)} listed below with "
        "the reason."
        if without
        else "All could be looked at."
    )
    flagged = (
        f"Of the {_number(scored, 'picture')} with a score, the tool calls {row[FLAGGED]:,} likely "
        f"generated. That is {percent(row['flagged_share'])} (95% interval "
        f"{percent(row['low'])} to {percent(row['high'])}). It leaves {row['uncertain']:,} open "
        f"and calls {row['likely_real']:,} likely real."
    )
    estimate = audit.prevalence.iloc[0]
    words = str(estimate["words"])
    words = words[0].upper() + words[1:]
    if known.error_rates is not None and pd.notna(estimate["prevalence"]):
        words = f"{words} {ASSUMPTION}"
    return [f"{came}. {rest}", flagged, words]


def unknown(known: Known, missing: int) -> list[str]:
    """What the reader must not take from the report.

    Parameters
    ----------
    missing : pictures that the report would show and the evidence does not hold
    """
    said = [
        "Whether any one picture is generated: a flag is a suspicion and no proof, and a picture "
        "that is not flagged may be generated.",
        "Where a picture came from and what was done to it since: the tool sees its pixels, and "
        "the words that it finds for them, and nothing else.",
        "How it fares on kinds of photographs and generators that nobody has measured it on.",
    ]
    if known.error_rates is not None:
        said.append(errors(known.error_rates))
    elif len(known.head_ids) > 1:
        said.append(
            f"How often it errs: {len(known.head_ids)} different heads scored these nights, so "
            "their verdicts have no error rate in common."
        )
    else:
        said.append(
            "How often it errs: nobody has counted that for this head, so the number of "
            "generated pictures cannot be estimated."
        )
    if missing:
        said.append(f"The look of {_number(missing, 'picture')} below, of which no copy was kept.")
    return said


def errors(rates: ErrorRates) -> str:
    """What was counted where the truth was known."""
    worst = (
        f" Of one source ({printable_line(rates.worst_source)}) it flagged "
        f"{percent(rates.worst_share)}: kinds of photographs differ."
        if rates.worst_source is not None and rates.worst_share is not None
        else ""
    )
    return (
        f"Whether it errs here as it did where that was counted. There "
        f"({printable_line(rates.measured_on)}) it flagged {rates.real_flagged:,} of "
        f"{rates.real_rows:,} real pictures, which was wrong, and {rates.generated_flagged:,} of "
        f"{rates.generated_rows:,} generated ones, which was right.{worst}"
    )


def review_note(queued: int, shown: int) -> str:
    """How the review queue was chosen, and where the rest of it is."""
    note = (
        "In turn, the pictures whose score lies nearest to the middle between the two thresholds, "
        "and those on which the tool held back."
    )
    if queued > shown:
        note += f" The first {shown:,} of {queued:,} are shown; all are in review.csv"
    else:
        note += " They are in review.csv too"
    return f"{note}, which has an empty column for the decision."


def drift_note(audit: Audit, first: str) -> str:
    """With which nights was compared, and how; or why with none.

    Parameters
    ----------
    first : date of the first night of the report
    """
    compared = audit.nights_before
    if not compared:
        return (
            f"There is no night before {day(first)} that was scored with the same head and the "
            "same features, so nothing can be compared."
        )
    return (
        f"Compared with {nights(compared)}. The stability index says how far a quantity moved, "
        "beyond what chance explains; the p-value says how often chance alone would move it as "
        "far, corrected for the number of quantities. An alarm needs both: much change, and more "
        "than chance. Only nights with the same head and the same features are compared."
    )


def method(known: Known) -> list[str]:
    """How a score comes about, and what it is not."""
    thresholds = (
        f" A score above {known.thresholds.likely_generated:.2f} is called likely generated, one "
        f"below {known.thresholds.likely_real:.2f} likely real."
        if known.thresholds
        else ""
    )
    return [
        "The tool writes a caption for each picture, finds the things that the caption names, and "
        "measures how well the picture and its parts fit the words. A head that was trained on "
        "pictures of known origin weighs the measurements; most of its evidence is the look of "
        "the whole picture and of its parts. The object that fits its words least is shown as "
        f"something to look at. It is not the reason for the score.{thresholds}",
        "What a file says of its own origin is shown where there is any. It is not checked and "
        "never part of the score. The intervals take pictures as independent of each other; "
        "pictures that come again and again make them narrower than they should be.",
    ]


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
