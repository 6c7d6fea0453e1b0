"""The command line of the results page: one command builds it, mistakes are a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.results import app
from tests.support.evaluation_folder import description, tables, without_plots, write_folder


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("evaluation"), description(), tables())


def test_one_command_writes_both_pages_and_says_where(evaluation: Path, tmp_path: Path) -> None:
    page, markdown = tmp_path / "docs" / "results.html", tmp_path / "docs" / "results.md"
    arguments = ["--evaluation", str(evaluation), "--page", str(page), "--markdown", str(markdown)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"Open it:  {page}"
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert markdown.read_text().startswith("# Results")
    assert len(list((tmp_path / "docs" / "results").glob("*.svg"))) == 4


def test_robustness_of_another_folder_is_taken_in(tmp_path: Path) -> None:
    contents = tables()
    other = tmp_path / "robust"
    other.mkdir()
    contents["robustness"].to_parquet(other / "robustness.parquet")
    folder = write_folder(tmp_path / "evaluation", description(), without_plots(contents))
    page = tmp_path / "page.md"
    arguments = ["--evaluation", str(folder), "--robustness", str(other), "--markdown", str(page)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "](page/robustness.svg)" in page.read_text()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--evaluation", "nowhere", "--page", "page.html"], "nowhere does not exist"),
        (["--evaluation", "EVALUATION"], "Say what to write"),
        (
            ["--evaluation", "EVALUATION", "--robustness", "gone", "--page", "page.html"],
            "gone is missing",
        ),
    ],
)
def test_mistake_is_one_sentence_and_exit_2(
    evaluation: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [str(evaluation) if option == "EVALUATION" else option for option in options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
