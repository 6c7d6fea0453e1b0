"""Protocols: no group on two sides, no generator tested that was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.errors import UsageError
from pipelines.evaluate.protocols import (
    ALL,
    LEAVE_ONE_OUT,
    LEAVE_SOURCES_OUT,
    ONE_TO_ALL,
    PAIRS,
    SENTENCES,
    Design,
    most_frequent,
)
from pipelines.storage.configuration import Storage
from pipelines.train.rows import LabelledRows, read_labelled
from tests.item.heads.examples import features_table
from tests.support.feature_tables import write_features

GENERATORS = ["a", "b", "c"]


def some_rows(folder: Path, count: int = 120) -> LabelledRows:
    """Half real, of two sources; a generated picture has the prompt of its two neighbours."""
    generated = [row % 2 == 1 for row in range(count)]
    table = features_table(
        count,
        generator=[
            GENERATORS[row // 2 % 3] if is_generated else None
            for row, is_generated in enumerate(generated)
        ],
        source=[
            "prompts" if is_generated else ("x", "x", "y")[row % 3]
            for row, is_generated in enumerate(generated)
        ],
        image_id=[
            f"prompt-{row // 6}" if is_generated else f"photo-{row}"
            for row, is_generated in enumerate(generated)
        ],
    )
    return read_labelled([write_features(folder, table)], Storage())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> LabelledRows:
    return some_rows(tmp_path_factory.mktemp("rows"))


def design(rows: LabelledRows, **changes: object) -> Design:
    subsets = {ALL: np.ones(len(rows), bool), "few": np.arange(len(rows)) % 4 == 1}
    learnable = np.ones(len(rows), bool)
    return Design(rows, "x", "a", **{"subsets": subsets, "learnable": learnable, **changes})  # type: ignore[arg-type]


@given(
    seeds=st.integers(1, 8),
    protocol=st.sampled_from([ONE_TO_ALL, LEAVE_ONE_OUT]),
)
@settings(max_examples=20, deadline=None)
def test_training_calibration_and_test_share_nothing(rows, seeds, protocol):
    for trial in design(rows).trials(protocol, seeds):
        tested = np.unique(np.concatenate([test.rows for test in trial.tests]))
        sides = [set(rows.groups[side]) for side in (trial.training, trial.calibration, tested)]
        assert all(sides)
        for left, right in ((0, 1), (0, 2), (1, 2)):
            assert not sides[left] & sides[right]


def test_generators_tested_were_never_trained_on(rows):
    for protocol in (ONE_TO_ALL, LEAVE_ONE_OUT):
        for trial in design(rows).trials(protocol, 2):
            learned = np.concatenate([trial.training, trial.calibration])
            known = set(rows.generators[learned]) - {None}
            assert known and not known & {test.generator for test in trial.tests}
            assert set(rows.sources[learned][rows.labels[learned] == 0]) == {"x"}


def test_one_to_all_tests_each_other_generator_beside_each_real_source(rows):
    (trial,) = design(rows).trials(ONE_TO_ALL, 1)
    tested = {(test.subset, test.real_source, test.generator) for test in trial.tests}
    assert tested == {(s, r, g) for s in (ALL, "few") for r in "xy" for g in "bc"}
    for test in trial.tests:
        real = rows.labels[test.rows] == 0
        assert set(rows.sources[test.rows[real]]) == {test.real_source}
        assert set(rows.generators[test.rows[~real]]) == {test.generator}


def test_photographs_of_another_source_are_all_tested_on(rows):
    (trial,) = design(rows).trials(ONE_TO_ALL, 1)
    tested = next(
        test.rows for test in trial.tests if (test.subset, test.real_source) == (ALL, "y")
    )
    real = tested[rows.labels[tested] == 0]
    assert set(real) == set(np.flatnonzero((rows.labels == 0) & (rows.sources == "y")))


def test_leave_one_out_leaves_out_each_generator_once_a_seed(rows):
    trials = list(design(rows).trials(LEAVE_ONE_OUT, 2))
    assert [(trial.seed, trial.held_out) for trial in trials] == [
        (seed, name) for seed in (0, 1) for name in GENERATORS
    ]


def test_every_pair_of_a_source_and_a_generator_is_tested_once_by_a_head_that_saw_neither(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    count = 2400
    table = features_table(
        count,
        generator=[f"model-{n // 2 % 6}" if n % 2 else None for n in range(count)],
        source=[None if n % 2 else f"camera-{n // 2 % 5}" for n in range(count)],
    )
    rows = read_labelled([write_features(tmp_path_factory.mktemp("many"), table)], Storage())
    seen = []
    for trial in design(rows, subsets={ALL: np.ones(count, bool)}).trials(LEAVE_SOURCES_OUT, 1):
        learned = np.concatenate([trial.training, trial.calibration])
        assert not set(rows.groups[trial.training]) & set(rows.groups[trial.calibration])
        for test in trial.tests:
            assert not set(rows.groups[test.rows]) & set(rows.groups[learned])
            seen.append((test.real_source, test.generator))
            assert test.real_source not in rows.sources[learned]
            assert test.generator not in rows.generators[learned]
            real = rows.labels[test.rows] == 0
            assert set(rows.sources[test.rows[real]]) == {test.real_source}
            assert (real.sum(), (~real).sum()) == (240, 200)
    assert sorted(seen) == [(f"camera-{r}", f"model-{g}") for r in range(5) for g in range(6)]


def test_rows_that_are_not_learnable_are_not_learned(rows):
    learnable = (rows.labels == 0) | (np.arange(len(rows)) // 6 % 2 == 0)
    (trial,) = design(rows, learnable=learnable).trials(ONE_TO_ALL, 1)
    assert learnable[trial.training].all() and learnable[trial.calibration].all()
    assert (rows.labels[trial.training] == 1).any()


def test_the_same_seed_gives_the_same_split_and_another_seed_another(rows):
    first, second = (next(design(rows).trials(ONE_TO_ALL, 1)) for _ in range(2))
    np.testing.assert_array_equal(first.training, second.training)
    other = list(design(rows).trials(ONE_TO_ALL, 2))[1]
    assert set(other.training) != set(first.training)


@pytest.mark.parametrize("protocol", PAIRS)
def test_a_published_pair_says_what_the_table_lacks(rows, protocol):
    needed = PAIRS[protocol].training[0]
    with pytest.raises(UsageError, match=f"{protocol} trains on rows of {needed}"):
        next(design(rows).trials(protocol, 1))


@pytest.mark.parametrize("protocol", PAIRS)
def test_a_published_pair_runs_where_its_generators_are(tmp_path, protocol):
    pair = PAIRS[protocol]
    names = [pair.training[0], pair.tested[0], pair.tested[1]]
    rows = some_rows(tmp_path)
    named = [name and names[GENERATORS.index(name)] for name in rows.generators]
    rows.generators[:] = named
    (trial,) = design(rows).trials(protocol, 1)
    assert {test.generator for test in trial.tests} == set(pair.tested[:2])
    assert set(rows.generators[trial.training]) == {None, pair.training[0]}
    assert protocol in SENTENCES


def test_a_table_of_one_generator_cannot_be_tested_on_others(tmp_path):
    rows = some_rows(tmp_path)
    rows.generators[rows.labels == 1] = "a"
    with pytest.raises(UsageError, match="tests on rows of other generators"):
        next(design(rows).trials(ONE_TO_ALL, 1))


def test_most_frequent_name_wins_and_of_equals_the_first():
    assert most_frequent(["b", "a", "b", None, "a", ""]) == "a"
    assert most_frequent(["b", "b", "a"]) == "b"
    assert most_frequent([None, ""]) is None


def test_sources_are_left_out_only_where_others_remain(rows):
    with pytest.raises(UsageError, match="two sources of photographs and two generators"):
        list(design(rows).trials(LEAVE_SOURCES_OUT, 1))
