"""Tables that set methods side by side: AUROC, differences, thresholds, every metric."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipelines.results.blocks import Block, Bullets, Cell, Paragraph, Table
from pipelines.results.format import (
    DASH,
    METRIC_WORDS,
    TOPICS,
    generator_name,
    in_words,
    metric_name,
    percent,
    promise_in_words,
    row_of,
    whole_number,
    with_interval,
)
from pipelines.results.tables import OVER_GENERATORS, Evaluation, MethodDescription

KINDS = {
    "ours": "Ours",
    "baseline": "Baselines",
    "control": "Controls",
    "ablation": "Ablations",
}


MOST_SOURCES = 4
"""Sources of photographs that have a column each."""


def every_number(evaluation: Evaluation) -> Iterator[Block]:
    yield Paragraph(
        "All metrics for each generator and source of photographs; those of the ablations are in"
        " metrics.parquet."
    )
    yield Bullets(list(METRIC_WORDS.values()))
    shown = [method.name for method in evaluation.methods("ours", "baseline", "control")]
    metrics = evaluation.metrics[evaluation.metrics["method"].isin(shown)]
    columns = list(dict.fromkeys([m for m in METRIC_WORDS if m in set(metrics["metric"])]))
    columns += [m for m in dict.fromkeys(metrics["metric"]) if m not in METRIC_WORDS]
    for (_, title, rows), subset in [
        (setting, subset)
        for setting in by_setting(metrics, "all")
        for subset in dict.fromkeys(setting[2]["subset"])
    ]:
        rows = rows[rows["subset"] == subset]
        groups = []
        for generator in dict.fromkeys(rows["generator"]):
            mine = rows[rows["generator"] == generator]
            groups.append((generator_name(generator), _metric_rows(evaluation, mine, columns)))
        yield Table(
            f"{title}, {'all images' if subset == 'all' else f'{subset} images'}",
            ["Method", "Generated", "Real", *(metric_name(name) for name in columns)],
            groups,
            folded=True,
        )
    if not evaluation.differences.empty:
        yield _difference_table(evaluation, evaluation.differences, "Every paired difference", True)


def _metric_rows(
    evaluation: Evaluation, rows: pd.DataFrame, columns: Sequence[str]
) -> list[list[Cell]]:
    table = []
    for method in evaluation.description.methods:
        mine = rows[rows["method"] == method.name].set_index("metric")
        if mine.empty:
            continue
        values = [
            with_interval(mine["value"][name], mine["low"][name], mine["high"][name])
            if name in mine.index
            else DASH
            for name in columns
        ]
        counts = (whole_number(mine["generated"].iloc[0]), whole_number(mine["real"].iloc[0]))
        table.append(row_of(method.name, *counts, *values))
    return table


def mean_auroc(evaluation: Evaluation, subset: str, metric: str = "auroc") -> pd.DataFrame:
    metrics = evaluation.metrics
    return metrics[
        (metrics["metric"] == metric)
        & (metrics["generator"] == "mean")
        & (metrics["subset"] == subset)
    ]


def auroc_table(
    evaluation: Evaluation,
    subset: str,
    caption: str,
    kinds: Mapping[str, Sequence[MethodDescription]],
    metric: str = "auroc",
) -> Table:
    """A row a method, a column a protocol and source of photographs, the best in bold.

    Of a protocol with many sources there are two columns: the mean over them, and the source that
    is the worst for the shipped method.
    """
    means = mean_auroc(evaluation, subset, metric)
    settings = [
        (title, rows)
        for _, protocol in means.groupby("protocol", sort=False)
        for _, title, rows in by_setting(_mean_and_worst(protocol, evaluation), "")
    ]
    competing = [method.name for method in evaluation.methods("ours", "baseline")]
    columns = []
    for _, rows in settings:
        rows = rows.set_index("method")
        shown = {
            name: with_interval(row["value"], row["low"], row["high"])
            for name, row in rows.iterrows()
        }
        best = rows["value"].reindex(competing).round(3).max()
        columns.append((shown, set(rows.index[rows["value"].round(3) == best]) & set(competing)))
    groups = []
    for heading, methods in kinds.items():
        lines = [
            [
                Cell(method.name),
                *(
                    Cell(shown.get(method.name, DASH), method.name in best)
                    for shown, best in columns
                ),
            ]
            for method in methods
        ]
        if lines:
            groups.append((heading, lines))
    return Table(caption, ["Method", *(title for title, _ in settings)], groups)


def _mean_and_worst(rows: pd.DataFrame, evaluation: Evaluation) -> pd.DataFrame:
    """Rows of a protocol: all of them, or those of the mean and of the worst of many sources."""
    if rows["real_source"].nunique() <= MOST_SOURCES or "mean" not in set(rows["real_source"]):
        return rows
    shipped = rows[rows["method"] == evaluation.description.shipped]
    worst = shipped.loc[shipped["value"].idxmin(), "real_source"]
    return pd.concat([rows[rows["real_source"] == name] for name in ("mean", worst)])


def difference_blocks(evaluation: Evaluation, kind: str) -> Iterator[Block]:
    """The shipped method against the others of one kind: in a sentence each, then in figures."""
    shipped = evaluation.description.shipped
    others = [method.name for method in evaluation.methods(kind)]
    everything = _differences_to(evaluation, others)
    if not (everything["metric"] == "auroc").any():
        yield Paragraph(f"No paired difference was measured against the {KINDS[kind].lower()}.")
        return
    for metric, name in (("auroc", "AUROC"), (TOPICS, "AUROC at equal topics")):
        table = everything[everything["metric"] == metric]
        if table.empty:
            continue
        yield Paragraph(
            f"{shipped} against each of the {KINDS[kind].lower()} ({name}, paired bootstrap):"
        )
        yield Bullets(difference_tallies(evaluation, kind, metric))
        caption = f"{name} of {shipped} less that of the {KINDS[kind].lower()}"
        yield _difference_table(evaluation, table, caption, False)


def difference_tallies(
    evaluation: Evaluation, kind: str, metric: str = "auroc"
) -> list[tuple[str, str]]:
    """Each method of a kind, and how often the shipped one is ahead of it or behind."""
    others = [method.name for method in evaluation.methods(kind)]
    table = _differences_to(evaluation, others)
    table = table[table["metric"] == metric]
    return [
        (other, tally(table[table["baseline"] == other]))
        for other in others
        if (table["baseline"] == other).any()
    ]


def _differences_to(evaluation: Evaluation, others: Sequence[str]) -> pd.DataFrame:
    table = evaluation.differences
    shipped = evaluation.description.shipped
    return table[(table["method"] == shipped) & table["baseline"].isin(others)]


def _difference_table(
    evaluation: Evaluation, table: pd.DataFrame, caption: str, full: bool
) -> Table:
    """Differences in words; `full` names method and metric, and folds the table."""
    columns = ["Against", "Images", "Difference", "In words"]
    groups = []
    for _, title, rows in by_setting(table, ""):
        lines = []
        for row in in_order(rows, evaluation, "method", "baseline"):
            figures = with_interval(row["difference"], row["low"], row["high"], "{:+.3f}".format)
            cells = row_of(row["baseline"], row["subset"], figures, in_words(row))
            lines.append(
                row_of(row["method"], metric_name(row["metric"])) + cells if full else cells
            )
        groups.append((title, lines))
    if full:
        columns = ["Method", "Metric", *columns]
    return Table(caption, columns, groups, folded=full)


def threshold_table(
    evaluation: Evaluation, points: pd.DataFrame, caption: str, folded: bool = False
) -> Table:
    """A row a method and asked share, in groups by protocol and source of photographs."""
    columns = ["Method", "Asked", "Realised", "In words", "Caught", "Uncertain", "Abstained"]
    groups = []
    for _, title, rows in by_setting(points, ""):
        cells = [
            row_of(
                row["method"],
                percent(row["asked_fpr"]),
                with_interval(row["realised_fpr"], row["low"], row["high"], percent),
                promise_in_words(row["asked_fpr"], row["low"], row["high"]),
                percent(row["tpr"]),
                percent(row["uncertain_share"]),
                percent(row["abstained_share"]),
            )
            for row in in_order(rows, evaluation)
        ]
        groups.append((title, cells))
    return Table(caption, columns, groups, folded)


def tally(rows: pd.DataFrame) -> str:
    verdicts = [in_words(row) for _, row in rows.iterrows()]
    parts = [
        f"{words} in {verdicts.count(words)}"
        for words in ("ahead", "behind", "cannot tell")
        if words in verdicts
    ]
    return f"{', '.join(parts)} of {len(verdicts)} comparisons."


def times_reached(evaluation: Evaluation, control: str) -> tuple[int, int]:
    """In how many protocols and sources a control scores as high as the shipped method, and in
    how many both were measured."""
    means = mean_auroc(evaluation, "all").pivot(
        index=["protocol", "real_source"], columns="method", values="value"
    )
    shipped = evaluation.description.shipped
    both = means.reindex(columns=[control, shipped]).dropna()
    return int((both[control] >= both[shipped]).sum()), len(both)


def reached(evaluation: Evaluation, control: str) -> str:
    """The same as a sentence."""
    times, of = times_reached(evaluation, control)
    if of == 0:
        return "It was not measured beside the shipped method."
    return f"Here it scores as high in {times} of {of} comparisons."


def by_setting(table: pd.DataFrame, prefix: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each protocol and source of photographs: a name for files, a title, the rows."""
    settings = table[["protocol", "real_source"]].drop_duplicates().itertuples(index=False)
    for number, (protocol, source) in enumerate(settings, 1):
        rows = table[(table["protocol"] == protocol) & (table["real_source"] == source)]
        words = re.sub(r"[^a-z0-9]+", "-", f"{protocol}-{source}".lower())[:50].strip("-")
        of = "mean over sources" if source == "mean" else f"photographs of {source}"
        yield f"{prefix}-{number}-{words}".strip("-"), f"{protocol}, {of}", rows


def auroc_by_generator(evaluation: Evaluation) -> pd.DataFrame:
    """AUROC over all images for each generator; the mean and the worst of them come last."""
    rows = evaluation.metrics.query(
        "metric == 'auroc' and subset == 'all' and generator != 'spread'"
    )
    last = rows["generator"].isin(list(OVER_GENERATORS))
    return pd.concat([rows[~last], rows[last]])


def robustness_row(name: str, row: Any) -> list[Cell]:
    """AUROC, flipped verdicts and images of a row of the robustness table, after a name."""
    return row_of(
        name,
        with_interval(row["auroc"], row["low"], row["high"]),
        with_interval(row["flip_rate"], row["flip_low"], row["flip_high"], percent),
        whole_number(row["rows"]),
    )


def in_order(rows: pd.DataFrame, evaluation: Evaluation, *columns: str) -> list[Any]:
    """Rows in the order that ``evaluation.json`` gives the methods in."""
    place = {method.name: i for i, method in enumerate(evaluation.description.methods)}
    by = list(columns) or ["method"]
    keys = [rows[column].map(place).to_numpy() for column in reversed(by)]
    return [row for _, row in rows.iloc[np.lexsort(keys)].iterrows()]


def shipped_method(evaluation: Evaluation) -> MethodDescription:
    name = evaluation.description.shipped
    return next(method for method in evaluation.description.methods if method.name == name)


def sentences_of(methods: Sequence[MethodDescription]) -> Bullets:
    return Bullets([(method.name, method.sentence) for method in methods])
