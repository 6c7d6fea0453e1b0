"""The results on one short page: the plots and tables that decide something.

Every other figure is in the tables of the evaluation; see :mod:`pipelines.results.tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd

from item.images.perturb import NONE
from pipelines.pages.svg_plots import Plot
from pipelines.results.blocks import Block, Bullets, Code, Figures, Paragraph, Section, Table
from pipelines.results.comparisons import (
    KINDS,
    auroc_by_generator,
    auroc_table,
    by_setting,
    difference_tallies,
    in_order,
    mean_auroc,
    reached,
    robustness_row,
    shipped_method,
    threshold_table,
    times_reached,
)
from pipelines.results.format import (
    METRIC_WORDS,
    percent,
)
from pipelines.results.plots import (
    Look,
    generator_bars,
    looks,
    reliability_diagram,
    robustness_curves,
    roc_curves,
    with_rows,
)
from pipelines.results.sections import FAMILIES, family_of, meaning_of_control
from pipelines.results.tables import (
    MEANING_OF_COLUMNS,
    MEANING_OF_TABLES,
    TABLES,
    Evaluation,
)

Draw = Callable[[str, str, pd.DataFrame, dict[str, Look]], Plot]


MOST_NAMES = 16
"""Generators or sources that are named."""


def summary(evaluation: Evaluation) -> list[Section]:
    """The short page, in its order; a part that was not measured is left out."""
    competing = evaluation.methods("ours", "baseline")
    style = looks([method.name for method in competing])
    parts = [
        ("short", "In short", _in_short(evaluation)),
        ("measured", "What was measured", _measured(evaluation)),
        ("auroc", "How well generated images and photographs are told apart", _auroc(evaluation)),
        ("controls", "Could it be something else?", _controls(evaluation)),
        ("thresholds", "When a threshold meets new photographs", _thresholds(evaluation)),
        ("hardest", "Where the shipped method is weakest", _hardest(evaluation, style)),
        ("robustness", "What the web does to pictures", _robustness(evaluation, style)),
        ("tables", "Every figure", _tables(evaluation)),
    ]
    sections = [Section(name, title, list(blocks)) for name, title, blocks in parts]
    return [section for section in sections if section.blocks]


def _in_short(evaluation: Evaluation) -> Iterator[Block]:
    """What the tables below come to, a line each; what was not measured has none."""
    shipped = evaluation.description.shipped
    means = mean_auroc(evaluation, "all").dropna(subset="value")
    lines = []
    for method in (shipped_method(evaluation), *evaluation.methods("baseline")):
        values = means.loc[means["method"] == method.name, "value"]
        if len(values):
            lines.append((method.name, f"mean AUROC {values.min():.3f} to {values.max():.3f}."))
    for control in evaluation.methods("control"):
        times, of = times_reached(evaluation, control.name)
        if times:
            says = f"a control that scores as high as {shipped} in {times} of {of} comparisons."
            lines.append((control.name, says))
    points = evaluation.operating_points
    points = points[points["method"] == shipped].dropna(subset="realised_fpr")
    for asked, rows in points.groupby("asked_fpr"):
        row = rows.loc[[rows["realised_fpr"].idxmax()]]
        lines.append(
            (
                f"Threshold for {percent(asked)}",
                f"calls up to {percent(row['realised_fpr'].iloc[0])} of other photographs generated"
                f" ({_setting(row)}).",
            )
        )
    yield Bullets(lines)


def _measured(evaluation: Evaluation) -> Iterator[Block]:
    about = evaluation.description
    real = [data for data in about.data if data.label == 0]
    generated = [data for data in about.data if data.label == 1]
    yield Paragraph(
        f"{sum(data.rows for data in generated):,} generated images of"
        f" {len({data.generator for data in generated})} generators"
        f" ({_listed({str(data.generator) for data in generated})}) and"
        f" {sum(data.rows for data in real):,} photographs of"
        f" {len({data.source for data in real})} sources"
        f" ({_listed({data.source for data in real})}). Each method was trained"
        f" {about.seeds} {'time' if about.seeds == 1 else 'times'}. Ranges are 95% bootstrap"
        f" intervals from {about.resamples:,} resamples."
    )
    yield Bullets([(protocol.name, protocol.sentence) for protocol in about.protocols])
    yield Code(about.command)
    yield Paragraph(
        f"Run on {about.machine}, finished at {about.finished_at}, code {about.code_version},"
        f" feature set {about.feature_set_id}. The shipped method is called {about.shipped}."
    )
    if about.notes:
        yield Bullets([("", note) for note in about.notes])


def _auroc(evaluation: Evaluation) -> Iterator[Block]:
    yield Paragraph(
        "AUROC is the chance that a generated image scores above a photograph: 0.5 is guessing,"
        " 1 is perfect. The table shows its mean over generators for each protocol and source of"
        " photographs; bold is the best of ours and the baselines. Read the row of the shortcut"
        " probe, where there is one, as a warning: it never sees the picture."
    )
    kinds = {KINDS[kind]: evaluation.methods(kind) for kind in ("ours", "baseline", "control")}
    yield auroc_table(evaluation, "all", "Mean AUROC", kinds)
    tallies = difference_tallies(evaluation, "baseline")
    if tallies:
        yield Paragraph(
            f"{evaluation.description.shipped} against each baseline on the same images, in all"
            " subsets, protocols and sources (paired bootstrap of the AUROC):"
        )
        yield Bullets(tallies)


def _hardest(evaluation: Evaluation, style: dict[str, Look]) -> Iterator[Block]:
    """Plots for the protocol and photographs with which the shipped method does worst."""
    means = mean_auroc(evaluation, "all")
    own = means[means["method"] == evaluation.description.shipped].dropna(subset="value")
    if own.empty:
        return
    worst = own.loc[[own["value"].idxmin()]]
    here = {column: worst[column].iloc[0] for column in ("protocol", "real_source")}
    drawn: list[tuple[str, str, pd.DataFrame, Draw]] = [
        ("generators", "AUROC by generator", auroc_by_generator(evaluation), generator_bars),
        ("roc", "ROC by generator", evaluation.roc.dropna(), roc_curves),
        ("reliability", "Reliability", with_rows(evaluation.reliability), reliability_diagram),
    ]
    plots = []
    for name, title, table, draw in drawn:
        shown = table[table["method"].isin(list(style))]
        for column, value in here.items():
            shown = shown[shown[column] == value]
        if len(shown):
            plots.append(draw(name, f"{title}, {_setting(shown)}", shown, style))
    yield Paragraph(
        f"That is {_setting(worst)}. The ROC plot marks 1% and 5% of"
        " photographs blamed: an audit works at the far left. Points under the dotted line of"
        " the reliability plot are scores that are too sure."
    )
    yield Figures(plots)


def _thresholds(evaluation: Evaluation) -> Iterator[Block]:
    points = evaluation.operating_points
    shipped = points[points["method"] == evaluation.description.shipped]
    if shipped.empty:
        return
    yield Paragraph(
        "A threshold is set so that at most the asked share of known photographs is called"
        " generated. This is the share of other photographs that it blames."
    )
    yield threshold_table(evaluation, shipped, "Photographs called generated, shipped method")


def _controls(evaluation: Evaluation) -> Iterator[Block]:
    controls = evaluation.methods("control")
    if not controls:
        return
    yield Paragraph(
        "A control cannot see what the method claims to measure. Where it scores as high as the"
        " shipped method, that method's score may have the same cause."
    )
    yield Bullets(
        [
            (
                control.name,
                f"{meaning_of_control(control.name)} {reached(evaluation, control.name)}",
            )
            for control in controls
        ]
    )


def _robustness(evaluation: Evaluation, style: dict[str, Look]) -> Iterator[Block]:
    table = evaluation.robustness
    if table is None or table.empty:
        return
    steps, rows = family_of(table, "jpeg")
    if len(steps) > 1:
        yield Figures([robustness_curves("robustness", FAMILIES["jpeg"], steps, rows, style)])
    shipped = shipped_method(evaluation).name
    own = table[(table["method"] == shipped) & (table["perturbation"] != NONE)]
    if own.empty:
        return
    worst = own.sort_values("auroc", kind="stable").head(5)
    lines = [robustness_row(row["perturbation"], row) for row in in_order(worst, evaluation)]
    columns = ["Change", "AUROC", "Verdicts that flip", "Images"]
    yield Table(f"The {len(lines)} changes that hurt {shipped} most", columns, [("", lines)])


def _tables(evaluation: Evaluation) -> Iterator[Block]:
    yield Paragraph(
        "The evaluation folder holds every figure as Parquet. This writes the tables as CSV, and"
        " one long HTML page with every table and plot:"
    )
    yield Code(
        f"python jobs/results.py --evaluation {evaluation.folder} --tables results-csv/"
        " --page results.html"
    )
    measured = [name for name in TABLES if getattr(evaluation, name) is not None]
    yield Bullets(
        [
            (f"{name}.parquet", f"{meaning}; {len(getattr(evaluation, name)):,} rows.")
            for name, meaning in MEANING_OF_TABLES.items()
            if name in measured
        ]
    )
    yield Paragraph("Their columns:")
    names = dict.fromkeys(
        column for name in measured for column in (*TABLES[name].text, *TABLES[name].numbers)
    )
    yield Bullets([(name, f"{MEANING_OF_COLUMNS[name]}.") for name in names])
    there = set(evaluation.metrics["metric"])
    yield Paragraph("The metrics:")
    yield Bullets(
        [(name, f"{meaning}.") for name, (_, meaning) in METRIC_WORDS.items() if name in there]
    )


def _listed(names: set[str]) -> str:
    """Names in order, the first of many."""
    shown = sorted(names)[:MOST_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _setting(rows: pd.DataFrame) -> str:
    [(_, title, _)] = by_setting(rows, "")
    return title
