from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tables.row_keys import RowChoice, RowKeys


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=3)), max_size=30))
def test_row_keys_hold_what_was_put_in(pairs) -> None:
    half = len(pairs) // 2
    parts = [
        RowKeys.of(
            pa.table(
                {
                    "uri": pa.array([uri for _, uri in part], pa.string()),
                    "occurrence": pa.array([count for count, _ in part], pa.int32()),
                }
            ),
            date="2026-01-01",
        )
        for part in (pairs[:half], pairs[half:])
    ]
    union = parts[0].union(parts[1])
    assert len(union) == len(set(pairs))
    uris, counts = [uri for _, uri in pairs], [count for count, _ in pairs]
    assert union.contains(["2026-01-01"] * len(pairs), uris, counts).all()
    assert not union.contains(["2026-01-02"] * len(pairs), uris, counts).any()


def test_a_choice_leaves_out_finished_rows_and_those_that_are_not_wanted() -> None:
    def keys(*uris: str) -> RowKeys:
        rows = {"uri": list(uris), "occurrence": [0] * len(uris)}
        return RowKeys.of(pa.table(rows), date="2026-01-31")

    asked = (["2026-01-31"] * 3, ["a", "b", "c"], [0] * 3)
    assert RowChoice().takes_all and not RowChoice().leaves_out(*asked).any()
    assert RowChoice(keys("a")).leaves_out(*asked).tolist() == [True, False, False]
    only = RowChoice(wanted=keys("a", "b"))
    assert not only.takes_all and only.leaves_out(*asked).tolist() == [False, False, True]
    both = RowChoice(keys("a"), wanted=keys("a", "b"))
    assert both.leaves_out(*asked).tolist() == [True, False, True]
    assert RowChoice(wanted=RowKeys()).leaves_out(*asked).all()
