"""What the results page says: sections of paragraphs, tables and plots, as plain values.

How a paragraph, a table or a plot is written is the affair of `pipelines.results.page`;
nothing here is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from item.errors import UsageError
from item.images.perturb import NONE, STEPS
from pipelines.results.blocks import Block, Bullets, Code, Figures, Paragraph, Section, Table
from pipelines.results.comparisons import (
    KINDS,
    auroc_by_generator,
    auroc_table,
    by_setting,
    difference_blocks,
    every_number,
    in_order,
    mean_auroc,
    reached,
    robustness_row,
    sentences_of,
    shipped_method,
    threshold_table,
)
from pipelines.results.format import (
    DASH,
    TOPICS,
    as_sentence,
    row_of,
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
from pipelines.results.tables import Evaluation

MEANING_OF_CONTROLS = {
    "shortcut": (
        "It sees the file and not the picture: bytes, width, height, format, JPEG quality. Near 1,"
        " the files alone give the answer away, and no score on them says much; near 0.5 they do"
        " not; far below 0.5, what it learned from one source of photographs misleads it on"
        " another."
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


def sections(evaluation: Evaluation) -> list[Section]:
    """Everything that the page says, in its order.

    Raises
    ------
    UsageError
        The metrics hold no mean AUROC, so that there is no result to show.
    """
    if mean_auroc(evaluation, "all").empty:
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
        Section("all", "Every number", list(every_number(evaluation))),
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
        row_of(data.generator or "photographs", data.source, f"{data.rows:,}")
        for data in about.data
    ]
    yield Table("Images by origin", ["Made by", "Source", "Images"], [("", rows)])
    yield Paragraph("The protocols, which say what was trained on and what was tested on:")
    yield Bullets([(protocol.name, protocol.sentence) for protocol in about.protocols])
    yield Paragraph("The command, and where it ran:")
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
    yield auroc_table(evaluation, "all", "Mean AUROC, all images", kinds)
    if not mean_auroc(evaluation, "realistic").empty:
        yield auroc_table(evaluation, "realistic", "Mean AUROC, realistic style alone", kinds)
    if not mean_auroc(evaluation, "all", TOPICS).empty:
        yield Paragraph(
            "The same at equal topics: images are weighted so that their captions cannot tell"
            " generated ones from photographs. What is left is not a matter of what they show."
        )
        yield auroc_table(evaluation, "all", "Mean AUROC at equal topics", kinds, TOPICS)
    yield sentences_of(evaluation.methods("ours", "baseline"))


def _against_baselines(evaluation: Evaluation) -> Iterator[Block]:
    shipped = evaluation.description.shipped
    yield Paragraph(
        f"The mean over generators of {shipped}, less that of each baseline on the same images"
        " (paired bootstrap). Where the interval excludes zero it is ahead or behind; where"
        " zero lies inside, these data cannot tell."
    )
    yield from difference_blocks(evaluation, "baseline")


def _generators(evaluation: Evaluation, style: dict[str, Look]) -> Iterator[Block]:
    auroc = auroc_by_generator(evaluation)
    plots = [
        generator_bars(name, f"AUROC by generator, {title}", rows, style)
        for name, title, rows in by_setting(auroc[auroc["method"].isin(list(style))], "generators")
    ]
    if not plots:
        yield Paragraph("No AUROC by generator was measured for ours and the baselines.")
        return
    yield Paragraph("Ours and the baselines, a bar each, with the 95% interval as a thin line.")
    yield Figures(plots)


def _roc(evaluation: Evaluation, style: dict[str, Look]) -> Iterator[Block]:
    shown = evaluation.roc[evaluation.roc["method"].isin(list(style))].dropna()
    plots = [
        roc_curves(name, f"ROC by generator, {title}", rows, style)
        for name, title, rows in by_setting(shown, "roc")
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
    bins = with_rows(bins[bins["method"].isin(list(style))])
    plots = [
        reliability_diagram(name, f"Reliability, {title}", rows, style)
        for name, title, rows in by_setting(bins, "reliability")
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
    yield threshold_table(evaluation, points[shown], caption)
    if not shown.all():
        caption += ", controls and ablations"
        yield threshold_table(evaluation, points[~shown], caption, folded=True)


def _controls(evaluation: Evaluation) -> Iterator[Block]:
    controls = evaluation.methods("control")
    if not controls:
        yield Paragraph("No control was measured.")
        return
    yield Paragraph(
        "A control cannot see what we claim to measure, so it should score well under the"
        " shipped method."
    )
    yield auroc_table(
        evaluation,
        "all",
        "Mean AUROC of the controls beside the shipped method",
        {"Shipped": [shipped_method(evaluation)], "Controls": controls},
    )
    yield Bullets(
        [
            (
                control.name,
                f"{as_sentence(control.sentence)} {meaning_of_control(control.name)} {count}",
            )
            for control in controls
            for count in [reached(evaluation, control.name)]
        ]
    )
    yield from difference_blocks(evaluation, "control")


def _ablations(evaluation: Evaluation) -> Iterator[Block]:
    ablations = evaluation.methods("ablation")
    if not ablations:
        yield Paragraph("No ablation was measured.")
        return
    yield Paragraph("The method with a part taken out, changed or alone.")
    yield auroc_table(
        evaluation,
        "all",
        "Mean AUROC of the ablations beside the shipped method",
        {"Shipped": [shipped_method(evaluation)], "Ablations": ablations},
    )
    yield sentences_of(ablations)
    yield from difference_blocks(evaluation, "ablation")


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
        for steps, rows in [family_of(table, family)]
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
                robustness_row(row["method"], row)
                for row in in_order(table[table["perturbation"] == name], evaluation)
            ],
        )
        for name in names
    ]
    columns = ["Method", "AUROC", "Verdicts that flip", "Images"]
    yield Table("Every perturbation", columns, groups, folded=True)


def meaning_of_control(control: str) -> str:
    """What it says of the shipped method if this control scores as high."""
    name = control.lower()
    fitting = (text for part, text in MEANING_OF_CONTROLS.items() if part in name)
    return next(fitting, MEANING_OF_ANY_CONTROL)


def family_of(table: pd.DataFrame, family: str) -> tuple[list[str], pd.DataFrame]:
    """The measured steps of a family, mild to harsh, and their rows with a column step."""
    measured = set(table["perturbation"])
    names = [NONE, *(step for step in STEPS if step.startswith(f"{family}-"))]
    labels = {name: name.removeprefix(f"{family}-") for name in names if name in measured}
    steps = list(labels.values())
    if steps == [NONE]:
        return [], table.iloc[:0]
    rows = table[table["perturbation"].isin(list(labels))]
    return steps, rows.assign(step=rows["perturbation"].map(labels))
