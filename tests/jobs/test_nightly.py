"""The nightly job as a scheduler meets it: exit codes, and one line of JSON at the end."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from item.errors import UsageError
from jobs.nightly import app
from pipelines.nightly.job import NightOutcome
from tests.support.dumps import make

NIGHT = "2026-01-31"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return make(tmp_path / "dump", {f"date={NIGHT}/a.png": b"x"})


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def published(date: str) -> NightOutcome:
    facts = {"rows": {"total": 3}, "verdicts": {"uncertain": 3}, "seconds": 1.0, "report": "r.html"}
    return NightOutcome(date, "published", facts)


@pytest.mark.parametrize(
    ("told", "code", "outcome"),
    [
        ([published(NIGHT)], 0, "done"),
        ([], 0, "nothing_to_do"),
        ([NightOutcome(NIGHT, "done_before")], 0, "done"),
        (
            [NightOutcome(NIGHT, "too_many_errors", {"reason": "Bad."}), published(NIGHT)],
            3,
            "too_many_errors",
        ),
        ([NightOutcome(NIGHT, "held", {"reason": "Held."})], 4, "held"),
        ([NightOutcome(NIGHT, "refused", {"reason": "Empty."}), published(NIGHT)], 2, "refused"),
        (
            [
                NightOutcome(NIGHT, "held", {"reason": "x"}),
                NightOutcome(NIGHT, "too_many_errors", {"reason": "y"}),
            ],
            3,
            "too_many_errors",
        ),
    ],
)
def test_outcome_is_an_exit_code_and_the_last_line(
    dump: Path, monkeypatch: pytest.MonkeyPatch, told: list[NightOutcome], code: int, outcome: str
) -> None:
    monkeypatch.setattr("jobs.nightly.run_nights", lambda _job: iter(told))
    result = invoke("--input", dump, "--output", dump.parent / "out")
    assert result.exit_code == code, result.output
    summary = json.loads(result.stdout.strip().splitlines()[-1])
    assert (summary["outcome"], summary["exit_code"]) == (outcome, code)
    assert [night["date"] for night in summary["nights"]] == [NIGHT] * len(told)


def test_run_that_a_machine_ends_has_a_last_line_too(
    dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nights(_job):
        yield published(NIGHT)
        raise OSError(errno.ENOSPC, "No space left on device", "/out/night.parquet")

    monkeypatch.setattr("jobs.nightly.run_nights", nights)
    result = invoke("--input", dump, "--output", dump.parent / "out")
    assert result.exit_code == 6, result.output
    summary = json.loads(result.stdout.strip().splitlines()[-1])
    assert (summary["outcome"], summary["exit_code"]) == ("machine_failed", 6)
    assert [night["date"] for night in summary["nights"]] == [NIGHT]
    assert "error: There is no room left at /out/night.parquet" in result.stderr


def test_dry_run_prints_the_plan_and_writes_nothing(dump: Path) -> None:
    result = invoke("--input", dump, "--output", dump.parent / "out", "--dry-run")
    assert result.exit_code == 0 and NIGHT in result.stdout
    assert not (dump.parent / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--overwrite", "--retry-failed"], "not both"),
        (["--date", "2026-02-01"], "no night that was asked for"),
        (["--from", "soon"], "from"),
        (["--head", "nowhere"], "There is no head at"),
        (["--profile", "huge"], "huge"),
        (["--set", "audit.galery=3"], "galery"),
        (["--input", "s3://key:secret@bucket/x"], "must not hold credentials"),
    ],
)
def test_mistake_is_one_sentence_and_exit_code_2(
    dump: Path, arguments: list[str], words: str
) -> None:
    result = invoke("--input", dump, "--output", dump.parent / "out", *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr and "Traceback" not in result.stderr
    assert "secret" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1


def test_refusal_of_a_head_is_before_any_work(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise UsageError("No.")

    monkeypatch.setattr("jobs.nightly.plan_nights", refuse)
    result = invoke("--input", dump, "--output", dump.parent / "out")
    assert (result.exit_code, result.stderr) == (2, "error: No.\n")


def test_help_fits_a_screen_and_gives_an_example() -> None:
    result = invoke("--help")
    assert "Example: python jobs/nightly.py" in result.output
    assert len(result.output.splitlines()) <= 40
