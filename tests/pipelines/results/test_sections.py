"""What the long page says: bold, tables, and what was not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from item.errors import UsageError
from pipelines.results.blocks import Bullets, Figures, Paragraph, Section, Table
from pipelines.results.comparisons import KINDS, auroc_table
from pipelines.results.sections import MEANING_OF_CONTROLS, sections
from pipelines.results.tables import Evaluation, read_evaluation
from tests.support.evaluation_folder import METHODS, OURS, PROBE, description, tables, write_folder


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = write_folder(tmp_path_factory.mktemp("evaluation"), description(), tables())
    return read_evaluation(str(folder))


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> dict[str, Section]:
    return {section.id: section for section in sections(evaluation)}


def first_table(section: Section) -> Table:
    return next(block for block in section.blocks if isinstance(block, Table))


def text_of(section: Section) -> str:
    paragraphs = [block.text for block in section.blocks if isinstance(block, Paragraph)]
    bullets = [block.items for block in section.blocks if isinstance(block, Bullets)]
    return " ".join(paragraphs + [f"{name}: {text}" for items in bullets for name, text in items])


def bold(table: Table) -> list[str]:
    return [
        line[0].text for _, lines in table.groups for line in lines for cell in line if cell.best
    ]


def with_auroc(evaluation: Evaluation, **means: float) -> Evaluation:
    """The evaluation with other mean AUROCs over all images."""
    table = evaluation.metrics.copy()
    for method, value in means.items():
        rows = (table["method"] == method) & (table["metric"] == "auroc")
        table.loc[rows & (table["generator"] == "mean"), "value"] = value
    return replace(evaluation, metrics=table)


def section_of(evaluation: Evaluation, name: str) -> Section:
    return next(section for section in sections(evaluation) if section.id == name)


def headline(evaluation: Evaluation) -> Table:
    kinds = {KINDS[kind]: evaluation.methods(kind) for kind in KINDS}
    return auroc_table(evaluation, "all", "Mean AUROC", kinds)


def test_headline_names_every_method_in_its_group(page: dict[str, Section]) -> None:
    table = first_table(page["headline"])
    assert [heading for heading, _ in table.groups] == [
        "Ours",
        "Baselines",
        "Controls",
        "Ablations",
    ]
    assert [line[0].text for _, lines in table.groups for line in lines] == list(METHODS)
    first = table.groups[0][1][0]
    assert [cell.text for cell in first[1:]] == ["0.870 (0.858 to 0.882)", "0.830 (0.818 to 0.842)"]


def test_bold_is_the_best_of_ours_and_baselines_in_each_column(evaluation: Evaluation) -> None:
    assert bold(headline(evaluation)) == [OURS, OURS]
    assert bold(headline(with_auroc(evaluation, **{PROBE: 0.9}))) == [PROBE, PROBE]


def test_bold_goes_to_all_that_look_the_same(evaluation: Evaluation) -> None:
    tied = with_auroc(evaluation, **{PROBE: 0.9001, "DE-FAKE": 0.8999})
    assert bold(headline(tied)) == [PROBE, PROBE, "DE-FAKE", "DE-FAKE"]


def test_control_is_never_bold(evaluation: Evaluation) -> None:
    assert bold(headline(with_auroc(evaluation, **{"caption-only": 0.99}))) == [OURS, OURS]


def test_control_that_scores_as_high_is_counted(evaluation: Evaluation) -> None:
    leaky = with_auroc(evaluation, **{"caption-only": 0.83})
    text = text_of(section_of(leaky, "controls"))
    assert text.count("scores as high in 1 of 2 comparisons") == 1


def test_each_known_control_says_what_it_would_mean(page: dict[str, Section]) -> None:
    text = text_of(page["controls"])
    assert all(meaning in text for meaning in MEANING_OF_CONTROLS.values())


def test_shipped_method_is_compared_with_each_baseline(page: dict[str, Section]) -> None:
    text = text_of(page["differences"])
    assert f"{PROBE}: cannot tell in 2 of 2 comparisons." in text
    assert "DE-FAKE: ahead in 2 of 2 comparisons." in text
    lines = first_table(page["differences"]).groups[0][1]
    assert [cell.text for cell in lines[1]] == [
        *("DE-FAKE", "all", "+0.020 (+0.005 to +0.035)", "ahead")
    ]


def test_moved_threshold_is_shown_for_each_source(page: dict[str, Section]) -> None:
    (_, at_home), (title, moved) = first_table(page["thresholds"]).groups
    assert title == "train on one, photographs of COCO"
    assert [cell.text for cell in at_home[0]][1:4] == ["1.0%", "1.0% (0.8% to 1.2%)", "as asked"]
    assert [cell.text for cell in moved[0]][2:4] == ["2.0% (1.6% to 2.4%)", "more than asked"]


def test_chains_and_single_steps_stand_in_the_robustness_table(page: dict[str, Section]) -> None:
    names = [heading for heading, _ in first_table(page["robustness"]).groups]
    assert names[:2] == ["none", "jpeg-95"]
    assert {"webp-80", "resize-0.5+jpeg-75"} <= set(names)


def test_one_robustness_plot_a_family(page: dict[str, Section]) -> None:
    figures = next(block for block in page["robustness"].blocks if isinstance(block, Figures))
    families = ("jpeg", "blur", "resize", "crop", "noise")
    assert [plot.name for plot in figures.plots] == [f"robustness-{name}" for name in families]
    assert "none, 95, 90, 75, 50, 30" in figures.plots[0].description


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    bare = {name: table.iloc[:0] for name, table in tables().items() if name != "robustness"}
    metrics = tables()["metrics"]
    bare["metrics"] = metrics[(metrics["generator"] == "mean") & metrics["method"].isin([OURS])]
    methods = [method for method in description()["methods"] if method["name"] == OURS]
    folder = write_folder(tmp_path, description(methods=methods, notes=[]), bare)
    page = {section.id: text_of(section) for section in sections(read_evaluation(str(folder)))}
    for name, sentence in {
        "differences": "No paired difference was measured",
        "roc": "No ROC curve was measured",
        "reliability": "Reliability was not measured",
        "thresholds": "Thresholds were not measured.",
        "controls": "No control was measured.",
        "ablations": "No ablation was measured.",
        "robustness": "Robustness was not measured.",
    }.items():
        assert sentence in page[name]


def test_missing_values_are_dashes(evaluation: Evaluation) -> None:
    table = headline(with_auroc(evaluation, **{PROBE: float("nan")}))
    assert [cell.text for cell in table.groups[1][1][0]] == [PROBE, "–", "–"]


def test_metrics_without_a_mean_are_refused(evaluation: Evaluation) -> None:
    table = evaluation.metrics
    with pytest.raises(UsageError, match="no AUROC"):
        sections(replace(evaluation, metrics=table[table["generator"] != "mean"]))


def test_every_metric_of_every_generator_is_in_a_folded_table(
    evaluation: Evaluation, page: dict[str, Section]
) -> None:
    folded = [block for block in page["all"].blocks if isinstance(block, Table) and block.folded]
    figures = [
        cell
        for table in folded
        if "Metric" not in table.columns
        for _, lines in table.groups
        for line in lines
        for cell in line[3:]
    ]
    shown = [method.name for method in evaluation.methods("ours", "baseline", "control")]
    assert len(figures) == evaluation.metrics["method"].isin(shown).sum()
