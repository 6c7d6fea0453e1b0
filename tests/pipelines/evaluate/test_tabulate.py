"""Tables of an evaluation: figures that agree with each other, with intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.evaluate.methods import OURS
from pipelines.evaluate.plan import plan_evaluation
from pipelines.evaluate.protocols import LEAVE_SOURCES_OUT
from pipelines.evaluate.tabulate import tabulate
from tests.item.heads.examples import features_table
from tests.pipelines.evaluate.examples import (
    COUNT,
    configuration,
    outcomes_of,
    table,
)
from tests.support.feature_tables import write_features


def test_a_head_that_works_is_ahead_of_one_that_sees_nothing(tables):
    means = tables["metrics"].query("metric == 'auroc' and generator == 'mean' and subset == 'all'")
    value = means.set_index(["method", "real_source"])["value"]
    assert value[OURS, "x"] > 0.7 and value[OURS, "y"] > 0.7
    assert (means["low"] < means["value"]).all() and (means["value"] < means["high"]).all()


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
    for row in tables["differences"].itertuples():
        where = (row.subset, row.real_source, row.metric)
        assert row.difference == pytest.approx(
            means[(OURS, *where)] - means[(row.baseline, *where)]
        )
        assert row.low <= row.difference <= row.high
    assert set(tables["differences"]["baseline"]) == {"caption only", "similarity"}


def test_reliability_counts_each_tested_row_of_a_seed_once(plan, tables):
    bins = tables["reliability"].query(f"method == '{OURS}' and real_source == 'x'")
    tested = [
        np.unique(np.concatenate([t.rows for t in trial.tests if t.real_source == "x"]))
        for trial in plan.trials
    ]
    assert bins["rows"].sum() == sum(map(len, tested))
    assert bins["share_generated"].between(0, 1).all()
    inside = bins["mean_score"].between(bins["bin_low"] - 1e-9, bins["bin_high"] + 1e-9)
    assert inside.all()


def test_realised_rates_stand_beside_those_asked_for(tables):
    points = tables["operating_points"]
    assert set(points["asked_fpr"]) == {0.01, 0.05}
    assert points["realised_fpr"].between(0, 0.3).all()
    assert (points["low"] <= points["realised_fpr"]).all()
    assert (points["realised_fpr"] <= points["high"]).all()


def test_the_same_evaluation_twice_gives_the_same_figures(plan):
    first, second = (tabulate(outcomes_of(plan, OURS), plan.methods, OURS) for _ in range(2))
    pd.testing.assert_frame_equal(first["metrics"], second["metrics"])


def test_labels_that_were_never_learned_stay_at_chance(tmp_path):
    rng = np.random.default_rng(5)
    label = np.arange(COUNT) % 2
    noise = rng.normal(size=(COUNT, 8))
    features = write_features(
        tmp_path / "f",
        table(
            image_embedding=noise,
            global_misalignment=rng.normal(size=(COUNT, 8)),
            parts_embedding=rng.normal(size=(COUNT, 8)),
            label=label,
        ),
    )
    plan = plan_evaluation(configuration(features, tmp_path / "e"))
    metrics = tabulate(outcomes_of(plan, OURS), plan.methods, OURS)["metrics"]
    means = metrics.query("metric == 'auroc' and generator == 'mean'")["value"]
    assert means.between(0.38, 0.62).all()


def test_pairs_of_unseen_sources_and_generators_weigh_the_same(tmp_path):
    count = 1200
    rows = features_table(
        count,
        signal=3.0,
        generator=[f"model-{n // 2 % 2}" if n % 2 else None for n in range(count)],
        source=[None if n % 2 else ("x", "x", "y")[n // 2 % 3] for n in range(count)],
    )
    features = write_features(tmp_path / "features", rows)
    settings = configuration(
        features, tmp_path, seeds=1, resamples=20, protocols=(LEAVE_SOURCES_OUT,)
    )
    plan = plan_evaluation(settings)
    metrics = tabulate(outcomes_of(plan, OURS), plan.methods, OURS)["metrics"]
    own = metrics.query(f"method == '{OURS}' and metric == 'auroc' and subset == 'all'")
    value = own.set_index(["real_source", "generator"])["value"]
    pairs = [value[source, generator] for source in "xy" for generator in ("model-0", "model-1")]
    assert value["mean", "mean"] == pytest.approx(np.mean(pairs))
    mean = own.query("real_source == 'mean'").iloc[0]
    assert mean["low"] < mean["value"] < mean["high"]
