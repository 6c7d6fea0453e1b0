from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.input import rows as input_rows
from tests.support.dumps import make, planned, tables_of


def test_big_tables_are_cut_and_rows_of_a_piece_stay_in_order(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(input_rows, "TABLE_BYTES", 2500)
    make(
        tmp_path,
        {f"{number}.jpg": np.full(1000, number, np.uint8).tobytes() for number in range(9)},
    )
    tables = tables_of(planned(tmp_path), None, 1 << 20)
    assert [len(table) for table in tables] == [2, 2, 2, 2, 1]
    assert [row["bytes"][0] for table in tables for row in table.to_pylist()] == list(range(9))
