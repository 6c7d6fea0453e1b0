"""A split: whole groups, and a generator held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.errors import UsageError
from pipelines.train.split import split
from tests.pipelines.train.examples import labelled_rows, three_generators

ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from("abc"), st.integers(0, 40)),
    min_size=120,
    max_size=160,
)


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 5), named=st.sampled_from([None, "b"]))
def test_no_group_is_on_two_sides(
    rows: list[tuple[int, str, int]], seed: int, named: str | None
) -> None:
    table = labelled_rows(rows)
    try:
        divided = split(table, seed, validation_generator=named)
    except UsageError:
        return
    parts = [divided.training, divided.calibration, divided.validation]
    groups = [set(table.groups[part]) for part in parts]
    assert not (groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2])
    held = table.generators == divided.held_out_generator
    assert not held[np.concatenate(parts[:2])].any()
    generated = divided.validation[table.labels[divided.validation] == 1]
    assert divided.held_out_generator is None or held[generated].all()


def test_rarest_of_three_generators_is_held_out_whole() -> None:
    rows = three_generators()
    divided = split(rows, seed=0)
    assert divided.held_out_generator == "c"
    assert (rows.generators[divided.validation] == "c").sum() == 20
    assert (rows.labels[divided.validation] == 0).sum() == 40
    assert len(divided.calibration) == 40 + 32
    assert len(divided.training) + len(divided.calibration) + len(divided.validation) == len(rows)


def test_named_generator_is_held_out() -> None:
    rows = three_generators()
    divided = split(rows, seed=0, validation_generator="a")
    assert divided.held_out_generator == "a"
    assert "'a'" in divided.notes[0]


def test_two_generators_are_both_trained_on() -> None:
    rows = three_generators(of_c=0)
    divided = split(rows, seed=0)
    assert divided.held_out_generator is None
    assert "no generator is held out" in divided.notes[0]
    assert len(divided.validation) == 80


def test_prompts_that_all_generators_share_are_split_too() -> None:
    rows = labelled_rows(
        [(1, name, prompt) for name in "aabc" for prompt in range(50)]
        + [(0, "", 100 + n) for n in range(100)]
    )
    divided = split(rows, seed=0)
    assert divided.held_out_generator == "b"
    assert (rows.labels[divided.validation] == 1).sum() == 10
    assert "are not used" in divided.notes[1]


def test_seed_decides_the_split() -> None:
    rows = three_generators()
    first, same, other = (split(rows, seed).training.tolist() for seed in (0, 0, 1))
    assert first == same != other


@pytest.mark.parametrize(
    ("named", "sentence"),
    [("x", "no generated rows of the validation generator 'x': choose one of a"), ("a", "All")],
)
def test_generator_that_cannot_be_held_out_is_refused(named: str, sentence: str) -> None:
    rows = labelled_rows([(n % 2, "a", n) for n in range(50)])
    with pytest.raises(UsageError, match=sentence):
        split(rows, seed=0, validation_generator=named)


def test_too_few_groups_are_refused() -> None:
    rows = labelled_rows([(n % 2, "a", n % 2) for n in range(50)])
    with pytest.raises(UsageError, match="leaves no real rows to calibrate on"):
        split(rows, seed=0)
