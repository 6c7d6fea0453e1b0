"""The robustness report, on tables made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from item.errors import UsageError
from item.heads.head import Head
from item.profiles import load_profile
from item.tables import FEATURES
from pipelines.evaluate.robustness import job as robustness_job
from pipelines.evaluate.robustness.configuration import resolve
from pipelines.evaluate.robustness.job import SCHEMA, plan_robustness, run_robustness
from pipelines.input.pieces import Archive
from pipelines.results.tables import ROBUSTNESS, _read_table
from pipelines.tables.provenance import provenance
from tests.item.heads.examples import features_table
from tests.pipelines.evaluate.robustness.examples import MINI, STRENGTHS, small_head
from tests.support.dumps import make, parquet_of
from tests.support.feature_tables import write_features

ROWS = 60


@pytest.fixture
def tables_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write tables by hand instead of featurizing; the perturbations that were made, in order.

    Generated rows differ the less from real ones the stronger the perturbation is.
    """
    made: list[str] = []

    def checked(configuration: Any) -> Any:
        plan = SimpleNamespace(pieces=[Archive("/dump", "a.tar", "1")])
        notes = ["Not read: 1 .txt."]
        return SimpleNamespace(configuration=configuration, plan=plan, remarks=lambda: notes)

    def featurize(plan: Any) -> None:
        configuration = plan.configuration
        name, output = configuration.perturbation, Path(configuration.output)
        if not output.exists():
            made.append(name)
            file = output / "date=2026-01-30" / "part-0.parquet"
            file.parent.mkdir(parents=True)
            table = features_table(ROWS, seed=5, signal=STRENGTHS[name])
            facts = provenance(load_profile("mini"), "a run", name)
            pq.write_table(table.replace_schema_metadata(facts), file)

    monkeypatch.setattr(robustness_job, "plan_featurizing", checked)
    monkeypatch.setattr(robustness_job, "run_featurizing", featurize)
    return made


def test_report_has_a_row_for_each_perturbation_and_head(
    settings: dict[str, Any], tables_made: list[str], tmp_path: Path
) -> None:
    small_head(seed=2).save(tmp_path / "theirs")
    heads = [*settings["heads"], str(tmp_path / "theirs")]
    configuration = resolve(None, settings | {"heads": heads}, {})
    plan = plan_robustness(configuration)
    assert plan.remarks() == ["Not read: 1 .txt."]
    report = run_robustness(plan, "the command")
    assert tables_made == list(STRENGTHS)
    path = tmp_path / "out" / "robustness.parquet"
    read = _read_table(str(path), ROBUSTNESS)
    assert list(zip(read["perturbation"], read["method"], strict=True)) == [
        (name, head) for name in STRENGTHS for head in ("ours", "theirs")
    ]
    assert pq.read_schema(path).equals(SCHEMA)
    ours = report[report["method"] == "ours"].set_index("perturbation")
    assert ours["auroc"].is_monotonic_decreasing and ours["flip_rate"].is_monotonic_increasing
    assert ours.loc["none", "auroc"] > 0.85 and abs(ours.loc["blur-4", "auroc"] - 0.5) < 0.25
    about = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert about["command"] == "the command" and about["perturbations"] == list(STRENGTHS)
    assert [head["head_id"] for head in about["heads"]] == [
        Head.load(folder).head_id for folder in heads
    ]
    assert "trained on model-0" in about["notes"][0]
    assert sum(origin["rows"] for origin in about["images"]) == ROWS
    assert resolve(str(tmp_path / "out" / "robustness.yaml"), {}, {}) == configuration


def test_run_again_makes_no_table_and_writes_the_same_report(
    settings: dict[str, Any],
    tables_made: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configuration = resolve(None, settings, {})
    file = tmp_path / "out" / "robustness.parquet"
    run_robustness(plan_robustness(configuration))
    first = file.read_bytes()
    lines = capsys.readouterr().err
    assert "[1 of 3] none\n" in lines and "[3 of 3] blur-4 · 0:00:00 left\n" in lines
    tables_made.clear()
    run_robustness(plan_robustness(configuration))
    assert tables_made == [] and file.read_bytes() == first
    assert capsys.readouterr().err.count("done before") == 3


def test_missing_labels_are_told_after_the_first_table(
    settings: dict[str, Any], tables_made: list[str], tmp_path: Path
) -> None:
    unlabelled = features_table(4, label=[None] * 4)
    write_features(tmp_path / "out" / "features" / "none", unlabelled, MINI)
    with pytest.raises(UsageError, match=r"cannot be compared\. There are no rows"):
        run_robustness(plan_robustness(resolve(None, settings, {})))
    assert tables_made == [] and not (tmp_path / "out" / "robustness.parquet").exists()


def test_labels_beside_the_input_are_joined_and_counted(
    settings: dict[str, Any],
    tables_made: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = features_table(ROWS)
    labels = pd.DataFrame({"image_id": [f"id-5-{n}" for n in range(ROWS)], "label": table["label"]})
    labels.loc[:3, "image_id"] = ["w", "x", "y", "z"]
    labels["label"] = labels["label"].map({0: "real", 1: "generated"})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    for name, strength in STRENGTHS.items():
        nobody = dict.fromkeys(("label", "generator", "source"), [None] * ROWS)
        unlabelled = features_table(ROWS, seed=5, signal=strength, **nobody)
        write_features(tmp_path / "out" / "features" / name, unlabelled, MINI)
        facts = provenance(load_profile("mini"), "a run", name)
        [file] = (tmp_path / "out" / "features" / name).rglob("*.parquet")
        pq.write_table(unlabelled.replace_schema_metadata(facts), file)
    given = settings | {"labels": str(tmp_path / "labels.csv")}
    report = run_robustness(plan_robustness(resolve(None, given, {})))
    assert set(report["rows"]) == {ROWS - 4}
    told = capsys.readouterr().err
    assert f"{ROWS - 4} of {ROWS} rows with features are named in it, 4 are not" in told
    assert told.count("Labels of") == 1


def other_set(folder: Path) -> dict[str, Any]:
    small_head("other-set").save(folder / "other")
    return {"heads": [str(folder / "other")]}


def no_head(folder: Path) -> dict[str, Any]:
    return {"heads": [str(folder / "nowhere")]}


def other_table(folder: Path) -> dict[str, Any]:
    write_features(folder / "out" / "features" / "jpeg-75", features_table(4), "other-set")
    return {}


def clean_table_in_its_place(folder: Path) -> dict[str, Any]:
    write_features(folder / "out" / "features" / "jpeg-75", features_table(4), MINI)
    return {}


def no_metadata(folder: Path) -> dict[str, Any]:
    return {"metadata": str(folder / "nowhere"), "group_column": "prompt"}


def no_such_prompt(folder: Path) -> dict[str, Any]:
    table = parquet_of(
        {"uri": list("abcd"), "bytes": [b"x"] * 4, "label": [0, 0, 1, 1], "style": ["s"] * 4}
    )
    dump = str(make(folder / "labelled", {"a.parquet": table}))
    return {"input": dump, "images": 4, "metadata": dump, "group_column": "prompt"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other_set, "was trained on features of the set 'other-set'"),
        (no_head, "no head at"),
        (other_table, "holds features of the set 'other-set'"),
        (clean_table_in_its_place, "under the perturbation 'none'"),
        (no_metadata, "nowhere"),
        (no_such_prompt, "has no column 'prompt'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    settings: dict[str, Any],
    tmp_path: Path,
    change: Callable[[Path], dict[str, Any]],
    sentence: str,
) -> None:
    configuration = resolve(None, settings | change(tmp_path), {})
    with pytest.raises(UsageError, match=sentence):
        plan_robustness(configuration)
    assert not (tmp_path / "out" / "robustness.yaml").exists()


def test_example_tables_have_the_true_schema() -> None:
    assert features_table(2).schema.equals(FEATURES)
