"""The command line of the robustness report, once with Ray and pictures from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from item.images.perturb import STANDARD
from item.profiles import load_profile
from jobs.robustness import app
from tests.item.heads import examples
from tests.pipelines.evaluate.robustness.examples import small_head
from tests.support.dumps import make, parquet_of
from tests.support.photographs import photographs

pytestmark = pytest.mark.timeout(600)

PICTURES = photographs(10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled dump and a head that fits the features of the mini profile."""
    place = tmp_path_factory.mktemp("robustness")
    number = len(PICTURES)
    columns = {
        "uri": list(PICTURES),
        "bytes": list(PICTURES.values()),
        "label": [number % 2 for number in range(number)],
        "generator": [["model-0", "model-1"][n % 4 // 2] if n % 2 else None for n in range(number)],
        "source": ["web" if n % 2 else "photographs" for n in range(number)],
        "prompt": [f"prompt {n // 2}" for n in range(number)],
    }
    make(place / "dump", {"a.parquet": parquet_of(columns)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "DIMENSIONS", load_profile("mini").dimensions)
        small_head().save(place / "small")
    return place


def times(out: Path) -> dict[Path, int]:
    """When each file of the sample and of the features tables was written."""
    found = [*(out / "sample").rglob("*"), *(out / "features").rglob("*")]
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def arguments(folder: Path, *more: str) -> list[str]:
    given = ["--input", folder / "dump", "--head", folder / "small", "--output", folder / "out"]
    return [*map(str, given), "--images", "8", *more]


def test_dry_run_prints_the_plan_and_does_nothing(folder: Path) -> None:
    result = CliRunner().invoke(app, arguments(folder, "--dry-run"))
    assert result.exit_code == 0, result.output
    for words in (*STANDARD, "'rows': 4", "'generator': 'model-1'", "was trained on model-0"):
        assert words in result.stdout
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--perturbation", "sepia"], "no perturbation step 'sepia'"),
        (["--generator", "model-7"], "no generated rows of the generator 'model-7'"),
        (["--images", "80"], "needs 40 real rows"),
        (["--head", "nowhere"], "no head at"),
        (["--set", "rows_per_prat=2"], "did you mean 'rows_per_part'?"),
    ],
)
def test_mistake_is_one_sentence_and_exit_2(
    folder: Path, options: list[str], sentence: str
) -> None:
    result = CliRunner().invoke(app, arguments(folder, *options))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (folder / "out").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_pictures_are_changed_featurized_and_compared_and_a_second_run_does_nothing_again(
    folder: Path,
) -> None:
    command = arguments(folder, "--perturbation", "resize-0.5+jpeg-75")
    command += ["--metadata", str(folder / "dump"), "--group-column", "prompt"]
    command += ["--set", "resamples=100", "--set", "profile.resources.caption.workers_per_cpu=0.5"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    out = folder / "out"
    assert "resize-0.5+jpeg-75" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Open it:")
    assert "[2 of 2] resize-0.5+jpeg-75 · 0:0" in result.stderr
    assert "was trained on model-0" in result.stderr
    sample = pq.read_table(out / "sample" / "part-0.parquet").to_pandas()
    clean, changed = (
        pd.read_parquet(out / "features" / name).set_index("uri").loc[sample["uri"]]
        for name in ("none", "resize-0.5+jpeg-75")
    )
    assert len(sample) == 8 and set(changed["jpeg_quality"]) == {75}
    assert (changed["width"] == (clean["width"] / 2).round()).all()
    report = pd.read_parquet(out / "robustness.parquet")
    assert report["rows"].tolist() == [8, 8] and report["flip_rate"][0] == 0
    assert json.loads((out / "robustness.json").read_text())["sample"]["images"] == 8

    before, report_bytes = times(out), (out / "robustness.parquet").read_bytes()
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert again.stderr.count("done before") == 2
    assert times(out) == before
    assert (out / "robustness.parquet").read_bytes() == report_bytes
