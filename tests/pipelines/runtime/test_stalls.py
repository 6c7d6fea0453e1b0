"""A run that makes no progress says what it waits for."""

import sys
import time

import pytest

from pipelines.runtime import progress, stalls
from pipelines.runtime.progress import Progress, Tally
from pipelines.runtime.stalls import StageCounts, StallWatch, waiting_for

BUSY = {"CPU": 0.0, "GPU": 0.6}
ALL = {"CPU": 16.0, "GPU": 1.0}


def test_a_run_that_moves_is_never_called_stalled():
    watch = StallWatch(0.0, patience=300)
    for minute in range(60):
        moved = {"decode": StageCounts(minute, minute)}
        assert watch.stalled_seconds(moved, 60.0 * minute) is None


def test_a_run_that_stands_still_is_said_so_every_five_minutes():
    watch = StallWatch(0.0, patience=300)
    still = {"decode": StageCounts(5, 3)}
    said = [watch.stalled_seconds(still, 10.0 * step) for step in range(91)]
    assert [seconds for seconds in said if seconds is not None] == [300.0, 600.0, 900.0]
    assert watch.stalled_seconds({"decode": StageCounts(5, 5)}, 1000.0) is None


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ({}, "no stage has begun"),
        ({"decode": StageCounts(64, 32)}, "decode is at work on 32 images"),
        (
            {"decode": StageCounts(500, 500), "caption": StageCounts(128, 128)},
            "372 images wait for caption",
        ),
        ({"decode": StageCounts(8, 8)}, "what decode has done waits for the next stage"),
        (
            {"decode": StageCounts(99, 90), "caption": StageCounts(32, 0)},
            "decode is at work on 9 images; caption is at work on 32 images; "
            "58 images wait for caption",
        ),
    ],
)
def test_the_stage_and_what_it_waits_for_are_named(stages, reason):
    sentence = waiting_for(stages, BUSY, ALL)
    assert sentence == f"{reason}; Ray has 0 of 16 CPUs, 0.6 of 1 GPUs free"


@pytest.mark.usefixtures("ray_cluster")
def test_a_stalled_run_says_so_on_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setattr(progress, "StallWatch", lambda now: stalls.StallWatch(now, patience=0.2))
    tally = Tally.remote()
    tally.passed.remote("decode", 64, 0)
    told = ""
    with Progress(tally, total=64):
        for _ in range(500):
            told += capsys.readouterr().err
            if "No image has moved on" in told:
                break
            time.sleep(0.02)
    print(told, file=sys.stderr)
    assert "decode is at work on 64 images; Ray has" in told
