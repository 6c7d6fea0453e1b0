from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tables.row_keys import RowKeys


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
