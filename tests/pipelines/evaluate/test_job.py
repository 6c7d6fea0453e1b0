"""Evaluation: honest trials, figures that agree with each other, intervals, tables that fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from item.errors import UsageError
from item.heads.columns import Group
from item.heads.settings import HeadSettings, Kind
from item.statistics import metrics
from item.statistics.calibration import OperatingPoints
from item.statistics.metrics import cluster_weights
from pipelines.evaluate.configuration import EvaluateConfiguration, resolve
from pipelines.evaluate.job import run_evaluation
from pipelines.evaluate.measure import Outcome, conformal_threshold, measure, topic_weights
from pipelines.evaluate.methods import OURS, Method, Purpose
from pipelines.evaluate.plan import EvaluationPlan, plan_evaluation
from pipelines.evaluate.protocols import ALL, LEAVE_ONE_OUT, ONE_TO_ALL
from pipelines.evaluate.tabulate import tabulate
from pipelines.results.tables import read_evaluation
from tests.item.heads.examples import features_table
from tests.item.heads.test_head import trained
from tests.pipelines.train.test_rows import write

COUNT = 900
LOOSE = OperatingPoints(real_called_generated=0.05, generated_called_real=0.1)


def table(seed: int = 0, **columns: object):
    """Two real sources and three generators."""
    made = np.arange(COUNT) % 2 == 1
    names = ["a", "b", "c"]
    return features_table(
        COUNT,
        seed,
        signal=3.0,
        generator=[names[row // 2 % 3] if one else None for row, one in enumerate(made)],
        source=["prompts" if one else ("x", "x", "y")[row % 3] for row, one in enumerate(made)],
        **columns,
    )


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("features"), table())


def configuration(features: str, output: Path, **changes: object) -> EvaluateConfiguration:
    values = {
        "features": (features,),
        "output": str(output),
        "seeds": 2,
        "resamples": 50,
        "protocols": (ONE_TO_ALL,),
        "operating_points": LOOSE,
    }
    return EvaluateConfiguration(**values | changes)


@pytest.fixture(scope="module")
def job(features: str, tmp_path_factory: pytest.TempPathFactory) -> EvaluationPlan:
    return plan_evaluation(configuration(features, tmp_path_factory.mktemp("evaluation")))


def weights_of(job: EvaluationPlan) -> np.ndarray:
    labels = job.rows.labels.astype(np.int64)
    return cluster_weights(labels, job.rows.groups, job.configuration.resamples)


def outcomes_of(job: EvaluationPlan, *names: str) -> list[Outcome]:
    weights = weights_of(job)
    topics = topic_weights(job.arrays[None], job.rows, job.trials)
    return [
        measure(job.arrays[None], job.rows, weights, topics, trial, method, LOOSE)
        for method in job.methods
        for trial in job.trials
        if method.name in names
    ]


@pytest.fixture(scope="module")
def tables(job: EvaluationPlan) -> dict[str, pd.DataFrame]:
    names = (OURS, "caption only", "similarity")
    return tabulate(outcomes_of(job, *names), job.methods, OURS)


def test_a_head_that_works_is_ahead_of_one_that_sees_nothing(tables):
    found = tables["metrics"].query("metric == 'auroc' and generator == 'mean' and subset == 'all'")
    value = found.set_index(["method", "real_source"])["value"]
    assert value[OURS, "x"] > 0.7 and value[OURS, "y"] > 0.7
    assert (found["low"] < found["value"]).all() and (found["value"] < found["high"]).all()


def test_figures_are_those_of_the_test_rows(job):
    (first, *_) = outcomes_of(job, OURS)
    test = first.trial.tests[0]
    key = (test.subset, test.real_source, test.generator)
    labels = job.rows.labels[test.rows]
    assert first.counts[key] == (labels.sum(), (labels == 0).sum())
    rows = first.scored[first.scored["real_source"] == test.real_source]
    among = rows[(rows["label"] == 0) | rows["score"].isin(rows["score"])]
    assert len(among) >= len(test.rows)
    drawn = first.resampled[key]["auroc"]
    assert drawn.shape == (50,) and drawn.std() > 0


def test_mean_worst_and_spread_are_over_generators(tables):
    of = tables["metrics"].query(f"method == '{OURS}' and real_source == 'x' and subset == 'all'")
    for metric in ("auroc", "brier"):
        value = of[of["metric"] == metric].set_index("generator")["value"]
        each = value[["b", "c"]]
        assert value["mean"] == pytest.approx(each.mean())
        assert value["worst"] == pytest.approx(each.max() if metric == "brier" else each.min())
        assert value["spread"] == pytest.approx(each.max() - each.min())
    assert "a" not in set(of["generator"])


def test_differences_are_paired(tables):
    means = (
        tables["metrics"]
        .query("generator == 'mean'")
        .set_index(["method", "subset", "real_source", "metric"])["value"]
    )
    for one in tables["differences"].itertuples():
        where = (one.subset, one.real_source, one.metric)
        assert one.difference == pytest.approx(
            means[(OURS, *where)] - means[(one.baseline, *where)]
        )
        assert one.low <= one.difference <= one.high
    assert set(tables["differences"]["baseline"]) == {"caption only", "similarity"}


def test_reliability_counts_each_tested_row_of_a_seed_once(job, tables):
    found = tables["reliability"].query(f"method == '{OURS}' and real_source == 'x'")
    tested = [
        np.unique(np.concatenate([t.rows for t in trial.tests if t.real_source == "x"]))
        for trial in job.trials
    ]
    assert found["rows"].sum() == sum(map(len, tested))
    assert found["share_generated"].between(0, 1).all()
    inside = found["mean_score"].between(found["bin_low"] - 1e-9, found["bin_high"] + 1e-9)
    assert inside.all()


def test_realised_rates_stand_beside_those_asked_for(tables):
    found = tables["operating_points"]
    assert set(found["asked_fpr"]) == {0.01, 0.05}
    assert found["realised_fpr"].between(0, 0.3).all()
    assert (found["low"] <= found["realised_fpr"]).all()
    assert (found["realised_fpr"] <= found["high"]).all()


def test_equal_topics_take_away_what_the_caption_gives_away(tmp_path):
    rng = np.random.default_rng(0)
    label = np.arange(COUNT) % 2
    image = rng.normal(size=(COUNT, 8)).astype(np.float16)
    caption = rng.normal(size=(COUNT, 8))
    caption[:, 0] += label  # the topic
    difference = image - caption.astype(np.float16)
    given = write(tmp_path / "f", table(image_embedding=image, global_misalignment=difference))
    job = plan_evaluation(configuration(given, tmp_path / "e", seeds=1))
    (one,) = outcomes_of(job, "caption only")
    found = pd.DataFrame(one.points.values()).mean()
    assert found["auroc"] > 0.7
    assert abs(found["topic_matched_auroc"] - 0.5) < 0.08


def test_shuffled_captions_are_shuffled_where_it_is_asked_for(job):
    found = {one.name: one for one in job.methods if one.shuffle}
    weights, topics = weights_of(job), {}
    trial = job.trials[0]
    own = Method(
        "u", Purpose.CONTROL, "u.", HeadSettings(kind=Kind.LOGISTIC, groups=(Group.CAPTION,))
    )
    args = (job.arrays[None], job.rows, weights, topics, trial)
    true = measure(*args, own, LOOSE)
    for one in found.values():
        other = Method("u", Purpose.CONTROL, "u.", own.head, shuffle=one.shuffle)
        assert measure(*args, other, LOOSE).points != true.points


@pytest.mark.usefixtures("ray_cluster")
def test_job_writes_a_folder_that_the_results_page_reads(features, tmp_path):
    job = plan_evaluation(
        configuration(features, tmp_path, seeds=1, resamples=20, protocols=(LEAVE_ONE_OUT,))
    )
    said: list[tuple[int, int]] = []
    run_evaluation(job, lambda done, total, _: said.append((done, total)))
    read = read_evaluation(str(tmp_path))
    assert said[-1] == (len(job.tasks()), len(job.tasks()))
    assert {one.name for one in read.methods("ours", "baseline", "control")} == set(
        read.metrics["method"]
    )
    assert set(read.metrics["generator"]) == {"a", "b", "c", "mean", "worst", "spread"}
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert sum(one["rows"] for one in facts["data"]) == COUNT


def test_the_same_evaluation_twice_gives_the_same_figures(job):
    first, again = (tabulate(outcomes_of(job, OURS), job.methods, OURS) for _ in range(2))
    pd.testing.assert_frame_equal(first["metrics"], again["metrics"])


def test_an_ablation_takes_its_own_table(features, tmp_path):
    other = write(tmp_path / "other", table(local_misalignment=np.ones((COUNT, 8))))
    job = plan_evaluation(configuration(features, tmp_path / "e", variants={"ones": other}))
    assert (job.arrays["ones"].local_misalignment == 1).all()
    np.testing.assert_array_equal(job.arrays["ones"].image, job.arrays[None].image)
    assert {one.variant for one in job.methods} == {None, "ones"}


def test_an_ablation_that_lacks_images_is_refused(features, tmp_path):
    fewer = write(tmp_path / "fewer", features_table(100))
    with pytest.raises(UsageError, match=r"The table 'fewer' at .* lacks 800 of the images"):
        plan_evaluation(configuration(features, tmp_path / "e", variants={"fewer": fewer}))


def test_subset_is_read_from_the_metadata(features, tmp_path):
    uris = [f"pictures/0-{row}.jpg" for row in range(COUNT)]
    styles = [None if row % 4 == 1 else "anime" for row in range(COUNT)]
    metadata = tmp_path / "metadata.parquet"
    pd.DataFrame({"uri": uris, "style": styles, "prompt": uris}).to_parquet(metadata)
    job = plan_evaluation(
        configuration(
            features,
            tmp_path / "e",
            metadata=str(metadata),
            group_column="prompt",
            subset_column="style",
        )
    )
    realistic = {test.subset for test in job.trials[0].tests}
    assert realistic == {ALL, "realistic"}
    for trial in job.trials:
        learned = trial.training[job.rows.labels[trial.training] == 1]
        assert all(styles[int(job.rows.uris[row].split("-")[1][:-4])] is None for row in learned)


def test_labels_that_were_never_learned_stay_at_chance(tmp_path):
    rng = np.random.default_rng(5)
    label = np.arange(COUNT) % 2
    noise = rng.normal(size=(COUNT, 8))
    given = write(
        tmp_path / "f",
        table(
            image_embedding=noise,
            global_misalignment=rng.normal(size=(COUNT, 8)),
            parts_embedding=rng.normal(size=(COUNT, 8)),
            label=label,
        ),
    )
    job = plan_evaluation(configuration(given, tmp_path / "e"))
    found = tabulate(outcomes_of(job, OURS), job.methods, OURS)["metrics"]
    means = found.query("metric == 'auroc' and generator == 'mean'")["value"]
    assert means.between(0.38, 0.62).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocols": ["everything"]}, "protocols must be among one_to_all, leave_one_out"),
        ({"subset_column": "style"}, "subset_column needs metadata"),
        ({"seeds": 0}, "seeds"),
    ],
)
def test_configuration_is_refused_before_any_work(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        resolve(None, {"features": ["f"], "output": "o"}, changes)


def test_too_few_rows_for_an_operating_point_are_refused_before_training(tmp_path):
    few = write(tmp_path / "few", table().slice(0, 300))
    with pytest.raises(UsageError, match="needs at least"):
        plan_evaluation(configuration(few, tmp_path / "e", operating_points=OperatingPoints()))


def test_threshold_is_conservative_and_says_when_rows_are_too_few():
    scores = np.arange(99) / 99
    assert conformal_threshold(scores, 0.01) == scores[-1]
    assert conformal_threshold(scores[:98], 0.01) == np.inf
    assert metrics.real_accuracy(np.zeros(99), scores > conformal_threshold(scores, 0.05)) >= 0.95


def test_a_trained_head_is_measured_as_it_is(features, tmp_path):
    trained().save(tmp_path / "head")
    job = plan_evaluation(configuration(features, tmp_path / "e", trained=str(tmp_path / "head")))
    (trial,), (method,) = job.trials, job.methods
    assert {test.generator for test in trial.tests} == {"a", "b", "c"}
    found = measure(job.arrays[None], job.rows, weights_of(job), {}, trial, method, LOOSE, job.head)
    scores = job.head.score(table()).score
    place = {uri: row for row, uri in enumerate(table()["uri"].to_pylist())}
    test = trial.tests[0]
    own = scores[[place[uri] for uri in job.rows.uris[test.rows]]]
    key = (test.subset, test.real_source, test.generator)
    assert found.points[key]["auroc"] == metrics.auroc(job.rows.labels[test.rows], own)


def test_what_a_head_was_trained_on_is_said(tmp_path):
    trained().save(tmp_path / "head")  # on rows of model-0
    seen = write(tmp_path / "f", features_table(400))
    job = plan_evaluation(configuration(seen, tmp_path / "e", trained=str(tmp_path / "head")))
    assert job.notes == (
        "The head was trained on rows of model-0: figures on those are not held out.",
    )


def test_a_head_of_another_feature_set_is_refused(tmp_path):
    trained().save(tmp_path / "head")
    other = write(tmp_path / "f", features_table(400), "base-1")
    with pytest.raises(UsageError, match="cannot score those of 'base-1'"):
        plan_evaluation(configuration(other, tmp_path / "e", trained=str(tmp_path / "head")))
