"""The short page: what it says of an evaluation, and the page of this repository."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipelines.results.blocks import Bullets, Section, Table
from pipelines.results.page import as_markdown
from pipelines.results.summary import summary
from pipelines.results.tables import (
    MEANING_OF_COLUMNS,
    MEANING_OF_TABLES,
    TABLES,
    Evaluation,
    read_evaluation,
)
from tests.conftest import REPOSITORY
from tests.support.evaluation_folder import OURS, description, tables, write_folder

PAGE = REPOSITORY / "docs" / "results.md"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = write_folder(tmp_path_factory.mktemp("evaluation"), description(), tables())
    return read_evaluation(str(folder))


def bullets(sections: list[Section], name: str) -> dict[str, str]:
    [section] = [section for section in sections if section.id == name]
    lists = [block for block in section.blocks if isinstance(block, Bullets)]
    return {name: text for block in lists for name, text in block.items}


def test_page_begins_with_what_the_tables_come_to(evaluation: Evaluation) -> None:
    short = bullets(summary(evaluation), "short")
    assert short[OURS] == "mean AUROC 0.830 to 0.870."
    assert short["Threshold for 1.0%"] == (
        "calls up to 2.0% of other photographs generated (train on one, photographs of COCO)."
    )
    assert "shortcut probe" not in short


def test_control_that_scores_as_high_is_said_first(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics.copy()
    metrics.loc[metrics["method"] == "shuffled captions", "value"] += 0.16
    short = bullets(summary(replace(evaluation, metrics=metrics)), "short")
    assert short["shuffled captions"] == (
        f"a control that scores as high as {OURS} in 2 of 2 comparisons."
    )


def test_reliability_with_unknown_rows_is_drawn(evaluation: Evaluation) -> None:
    bins = evaluation.reliability.assign(rows=float("nan"))
    page = as_markdown(evaluation, summary(replace(evaluation, reliability=bins)), "results")
    assert "results/reliability.svg" in page
    assert "Mean distance" not in page


def test_every_table_and_column_has_a_meaning(evaluation: Evaluation) -> None:
    assert set(MEANING_OF_TABLES) == set(TABLES)
    columns = {name for table in TABLES.values() for name in (*table.text, *table.numbers)}
    assert set(MEANING_OF_COLUMNS) == columns
    assert columns <= set(bullets(summary(evaluation), "tables"))


def test_page_of_this_repository_is_that_of_its_tables() -> None:
    figures = replace(read_evaluation(str(PAGE.with_suffix(""))), folder="docs/results")
    assert as_markdown(figures, summary(figures), "results") == PAGE.read_text(encoding="utf-8")


def test_page_of_this_repository_is_short_and_its_plots_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    plots = re.findall(r"\]\((results/[a-z]+\.svg)\)", text)
    assert len(plots) == 4
    assert {Path(plot).name for plot in plots} == {
        plot.name for plot in PAGE.with_suffix("").glob("*.svg")
    }
    assert sum(file.stat().st_size for file in PAGE.with_suffix("").iterdir()) < 300_000


def test_tables_of_this_repository_hold_every_column() -> None:
    for name, columns in TABLES.items():
        table = pd.read_parquet(PAGE.with_suffix("") / f"{name}.parquet")
        assert set(table) == {*columns.text, *columns.numbers}
        assert len(table)


def test_no_generated_html_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.html"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert listed.stdout == ""


def test_of_many_sources_the_mean_and_the_worst_have_a_column(evaluation: Evaluation) -> None:
    means = evaluation.metrics.query("protocol == protocol.iloc[0]")
    source = means["real_source"].iloc[0]
    one = means[means["real_source"] == source]
    names = {"a": 0.01, "b": -0.2, "c": 0.02, "d": 0.0, "mean": 0.03}
    metrics = pd.concat(
        [one.assign(real_source=name, value=one["value"] + more) for name, more in names.items()],
        ignore_index=True,
    )
    [section] = [
        section
        for section in summary(replace(evaluation, metrics=metrics))
        if section.id == "auroc"
    ]
    [table] = [block for block in section.blocks if isinstance(block, Table)]
    said = [str(title) for title in table.columns[1:]]
    assert len(said) == 2
    assert said[0].endswith("mean over sources") and said[1].endswith("photographs of b")


def test_page_of_unseen_sources_is_that_of_its_tables() -> None:
    page = PAGE.with_name("unseen_sources.md")
    evaluation = read_evaluation(str(page.with_suffix("")))
    text = page.read_text()
    for bullet, said in bullets(summary(evaluation), "short").items():
        assert said.split(" (")[0] in text, bullet
    assert "and 82 more" in text
