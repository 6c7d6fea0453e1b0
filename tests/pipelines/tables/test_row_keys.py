from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tables.row_keys import RowChoice, RowKeys, file_states, identities, states

NIGHT = "2026-01-31"
ROWS = st.lists(
    st.tuples(st.text(max_size=3), st.integers(0, 3), st.sampled_from(["1-a", "2-b"])), max_size=30
)


@given(ROWS)
def test_row_keys_hold_what_was_put_in(rows) -> None:
    half = len(rows) // 2
    parts = [
        RowKeys(states([NIGHT] * len(part), *(zip(*part, strict=True) if part else ([], [], []))))
        for part in (rows[:half], rows[half:])
    ]
    union = parts[0].union(parts[1])
    assert len(union) == len(set(rows))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    assert union.contains(states([NIGHT] * len(rows), *columns)).all()
    assert not union.contains(states(["2026-01-30"] * len(rows), *columns)).any()


@given(ROWS)
def test_two_rows_have_one_name_only_if_they_are_one(rows) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    nights = [NIGHT] * len(rows)
    names = identities(nights, columns[0], columns[1])
    assert len(np.unique(names)) == len({row[:2] for row in rows})
    versions = states(nights, *columns)
    assert len(np.unique(versions)) == len(set(rows))
    files = file_states(columns[0], columns[2])
    assert len(np.unique(files)) == len({(row[0], row[2]) for row in rows})


def test_a_choice_leaves_out_finished_rows_and_those_that_are_not_wanted() -> None:
    def finished(*uris: str) -> RowKeys:
        return RowKeys(states([NIGHT] * len(uris), uris, [0] * len(uris), ["1"] * len(uris)))

    def wanted(*uris: str) -> RowKeys:
        return RowKeys(identities([NIGHT] * len(uris), uris, [0] * len(uris)))

    asked = ([NIGHT] * 3, ["a", "b", "c"], [0] * 3, ["1"] * 3)
    assert RowChoice().takes_all and not RowChoice().leaves_out(*asked).any()
    assert RowChoice(finished("a")).leaves_out(*asked).tolist() == [True, False, False]
    only = RowChoice(wanted=wanted("a", "b"))
    assert not only.takes_all and only.leaves_out(*asked).tolist() == [False, False, True]
    both = RowChoice(finished("a"), wanted=wanted("a", "b"))
    assert both.leaves_out(*asked).tolist() == [True, False, True]
    assert RowChoice(wanted=RowKeys()).leaves_out(*asked).all()
    changed = (*asked[:3], ["1", "2", "2"])
    assert RowChoice(finished("a", "b")).leaves_out(*changed).tolist() == [True, False, False]
