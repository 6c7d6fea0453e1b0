"""What the results page says: sections of paragraphs, tables and plots, as plain values.

How a paragraph, a table or a plot is written is the affair of `pipelines.results.page`;
nothing here is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from item.errors import UsageError
from item.images.perturb import NONE, STEPS
from pipelines.pages.svg_plots import Plot
from pipelines.results.plots import (
    Look,
    generator_bars,
    looks,
    reliability_diagram,
    robustness_curves,
    roc_curves,
)
from pipelines.results.tables import OVER_GENERATORS, Evaluation, Method

KINDS = {
    "ours": "Ours",
    "baseline": "Baselines",
    "control": "Controls",
    "ablation": "Ablations",
}

METRICS = {
    "auroc": ("AUROC", "chance that a generated image scores above a photograph; 0.5 is guessing"),
    "ap": ("AP", "average precision with generated images as the class to find"),
    "balanced_accuracy": ("Balanced accuracy", "mean of the two accuracies that follow"),
    "real_accuracy": ("Real accuracy", "share of photographs called real"),
    "generated_accuracy": ("Generated accuracy", "share of generated images called generated"),
    "tpr_at_1_fpr": ("TPR at 1% FPR", "generated images caught if 1% of photographs are blamed"),
    "tpr_at_5_fpr": ("TPR at 5% FPR", "generated images caught if 5% of photographs are blamed"),
    "brier": ("Brier", "mean squared error of the score as a probability; lower is better"),
    "topic_matched_auroc": (
        "AUROC at equal topics",
        "the same, weighted so that captions cannot tell generated from real",
    ),
    "ece": ("ECE", "mean distance of the score from the true share; lower is better"),
}

TOPICS = "topic_matched_auroc"

LOWER_IS_BETTER = {"brier", "ece"}

MEANING_OF_CONTROLS = {
    "shortcut": (
        "It sees the file and not the picture: bytes, width, height, format, JPEG quality. If it"
        " scores as high, the data give the answer away and no score on them says much."
    ),
    "shuffl": (
        "It sees captions that belong to other images. If it scores as high, the score of the"
        " method with true captions did not come from misalignment of image and text."
    ),
    "caption": (
        "It sees the words and not the picture. If it scores as high, what the images show, and"
        " not how they were made, tells the classes apart."
    ),
}
"""By a part of the control's name; the first that fits."""

MEANING_OF_ANY_CONTROL = (
    "If it scores as high, the score of the shipped method may have the same cause."
)

FAMILIES = {
    "jpeg": "JPEG, by quality",
    "blur": "Gaussian blur, by standard deviation in pixels",
    "resize": "Resize, by what both sides are multiplied with",
    "crop": "Centre crop, by the share of each side that is kept",
    "noise": "Gaussian noise, by standard deviation in grey levels",
}

DASH = "–"


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Bullets:
    """Pairs of a name, which may be empty, and what is said of it."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """One line to be typed."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Cell:
    """What stands in a table; `best` is shown in bold."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under columns, in groups that may have a heading."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Sequence[Cell]]]]
    folded: bool = False


@dataclass(frozen=True)
class Figures:
    """Plots that stand side by side where there is room."""

    kind: ClassVar[str] = "figures"
    plots: Sequence[Plot]


Block = Paragraph | Bullets | Code | Table | Figures


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    id: str
    title: str
    blocks: Sequence[Block]


def sections(evaluation: Evaluation) -> list[Section]:
    """Everything that the page says, in its order.

    Raises
    ------
    UsageError
        The metrics hold no mean AUROC, so that there is no result to show.
    """
    if _mean_auroc(evaluation, "all").empty:
        raise UsageError("The table metrics holds no AUROC of subset 'all' and generator 'mean'.")
    competing = evaluation.methods("ours", "baseline")
    all_looks = looks([m.name for m in (*competing, *evaluation.methods("control", "ablation"))])
    style = {method.name: all_looks[method.name] for method in competing}
    return [
        Section("measured", "What was measured, and on what", list(_measured(evaluation))),
        Section("headline", "Mean AUROC over generators", list(_headline(evaluation))),
        Section(
            "differences", "Is it ahead of the baselines?", list(_against_baselines(evaluation))
        ),
        Section("generators", "Each generator", list(_generators(evaluation, style))),
        Section(
            "roc", "ROC: images caught against photographs blamed", list(_roc(evaluation, style))
        ),
        Section(
            "reliability", "Do scores mean what they say?", list(_reliability(evaluation, style))
        ),
        Section("thresholds", "When a threshold moves to another source", list(_moved(evaluation))),
        Section("controls", "Controls: could it be something else?", list(_controls(evaluation))),
        Section("ablations", "Ablations: which parts matter?", list(_ablations(evaluation))),
        Section(
            "robustness",
            "Robustness: what the web does to pictures",
            list(_robust(evaluation, all_looks)),
        ),
        Section("all", "Every number", list(_everything(evaluation))),
    ]


def _measured(evaluation: Evaluation) -> Iterator[Block]:
    about = evaluation.description
    real = [data for data in about.data if data.label == 0]
    generated = [data for data in about.data if data.label == 1]
    yield Paragraph(
        f"{sum(data.rows for data in generated):,} generated images of"
        f" {len({data.generator for data in generated})} generators and"
        f" {sum(data.rows for data in real):,} photographs of"
        f" {len({data.source for data in real})} sources. Each method was trained"
        f" {about.seeds} times with different seeds. A range in brackets is a 95% bootstrap"
        f" interval from {about.resamples:,} resamples."
    )
    rows = [
        _cells(data.generator or "photographs", data.source, f"{data.rows:,}")
        for data in about.data
    ]
    yield Table("Images by origin", ["Made by", "Source", "Images"], [("", rows)])
    yield Paragraph("The protocols, which say what was trained on and what was tested on:")
    yield Bullets([(protocol.name, protocol.sentence) for protocol in about.protocols])
    yield Paragraph("How the numbers came about, and how to get them again:")
    yield Code(about.command)
    yield Bullets(
        [
            ("Machine", about.machine),
            ("Finished at", about.finished_at),
            ("Code version", about.code_version),
            ("Feature set", about.feature_set_id),
            ("Shipped method", about.shipped),
        ]
    )
    if about.notes:
        yield Paragraph("Notes:")
        yield Bullets([("", note) for note in about.notes])


def _headline(evaluation: Evaluation) -> Iterator[Block]:
    yield Paragraph(
        "AUROC is the chance that a generated image gets a higher score than a photograph: 0.5"
        " is guessing, 1 is perfect. Each column is one protocol and one source of photographs,"
        " and every column that was measured is here. Bold is the best of ours and the"
        f" baselines. {DASH} was not measured."
    )
    kinds = {KINDS[kind]: evaluation.methods(kind) for kind in KINDS}
    yield _auroc_table(evaluation, "all", "Mean AUROC, all images", kinds)
    if not _mean_auroc(evaluation, "realistic").empty:
        yield _auroc_table(evaluation, "realistic", "Mean AUROC, realistic style alone", kinds)
    if not _mean_auroc(evaluation, "all", TOPICS).empty:
        yield Paragraph(
            "The same at equal topics: images are weighted so that their captions cannot tell"
            " generated ones from photographs. What is left is not a matter of what they show."
        )
        yield _auroc_table(evaluation, "all", "Mean AUROC at equal topics", kinds, TOPICS)
    yield _sentences(evaluation.methods("ours", "baseline"))


def _against_baselines(evaluation: Evaluation) -> Iterator[Block]:
    shipped = evaluation.description.shipped
    yield Paragraph(
        f"The mean over generators of {shipped}, less that of each baseline on the same images"
        " (paired bootstrap). Where the interval excludes zero it is ahead or behind; where"
        " zero lies inside, these data cannot tell."
    )
    yield from _difference_blocks(evaluation, "baseline")


def _generators(evaluation: Evaluation, style: dict[str, Look]) -> Iterator[Block]:
    auroc = evaluation.metrics.query(
        "metric == 'auroc' and subset == 'all' and generator != 'spread'"
    )
    plots = []
    for name, title, rows in _by_setting(auroc[auroc["method"].isin(list(style))], "generators"):
        last = rows["generator"].isin(list(OVER_GENERATORS))
        ordered = pd.concat([rows[~last], rows[last]])
        plots.append(generator_bars(name, f"AUROC by generator, {title}", ordered, style))
    if not plots:
        yield Paragraph("No AUROC by generator was measured for ours and the baselines.")
        return
    yield Paragraph("Ours and the baselines, a bar each, with the 95% interval as a thin line.")
    yield Figures(plots)


def _roc(evaluation: Evaluation, style: dict[str, Look]) -> Iterator[Block]:
    shown = evaluation.roc[evaluation.roc["method"].isin(list(style))].dropna()
    plots = [
        roc_curves(name, f"ROC by generator, {title}", rows, style)
        for name, title, rows in _by_setting(shown, "roc")
    ]
    if not plots:
        yield Paragraph("No ROC curve was measured for ours and the baselines.")
        return
    yield Paragraph(
        "Moving the threshold trades generated images caught (up) against photographs wrongly"
        " called generated (right). The dotted lines mark 1% and 5% of photographs: an audit"
        " works at the far left. One seed."
    )
    yield Figures(plots)


def _reliability(evaluation: Evaluation, style: dict[str, Look]) -> Iterator[Block]:
    bins = evaluation.reliability
    bins = bins[bins["method"].isin(list(style)) & (bins["rows"] > 0)]
    plots = [
        reliability_diagram(name, f"Reliability, {title}", rows, style)
        for name, title, rows in _by_setting(bins, "reliability")
    ]
    if not plots:
        yield Paragraph("Reliability was not measured for ours and the baselines.")
        return
    yield Paragraph(
        "Of the images that get a score near 0.8, about 80% should be generated, in a set mixed"
        " as the test set is. On the dotted line they are; under it the method is too sure that"
        " images are generated."
    )
    yield Figures(plots)


def _moved(evaluation: Evaluation) -> Iterator[Block]:
    points = evaluation.operating_points
    if points.empty:
        yield Paragraph("Thresholds were not measured.")
        return
    yield Paragraph(
        "A threshold is set so that no more than the asked share of known photographs is called"
        " generated. Here is what share it really blames among the photographs named. Where the"
        " whole interval lies above what was asked, the promise is broken there."
    )
    competing = {method.name for method in evaluation.methods("ours", "baseline")}
    shown = points["method"].isin(competing)
    caption = "Asked and realised share of photographs called generated"
    yield _threshold_table(evaluation, points[shown], caption)
    if not shown.all():
        caption += ", controls and ablations"
        yield _threshold_table(evaluation, points[~shown], caption, folded=True)


def _controls(evaluation: Evaluation) -> Iterator[Block]:
    controls = evaluation.methods("control")
    if not controls:
        yield Paragraph("No control was measured.")
        return
    yield Paragraph(
        "A control cannot see what we claim to measure, so it should score well under the"
        " shipped method."
    )
    yield _auroc_table(
        evaluation,
        "all",
        "Mean AUROC of the controls beside the shipped method",
        {"Shipped": [_shipped(evaluation)], "Controls": controls},
    )
    yield Bullets(
        [
            (control.name, f"{_stop(control.sentence)} {_meaning(control.name)} {count}")
            for control in controls
            for count in [_reached(evaluation, control.name)]
        ]
    )
    yield from _difference_blocks(evaluation, "control")


def _ablations(evaluation: Evaluation) -> Iterator[Block]:
    ablations = evaluation.methods("ablation")
    if not ablations:
        yield Paragraph("No ablation was measured.")
        return
    yield Paragraph("The method with a part taken out, changed or alone.")
    yield _auroc_table(
        evaluation,
        "all",
        "Mean AUROC of the ablations beside the shipped method",
        {"Shipped": [_shipped(evaluation)], "Ablations": ablations},
    )
    yield _sentences(ablations)
    yield from _difference_blocks(evaluation, "ablation")


def _robust(evaluation: Evaluation, style: dict[str, Look]) -> Iterator[Block]:
    table = evaluation.robustness
    if table is None or table.empty:
        yield Paragraph("Robustness was not measured.")
        return
    yield Paragraph(
        "The test images were changed as the web changes them, and scored again. Above: how"
        " well generated images and photographs are still told apart. Beneath: the share of"
        " verdicts that differ from those of the unchanged images."
    )
    plots = [
        robustness_curves(f"robustness-{family}", title, steps, rows, style)
        for family, title in FAMILIES.items()
        for steps, rows in [_family(table, family)]
        if len(steps) > 1
    ]
    if plots:
        yield Figures(plots)
    order = {name: place for place, name in enumerate((NONE, *STEPS))}
    names = dict.fromkeys(
        sorted(table["perturbation"], key=lambda name: order.get(name, len(order)))
    )
    groups = [
        (
            name,
            [
                _cells(
                    row["method"],
                    _interval(row["auroc"], row["low"], row["high"]),
                    _interval(row["flip_rate"], row["flip_low"], row["flip_high"], _percent),
                    _count(row["rows"]),
                )
                for row in _ordered(table[table["perturbation"] == name], evaluation)
            ],
        )
        for name in names
    ]
    columns = ["Method", "AUROC", "Verdicts that flip", "Images"]
    yield Table("Every perturbation", columns, groups, folded=True)


def _everything(evaluation: Evaluation) -> Iterator[Block]:
    yield Paragraph(
        "All metrics for each generator and source of photographs; those of the ablations are in"
        " metrics.parquet."
    )
    yield Bullets(list(METRICS.values()))
    shown = [method.name for method in evaluation.methods("ours", "baseline", "control")]
    metrics = evaluation.metrics[evaluation.metrics["method"].isin(shown)]
    columns = list(dict.fromkeys([m for m in METRICS if m in set(metrics["metric"])]))
    columns += [m for m in dict.fromkeys(metrics["metric"]) if m not in METRICS]
    for (_, title, rows), subset in [
        (setting, subset)
        for setting in _by_setting(metrics, "all")
        for subset in dict.fromkeys(setting[2]["subset"])
    ]:
        rows = rows[rows["subset"] == subset]
        groups = []
        for generator in dict.fromkeys(rows["generator"]):
            mine = rows[rows["generator"] == generator]
            groups.append((_generator(generator), _metric_rows(evaluation, mine, columns)))
        yield Table(
            f"{title}, {'all images' if subset == 'all' else f'{subset} images'}",
            ["Method", "Generated", "Real", *(_metric(name) for name in columns)],
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
            _interval(mine["value"][name], mine["low"][name], mine["high"][name])
            if name in mine.index
            else DASH
            for name in columns
        ]
        counts = (_count(mine["generated"].iloc[0]), _count(mine["real"].iloc[0]))
        table.append(_cells(method.name, *counts, *values))
    return table


def _mean_auroc(evaluation: Evaluation, subset: str, metric: str = "auroc") -> pd.DataFrame:
    metrics = evaluation.metrics
    return metrics[
        (metrics["metric"] == metric)
        & (metrics["generator"] == "mean")
        & (metrics["subset"] == subset)
    ]


def _auroc_table(
    evaluation: Evaluation,
    subset: str,
    caption: str,
    kinds: Mapping[str, Sequence[Method]],
    metric: str = "auroc",
) -> Table:
    """A row a method, a column a protocol and source of photographs, the best in bold."""
    settings = [
        (title, rows) for _, title, rows in _by_setting(_mean_auroc(evaluation, subset, metric), "")
    ]
    competing = [method.name for method in evaluation.methods("ours", "baseline")]
    columns = []
    for _, rows in settings:
        rows = rows.set_index("method")
        shown = {
            name: _interval(row["value"], row["low"], row["high"]) for name, row in rows.iterrows()
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


def _difference_blocks(evaluation: Evaluation, kind: str) -> Iterator[Block]:
    """The shipped method against the others of one kind: in a sentence each, then in figures."""
    shipped = evaluation.description.shipped
    others = [method.name for method in evaluation.methods(kind)]
    everything = evaluation.differences
    everything = everything[(everything["method"] == shipped) & everything["baseline"].isin(others)]
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
        yield Bullets(
            [
                (other, _tally(table[table["baseline"] == other]))
                for other in others
                if (table["baseline"] == other).any()
            ]
        )
        caption = f"{name} of {shipped} less that of the {KINDS[kind].lower()}"
        yield _difference_table(evaluation, table, caption, False)


def _difference_table(
    evaluation: Evaluation, table: pd.DataFrame, caption: str, full: bool
) -> Table:
    """Differences in words; `full` names method and metric, and folds the table."""
    columns = ["Against", "Images", "Difference", "In words"]
    groups = []
    for _, title, rows in _by_setting(table, ""):
        lines = []
        for row in _ordered(rows, evaluation, "method", "baseline"):
            figures = _interval(row["difference"], row["low"], row["high"], "{:+.3f}".format)
            cells = _cells(row["baseline"], row["subset"], figures, _verdict(row))
            lines.append(_cells(row["method"], _metric(row["metric"])) + cells if full else cells)
        groups.append((title, lines))
    if full:
        columns = ["Method", "Metric", *columns]
    return Table(caption, columns, groups, folded=full)


def _threshold_table(
    evaluation: Evaluation, points: pd.DataFrame, caption: str, folded: bool = False
) -> Table:
    """A row a method and asked share, in groups by protocol and source of photographs."""
    columns = ["Method", "Asked", "Realised", "In words", "Caught", "Uncertain", "Abstained"]
    groups = []
    for _, title, rows in _by_setting(points, ""):
        cells = [
            _cells(
                row["method"],
                _percent(row["asked_fpr"]),
                _interval(row["realised_fpr"], row["low"], row["high"], _percent),
                _kept(row["asked_fpr"], row["low"], row["high"]),
                _percent(row["tpr"]),
                _percent(row["uncertain_share"]),
                _percent(row["abstained_share"]),
            )
            for row in _ordered(rows, evaluation)
        ]
        groups.append((title, cells))
    return Table(caption, columns, groups, folded)


def _tally(rows: pd.DataFrame) -> str:
    verdicts = [_verdict(row) for _, row in rows.iterrows()]
    parts = [
        f"{words} in {verdicts.count(words)}"
        for words in ("ahead", "behind", "cannot tell")
        if words in verdicts
    ]
    return f"{', '.join(parts)} of {len(verdicts)} comparisons."


def _verdict(row: Any) -> str:
    higher, lower = row["low"] > 0, row["high"] < 0
    ahead, behind = (lower, higher) if row["metric"] in LOWER_IS_BETTER else (higher, lower)
    if ahead:
        return "ahead"
    return "behind" if behind else "cannot tell"


def _kept(asked: float, low: float, high: float) -> str:
    if low > asked:
        return "more than asked"
    if high < asked:
        return "fewer than asked"
    return "as asked" if low <= asked <= high else "cannot tell"


def _meaning(control: str) -> str:
    name = control.lower()
    fitting = (text for part, text in MEANING_OF_CONTROLS.items() if part in name)
    return next(fitting, MEANING_OF_ANY_CONTROL)


def _reached(evaluation: Evaluation, control: str) -> str:
    """In how many protocols and sources a control scores as high as the shipped method."""
    means = _mean_auroc(evaluation, "all").pivot(
        index=["protocol", "real_source"], columns="method", values="value"
    )
    if control not in means or evaluation.description.shipped not in means:
        return "It was not measured beside the shipped method."
    both = means[[control, evaluation.description.shipped]].dropna()
    reached = int((both[control] >= both[evaluation.description.shipped]).sum())
    return f"Here it scores as high in {reached} of {len(both)} comparisons."


def _family(table: pd.DataFrame, family: str) -> tuple[list[str], pd.DataFrame]:
    """The measured steps of a family, mild to harsh, and their rows with a column step."""
    measured = set(table["perturbation"])
    names = [NONE, *(step for step in STEPS if step.startswith(f"{family}-"))]
    labels = {name: name.removeprefix(f"{family}-") for name in names if name in measured}
    steps = list(labels.values())
    if steps == [NONE]:
        return [], table.iloc[:0]
    rows = table[table["perturbation"].isin(list(labels))]
    return steps, rows.assign(step=rows["perturbation"].map(labels))


def _by_setting(table: pd.DataFrame, prefix: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each protocol and source of photographs: a name for files, a title, the rows."""
    settings = table[["protocol", "real_source"]].drop_duplicates().itertuples(index=False)
    for number, (protocol, source) in enumerate(settings, 1):
        rows = table[(table["protocol"] == protocol) & (table["real_source"] == source)]
        words = re.sub(r"[^a-z0-9]+", "-", f"{protocol}-{source}".lower())[:50].strip("-")
        yield f"{prefix}-{number}-{words}".strip("-"), f"{protocol}, photographs of {source}", rows


def _ordered(rows: pd.DataFrame, evaluation: Evaluation, *columns: str) -> list[Any]:
    """Rows in the order that ``evaluation.json`` gives the methods in."""
    place = {method.name: i for i, method in enumerate(evaluation.description.methods)}
    by = list(columns) or ["method"]
    keys = [rows[column].map(place).to_numpy() for column in reversed(by)]
    return [row for _, row in rows.iloc[np.lexsort(keys)].iterrows()]


def _shipped(evaluation: Evaluation) -> Method:
    name = evaluation.description.shipped
    return next(method for method in evaluation.description.methods if method.name == name)


def _sentences(methods: Sequence[Method]) -> Bullets:
    return Bullets([(method.name, method.sentence) for method in methods])


def _stop(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def _generator(name: str) -> str:
    return OVER_GENERATORS.get(name, name)


def _metric(name: str) -> str:
    return METRICS[name][0] if name in METRICS else name


def _cells(*texts: str) -> list[Cell]:
    return [Cell(text) for text in texts]


def _percent(share: float) -> str:
    return DASH if np.isnan(share) else f"{share:.1%}"


def _count(number: float) -> str:
    return DASH if np.isnan(number) else f"{number:,.0f}"


def _interval(
    value: float, low: float, high: float, shown: Callable[[float], str] = "{:.3f}".format
) -> str:
    """``0.862 (0.850 to 0.874)``, or what there is of it."""
    if np.isnan(value):
        return DASH
    if np.isnan(low) or np.isnan(high):
        return shown(value)
    return f"{shown(value)} ({shown(low)} to {shown(high)})"
