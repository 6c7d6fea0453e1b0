"""Metrics by hand, against scikit-learn, and by their laws; intervals over clusters."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from item.statistics.metrics import (
    BLOCK_ENTRIES,
    Interval,
    auroc,
    average_precision,
    balanced_accuracy,
    brier,
    cluster_weights,
    expected_calibration_error,
    generated_accuracy,
    interval,
    mean_over_pairs,
    real_accuracy,
    summary,
    tpr_at_fpr,
    weighted_auroc,
    weighted_average_precision,
    weighted_summary,
    weighted_tpr_at_fpr,
)

LABELS = [0, 0, 0, 0, 1, 1, 1, 1]
SCORES = [0.1, 0.2, 0.3, 0.8, 0.3, 0.7, 0.8, 0.9]


def tied_rows(rng, rows):
    """Labels of both classes, and scores in tenths so that many are equal."""
    labels = np.append([0, 1], rng.integers(0, 2, rows - 2))
    return labels, rng.integers(0, 11, rows) / 10


generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
unhurried = settings(deadline=None)
sizes = st.integers(4, 40)


# By hand.


def test_auroc_gives_half_credit_to_ties():
    # Of 16 pairs 12 are in order, 2 tied, and 2 the wrong way round.
    assert auroc(LABELS, SCORES) == pytest.approx(13 / 16)


def test_average_precision_by_hand():
    # Steps of recall, from the top: 1/4 at 1/1, 1/4 at 2/3, 1/4 at 3/4, 1/4 at 4/6.
    expected = (1 + 2 / 3 + 3 / 4 + 4 / 6) / 4
    assert average_precision(LABELS, SCORES) == pytest.approx(expected)


def test_accuracies_count_each_class_by_itself():
    flagged = [False, True, False, False, True, True]
    labels = [0, 0, 0, 0, 1, 1]
    assert real_accuracy(labels, flagged) == 0.75
    assert generated_accuracy(labels, flagged) == 1
    assert balanced_accuracy(labels, flagged) == 0.875


def test_an_accuracy_needs_only_its_own_class():
    assert real_accuracy([0, 0], [True, False]) == 0.5
    assert generated_accuracy([1, 1], [True, False]) == 0.5


@pytest.mark.parametrize(("fpr", "tpr"), [(0, 0.25), (0.24, 0.25), (0.25, 0.75), (0.5, 1), (1, 1)])
def test_tpr_at_fpr_takes_a_threshold_that_exists(fpr, tpr):
    assert tpr_at_fpr(LABELS, SCORES, fpr) == tpr


def test_no_threshold_lets_fewer_pass_than_share_the_top_score():
    assert tpr_at_fpr([0, 1, 1], [0.9, 0.9, 0.9], 0.5) == 0


def test_brier_by_hand():
    assert brier([0, 1], [0.2, 0.6]) == pytest.approx((0.04 + 0.16) / 2)


def test_calibration_error_weighs_bins_by_their_rows():
    # Lower bin: mean score 0.25, share 0.5. Upper bin: score 0.9, share 1.
    found = expected_calibration_error([0, 1, 1], [0.2, 0.3, 0.9], bins=2)
    assert found == pytest.approx(2 / 3 * 0.25 + 1 / 3 * 0.1)


def test_bins_are_closed_above():
    # 0.5 shares the lower bin with 0.1, where excess and lack of generated rows cancel.
    assert expected_calibration_error([0, 1], [0.5, 0.5], bins=2) == 0
    assert expected_calibration_error([1, 0], [0.5, 0.1], bins=2) == pytest.approx(0.2)
    assert expected_calibration_error([1, 0], [1.0, 0.0], bins=2) == 0


def test_summary_flags_what_scores_above_the_threshold():
    found = summary(LABELS, SCORES, threshold=0.7)
    assert found == pytest.approx(
        {
            "auroc": 13 / 16,
            "ap": average_precision(LABELS, SCORES),
            "balanced_accuracy": 0.625,
            "real_accuracy": 0.75,
            "generated_accuracy": 0.5,
            "tpr_at_1_fpr": 0.25,
            "tpr_at_5_fpr": 0.25,
            "brier": brier(LABELS, SCORES),
            "ece": expected_calibration_error(LABELS, SCORES),
        }
    )


# Laws.


@unhurried
@given(generators, sizes)
def test_monotone_change_of_scores_leaves_the_ranking_metrics(rng, rows):
    labels, scores = tied_rows(rng, rows)
    for metric in (auroc, average_precision):
        assert metric(labels, np.exp(3 * scores) - 7) == pytest.approx(metric(labels, scores))


@unhurried
@given(generators, sizes)
def test_swapped_labels_give_one_minus_the_auroc(rng, rows):
    labels, scores = tied_rows(rng, rows)
    assert auroc(1 - labels, scores) == pytest.approx(1 - auroc(labels, scores))


# Resamples.


@unhurried
@given(generators, sizes)
def test_weights_do_what_sample_weights_do_in_scikit_learn(rng, rows):
    labels, scores = tied_rows(rng, rows)
    weights = rng.integers(0, 4, (3, rows)).astype(np.int32)
    weights[:, :2] += 1
    aurocs = [roc_auc_score(labels, scores, sample_weight=times) for times in weights]
    np.testing.assert_allclose(weighted_auroc(labels, scores, weights), aurocs)
    precisions = [average_precision_score(labels, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_average_precision(labels, scores, weights), precisions)
    curves = [roc_curve(labels, scores, sample_weight=w, drop_intermediate=False) for w in weights]
    rates = [true[false <= 0.3].max() for false, true, _ in curves]
    np.testing.assert_allclose(weighted_tpr_at_fpr(labels, scores, weights, 0.3), rates)


@unhurried
@given(generators, sizes)
def test_a_weight_is_a_number_of_copies_for_every_metric(rng, rows):
    labels, scores = tied_rows(rng, rows)
    weights = rng.integers(0, 4, (2, rows)).astype(np.int32)
    weights[:, :2] += 1
    found = weighted_summary(labels, scores, 0.5, weights)
    for resample, times in enumerate(weights):
        copies = summary(np.repeat(labels, times), np.repeat(scores, times), 0.5)
        assert {name: values[resample] for name, values in found.items()} == pytest.approx(copies)


def test_blocks_of_resamples_are_put_together_again():
    rng = np.random.default_rng(0)
    labels, scores = tied_rows(rng, 1000)
    resamples = 2 * BLOCK_ENTRIES // 1000 + 3
    weights = cluster_weights(labels, np.arange(1000) // 2, resamples, seed=1)
    some = [0, resamples // 2, resamples - 1]
    np.testing.assert_allclose(
        weighted_auroc(labels, scores, weights)[some],
        [roc_auc_score(labels, scores, sample_weight=weights[one]) for one in some],
    )


@unhurried
@given(generators, sizes, st.integers(1, 5))
def test_clusters_are_drawn_whole_and_their_number_is_kept(rng, rows, clusters):
    labels = np.append([0, 0, 1, 1], rng.integers(0, 2, rows))
    names = np.append([0, 1, 0, 1], rng.integers(0, clusters, rows))
    weights = cluster_weights(labels, names, resamples=8)
    for label in (0, 1):
        total = np.zeros(8, int)
        for name in set(names[labels == label]):
            own = weights[:, (labels == label) & (names == name)]
            assert (own == own[:, :1]).all()
            total += own[:, 0]
        assert (total == len(set(names[labels == label]))).all()


def test_the_seed_decides_the_resamples():
    names = [str(number) for number in range(8)]
    first = cluster_weights(LABELS, names, seed=3)
    assert first.shape == (1000, 8)
    np.testing.assert_array_equal(first, cluster_weights(LABELS, names, seed=3))
    assert (first != cluster_weights(LABELS, names, seed=4)).any()


def test_rows_that_repeat_each_other_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    scores = labels + rng.standard_normal(100)
    once = interval(weighted_auroc(labels, scores, cluster_weights(labels, np.arange(100))))
    labels, scores, names = (np.repeat(a, 10) for a in (labels, scores, np.arange(100)))
    clustered = interval(weighted_auroc(labels, scores, cluster_weights(labels, names)))
    careless = interval(weighted_auroc(labels, scores, cluster_weights(labels, np.arange(1000))))
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low)
    assert careless.high - careless.low < 0.5 * (clustered.high - clustered.low)


def test_interval_is_made_of_percentiles():
    assert interval(np.arange(101), level=0.9) == Interval(pytest.approx(5), pytest.approx(95))


def test_a_thousand_resamples_of_a_thousand_rows_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 1000), rng.random(1000)
    started = time.process_time()
    weights = cluster_weights(labels, rng.integers(0, 300, 1000))
    for _ in range(3):
        weighted_auroc(labels, scores, weights)
    assert time.process_time() - started < 2


# Refusals.


@pytest.mark.parametrize(
    ("labels", "scores", "sentence"),
    [
        ([], [], "There are no rows to measure"),
        ([0, 0], [0.1, 0.2], "no generated rows"),
        ([1, 1], [0.1, 0.2], "no real rows"),
        ([0, 1], [0.1, np.nan], "NaN"),
        ([0, 1], [0.1, np.inf], "infinite"),
        ([0, 2], [0.1, 0.2], "Labels must be 0"),
        ([0, 1], [0.1, 0.2, 0.3], "of one length"),
    ],
)
@pytest.mark.parametrize("metric", [auroc, average_precision])
def test_what_cannot_be_measured_is_refused(metric, labels, scores, sentence):
    with pytest.raises(ValueError, match=sentence):
        metric(labels, scores)


def test_an_accuracy_without_its_class_is_refused():
    with pytest.raises(ValueError, match="no real rows"):
        real_accuracy([1], [True])
    with pytest.raises(ValueError, match="no generated rows"):
        generated_accuracy([0], [True])


@pytest.mark.parametrize("metric", [brier, expected_calibration_error])
def test_scores_that_are_not_probabilities_are_refused(metric):
    with pytest.raises(ValueError, match="between 0 and 1"):
        metric([0, 1], [-0.1, 0.5])


def test_one_cluster_of_a_class_is_refused():
    with pytest.raises(ValueError, match="two clusters of real rows"):
        cluster_weights([0, 0, 1, 1], ["a", "a", "b", "c"])


def test_a_resample_of_one_class_is_refused():
    with pytest.raises(ValueError, match="rows of one class only"):
        weighted_auroc([0, 1], [0.1, 0.2], np.array([[1, 1], [2, 0]]))


def test_an_interval_of_missing_numbers_is_refused():
    with pytest.raises(ValueError, match="some are missing"):
        interval([0.5, np.nan])


def test_pairs_of_sources_weigh_the_same_whatever_their_size() -> None:
    labels = [0] * 4 + [1] * 30 + [1] * 3
    scores = [1, 2, 3, 4] + [5] * 30 + [0] * 3
    names = ["photographs"] * 4 + ["found"] * 30 + ["missed"] * 3
    assert mean_over_pairs(labels, scores, names) == 0.5
