"""Settings are checked, and weights balance what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from item.heads.columns import Group, Level
from item.heads.settings import Balance, HeadSettings, balanced_weights

ROWS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abc")), min_size=1, max_size=40)


@pytest.mark.parametrize("groups", [(), (Group.IMAGE, Group.IMAGE)])
def test_groups_are_some_and_distinct(groups: tuple[Group, ...]) -> None:
    with pytest.raises(ValidationError, match="each once"):
        HeadSettings(groups=groups)


def test_levels_are_those_of_the_groups() -> None:
    assert HeadSettings(groups=(Group.IMAGE, Group.CAPTION)).levels == {Level.GLOBAL}
    both = HeadSettings(groups=(Group.IMAGE, Group.PARTS))
    assert both.levels == {Level.GLOBAL, Level.LOCAL}


@given(ROWS)
def test_labels_weigh_the_same_in_total(rows: list[tuple[int, str]]) -> None:
    labels, sources = map(np.array, zip(*rows, strict=True))
    weights = balanced_weights(labels, sources, Balance.LABEL)
    totals = [weights[labels == label].sum() for label in np.unique(labels)]
    assert np.allclose(totals, len(rows) / len(totals), rtol=1e-5)
    assert all(len(np.unique(weights[labels == label])) == 1 for label in np.unique(labels))


@given(ROWS)
def test_sources_of_a_label_weigh_the_same_in_total(rows: list[tuple[int, str]]) -> None:
    labels, sources = map(np.array, zip(*rows, strict=True))
    weights = balanced_weights(labels, sources, Balance.SOURCE)
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    for label in np.unique(labels):
        of_label = labels == label
        totals = [weights[of_label & (sources == one)].sum() for one in set(sources[of_label])]
        assert np.allclose(totals, totals[0], rtol=1e-5)


def test_root_lies_between_the_size_of_a_source_and_none() -> None:
    labels, sources = [1] * 100 + [0] * 5, ["large"] * 64 + ["small"] * 36 + ["photographs"] * 5
    totals = {
        balance: balanced_weights(labels, sources, balance)[:64].sum()
        / balanced_weights(labels, sources, balance)[64:100].sum()
        for balance in Balance
    }
    assert totals[Balance.LABEL] == pytest.approx(64 / 36, rel=1e-4)
    assert totals[Balance.ROOT] == pytest.approx(8 / 6, rel=1e-4)
    assert totals[Balance.SOURCE] == pytest.approx(1, rel=1e-4)
