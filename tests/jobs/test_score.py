"""The score job: features or images in, refusals in one sentence, what to open at the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from jobs.score import app
from pipelines.score.configuration import resolve
from pipelines.storage.configuration import Storage
from pipelines.tables.lease import Lease
from tests.pipelines.score.test_job import write_features
from tests.support.dumps import make
from tests.support.photographs import photographs

NIGHT = "2026-01-31"

pytestmark = pytest.mark.timeout(180)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.mark.usefixtures("ray_cluster")
def test_images_become_features_and_scores(tmp_path: Path) -> None:
    dump = make(tmp_path / "dump", {**photographs(2), "empty.jpg": b""})
    out = tmp_path / "scores"
    settings = ["reading.date=2026-01-31", "profile.resources.caption.workers_per_cpu=0.5"]
    options = [each for one in [*settings, "max_error_rate=0.5"] for each in ("--set", one)]
    result = invoke("--input", dump, "--output", out, *options)
    assert result.exit_code == 0, result.output
    assert "3 rows scored, 0 done before." in result.stdout
    assert result.stdout.strip().endswith(f'Open it:  pd.read_parquet("{out}")')
    features, scores = pd.read_parquet(f"{out}-features"), pd.read_parquet(out)
    assert features["uri"].tolist() == scores["uri"].tolist() and len(scores) == 3
    assert scores["score"].notna().sum() == 2
    again = invoke("--input", dump, "--output", out, *options)
    assert "0 rows scored, 3 done before." in again.stdout
    shutil.rmtree(out / f"date={NIGHT}")
    with Lease(str(out), NIGHT, Storage()):
        held = invoke("--input", f"{out}-features", "--output", out)
    assert held.exit_code == 4 and "held the lease" in held.stderr


def test_features_are_recognised_and_planned(tmp_path: Path) -> None:
    write_features(str(tmp_path / "features"), **{NIGHT: 3})
    result = invoke("--input", tmp_path / "features", "--output", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0 and "'rows': 3" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "nowhere"], "There is no file or folder"),
        (["--head", "nowhere"], "There is no head"),
        (["--set", "profile.captioner.beams=2"], "cannot score"),
        (["--features", "SAME"], "give them two places"),
        (["--set", "hed=x"], "hed"),
    ],
)
def test_mistake_is_one_sentence_and_exit_code_2(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    dump = make(tmp_path / "dump", {"a.png": b"x"})
    out = str(tmp_path / "out")
    arguments = [out if one == "SAME" else one for one in arguments]
    result = invoke("--input", dump, "--output", out, *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not Path(out).exists()


def test_configuration_of_images_is_that_of_featurizing(tmp_path: Path) -> None:
    configuration = resolve(
        None, {"input": "a", "output": str(tmp_path)}, {"max_error_rate": 0.4, "rows_per_task": 10}
    )
    assert configuration.features == f"{tmp_path}-features"
    assert configuration.featurizing().max_error_rate == 0.4
    assert configuration.scoring("b").rows_per_task == 10


def test_help_fits_a_screen_and_gives_an_example() -> None:
    result = invoke("--help")
    assert "Example: python jobs/score.py" in result.output
    assert len(result.output.splitlines()) <= 32
