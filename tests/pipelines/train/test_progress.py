"""Progress of many trainings, where nobody watches a terminal."""

from __future__ import annotations

import pytest

from pipelines.train.progress import Trainings


def test_a_line_now_and_then_and_always_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    with Trainings() as progress:
        for done, seconds in [(1, 60.0), (2, 61.0), (3, 180.0), (4, 181.0)]:
            progress.show(done, 4, seconds)
    assert capsys.readouterr().err.splitlines() == [
        "1 of 4 trainings · 3 min left",
        "3 of 4 trainings · 1 min left",
        "4 of 4 trainings · 0 min left",
    ]


def test_an_error_leaves_the_progress_and_is_not_hidden() -> None:
    with pytest.raises(KeyError), Trainings() as progress:
        progress.show(1, 2, 1.0)
        raise KeyError
