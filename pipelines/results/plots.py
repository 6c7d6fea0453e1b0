"""The plots of the results page, as SVG text that is the same for the same numbers.

Colours are Okabe and Ito's, which colour-blind people can tell apart ("Color Universal
Design", 2008), and each method has its own dashes and marker as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipelines.pages.svg_plots import INK, Plot, add_legend, as_plot, new_figure, short_label
from pipelines.results.tables import OVER_GENERATORS

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Look:
    """How a method is drawn wherever it is drawn."""

    colour: str
    dashes: str
    marker: str


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """One look a method, by its place; no look comes twice before 140 methods."""
    return {
        method: Look(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)])
        for i, method in enumerate(methods)
    }


def generator_bars(name: str, title: str, auroc: pd.DataFrame, style: dict[str, Look]) -> Plot:
    """AUROC of each method on each generator: a bar from 0.5, which is guessing.

    Parameters
    ----------
    auroc : columns generator, method, value, low, high; low and high may be NaN
    style : the methods to draw, in order
    """
    shown = auroc[auroc["method"].isin(list(style))]
    generators = list(dict.fromkeys(shown["generator"]))
    methods = _present(style, shown)
    with new_figure(6.4, 1.2 + len(generators) * (0.15 * len(methods) + 0.12)) as figure:
        axes = figure.subplots()
        for place, method in enumerate(methods):
            rows = shown[shown["method"] == method].set_index("generator").reindex(generators)
            value = rows["value"].to_numpy()
            at = np.arange(len(generators)) + (place + 0.5) / (len(methods) + 1)
            axes.barh(
                at,
                value - 0.5,
                left=0.5,
                height=0.9 / (len(methods) + 1),
                color=style[method].colour,
                label=short_label(method),
            )
            reach = np.abs(rows[["low", "high"]].to_numpy().T - value)
            axes.errorbar(value, at, xerr=reach, fmt="none", ecolor=INK, elinewidth=0.8)
        axes.axvline(0.5, color=INK, linewidth=0.8)
        axes.set_yticks(
            np.arange(len(generators)) + len(methods) / 2 / (len(methods) + 1),
            [short_label(OVER_GENERATORS.get(generator, generator)) for generator in generators],
        )
        axes.invert_yaxis()
        axes.set_xlim(min(0.48, _lowest(shown) - 0.02), 1.0)
        axes.set_xlabel("AUROC (0.5 is guessing, 1 is perfect)")
        add_legend(figure, axes)
    means = shown[shown["generator"] == "mean"].set_index("method")["value"].dropna()
    said = _listed(f"{method} {means[method]:.3f}" for method in methods if method in means)
    described = (
        f"Bars of AUROC with 95% intervals: {len(methods)} methods for each of"
        f" {_listed([OVER_GENERATORS.get(name, name) for name in generators])}."
        f" Mean over generators: {said}."
    )
    return as_plot(name, title, described, figure)


def roc_curves(name: str, title: str, curves: pd.DataFrame, style: dict[str, Look]) -> Plot:
    """One panel a generator, one curve a method, with 1% and 5% of photographs marked.

    Parameters
    ----------
    curves : columns generator, method, fpr, tpr
    style : the methods to draw, in order
    """
    shown = curves[curves["method"].isin(list(style))]
    generators = list(dict.fromkeys(shown["generator"]))
    methods = _present(style, shown)
    across = min(3, len(generators))
    down = -(-len(generators) // across)
    caught: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    with new_figure(max(4.6, 0.4 + 2.3 * across), 0.9 + 2.4 * down) as figure:
        grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for axes, generator in zip(grid.flat, generators, strict=False):
            for method in methods:
                curve = shown[(shown["generator"] == generator) & (shown["method"] == method)]
                curve = curve.sort_values(["fpr", "tpr"], kind="stable")
                if curve.empty:
                    continue
                look = style[method]
                axes.plot(
                    curve["fpr"],
                    curve["tpr"],
                    color=look.colour,
                    linestyle=look.dashes,
                    label=short_label(method),
                )
                at = np.interp([0.01, 0.05], curve["fpr"], curve["tpr"])
                caught[method].append((float(at[0]), float(at[1])))
            _mark_false_positives(axes)
            axes.set_title(short_label(generator), pad=14)
        for axes in grid.flat[len(generators) :]:
            axes.set_visible(False)
        for axes in grid[-1]:
            axes.set_xlabel("photographs blamed (FPR)")
        for axes in grid[:, 0]:
            axes.set_ylabel("generated caught (TPR)")
        add_legend(figure, *grid.flat)
    said = _listed(
        "{} {:.0%} and {:.0%}".format(method, *np.mean(points, axis=0))
        for method, points in caught.items()
        if points
    )
    described = (
        f"ROC curves for {len(generators)} generators. Share of generated images caught where"
        f" 1% and where 5% of the photographs are called generated, mean over these"
        f" generators: {said}."
    )
    return as_plot(name, title, described, figure)


def reliability_diagram(name: str, title: str, bins: pd.DataFrame, style: dict[str, Look]) -> Plot:
    """Share of generated images against mean score, a point a bin of scores.

    Parameters
    ----------
    bins : columns method, mean_score, share_generated, rows; bins of 0 rows are left out, those
        whose rows are unknown (NaN) are drawn
    style : the methods to draw, in order
    """
    shown = with_rows(bins[bins["method"].isin(list(style))])
    methods = _present(style, shown)
    gaps = {}
    with new_figure(4.6, 4.6) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        for method in methods:
            rows = shown[shown["method"] == method].sort_values("mean_score", kind="stable")
            look = style[method]
            axes.plot(
                rows["mean_score"],
                rows["share_generated"],
                color=look.colour,
                linestyle=look.dashes,
                marker=look.marker,
                label=short_label(method),
            )
            gap = (rows["mean_score"] - rows["share_generated"]).abs()
            if rows["rows"].notna().all():
                gaps[method] = float(np.average(gap, weights=rows["rows"]))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("score that the method gives")
        axes.set_ylabel("share that was generated")
        add_legend(figure, axes)
    described = (
        "Share of generated images against the score given; on the dotted line a score means"
        " what it says."
    )
    if gaps:
        distances = _listed(f"{method} {gap:.3f}" for method, gap in gaps.items())
        described += f" Mean distance from that line, weighted by rows: {distances}."
    return as_plot(name, title, described, figure)


def robustness_curves(
    name: str, title: str, steps: Sequence[str], table: pd.DataFrame, style: dict[str, Look]
) -> Plot:
    """AUROC above and verdict flips beneath, from the mildest step to the harshest.

    Parameters
    ----------
    steps : labels of the steps, mildest first
    table : columns step (one of `steps`), method, auroc, low, high, flip_rate, flip_low,
        flip_high
    style : the methods to draw, in order
    """
    methods = _present(style, table)
    with new_figure(4.6, 5.2) as figure:
        above, beneath = figure.subplots(2, 1, sharex=True)
        places = np.arange(len(steps))
        for method in methods:
            rows = table[table["method"] == method].set_index("step").reindex(list(steps))
            look = style[method]
            for axes, value, low, high in (
                (above, "auroc", "low", "high"),
                (beneath, "flip_rate", "flip_low", "flip_high"),
            ):
                axes.plot(
                    places,
                    rows[value].to_numpy(),
                    color=look.colour,
                    linestyle=look.dashes,
                    marker=look.marker,
                    label=short_label(method),
                )
                axes.fill_between(
                    places,
                    rows[low].to_numpy(),
                    rows[high].to_numpy(),
                    color=look.colour,
                    alpha=0.15,
                    linewidth=0,
                )
        beneath.set_xticks(places, [short_label(step) for step in steps])
        beneath.set_ylim(bottom=0)
        beneath.set_xlabel("mild to harsh")
        above.set_ylabel("AUROC")
        beneath.set_ylabel("share of verdicts that flip")
        add_legend(figure, above)
    last = table[table["step"] == steps[-1]].set_index("method").dropna()
    said = _listed(
        f"{method} AUROC {last['auroc'][method]:.3f}, flips {last['flip_rate'][method]:.1%}"
        for method in methods
        if method in last.index
    )
    described = (
        f"AUROC and share of flipped verdicts over the steps {_listed(steps)}."
        f" At the harshest: {said}."
    )
    return as_plot(name, title, described, figure)


def with_rows(bins: pd.DataFrame) -> pd.DataFrame:
    """The bins of scores that hold images, or may hold some."""
    return bins[bins["rows"] != 0]


def _mark_false_positives(axes: Axes) -> None:
    for rate, side in ((0.01, "right"), (0.05, "left")):
        axes.axvline(rate, color=INK, linewidth=0.6, linestyle=":")
        axes.text(rate, 1.02, f"{rate:.0%}", ha=side, va="bottom", fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.005)


def _present(style: dict[str, Look], table: pd.DataFrame) -> list[str]:
    return [method for method in style if (table["method"] == method).any()]


def _lowest(shown: pd.DataFrame) -> float:
    return float(np.nanmin(np.append(shown[["value", "low"]].to_numpy(), 0.5)))


def _listed(parts: Iterator[str] | Sequence[str]) -> str:
    return ", ".join(parts) or "nothing"
