"""What a person sees while a run works."""

import time

import pytest

from pipelines import progress
from pipelines.progress import Progress, Tally, _duration


def halfway(total, before, rows, errors=None):
    """A progress that has counted `rows` in ten seconds."""
    found = Progress(None, total, before)
    found.rows, found.errors = rows, errors or {}
    found.started = time.monotonic() - 10
    return found


def test_the_sentence_counts_earlier_tries_but_not_towards_the_speed():
    sentence = halfway(total=2000, before=1000, rows=500).sentence()
    assert sentence == "1,500 of 2,000 images · 50.0 images/s · 0:10 left · rejected: none"


def test_an_unknown_total_is_left_out():
    assert halfway(None, 0, 20).sentence() == "20 images · 2.0 images/s · rejected: none"


def test_nothing_done_promises_no_end():
    assert "left" not in halfway(total=10, before=0, rows=0).sentence()


def test_errors_are_listed_by_code():
    sentence = halfway(10, 0, 5, {"truncated": 2, "corrupt": 1}).sentence()
    assert sentence.endswith("rejected: 1 corrupt, 2 truncated")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")],
)
def test_durations(seconds, text):
    assert _duration(seconds) == text


@pytest.mark.usefixtures("ray_cluster")
def test_a_tally_adds_up_and_its_lines_reach_standard_error(monkeypatch, capsys):
    import ray

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOOKS", 0.02)
    tally = Tally.remote()
    tally.add.remote(3, {"corrupt": 1})
    tally.add.remote(4, {"corrupt": 1, "truncated": 1})
    assert ray.get(tally.read.remote()) == (7, {"corrupt": 2, "truncated": 1})
    with Progress(tally, total=10, before=1):
        time.sleep(0.5)
    said = capsys.readouterr()
    assert "8 of 10 images" in said.err
    assert "rejected: 2 corrupt, 1 truncated" in said.err
    assert said.out == ""
