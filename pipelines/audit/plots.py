"""The charts of an audit, narrow enough to be read on a phone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator, PercentFormatter

from item.heads.attribution import UNKNOWN
from item.statistics.calibration import Thresholds, Verdict
from pipelines.audit.format import one_line
from pipelines.audit.numbers import QUANTITIES, SCORED
from pipelines.audit.words import VERDICTS, source_name
from pipelines.pages.svg_plots import INK, Plot, add_legend, as_plot, new_figure, short_label

WIDTH = 4.4
"""Inches; some 420 pixels."""

MOST_BARS = 20
"""Sources that the chart shows; the table beside the report has all."""

COLOURS = {
    Verdict.LIKELY_GENERATED: "#d55e00",
    Verdict.UNCERTAIN: "#e6b800",
    Verdict.LIKELY_REAL: "#0072b2",
    Verdict.NOT_SCORED: "#8c8c8c",
}


def source_bars(verdicts: pd.DataFrame) -> Plot:
    """One bar a source, cut into the shares of the verdicts, its counts written above it.

    Parameters
    ----------
    verdicts : of an :class:`pipelines.audit.numbers.Audit`
    """
    sources = verdicts[verdicts["scope"] == "source"].sort_values(
        "rows", ascending=False, kind="stable"
    )
    shown = pd.concat([verdicts[verdicts["scope"] == "all"], sources.head(MOST_BARS)])
    title = "Verdicts by source"
    with new_figure(WIDTH, 0.7 + 0.46 * len(shown)) as drawing:
        axes = drawing.subplots()
        for place, row in enumerate(shown.to_dict("records")):
            left = 0.0
            for verdict in Verdict:
                share = row[verdict] / max(row["rows"], 1)
                axes.barh(
                    place,
                    share,
                    left=left,
                    height=0.42,
                    color=COLOURS[verdict],
                    label=VERDICTS[verdict],
                )
                left += share
            label = "all" if row["scope"] == "all" else source_name(row["name"])
            counts = "/".join(f"{row[verdict]:,}" for verdict in Verdict)
            axes.text(0, place - 0.27, short_label(label), va="bottom", fontsize=8)
            axes.text(1, place - 0.27, counts, va="bottom", ha="right", fontsize=8)
        axes.set_ylim(len(shown) - 0.5, -0.7)
        axes.set_xlim(0, 1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        add_legend(drawing, axes)
    totals = shown.iloc[0]
    said = ", ".join(f"{totals[verdict]:,} {VERDICTS[verdict]}" for verdict in Verdict)
    left_out = len(sources) - min(len(sources), MOST_BARS)
    more = f" {left_out:,} smaller sources are in the table only." if left_out else ""
    described = (
        f"A bar for all pictures and one for each source. The numbers at the right are counts in "
        f"the order of the colours. In all: {said}.{more}"
    )
    return as_plot("sources", title, described, drawing)


def score_bars(histogram: pd.DataFrame, thresholds: Thresholds | None) -> Plot:
    """Pictures by score, coloured by verdict, with the two thresholds where they are known.

    Parameters
    ----------
    histogram : of an :class:`pipelines.audit.numbers.Audit`
    """
    title = "Scores"
    widths = histogram["high"] - histogram["low"]
    base = np.zeros(len(histogram))
    with new_figure(WIDTH, 2.9) as drawing:
        axes = drawing.subplots()
        for verdict in reversed(SCORED):
            axes.bar(
                histogram["low"],
                histogram[verdict],
                widths,
                bottom=base,
                align="edge",
                color=COLOURS[verdict],
                label=VERDICTS[verdict],
            )
            base = base + histogram[verdict].to_numpy()
        if thresholds is not None:
            for value in (thresholds.likely_real, thresholds.likely_generated):
                axes.axvline(value, color=INK, linewidth=1.0, linestyle="--")
                axes.text(
                    value,
                    1.01,
                    f"{value:.2f}",
                    transform=axes.get_xaxis_transform(),
                    ha="center",
                    va="bottom",
                    fontsize=8,
                )
        axes.set_xlim(0, 1)
        axes.set_xlabel("score, from 0 (like a photograph) to 1 (like a generated picture)")
        axes.set_ylabel("pictures")
        add_legend(drawing, axes)
    lines = (
        f" Dashed lines: below {thresholds.likely_real:.2f} a picture is called likely real, "
        f"above {thresholds.likely_generated:.2f} likely generated."
        if thresholds
        else ""
    )
    described = (
        f"How many of the {histogram['rows'].sum():,} scored pictures have which score.{lines}"
    )
    return as_plot("scores", title, described, drawing)


def family_bars(families: pd.DataFrame) -> Plot:
    """How many flagged pictures look most like each family of generators.

    Parameters
    ----------
    families : of an :class:`pipelines.audit.numbers.Audit`, with a row at least
    """
    shown = families.head(MOST_BARS)
    rows = shown["rows"].to_numpy()
    with new_figure(WIDTH, 0.6 + 0.26 * len(shown)) as drawing:
        axes = drawing.subplots()
        is_unknown = (shown["family"] == UNKNOWN).to_numpy()
        colours = np.where(
            is_unknown, COLOURS[Verdict.NOT_SCORED], COLOURS[Verdict.LIKELY_GENERATED]
        )
        axes.barh(np.arange(len(shown)), rows, height=0.6, color=list(colours))
        axes.set_yticks(np.arange(len(shown)), [short_label(name) for name in shown["family"]])
        axes.invert_yaxis()
        axes.set_xlabel("flagged pictures")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    said = ", ".join(
        f"{one_line(row['family'])} {row['rows']:,}" for row in shown.to_dict("records")
    )
    described = (
        f"Of the {families['rows'].sum():,} flagged pictures: {said}. A likeness is no proof of "
        "what made a picture; unknown ones look like no family that the head was trained on."
    )
    return as_plot("families", "What flagged pictures look most like", described, drawing)


def drift_bars(drift: pd.DataFrame, threshold: float) -> Plot:
    """How far each quantity moved from the nights before, with the alarm's threshold.

    Parameters
    ----------
    drift : columns quantity, psi, psi_by_chance and alarm
    threshold : of the population stability index
    """
    title = "Change against the nights before"
    shown = drift[drift["psi"].notna()]
    excess = (shown["psi"] - shown["psi_by_chance"]).clip(lower=0).astype(float)
    alarms = shown["alarm"].to_numpy(bool)
    with new_figure(WIDTH, 0.8 + 0.26 * len(shown)) as drawing:
        axes = drawing.subplots()
        colours = np.where(alarms, COLOURS[Verdict.LIKELY_GENERATED], COLOURS[Verdict.LIKELY_REAL])
        axes.barh(np.arange(len(shown)), excess, height=0.6, color=list(colours))
        axes.axvline(threshold, color=INK, linewidth=1.0, linestyle="--")
        axes.set_yticks(np.arange(len(shown)), [QUANTITIES[name] for name in shown["quantity"]])
        axes.invert_yaxis()
        axes.set_xlim(0, max(1.2 * threshold, 1.05 * excess.max()))
        axes.set_xlabel("stability index beyond chance")
    moved = ", ".join(QUANTITIES[name] for name in shown["quantity"][alarms]) or "none"
    described = (
        f"The longer the bar, the more this night differs from the nights before; the dashed "
        f"line at {threshold:g} is the threshold of an alarm. Alarms: {moved}."
    )
    return as_plot("drift", title, described, drawing)


def night_points(verdicts: pd.DataFrame) -> Plot:
    """Share of flagged pictures night by night, with 95% intervals.

    Parameters
    ----------
    verdicts : of an :class:`pipelines.audit.numbers.Audit` of several nights
    """
    nights = verdicts[verdicts["scope"] == "night"].sort_values("name")
    nights = nights[nights["flagged_share"].notna()]
    share = nights["flagged_share"].to_numpy()
    reach = np.abs(nights[["low", "high"]].to_numpy().T - share)
    with new_figure(WIDTH, 2.6) as drawing:
        axes = drawing.subplots()
        places = np.arange(len(nights))
        axes.errorbar(
            places, share, yerr=reach, fmt="o-", color=COLOURS[Verdict.LIKELY_GENERATED], capsize=2
        )
        step = -(-len(nights) // 8)
        axes.set_xticks(places[::step], [name[5:] for name in nights["name"]][::step], rotation=45)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylabel("likely generated")
    said = ", ".join(
        f"{row['name']} {row['flagged_share']:.1%}" for row in nights.to_dict("records")
    )
    described = f"Share of the scored pictures that are called likely generated: {said}."
    return as_plot("nights", "Flagged pictures night by night", described, drawing)
