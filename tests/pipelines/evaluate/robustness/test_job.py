"""The robustness report, on tables made by hand: what is compared, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from item.errors import UsageError
from item.heads.fitting import fit
from item.heads.head import Description, Head, TrainingSource
from item.heads.settings import HeadSettings
from item.images.perturb import STANDARD
from item.profiles import load_profile
from item.statistics import metrics
from item.statistics.calibration import OperatingPoints, fit_familiarity, fit_platt, fit_thresholds
from item.tables import features_schema
from pipelines.evaluate.robustness import job as robustness_job
from pipelines.evaluate.robustness.configuration import resolve
from pipelines.evaluate.robustness.job import SCHEMA, plan_robustness, run_robustness
from pipelines.evaluate.robustness.sampling import image_clusters, seen_in_training
from pipelines.evaluate.robustness.scoring import compare, score_table
from pipelines.results.tables import ROBUSTNESS, _read_table
from pipelines.storage.access import Storage
from pipelines.tables.features import FeatureTable
from pipelines.tables.provenance import provenance
from tests.item.heads import examples
from tests.item.heads.examples import features_table
from tests.pipelines.train.test_rows import write
from tests.support.dumps import make, parquet_of

MINI = load_profile("mini").feature_set_id()
POINTS = OperatingPoints(real_called_generated=0.1, generated_called_real=0.1)
ROWS = 60
STRENGTHS = {"none": 1.0, "jpeg-75": 0.7, "blur-4": 0.0}


def small_head(feature_set: str = MINI, seed: int = 1) -> Head:
    """A logistic head for embeddings of ``examples.DIMENSIONS``."""
    how = HeadSettings(groups=examples.DIFFERENCES, whitened=False, logistic_c=0.01)
    (learned, labels), (held_out, truth) = examples.labelled(seed=seed), examples.labelled(seed=9)
    fitted = fit(learned, labels, np.ones(len(labels), np.float32), how)
    calibration = fit_platt(fitted.logits(held_out)[1], truth)
    scores = calibration.scores(fitted.logits(held_out)[1])
    description = Description(
        feature_set_id=feature_set,
        dimensions=examples.DIMENSIONS,
        settings=how,
        calibration=calibration,
        operating_points=POINTS,
        thresholds=fit_thresholds(scores, truth, POINTS),
        training_sources=(
            TrainingSource(label=1, generator="model-0", source=None, rows=200),
            TrainingSource(label=0, generator=None, source="elsewhere", rows=200),
        ),
    )
    return Head.of(description, fitted, fit_familiarity(learned.image, held_out.image))


@pytest.fixture(scope="module")
def head() -> Head:
    return small_head()


@pytest.fixture
def settings(head: Head, tmp_path: Path) -> dict[str, Any]:
    """Options of a job whose input is a folder of one file."""
    head.save(tmp_path / "ours")
    dump = make(tmp_path / "dump", {"a.jpg": b"x"})
    perturbations = [name for name in STRENGTHS if name != "none"]
    options = {"input": str(dump), "output": str(tmp_path / "out"), "resamples": 100}
    return options | {"heads": [str(tmp_path / "ours")], "perturbations": perturbations}


@pytest.fixture
def tables_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write tables by hand instead of featurizing; the perturbations that were made, in order.

    Generated rows differ the less from real ones the stronger the perturbation is.
    """
    made: list[str] = []

    def checked(configuration: Any) -> Any:
        return SimpleNamespace(configuration=configuration, remarks=lambda: ["Not read: 1 .txt."])

    def featurize(job: Any) -> None:
        configuration = job.configuration
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


# Configuration


def test_keys_of_featurizing_and_of_the_report_stand_side_by_side(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("input: dump\nheads: [one]\nseed: 3\nrows_per_part: 7\n")
    options = {"output": "out", "images": 12, "seed": None}
    keys = {"profile.captioner.beams": 2, "resamples": 200, "storage.retries": 0}
    found = resolve(str(file), options, keys)
    assert (found.seed, found.rows_per_part, found.images, found.resamples) == (3, 7, 12, 200)
    table = found.of_table("jpeg-75")
    assert (table.input, table.output) == ("out/sample", "out/features/jpeg-75")
    assert (table.perturbation, table.rows_per_part) == ("jpeg-75", 7)
    assert table.profile.captioner.beams == 2 and table.storage.retries == 0
    file.write_text(found.as_yaml())
    assert resolve(str(file), {}, {}) == found


def test_whole_input_is_featurized_where_no_sample_is_asked_for() -> None:
    found = resolve(None, {"input": "dump", "output": "out", "heads": ["one"]}, {})
    assert found.of_table("none").input == "dump"
    assert found.perturbations == STANDARD


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": ["a/head", "b/head/"]}, "two are the same"),
        ({"heads": None}, "'heads' of the configuration is missing"),
        ({"input": None}, "'input' of the configuration is missing"),
        ({"perturbations": ["sepia-3"]}, "no perturbation step 'sepia-3'"),
        ({"perturbation": "jpeg-75"}, "under perturbations"),
        ({"metadata": "table.parquet"}, "metadata and group_column need each other"),
        ({"generators": ["SD1.5"]}, "need images"),
        ({"imges": 5}, "did you mean 'images'"),
    ],
)
def test_wrong_configuration_is_refused(changes: dict[str, Any], sentence: str) -> None:
    options = {"input": "dump", "output": "out", "heads": ["head"], **changes}
    with pytest.raises(UsageError, match=sentence):
        resolve(None, options, {})


def test_perturbation_that_the_profile_cannot_decode_is_refused_before_any_work(
    settings: dict[str, Any],
) -> None:
    keys = {"profile.decoding.formats": ["JPEG", "PNG"]}
    job = resolve(None, settings | {"perturbations": ["webp-80"]}, keys)
    with pytest.raises(UsageError, match="writes WEBP"):
        job.of_table("webp-80")


# Comparing


def frame(rows: int = ROWS, **columns: Any) -> pd.DataFrame:
    """Scored rows, real and generated in turn, each its own cluster."""
    labels = np.arange(rows) % 2
    score = np.random.default_rng(0).normal(labels, 1.0)
    uris = pd.Index([f"{number:03}.jpg" for number in range(rows)], name="uri")
    verdict = np.where(score > 0.5, "likely_generated", "likely_real")
    values = {"label": labels, "score": score, "verdict": verdict, "cluster": uris} | columns
    return pd.DataFrame(values, index=uris)


def test_image_that_is_not_changed_changes_no_verdict() -> None:
    clean = frame()
    found = compare(clean, clean)
    assert (found["flip_rate"], found["flip_low"], found["flip_high"]) == (0, 0, 0)
    assert found["auroc"] == metrics.auroc(clean["label"], clean["score"])
    assert found["low"] < found["auroc"] < found["high"]
    assert found["uncertain_share"] == 0 and found["rows"] == ROWS


def test_changed_and_uncertain_verdicts_are_counted() -> None:
    clean = frame()
    changed = clean.assign(verdict=["uncertain"] * 6 + clean["verdict"].tolist()[6:])
    found = compare(clean, changed)
    assert found["flip_rate"] == found["uncertain_share"] == pytest.approx(6 / ROWS)
    assert found["flip_low"] < 6 / ROWS < found["flip_high"]


def test_rows_are_paired_by_uri_and_those_without_a_pair_left_out() -> None:
    clean = frame()
    changed = clean.drop(clean.index[:5]).sample(frac=1, random_state=2)
    found = compare(clean, changed)
    assert found["rows"] == ROWS - 5 and found["flip_rate"] == 0
    assert found["auroc"] == metrics.auroc(clean["label"][5:], clean["score"][5:])


def test_alike_images_make_the_interval_wider() -> None:
    """Ten copies of each row are no more evidence than the row."""
    clean = frame()
    copies = pd.concat([clean.set_axis(clean.index + f"#{n}") for n in range(10)])
    alone = compare(copies.assign(cluster=copies.index), copies)
    together = compare(copies, copies)
    assert together["auroc"] == alone["auroc"]
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [(slice(0, 0), "no rows"), (slice(0, None, 2), "no generated"), (slice(0, 2), "two clusters")],
)
def test_too_few_pairs_are_refused(rows: slice, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        compare(frame(), frame().iloc[rows])


# Scoring


def test_scored_rows_have_features_a_label_and_a_uri_of_their_own(
    head: Head, tmp_path: Path
) -> None:
    status, label = ["ok"] * 6, [0, 1, None, 1, 0, 1]
    status[1] = "rejected"
    uris = ["a", "b", "c", "d", "d", "e"]
    table = features_table(6, seed=5, status=status, label=label, uri=uris)
    found = score_table(FeatureTable(write(tmp_path, table, MINI), Storage()), head)
    assert found.index.tolist() == ["a", "e"]
    said = head.score(table)
    assert found["score"].tolist() == [said.score[0], said.score[5]]
    assert found["verdict"].tolist() == [said.verdict[0], said.verdict[5]]


def test_table_without_any_features_gives_no_rows(head: Head, tmp_path: Path) -> None:
    table = features_table(2, status=["failed"] * 2)
    assert score_table(FeatureTable(write(tmp_path, table, MINI), Storage()), head).empty


def test_table_of_another_feature_set_is_refused(head: Head, tmp_path: Path) -> None:
    table = FeatureTable(write(tmp_path, features_table(4), "other-set"), Storage())
    with pytest.raises(UsageError, match="cannot score those of 'other-set'"):
        score_table(table, head)


def test_head_is_named_that_was_trained_on_what_is_measured(head: Head) -> None:
    rows = pd.DataFrame(
        [(1, "model-0", "x"), (0, None, "photographs"), (1, None, "elsewhere")],
        columns=["label", "generator", "source"],
    )
    [sentence] = seen_in_training({"ours": head}, rows)
    assert sentence.startswith("The head 'ours' was trained on model-0:")
    assert seen_in_training({"ours": head}, rows[1:]) == []


# The whole report


def test_report_has_a_row_for_each_perturbation_and_head(
    settings: dict[str, Any], tables_made: list[str], tmp_path: Path
) -> None:
    small_head(seed=2).save(tmp_path / "theirs")
    heads = [*settings["heads"], str(tmp_path / "theirs")]
    configuration = resolve(None, settings | {"heads": heads}, {})
    job = plan_robustness(configuration)
    assert job.remarks() == ["Not read: 1 .txt."]
    found = run_robustness(job, "the command")
    assert tables_made == list(STRENGTHS)
    path = tmp_path / "out" / "robustness.parquet"
    read = _read_table(str(path), ROBUSTNESS)
    assert list(zip(read["perturbation"], read["method"], strict=True)) == [
        (name, head) for name in STRENGTHS for head in ("ours", "theirs")
    ]
    assert pq.read_schema(path).equals(SCHEMA)
    ours = found[found["method"] == "ours"].set_index("perturbation")
    assert ours["auroc"].is_monotonic_decreasing and ours["flip_rate"].is_monotonic_increasing
    assert ours.loc["none", "auroc"] > 0.85 and abs(ours.loc["blur-4", "auroc"] - 0.5) < 0.25
    about = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert about["command"] == "the command" and about["perturbations"] == list(STRENGTHS)
    assert [one["head_id"] for one in about["heads"]] == [Head.load(head).head_id for head in heads]
    assert "trained on model-0" in about["notes"][0]
    assert sum(one["rows"] for one in about["images"]) == ROWS
    assert resolve(str(tmp_path / "out" / "robustness.yaml"), {}, {}) == configuration


def test_run_again_makes_no_table_and_writes_the_same_report(
    settings: dict[str, Any],
    tables_made: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configuration = resolve(None, settings, {})
    report = tmp_path / "out" / "robustness.parquet"
    run_robustness(plan_robustness(configuration))
    first = report.read_bytes()
    said = capsys.readouterr().err
    assert "[1 of 3] none\n" in said and "[3 of 3] blur-4 · 0:00:00 left\n" in said
    tables_made.clear()
    run_robustness(plan_robustness(configuration))
    assert tables_made == [] and report.read_bytes() == first
    assert capsys.readouterr().err.count("done before") == 3


def test_missing_labels_are_told_after_the_first_table(
    settings: dict[str, Any], tables_made: list[str], tmp_path: Path
) -> None:
    unlabelled = features_table(4, label=[None] * 4)
    write(tmp_path / "out" / "features" / "none", unlabelled, MINI)
    with pytest.raises(UsageError, match=r"cannot be compared\. There are no rows"):
        run_robustness(plan_robustness(resolve(None, settings, {})))
    assert tables_made == [] and not (tmp_path / "out" / "robustness.parquet").exists()


def test_images_of_one_group_are_one_cluster(settings: dict[str, Any], tmp_path: Path) -> None:
    columns = {"uri": list("abcd"), "prompt": ["a cat", "a cat", "a dog", None]}
    groups = make(tmp_path / "groups", {"a.parquet": parquet_of(columns)})
    grouped = settings | {"metadata": str(groups), "group_column": "prompt"}
    names = image_clusters(list("abcde"), resolve(None, grouped, {}))
    assert names[0] == names[1] and len(set(names)) == 4
    assert image_clusters(["a", "b"], resolve(None, settings, {})) == ["a", "b"]


# Refused before any work


def other_set(folder: Path) -> dict[str, Any]:
    small_head("other-set").save(folder / "other")
    return {"heads": [str(folder / "other")]}


def no_head(folder: Path) -> dict[str, Any]:
    return {"heads": [str(folder / "nowhere")]}


def other_table(folder: Path) -> dict[str, Any]:
    write(folder / "out" / "features" / "jpeg-75", features_table(4), "other-set")
    return {}


def clean_table_in_its_place(folder: Path) -> dict[str, Any]:
    write(folder / "out" / "features" / "jpeg-75", features_table(4), MINI)
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
    assert features_table(2).schema.equals(features_schema(examples.DIMENSIONS))
