"""The results on one short page: the plots and tables that decide something.

Every other figure is in the tables beside the page; see :mod:`pipelines.results.tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd

from item.images.perturb import NONE
from pipelines.pages.svg_plots import Plot
from pipelines.results.blocks import Block, Bullets, Code, Figures, Paragraph, Section, Table
from pipelines.results.comparisons import (
    KINDS,
    auroc_table,
    by_setting,
    difference_tallies,
    in_order,
    mean_auroc,
    shipped_method,
    threshold_table,
)
from pipelines.results.format import (
    as_sentence,
    percent,
    row_of,
    whole_number,
    with_interval,
)
from pipelines.results.plots import (
    Look,
    generator_bars,
    looks,
    reliability_diagram,
    robustness_curves,
    roc_curves,
)
from pipelines.results.sections import FAMILIES, family_of, meaning_of_control
from pipelines.results.tables import OVER_GENERATORS, TABLES, Evaluation

Draw = Callable[[str, str, pd.DataFrame, dict[str, Look]], Plot]


def summary(evaluation: Evaluation) -> list[Section]:
    """The short page, in its order; a part that was not measured is left out."""
    competing = evaluation.methods("ours", "baseline")
    style = looks([method.name for method in competing])
    parts = [
        ("measured", "What was measured", _measured(evaluation)),
        ("auroc", "How well generated images and photographs are told apart", _auroc(evaluation)),
        ("hardest", "Where the shipped method is weakest", _hardest(evaluation, style)),
        ("thresholds", "When a threshold meets new photographs", _thresholds(evaluation)),
        ("controls", "Could it be something else?", _controls(evaluation)),
        ("robustness", "What the web does to pictures", _robustness(evaluation, style)),
        ("tables", "Every figure", _tables(evaluation)),
    ]
    sections = [Section(name, title, list(blocks)) for name, title, blocks in parts]
    return [section for section in sections if section.blocks]


def _measured(evaluation: Evaluation) -> Iterator[Block]:
    about = evaluation.description
    real = [data for data in about.data if data.label == 0]
    generated = [data for data in about.data if data.label == 1]
    yield Paragraph(
        f"{sum(data.rows for data in generated):,} generated images of"
        f" {len({data.generator for data in generated})} generators"
        f" ({', '.join(sorted({str(data.generator) for data in generated}))}) and"
        f" {sum(data.rows for data in real):,} photographs of"
        f" {len({data.source for data in real})} sources"
        f" ({', '.join(sorted({data.source for data in real}))}). Each method was trained"
        f" {about.seeds} times. Ranges are 95% bootstrap intervals from {about.resamples:,}"
        " resamples."
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
        " photographs; bold is the best of ours and the baselines."
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
    worst = own.loc[own["value"].idxmin()]
    here = {column: worst[column] for column in ("protocol", "real_source")}
    bars = evaluation.metrics.query(
        "metric == 'auroc' and subset == 'all' and generator != 'spread'"
    )
    over = bars["generator"].isin(list(OVER_GENERATORS))
    bins = evaluation.reliability
    drawn: list[tuple[str, str, pd.DataFrame, Draw]] = [
        ("generators", "AUROC by generator", pd.concat([bars[~over], bars[over]]), generator_bars),
        ("roc", "ROC by generator", evaluation.roc.dropna(), roc_curves),
        ("reliability", "Reliability", bins[bins["rows"] > 0], reliability_diagram),
    ]
    plots = []
    for name, title, table, draw in drawn:
        shown = table[table["method"].isin(list(style))]
        for column, value in here.items():
            shown = shown[shown[column] == value]
        if len(shown):
            plots.append(draw(name, f"{title}, {_setting(shown)}", shown, style))
    yield Paragraph(
        f"That is {_setting(own.loc[[own['value'].idxmin()]])}. The ROC plot marks 1% and 5% of"
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
        " shipped method, that method's score may have the same cause. The column of the"
        " shortcut probe in the first table is that of a probe that sees bytes, width, height,"
        " format and JPEG quality alone: near 1 the files give the label away, near 0.5 they do"
        " not, and far below 0.5 what it learned of one source of photographs is wrong for"
        " another."
    )
    yield Bullets(
        [
            (control.name, f"{as_sentence(control.sentence)} {meaning_of_control(control.name)}")
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
    lines = [
        row_of(
            row["perturbation"],
            with_interval(row["auroc"], row["low"], row["high"]),
            with_interval(row["flip_rate"], row["flip_low"], row["flip_high"], percent),
            whole_number(row["rows"]),
        )
        for row in in_order(worst, evaluation)
    ]
    columns = ["Change", "AUROC", "Verdicts that flip", "Images"]
    yield Table(f"The {len(lines)} changes that hurt {shipped} most", columns, [("", lines)])


def _tables(evaluation: Evaluation) -> Iterator[Block]:
    yield Paragraph(
        "The folder of this page's plots holds every figure as Parquet. Rebuild this page, the"
        " tables as CSV and one long HTML page with every plot:"
    )
    yield Code(
        "python jobs/results.py --evaluation docs/results --markdown docs/results.md"
        " --tables results-csv/ --page results.html"
    )
    yield Bullets(
        [
            (f"{name}.parquet", words)
            for name, words in TABLES.items()
            if getattr(evaluation, name) is not None
        ]
    )


def _setting(rows: pd.DataFrame) -> str:
    [(_, title, _)] = by_setting(rows, "")
    return title
