"""Measuring: the figures are those of held-out rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from item.heads.columns import Group
from item.heads.settings import HeadSettings, Kind
from item.statistics import metrics
from pipelines.evaluate.measure import conformal_threshold, measure
from pipelines.evaluate.methods import OURS, Method, Purpose
from pipelines.evaluate.plan import plan_evaluation
from tests.item.heads.test_head import trained
from tests.pipelines.evaluate.examples import (
    COUNT,
    LOOSE,
    configuration,
    outcomes_of,
    table,
    weights_of,
)
from tests.support.feature_tables import write_features


def test_figures_are_those_of_the_test_rows(plan):
    (first, *_) = outcomes_of(plan, OURS)
    test = first.trial.tests[0]
    key = (test.subset, test.real_source, test.generator)
    labels = plan.rows.labels[test.rows]
    assert first.counts[key] == (labels.sum(), (labels == 0).sum())
    rows = first.scored[first.scored["real_source"] == test.real_source]
    among = rows[(rows["label"] == 0) | rows["score"].isin(rows["score"])]
    assert len(among) >= len(test.rows)
    resampled = first.resampled[key]["auroc"]
    assert resampled.shape == (50,) and resampled.std() > 0


def test_equal_topics_take_away_what_the_caption_gives_away(tmp_path):
    rng = np.random.default_rng(0)
    label = np.arange(COUNT) % 2
    image = rng.normal(size=(COUNT, 8)).astype(np.float16)
    caption = rng.normal(size=(COUNT, 8))
    caption[:, 0] += label  # the topic
    difference = image - caption.astype(np.float16)
    rows = table(image_embedding=image, global_misalignment=difference)
    features = write_features(tmp_path / "f", rows)
    plan = plan_evaluation(configuration(features, tmp_path / "e", seeds=1))
    (outcome,) = outcomes_of(plan, "caption only")
    means = pd.DataFrame(outcome.points.values()).mean()
    assert means["auroc"] > 0.7
    assert abs(means["topic_matched_auroc"] - 0.5) < 0.08


def test_shuffled_captions_are_shuffled_where_it_is_asked_for(plan):
    shuffles = [method.shuffle for method in plan.methods if method.shuffle]
    assert len(shuffles) == 2
    weights, topics = weights_of(plan), {}
    trial = plan.trials[0]
    own = Method(
        "u", Purpose.CONTROL, "u.", HeadSettings(kind=Kind.LOGISTIC, groups=(Group.CAPTION,))
    )
    args = (plan.arrays[None], plan.rows, weights, topics, trial)
    true = measure(*args, own, LOOSE)
    for shuffle in shuffles:
        other = Method("u", Purpose.CONTROL, "u.", own.head, shuffle=shuffle)
        assert measure(*args, other, LOOSE).points != true.points


def test_threshold_is_conservative_and_says_when_rows_are_too_few():
    scores = np.arange(99) / 99
    assert conformal_threshold(scores, 0.01) == scores[-1]
    assert conformal_threshold(scores[:98], 0.01) == np.inf
    assert metrics.real_accuracy(np.zeros(99), scores > conformal_threshold(scores, 0.05)) >= 0.95


def test_a_trained_head_is_measured_as_it_is(features, tmp_path):
    trained().save(tmp_path / "head")
    plan = plan_evaluation(configuration(features, tmp_path / "e", trained=str(tmp_path / "head")))
    (trial,), (method,) = plan.trials, plan.methods
    assert {test.generator for test in trial.tests} == {"a", "b", "c"}
    outcome = measure(
        plan.arrays[None], plan.rows, weights_of(plan), {}, trial, method, LOOSE, plan.head
    )
    scores = plan.head.score(table()).score
    place = {uri: row for row, uri in enumerate(table()["uri"].to_pylist())}
    test = trial.tests[0]
    own = scores[[place[uri] for uri in plan.rows.uris[test.rows]]]
    key = (test.subset, test.real_source, test.generator)
    assert outcome.points[key]["auroc"] == metrics.auroc(plan.rows.labels[test.rows], own)
