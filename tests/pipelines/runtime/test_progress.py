"""What a person sees while a run works."""

import time

import pytest

from pipelines.runtime import progress
from pipelines.runtime.progress import Counts, Progress, Tally, _duration


def after_ten_seconds(total, rows, errors=None):
    """A progress whose workers were ready at once and have counted `rows`."""
    found = Progress(None, total)
    found.counts = Counts(rows, errors or {}, ready=found.started, last=found.started + 10)
    return found


def test_the_sentence_says_speed_and_time_left():
    sentence = after_ten_seconds(total=2000, rows=500).sentence()
    assert sentence == "500 of 2,000 images · 50.0 images/s · 0:30 left · rejected: none"


def test_an_unknown_total_is_left_out():
    assert after_ten_seconds(None, 20).sentence() == "20 images · 2.0 images/s · rejected: none"


def test_nothing_done_promises_no_end():
    assert "left" not in after_ten_seconds(total=10, rows=0).sentence()


def test_start_up_counts_apart():
    found = Progress(None, 100)
    found.counts = Counts(50, {}, ready=found.started + 20, last=found.started + 25)
    assert found.start_up_seconds == pytest.approx(20)
    assert found.images_per_second == pytest.approx(10)


def test_errors_are_listed_by_code():
    sentence = after_ten_seconds(10, 5, {"truncated": 2, "corrupt": 1}).sentence()
    assert sentence.endswith("rejected: 1 corrupt, 2 truncated")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")],
)
def test_durations(seconds, text):
    assert _duration(seconds) == text


@pytest.mark.usefixtures("ray_cluster")
def test_a_tally_adds_up_and_its_lines_reach_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOOKS", 0.02)
    tally = Tally.remote()
    tally.add.remote(3, {"corrupt": 1})
    tally.add.remote(4, {"corrupt": 1, "truncated": 1})
    with Progress(tally, total=10) as progress_:
        time.sleep(0.5)
    assert progress_.rows == 7
    assert progress_.counts.errors == {"corrupt": 2, "truncated": 1}
    said = capsys.readouterr()
    assert "7 of 10 images" in said.err
    assert "rejected: 2 corrupt, 1 truncated" in said.err
    assert said.out == ""
