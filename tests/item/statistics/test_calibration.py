"""Probabilities, thresholds that keep their promise, verdicts, and unfamiliar pictures."""

import json
import math
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import load, save
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from item.errors import UsageError
from item.statistics.calibration import (
    Abstention,
    Calibration,
    Familiarity,
    OperatingPoints,
    Thresholds,
    Verdict,
    fit_familiarity,
    fit_platt,
    fit_thresholds,
    verdicts,
)

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
unhurried = settings(deadline=None)


def judged_rows(rng, rows=4000, slope=0.5, intercept=-1.0):
    """Logits, and labels drawn with the probability that slope and intercept give."""
    logits = 3 * rng.standard_normal(rows)
    labels = (rng.random(rows) < expit(slope * logits + intercept)).astype(int)
    return logits, labels


# Probabilities.


def test_scores_by_hand():
    scores = Calibration(2, 1).scores([-0.5, 0, math.inf, math.nan])
    np.testing.assert_allclose(scores, [0.5, 1 / (1 + math.exp(-1)), 1, math.nan])
    assert Calibration(2, 1).scores(np.float16([0])).dtype == np.float64


def test_platt_finds_the_slope_and_intercept_that_made_the_labels():
    found = fit_platt(*judged_rows(np.random.default_rng(0), rows=40_000))
    assert found.slope == pytest.approx(0.5, abs=0.02)
    assert found.intercept == pytest.approx(-1, abs=0.05)


def test_platt_is_logistic_regression_on_the_smoothed_targets():
    logits, labels = judged_rows(np.random.default_rng(1), rows=60)
    ones = labels.sum()
    target = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (60 - ones + 2))
    both = np.repeat([1, 0], 60)
    column = np.tile(logits, 2)[:, np.newaxis]
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    regression.fit(column, both, sample_weight=np.append(target, 1 - target))
    found = fit_platt(logits, labels)
    assert found.slope == pytest.approx(regression.coef_[0, 0], abs=1e-6)
    assert found.intercept == pytest.approx(regression.intercept_[0], abs=1e-6)


def test_separated_rows_give_a_finite_slope():
    found = fit_platt([-2, -1, 1, 2], [0, 0, 1, 1])
    assert 0 < found.slope < 10
    assert found.scores(2) < 1


@unhurried
@given(rng=generators, scale=st.sampled_from([1e-3, 1, 1e3]))
def test_calibration_keeps_the_order_of_a_head_better_than_chance(rng, scale):
    labels = np.repeat([0, 1], 20)
    logits = scale * (2 * labels - 1 + rng.uniform(-1.5, 1.5, 40))
    found = fit_platt(logits, labels)
    assert found.keeps_order
    assert (np.diff(found.scores(np.sort(logits))) >= 0).all()


@unhurried
@given(generators)
def test_platt_does_not_depend_on_the_scale_and_offset_of_logits(rng):
    logits, labels = judged_rows(rng, rows=100)
    labels[:2] = [0, 1]
    scores = fit_platt(logits, labels).scores(logits)
    moved = 1000 * logits - 50
    np.testing.assert_allclose(fit_platt(moved, labels).scores(moved), scores, atol=1e-5)


def test_a_weight_counts_as_copies():
    # Many rows, because Platt's targets know the number of rows and weights only their ratio.
    logits, labels = judged_rows(np.random.default_rng(3))
    twice = fit_platt(
        np.append(logits, logits[labels == 1]), np.append(labels, labels[labels == 1])
    )
    found = fit_platt(logits, labels, weights=1 + labels)
    assert found.slope == pytest.approx(twice.slope, abs=1e-3)
    assert found.intercept == pytest.approx(twice.intercept, abs=1e-2)
    assert found.intercept > fit_platt(logits, labels).intercept + 0.5


def test_only_the_ratios_of_weights_matter():
    logits, labels = judged_rows(np.random.default_rng(4), rows=50)
    found = fit_platt(logits, labels, weights=1000 * (1 + labels))
    expected = fit_platt(logits, labels, weights=1 + labels)
    assert asdict(found) == pytest.approx(asdict(expected), abs=1e-6)


def test_logits_against_the_labels_are_told():
    found = fit_platt([2, 1, 1.5, -1, -2], [0, 0, 1, 1, 1])
    assert found.slope < 0
    assert not found.keeps_order


def test_logits_that_say_nothing_give_the_share_of_generated_rows():
    found = fit_platt(np.full(1000, 7.0), np.repeat([0, 1], [750, 250]))
    assert found.scores(7) == pytest.approx(0.25, abs=1e-3)
    assert found.slope == 0


def test_calibration_and_thresholds_go_through_json():
    for value in (Calibration(1 / 3, -0.1), Thresholds(0.1, 0.7)):
        assert type(value)(**json.loads(json.dumps(asdict(value)))) == value


@pytest.mark.parametrize(
    ("logits", "labels", "weights", "sentence"),
    [
        ([1, 2], [1, 1], None, "no real rows"),
        ([1, math.nan], [0, 1], None, "NaN"),
        ([], [], None, "no rows"),
        ([1, 2], [0, 1], [1], "one finite number a row"),
        ([1, 2], [0, 1], [1, -1], "none of them negative"),
        ([1, 2], [0, 1], [0, 0], "all are 0"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits, labels, weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit_platt(logits, labels, weights)


def test_a_calibration_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite slope"):
        Calibration(math.nan, 0)


# Thresholds.


def test_thresholds_are_order_statistics():
    # 39 rows a class: floor(40 * 0.05) - 1 = 1 real row above, floor(40 * 0.1) - 1 = 3 below.
    points = OperatingPoints(real_called_generated=0.05, generated_called_real=0.1)
    scores, labels = np.append(np.arange(39), np.arange(20, 59)), np.repeat([0, 1], 39)
    assert fit_thresholds(scores, labels, points) == Thresholds(23, 37)


def test_separated_classes_leave_no_uncertainty():
    points = OperatingPoints(real_called_generated=0.25, generated_called_real=0.25)
    found = fit_thresholds([0.1, 0.1, 0.2, 0.6, 0.9, 0.9], [0, 0, 0, 1, 1, 1], points)
    assert found.likely_real == found.likely_generated == pytest.approx(0.4)


@unhurried
@given(generators, st.floats(0.02, 0.49), st.floats(0.02, 0.49), st.integers(0, 6))
def test_realised_rates_never_exceed_the_asked_ones(rng, for_real, for_generated, steps):
    points = OperatingPoints(real_called_generated=for_real, generated_called_real=for_generated)
    labels = np.repeat([0, 1], rng.integers(50, 200, 2))
    scores = expit(rng.integers(-steps, steps + 1, len(labels)) + steps * labels / 2)
    found = fit_thresholds(scores, labels, points)
    assert found.likely_real <= found.likely_generated
    assert (scores[labels == 0] > found.likely_generated).mean() <= for_real
    assert (scores[labels == 1] < found.likely_real).mean() <= for_generated


def test_the_promise_holds_on_average_for_new_rows_and_is_not_wasted():
    rng = np.random.default_rng(0)
    points = OperatingPoints(real_called_generated=0.1, generated_called_real=0.1)
    labels = np.repeat([0, 1], 29)
    rates = []
    for _ in range(2000):
        scores = labels + rng.standard_normal(58)
        limit = fit_thresholds(scores, labels, points).likely_generated
        rates.append((rng.standard_normal(100) > limit).mean())
    # 29 rows at 0.1: exactly 3 of 30 equally likely places of a new row lie above.
    assert np.mean(rates) == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("rows", [98, 99])
def test_one_in_a_hundred_needs_ninety_nine_rows(rows):
    labels = np.repeat([0, 1], [rows, 19])
    scores = np.arange(rows + 19)
    if rows == 99:
        assert fit_thresholds(scores, labels, OperatingPoints()).likely_real == rows - 0.5
    else:
        with pytest.raises(UsageError, match=r"0\.01 needs at least 99 real .* there are 98"):
            fit_thresholds(scores, labels, OperatingPoints())


def test_a_share_means_the_decimal_that_was_written():
    # In binary 100 * 0.29 is a little less than 29.
    points = OperatingPoints(real_called_generated=0.29, generated_called_real=0.29)
    found = fit_thresholds(np.tile(np.arange(99), 2), np.repeat([0, 1], 99), points)
    assert found.likely_generated == 98 - 28


def test_a_missing_class_is_refused():
    with pytest.raises(UsageError, match=r"at least 19 generated pictures .* there are 0"):
        fit_thresholds(np.arange(200), np.zeros(200), OperatingPoints())


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        fit_thresholds([0.5, math.nan], [0, 1], OperatingPoints())


@pytest.mark.parametrize("share", [0, 0.5, -1, math.nan])
def test_an_operating_point_is_a_small_share(share):
    with pytest.raises(ValidationError):
        OperatingPoints(real_called_generated=share)


def test_crossed_thresholds_are_refused():
    with pytest.raises(ValueError, match="must not lie above"):
        Thresholds(likely_real=0.6, likely_generated=0.5)


# Verdicts.


def test_verdicts_by_hand():
    scores = [0.1, 0.2, 0.5, 0.8, 0.9, 0.9, math.nan, math.nan]
    abstained = [False, False, False, False, False, True, True, False]
    assert verdicts(scores, Thresholds(0.2, 0.8), abstained) == [
        *(Verdict.LIKELY_REAL, Verdict.UNCERTAIN, Verdict.UNCERTAIN, Verdict.UNCERTAIN),
        *(Verdict.LIKELY_GENERATED, Verdict.UNCERTAIN, Verdict.NOT_SCORED, Verdict.NOT_SCORED),
    ]


def test_no_rows_have_no_verdicts():
    assert verdicts([], Thresholds(0.2, 0.8), []) == []


def test_verdicts_need_one_abstention_a_row():
    with pytest.raises(ValueError, match="of one length"):
        verdicts([0.1, 0.2], Thresholds(0.2, 0.8), [False])


@pytest.mark.parametrize("reason", Abstention)
def test_every_abstention_has_its_own_sentence(reason):
    assert reason.sentence.endswith(".")
    assert [other for other in Abstention if other.sentence == reason.sentence] == [reason]


# Familiarity.


def spread_rows(rng, rows):
    """Embeddings that vary much along three of twelve directions and little along the others."""
    scale = np.array([5, 3, 2] + [0.05] * 9)
    return (10 + scale * rng.standard_normal((rows, 12))).astype(np.float32)


@pytest.fixture(scope="module")
def familiarity():
    rng = np.random.default_rng(0)
    return fit_familiarity(spread_rows(rng, 2000), spread_rows(rng, 999), share=0.01)


def test_the_centre_is_familiar_and_a_far_point_is_not(familiarity):
    far = np.full((1, 12), 10.0)
    far[0, 2] += 30
    mask = familiarity.unfamiliar(np.concatenate([np.full((1, 12), 10.0), far]))
    assert mask.tolist() == [False, True]


def test_distance_is_measured_in_deviations_along_leading_directions(familiarity):
    assert familiarity.whitening.shape == (12, 3)
    points = familiarity.mean + 2 * np.diag([5, 3, 2] + [0] * 9)[:3]
    np.testing.assert_allclose(familiarity.distances(points), 2, rtol=0.1)


def test_the_asked_share_of_new_rows_is_unfamiliar(familiarity):
    rows = spread_rows(np.random.default_rng(5), 20_000)
    assert familiarity.unfamiliar(rows).mean() == pytest.approx(0.01, abs=0.007)


@unhurried
@given(generators, st.floats(0.02, 0.4))
def test_no_more_held_out_rows_than_asked_are_unfamiliar(rng, share):
    held_out = spread_rows(rng, 60)
    found = fit_familiarity(spread_rows(rng, 100), held_out, share)
    assert found.unfamiliar(held_out).mean() <= share


def test_an_embedding_that_is_not_a_number_is_unfamiliar(familiarity):
    assert familiarity.unfamiliar(np.full((1, 12), np.nan)).tolist() == [True]


def test_familiarity_goes_through_safetensors(familiarity):
    tensors = familiarity.tensors()
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    again = Familiarity.from_tensors(load(save(tensors)))
    rows = spread_rows(np.random.default_rng(6), 50)
    np.testing.assert_array_equal(again.distances(rows), familiarity.distances(rows))
    np.testing.assert_array_equal(again.limit, familiarity.limit)


def test_too_few_pictures_are_refused():
    rows = spread_rows(np.random.default_rng(0), 300)
    with pytest.raises(UsageError, match="at least 100 training pictures, and there are 99"):
        fit_familiarity(rows[:99], rows)
    with pytest.raises(UsageError, match=r"0\.005 needs at least 199 held-out .* there are 198"):
        fit_familiarity(rows, rows[:198])


@pytest.mark.parametrize(("value", "sentence"), [(1.0, "all the same"), (math.nan, "NaN")])
def test_embeddings_without_a_spread_are_refused(value, sentence):
    rows = np.full((300, 4), value)
    with pytest.raises(ValueError, match=sentence):
        fit_familiarity(rows, rows)


def test_scoring_does_not_load_scikit_learn():
    program = "import item.statistics.calibration, sys; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0
