"""Drift by hand, by its laws, by simulation of its false alarms, and in words."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2_contingency, ks_2samp

from item.statistics.drift import (
    Kind,
    categorical_stability_index,
    drift,
    holm,
    population_stability_index,
    two_sample_test,
)

pytestmark = pytest.mark.filterwarnings("error")

numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)
samples = arrays(np.float64, st.integers(1, 200), elements=numbers)
tied_samples = arrays(
    np.float64, st.integers(1, 200), elements=st.sampled_from([0, 1, 2, math.inf, math.nan])
)
counts = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", None, math.nan]), st.integers(1, 300), min_size=1
)


def normal(seed, rows, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, rows)


# Stability index.


def test_index_by_hand():
    # Shares with half a row more in each of two categories: 30.5/101 and 60.5/101.
    a, b = 30.5 / 101, 60.5 / 101
    expected = 2 * (a - b) * math.log(a / b) / 2 + (b - a) * math.log((1 - a) / (1 - b))
    found = categorical_stability_index({"x": 30, "y": 70}, {"x": 60, "y": 40})
    assert found.value == pytest.approx(expected)
    assert found.by_chance == pytest.approx(0.02)


def test_numeric_index_counts_rows_between_the_quantiles_of_before():
    before = np.arange(1, 101)
    now = np.full(100, 95)
    shares = np.full(10, 10.5) / 105
    moved = np.append(np.full(9, 0.5), 100.5) / 105
    expected = np.sum((moved - shares) * np.log(moved / shares))
    assert population_stability_index(now, before).value == pytest.approx(expected)


@given(st.one_of(samples, tied_samples))
def test_sample_is_like_itself(sample):
    assert population_stability_index(sample, sample).value == 0


@given(st.one_of(samples, tied_samples), st.one_of(samples, tied_samples), st.randoms())
def test_order_of_rows_changes_nothing(now, before, random):
    shuffled, shuffled_before = now.tolist(), before.tolist()
    random.shuffle(shuffled)
    random.shuffle(shuffled_before)
    assert population_stability_index(now, before) == population_stability_index(
        shuffled, shuffled_before
    )
    assert two_sample_test(now, before) == two_sample_test(shuffled, shuffled_before)


@given(st.one_of(samples, tied_samples), st.one_of(samples, tied_samples))
def test_any_numbers_give_a_finite_index_and_a_p_value(now, before):
    index, test = population_stability_index(now, before), two_sample_test(now, before)
    assert 0 <= index.value < math.inf
    assert 0 <= index.excess <= index.value
    assert 0 <= test.statistic <= 1
    assert 0 <= test.p_value <= 1


@given(counts, counts)
def test_any_counts_give_the_same_index_both_ways_and_a_p_value(now, before):
    index, test = categorical_stability_index(now, before), two_sample_test(now, before)
    assert 0 <= index.value < math.inf
    assert categorical_stability_index(before, now).value == pytest.approx(index.value)
    assert 0 <= test.p_value <= 1


@given(st.integers(0, 1000))
def test_farther_shifts_have_larger_indices(seed):
    before = normal(seed, 2000)
    up = [population_stability_index(before + shift, before).value for shift in (0, 0.3, 1, 3)]
    down = [population_stability_index(before - shift, before).value for shift in (0, 0.3, 1, 3)]
    assert up == sorted(set(up))
    assert down == sorted(set(down))


def test_index_of_unchanged_samples_is_what_chance_gives():
    rng = np.random.default_rng(3)
    found = [
        population_stability_index(rng.normal(size=400), rng.normal(size=800)) for _ in range(200)
    ]
    # 9 (1/400 + 1/800); the mean of 200 has a standard error of about 3%.
    assert found[0].by_chance == pytest.approx(0.03375)
    assert np.mean([one.value for one in found]) == pytest.approx(0.03375, rel=0.12)


@pytest.mark.parametrize(
    ("now", "before"),
    [
        ([6] * 100, [5] * 100),
        ([4] * 100, [5] * 100),
        ([0] * 50 + [7] * 50, [0] * 50 + [1] * 50),
        ([math.nan] * 100, [5] * 100),
        ([5] * 100, [math.nan] * 100),
        ([math.inf] * 100, [5] * 100),
    ],
)
def test_numbers_that_most_rows_share_are_told_from_others(now, before):
    assert population_stability_index(now, before).value > 1


def test_missing_categories_are_one_category():
    found = categorical_stability_index({None: 50, "x": 50}, {math.nan: 50, "x": 50})
    assert found.value == 0


# Tests.


def test_numbers_are_tested_as_by_scipy():
    now, before = normal(1, 300), normal(2, 400, shift=0.1)
    expected = ks_2samp(now, before, method="asymp")
    found = two_sample_test(now, before)
    assert (found.statistic, found.p_value) == (expected.statistic, expected.pvalue)


def test_rare_categories_are_pooled():
    # Of 200 and 200 rows, "c" and "d" have 4 expected rows together: pooled with the next, "b".
    found = two_sample_test(
        {"a": 120, "b": 74, "c": 5, "d": 1}, {"a": 140, "b": 58, "c": 1, "d": 1}
    )
    expected = chi2_contingency([[120, 80], [140, 60]], correction=False)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))


def test_categories_without_rows_do_not_count():
    now, before = {"a": 90, "b": 10, "c": 0}, {"a": 80, "b": 20}
    assert two_sample_test(now, before) == two_sample_test({"a": 90, "b": 10}, before)
    assert categorical_stability_index(now, before).by_chance == pytest.approx(0.02)


def test_one_category_has_nothing_to_test():
    assert two_sample_test({"a": 90}, {"a": 100}).p_value == 1


def test_values_that_went_missing_are_found():
    before = normal(0, 500)
    now = np.where(np.arange(500) < 150, np.nan, normal(1, 500))
    assert two_sample_test(now, before).p_value < 1e-6


def test_a_million_rows_take_two_seconds_at_most():
    now, before = normal(1, 10**6), normal(2, 10**6)
    start = time.process_time()
    two_sample_test(now, before)
    population_stability_index(now, before)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("now", "before"),
    [([1.0], {"a": 1}), ({"a": 1}, [1.0]), ([], [1.0]), ([1.0], []), ({}, {"a": 1}), ([[1]], [1])],
)
def test_samples_that_cannot_be_compared_are_refused(now, before):
    with pytest.raises(ValueError, match="sample"):
        two_sample_test(now, before)


def test_holm_by_hand():
    # In order 0.01, 0.02, 0.02, 0.5: times 4, 3, 2, 1, never falling.
    assert holm([0.02, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1, 1]


# Drift.


def one(now, before, **options):
    return drift({"score": now}, {"score": before}, **options)[0]


def test_a_real_shift_alarms_and_says_what_moved():
    found = one(normal(1, 500, shift=1), normal(2, 2000))
    assert found.alarm
    assert found.kind is Kind.NUMERIC
    assert (found.rows_now, found.rows_before) == (500, 2000)
    assert "The score is unlike the nights before: the middle half of its values" in found.sentence


def test_a_new_category_alarms_and_is_named():
    found = one({"jpeg": 300, "webp": 200}, {"jpeg": 1000, "png": 10})
    assert found.alarm
    assert found.kind is Kind.CATEGORICAL
    assert "40.0% of the rows are webp, 0% before" in found.sentence


def test_values_that_went_missing_alarm_and_are_named():
    found = one(np.where(np.arange(500) < 150, np.nan, normal(1, 500)), normal(0, 500))
    assert found.alarm
    assert "30.0% of its values are missing, 0% before" in found.sentence


def test_all_values_missing_on_one_side_has_a_sentence():
    before = np.where(np.arange(2000) < 1840, np.nan, 1.0)
    assert "100% of its values are missing, 92.0% before" in one([np.nan] * 2000, before).sentence


def test_infinite_numbers_have_a_sentence():
    assert one([np.inf] * 100, [-np.inf] * 100).alarm


def test_a_trifle_in_many_rows_is_significant_but_no_alarm():
    found = one(normal(1, 100_000, shift=0.03), normal(2, 100_000))
    assert found.p_value < 0.001
    assert not found.alarm
    assert "is like the nights before" in found.sentence


def test_a_middling_shift_is_told_without_an_alarm():
    found = one(normal(1, 5000, shift=0.4), normal(2, 5000))
    assert not found.alarm
    assert "has shifted, not enough for an alarm" in found.sentence
    assert one(normal(1, 5000, shift=0.4), normal(2, 5000), threshold=0.1).alarm


def test_small_samples_that_differ_by_chance_do_not_alarm():
    # With 60 rows an index above 0.25 is ordinary.
    found = [one(normal(seed, 60), normal(seed + 1000, 60)) for seed in range(100)]
    assert np.mean([each.psi >= 0.25 for each in found]) > 0.3
    assert not any(each.alarm for each in found)


@pytest.mark.parametrize("rows", [50, 1000])
def test_halves_of_one_distribution_rarely_alarm(rows):
    rng = np.random.default_rng(7)
    nights = 200
    alarms = 0
    for _ in range(nights):
        sides = [
            {
                "score": rng.beta(2, 5, rows),
                "caption length": rng.poisson(9, rows),
                "format": dict(enumerate(rng.multinomial(rows, [0.7, 0.2, 0.08, 0.02]))),
            }
            for _ in range(2)
        ]
        # A threshold of 0 leaves the p-value alone to hold alarms back.
        alarms += any(found.alarm for found in drift(*sides, threshold=0, alpha=0.05))
    # At most 5% of 200 nights, and three standard errors.
    assert alarms <= 19


def test_many_quantities_do_not_make_alarms_likelier():
    now = {f"q{number}": normal(number, 200) for number in range(40)}
    before = {f"q{number}": normal(number + 500, 200) for number in range(40)}
    found = drift(now, before, threshold=0, alpha=0.05)
    assert min(each.p_value for each in found) < 0.05
    assert not any(each.alarm for each in found)


@pytest.mark.parametrize("sizes", [(49, 500), (500, 49), (0, 500)])
def test_too_few_rows_are_not_judged(sizes):
    found = one(normal(1, sizes[0], shift=9), normal(2, sizes[1]))
    assert found.too_few
    assert not found.alarm
    assert math.isnan(found.psi)
    assert math.isnan(found.p_value)
    assert "at least 50 of each are needed" in found.sentence


def test_findings_come_in_the_order_given_and_those_with_few_rows_cost_no_power():
    shifted, plain = normal(1, 300, shift=1), normal(2, 300)
    names = ["b", "a", "c"]
    found = drift(
        {"b": plain[:10], "a": shifted, "c": plain[:10]},
        {"b": plain, "a": plain, "c": plain},
    )
    assert [each.name for each in found] == names
    assert found[1].adjusted_p_value == found[1].p_value


def test_quantities_of_one_side_alone_are_refused():
    with pytest.raises(ValueError, match="Only one side has height, width"):
        drift({"width": [1.0]}, {"height": [1.0]})


def test_kinds_that_differ_are_refused_however_few_the_rows():
    with pytest.raises(ValueError, match="numeric in both samples"):
        one([1.0], {"a": 1})
