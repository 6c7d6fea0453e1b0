"""Hours and dollars of a number of images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from typer.testing import CliRunner

from benchmarks.cost import cost, main

NUMBERS = some.floats(0.01, 1e4)


def test_an_hour_at_one_image_a_second_is_3600_images():
    found = cost(3600, images_per_second=1.0, price_per_hour=2.0)
    assert (found.hours, found.dollars, found.images_per_dollar) == (1.0, 2.0, 1800.0)


@given(some.integers(1, 10**9), NUMBERS, NUMBERS, some.integers(1, 64))
def test_more_machines_are_faster_and_cost_the_same(images, speed, price, machines):
    one, many = cost(images, speed, price), cost(images, speed, price, machines)
    assert many.dollars == pytest.approx(one.dollars)
    assert many.hours == pytest.approx(one.hours / machines)
    assert one.images_per_dollar == pytest.approx(3600 * speed / price)


@given(some.integers(1, 10**9), NUMBERS, NUMBERS, some.integers(2, 64), some.floats(1, 600))
def test_start_up_is_paid_on_every_machine(images, speed, price, machines, start_up):
    without = cost(images, speed, price, machines)
    found = cost(images, speed, price, machines, start_up)
    paid = machines * price * start_up / 3600
    assert found.dollars - without.dollars == pytest.approx(
        paid, rel=1e-6, abs=1e-6 * found.dollars
    )


@pytest.mark.parametrize(
    "wrong", [(0, 1, 1, 1, 0), (1, 0, 1, 1, 0), (1, 1, -1, 1, 0), (1, 1, 1, 0, 0)]
)
def test_what_is_not_positive_is_refused(wrong):
    with pytest.raises(ValueError, match="positive"):
        cost(*wrong)


def run(*arguments: str) -> tuple[int, str]:
    import typer

    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_a_manifest_gives_speed_and_start_up(tmp_path: Path):
    told = {"images_per_second": 10.0, "start_up_seconds": 36.0}
    (tmp_path / "night.json").write_text(json.dumps(told))
    code, said = run(
        "--manifest", str(tmp_path / "night.json"), "--price", "1", "--images", "36000"
    )
    assert code == 0
    assert "1.01 hours, 1.01 dollars" in said


@pytest.mark.parametrize("speed", [(), ("--images-per-second", "0")])
def test_a_speed_is_needed(speed):
    code, said = run("--price", "1", *speed)
    assert code == 2
    assert "Traceback" not in said
