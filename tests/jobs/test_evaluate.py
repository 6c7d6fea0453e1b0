"""The evaluation job's command line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from jobs.evaluate import app, summary
from tests.item.heads.examples import features_table
from tests.support.feature_tables import write_features


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "features"),
        (["--features", "nowhere"], "nowhere"),
        (["--features", "f", "--protocol", "all"], "protocols must be among one_to_all"),
        (["--features", "f", "--seeds", "0"], "seeds"),
        (["--features", "f", "--subset-column", "style"], "subset_column needs metadata"),
        (["--features", "f", "--set", "head.kind=forest"], "head.kind"),
    ],
)
def test_mistake_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    code, _, said = invoke("--output", str(tmp_path / "e"), *arguments)
    assert code == 2
    assert sentence in said and "Traceback" not in said


def test_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", features_table(900))
    output = tmp_path / "evaluation"
    code, said, _ = invoke(
        *("--features", features, "--output", str(output), "--seeds", "1", "--dry-run"),
        *("--set", "operating_points.real_called_generated=0.1"),
        *("--set", "operating_points.generated_called_real=0.1"),
    )
    assert code == 0
    assert "image embedding (UniversalFakeDetect)" in said and "model-1" in said
    assert not list(output.glob("*.parquet"))


def test_summary_shows_each_method_with_its_interval() -> None:
    rows = [
        {
            "protocol": "one_to_all",
            "method": method,
            "subset": "all",
            "real_source": source,
            "generator": "mean",
            "metric": "auroc",
            "value": 0.9,
            "low": 0.85,
            "high": 0.95,
        }
        for method, source in [("item", "x"), ("item", "y"), ("probe", "x")]
    ]
    console = Console(width=120)
    with console.capture() as capture:
        console.print(summary(pd.DataFrame(rows)))
    said = capture.get()
    assert said.count("0.900 (0.850–0.950)") == 3
    assert "probe" in said and "–" in said


def test_mean_over_sources_stands_for_all_of_them() -> None:
    row = {"method": "item", "subset": "all", "generator": "mean", "metric": "auroc"}
    row |= {"value": 0.9, "low": 0.85, "high": 0.95}
    settings = [("leave_sources_out", name) for name in ("camera", "scans", "mean")]
    settings.append(("one_to_all", "camera"))
    rows = [row | {"protocol": protocol, "real_source": name} for protocol, name in settings]
    table = summary(pd.DataFrame(rows))
    headers = [str(column.header) for column in table.columns]
    assert headers == ["method", "leave_sources_out\nmean", "one_to_all\ncamera"]


def test_help_fits_a_screen_and_gives_an_example() -> None:
    code, said, _ = invoke("--help")
    assert code == 0 and "Example: python jobs/evaluate.py" in said
    assert len(said.splitlines()) <= 45
