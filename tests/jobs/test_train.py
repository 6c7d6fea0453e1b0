"""The train job as users meet it: refused in one sentence, planned, done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from item.heads.head import Head
from jobs.train import app
from tests.item.heads.examples import features_table
from tests.support.feature_tables import write_features, write_prompts

SMALL = [
    *("--set", "operating_points.real_called_generated=0.1"),
    *("--set", "operating_points.generated_called_real=0.1"),
    *("--set", "unfamiliar_share=0.05"),
]


@pytest.fixture
def features(tmp_path: Path) -> str:
    return write_features(tmp_path / "features", features_table(500))


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*arguments, *SMALL])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_head_is_trained_and_the_last_line_says_how_to_use_it(
    features: str, tmp_path: Path
) -> None:
    output = str(tmp_path / "head")
    code, said, _ = invoke("--features", features, "--output", output, "--kind", "logistic")
    assert code == 0
    head = Head.load(output)
    last = said.strip().splitlines()[-1]
    assert last == f'Head {head.head_id}: item.heads.head.Head.load("{output}")'
    assert "validation" in said
    assert head.description.settings.seed == 0


def test_dry_run_shows_the_split_and_trains_nothing(features: str, tmp_path: Path) -> None:
    output = tmp_path / "head"
    code, said, _ = invoke(
        *("--features", features, "--output", str(output), "--dry-run"),
        *("--validation-generator", "model-1", "--seed", "3"),
    )
    assert code == 0
    assert "held-out generator 'model-1'" in said
    assert "'seed': 3" in said
    assert not output.exists()


def test_labels_come_from_a_table_beside_the_features(tmp_path: Path) -> None:
    nobody = dict.fromkeys(("label", "generator", "source"), [None] * 500)
    bare = write_features(tmp_path / "features", features_table(500, **nobody))
    own = features_table(500).select(["image_id", "label", "generator", "source"]).to_pandas()
    own.iloc[:480].to_csv(tmp_path / "labels.csv", index=False)
    start = ["--features", bare, "--output", str(tmp_path / "head"), "--kind", "logistic"]
    code, _, said = invoke(*start)
    assert code == 2 and "No row of" in said and "--labels" in said
    code, _, said = invoke(*start, "--labels", str(tmp_path / "labels.csv"))
    assert code == 0, said
    assert "480 of 500 rows with features are named in it, 20 are not; 0 of its 480" in said
    assert "Rows left out: 20 without a label." in said
    manifest = json.loads((tmp_path / "head" / "training.json").read_text())
    assert manifest["labels"] == str(tmp_path / "labels.csv")
    assert manifest["left_out"] == {"without a label": 20}
    (tmp_path / "other.csv").write_text("uri,label\nelsewhere.jpg,1\n")
    code, _, said = invoke(*start, "--overwrite", "--labels", str(tmp_path / "other.csv"))
    assert code == 2 and "names none of the rows of the features" in said
    assert "Traceback" not in said


def test_groups_come_from_the_metadata(features: str, tmp_path: Path) -> None:
    uris = features_table(500)["uri"].to_pylist()
    table = write_prompts(tmp_path / "prompts.parquet", uris, ["one prompt"] * 500)
    code, _, error = invoke(
        *("--features", features, "--output", str(tmp_path / "head")),
        *("--metadata", table, "--group-column", "prompt"),
    )
    assert code == 2
    assert "The split leaves no real rows" in error


def test_existing_head_is_replaced_only_when_asked(features: str, tmp_path: Path) -> None:
    command = ["--features", features, "--output", str(tmp_path / "head"), "--kind", "logistic"]
    assert invoke(*command)[0] == 0
    first = Head.load(tmp_path / "head").head_id
    assert invoke(*command, "--seed", "1")[0] == 2
    assert invoke(*command, "--seed", "1", "--overwrite")[0] == 0
    assert Head.load(tmp_path / "head").head_id != first


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output", "head"], "error: The key 'features' of the configuration is missing."),
        (["--features", "nowhere", "--output", "head"], "error: There is no file or folder at"),
        (["--features", "x", "--output", "y", "--set", "head.depth=3"], "Unknown key 'head.depth'"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, error = invoke(*arguments)
    assert (code, said) == (2, "")
    assert sentence in error
    assert "Traceback" not in error


def test_help_fits_a_screen_and_gives_an_example() -> None:
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).stdout
    assert "Example: python jobs/train.py" in said
    assert len(said.splitlines()) <= 50
