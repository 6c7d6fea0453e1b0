"""The command line of the audit: a short summary, a path, and an exit code for schedulers."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.audit import EXIT_DRIFT, app
from tests.support.audit_root import ERROR_RATES, HEAD, many, write_night

QUIET, LOUD = "2026-01-08", "2026-01-09"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights alike, and one whose files are all of another format."""
    root = tmp_path_factory.mktemp("root")
    manifest = {"head": {"head_id": HEAD, "error_rates": ERROR_RATES}}
    for seed, night in enumerate(("2026-01-07", QUIET)):
        write_night(root, night, many(night, 200, seed), manifest=manifest)
    write_night(root, LOUD, many(LOUD, 200, 3, format="\x1b[31mWEBP"), manifest=manifest)
    return root


def run(root: Path, output: Path, *arguments: str):
    return CliRunner().invoke(app, ["--input", str(root), "--output", str(output), *arguments])


def test_summary_estimate_and_path_are_printed(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    result = run(root, output, "--date", QUIET, "--fail-on-drift")
    assert result.exit_code == 0, result.output
    first, flagged, estimate, last = result.stdout.splitlines()
    assert first == "200 rows came in from 3 sources. All could be looked at."
    assert "likely generated" in flagged
    assert "of these pictures are generated" in estimate
    assert last == f"Open it:  {output}"
    assert output.read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "report" / "verdicts.csv").exists()


def test_alarms_are_printed_and_change_the_exit_code_only_if_asked(
    root: Path, tmp_path: Path
) -> None:
    calm = run(root, tmp_path / "report.html", "--date", LOUD)
    assert calm.exit_code == 0
    [alarm] = [line for line in calm.stdout.splitlines() if line.startswith("Alarm: ")]
    assert "file format is unlike the nights before" in alarm
    assert "\x1b" not in alarm
    assert run(root, tmp_path / "report.html", "--fail-on-drift").exit_code == EXIT_DRIFT == 5


def test_range_and_settings_reach_the_report(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    result = run(root, output, "--from", "2026-01-01", "--to", QUIET, "--set", "gallery=3")
    assert result.exit_code == 0, result.output
    assert "7 January 2026 to 8 January 2026 (2 nights)" in output.read_text()
    assert "400 rows came in" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--date", "2026-03-01"], "it has 3 nights, 2026-01-07 to 2026-01-09."),
        (["--date", "yesterday"], "'date'"),
        (["--date", QUIET, "--from", QUIET], "give one or the other"),
        (["--head", "nowhere"], "There is no head at"),
        (["--set", "galery=3"], "did you mean 'gallery'?"),
        (["--input", "nowhere"], "There is no file or folder at"),
    ],
)
def test_mistake_is_one_sentence_and_exit_2(
    root: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    result = run(root, tmp_path / "report.html", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
