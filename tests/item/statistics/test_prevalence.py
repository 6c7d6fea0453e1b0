"""Prevalence by hand, by simulation of its coverage, by its laws, and in words."""

import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from item.statistics.prevalence import (
    Obstacle,
    corrected_prevalence,
    in_words,
    percent,
    positive_predictive_value,
    share,
    share_generated_of_flagged,
)


@dataclass(frozen=True)
class Known:
    real_rows: int
    real_flagged: int
    generated_rows: int
    generated_flagged: int


GOOD = Known(real_rows=1000, real_flagged=20, generated_rows=500, generated_flagged=350)
BLIND = Known(real_rows=100, real_flagged=5, generated_rows=100, generated_flagged=6)


@st.composite
def parts(draw, least=0):
    """A total and a part of it."""
    total = draw(st.integers(least, 3000))
    return draw(st.integers(0, total)), total


@st.composite
def error_counts(draw):
    (real_flagged, real), (generated_flagged, generated) = draw(parts(1)), draw(parts(1))
    return Known(real, real_flagged, generated, generated_flagged)


def simulate(prevalence, tpr, fpr, pictures, known_pictures, nights=300):
    """Flagged pictures and error counts of many nights."""
    rng = np.random.default_rng(5)
    flagged = rng.binomial(pictures, prevalence * tpr + (1 - prevalence) * fpr, nights)
    real = rng.binomial(known_pictures, fpr, nights)
    generated = rng.binomial(known_pictures, tpr, nights)
    for night in zip(flagged.tolist(), real.tolist(), generated.tolist(), strict=True):
        yield night[0], Known(known_pictures, night[1], known_pictures, night[2])


# Shares.


def test_share_is_wilsons():
    # Wilson's centre (p + z^2/2n) / (1 + z^2/n) and half-width by hand for 10 of 100.
    found = share(10, 100)
    assert (found.value, found.low, found.high) == pytest.approx(
        (0.1, 0.055229, 0.174366), abs=1e-6
    )


def test_share_of_no_pictures_is_unknown():
    found = share(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0, 1)


@given(parts(1), st.floats(0.5, 0.999))
def test_share_lies_in_its_interval(counts, level):
    found = share(*counts, level)
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("counts", [(-1, 10), (11, 10), (0, -1)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="cannot be flagged"):
        share(*counts)
    with pytest.raises(ValueError, match="cannot be flagged"):
        corrected_prevalence(*counts, GOOD)


def test_impossible_error_counts_are_refused():
    with pytest.raises(ValueError, match="Of 10 real pictures, 11"):
        corrected_prevalence(1, 10, Known(10, 11, 10, 5))


# Prevalence.


def test_prevalence_by_hand():
    # Rogan and Gladen: (0.05 - 0.02) / (0.7 - 0.02).
    assert corrected_prevalence(200, 4000, GOOD).value == pytest.approx(0.03 / 0.68)


def test_interval_by_hand():
    # z^2 = 3.841459. p' = 11.920729 / 103.841459 = 0.114797, t' = 46/52 = 0.884615,
    # f' = 6/102 = 0.058824, q' = 0.055974 / 0.825792 = 0.067782. Of t' the variance is
    # 0.00196291, of f' 0.00054277, of p' 0.00097859; d = 2 z^2 (0.00013305 - 0.00050598)
    # = -0.002865; s = sqrt(0.00097859 + 0.00000902 + 0.00047168) / 0.825792 = 0.046249.
    found = corrected_prevalence(10, 100, Known(100, 5, 50, 45))
    assert found.value == pytest.approx(0.05 / 0.85)
    assert found.low == 0
    assert found.high == pytest.approx(0.067782 - 0.002865 + 1.959964 * 0.046249, abs=3e-5)


def test_perfect_detector_on_endless_known_pictures_leaves_the_shares_interval():
    endless = Known(10**9, 0, 10**9, 10**9)
    found, plain = corrected_prevalence(300, 1000, endless), share(300, 1000)
    # Agresti and Coull's interval has Wilson's centre and is a little wider.
    assert found.value == pytest.approx(plain.value)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=1e-3)


@pytest.mark.parametrize(
    ("prevalence", "tpr", "fpr", "pictures", "known_pictures"),
    [
        (0.03, 0.7, 0.02, 4000, 500),
        (0.0, 0.7, 0.02, 4000, 500),
        (0.001, 0.9, 0.01, 1_000_000, 1000),
        (0.3, 0.6, 0.05, 200, 100),
        (0.9, 0.8, 0.02, 500, 300),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    prevalence, tpr, fpr, pictures, known_pictures
):
    generated = positive_predictive_value(prevalence, tpr, fpr)
    hits, generated_hits = [], []
    for flagged, known in simulate(prevalence, tpr, fpr, pictures, known_pictures):
        found = corrected_prevalence(flagged, pictures, known)
        of_flagged = share_generated_of_flagged(flagged, pictures, known)
        hits.append(found.low <= prevalence <= found.high)
        generated_hits.append(of_flagged.low <= generated <= of_flagged.high)
    # Three standard errors of 300 nights below 95%, and not by being always right of an
    # interval that says nothing.
    assert np.mean(hits) >= 0.912
    assert np.mean(generated_hits) >= 0.912
    assert found.high - found.low < 0.35


def test_interval_ignoring_the_uncertain_rates_would_be_too_narrow():
    # The same counts with the rates taken for known: a million times as many known pictures.
    sure = Known(*(10**6 * count for count in (1000, 20, 500, 350)))
    honest, naive = (corrected_prevalence(10_000, 200_000, known) for known in (GOOD, sure))
    assert honest.value == pytest.approx(naive.value)
    assert honest.high - honest.low > 5 * (naive.high - naive.low)


@given(parts(), error_counts(), st.floats(0.5, 0.999))
def test_estimates_lie_in_their_intervals(counts, known, level):
    for found in (
        corrected_prevalence(*counts, known, level),
        share_generated_of_flagged(*counts, known, level),
    ):
        assert 0 <= found.low <= found.high <= 1
        assert math.isnan(found.value) or found.low <= found.value <= found.high


@given(st.integers(0, 3999))
def test_more_flagged_pictures_never_mean_fewer_generated_ones(flagged):
    fewer, more = (corrected_prevalence(count, 4000, GOOD) for count in (flagged, flagged + 1))
    if fewer.identifiable and more.identifiable:
        assert fewer.value <= more.value
        assert fewer.high <= more.high


@pytest.mark.parametrize(
    ("counts", "known", "obstacle"),
    [
        ((0, 0), GOOD, Obstacle.NO_PICTURES),
        ((0, 0), None, Obstacle.NO_PICTURES),
        ((5, 100), None, Obstacle.NO_ERROR_COUNTS),
        ((5, 100), Known(0, 0, 10, 9), Obstacle.NO_ERROR_COUNTS),
        ((5, 100), BLIND, Obstacle.NOT_TOLD_APART),
        ((5, 100), Known(100, 90, 100, 5), Obstacle.NOT_TOLD_APART),
        ((1, 4000), GOOD, Obstacle.FEWER_THAN_FALSE_ALARMS),
        ((3900, 4000), GOOD, Obstacle.MORE_THAN_ALL_GENERATED),
    ],
)
def test_what_cannot_be_estimated_says_why(counts, known, obstacle):
    found = corrected_prevalence(*counts, known)
    assert found.obstacle is obstacle
    assert not found.identifiable
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0, 1)
    generated = share_generated_of_flagged(*counts, known)
    assert math.isnan(generated.value)
    assert (generated.low, generated.high) == (0, 1)


def test_few_false_alarms_less_than_expected_are_no_contradiction():
    found = corrected_prevalence(75, 4000, GOOD)
    assert found.identifiable
    assert (found.value, found.low) == (0, 0)
    assert 0 < found.high < 0.05


# Of the flagged.


def test_predictive_value_by_hand():
    # Of 1000 pictures 30 are generated, 21 of those flagged, and 19.4 of the 970 others.
    assert positive_predictive_value(0.03, 0.7, 0.02) == pytest.approx(21 / (21 + 19.4))


def test_predictive_value_of_a_detector_that_flags_nothing_is_unknown():
    assert math.isnan(positive_predictive_value(0.5, 0, 0))


@given(st.integers(90, 2700))
def test_flagged_pictures_divide_into_true_and_false_ones(flagged):
    # Without clipping, prevalence * TPR is the share of all pictures that is flagged rightly.
    prevalence = corrected_prevalence(flagged, 4000, GOOD)
    generated = share_generated_of_flagged(flagged, 4000, GOOD)
    assert generated.value * flagged / 4000 == pytest.approx(prevalence.value * 0.7)


@pytest.mark.parametrize(
    ("counts", "known", "uncertain"),
    [
        ((20, 100), Known(10**9, 10**8, 10**9, 6 * 10**8), "flagged"),
        ((2 * 10**8, 10**9), Known(10**9, 10**8, 20, 12), "tpr"),
        ((2 * 10**8, 10**9), Known(100, 10, 10**9, 6 * 10**8), "fpr"),
    ],
)
def test_interval_of_one_uncertain_count_is_that_of_its_share(counts, known, uncertain):
    # All other counts are endless; the value is t (p - f) / (p (t - f)) at Wilson's limits.
    p, t, f = 0.2, 0.6, 0.1
    if uncertain == "flagged":
        ends = [(limit, t, f) for limit in (share(20, 100).low, share(20, 100).high)]
    elif uncertain == "tpr":
        ends = [(p, limit, f) for limit in (share(12, 20).high, share(12, 20).low)]
    else:
        ends = [(p, t, limit) for limit in (share(10, 100).high, share(10, 100).low)]
    found = share_generated_of_flagged(*counts, known)
    assert [found.low, found.high] == pytest.approx(
        [t * (p - f) / (p * (t - f)) for p, t, f in ends], abs=2e-4
    )


# In words.


def test_sentence_is_one_that_a_lay_person_understands():
    assert in_words(160, 4000, GOOD) == (
        "If 2.9% of these pictures are generated (1.3% to 4.4%), about 51 of 100 flagged pictures "
        "are generated (22 to 70) and the other 49 are photographs."
    )


@pytest.mark.parametrize(
    ("counts", "known", "words"),
    [
        ((0, 0), GOOD, "No picture was scored"),
        ((1, 4000), None, "1 of 4,000 pictures was flagged, and how many are generated is not"),
        ((12, 4000), BLIND, "not clearly seen to flag generated pictures more often"),
        ((1, 4000), GOOD, "fewer than the false alarms to expect"),
        ((3900, 4000), GOOD, "more than to expect from this detector if all were generated"),
        ((0, 50), GOOD, "None of 50 pictures was flagged, and the best estimate is that 0% of"),
        ((75, 4000), GOOD, "hardly any flagged picture is generated (0 to "),
        ((2600, 4000), GOOD, "nearly all flagged pictures are generated (99 to 100 of 100)"),
    ],
)
def test_other_cases_have_sentences(counts, known, words):
    sentence = in_words(*counts, known)
    assert words in sentence
    assert sentence.endswith(".")


@given(parts(), st.one_of(st.none(), error_counts()))
def test_every_case_is_one_sentence_without_nan(counts, known):
    sentence = in_words(*counts, known)
    assert len(re.findall(r"\.(?!\d)", sentence)) == 1
    assert "nan" not in sentence
    assert "{" not in sentence


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0%"),
        (1e-6, "less than 0.1%"),
        (0.0314, "3.1%"),
        (0.99951, "more than 99.9%"),
        (1, "100%"),
    ],
)
def test_percentages_never_round_to_a_false_none_or_all(value, words):
    assert percent(value) == words
