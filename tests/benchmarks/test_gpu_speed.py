"""The GPU benchmark with tiny models on the CPU: what can be wrong before a GPU is there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import gpu_speed
from benchmarks.gpu_speed import compared, photographs, public_profile, write_dump
from item.captioning import load_captioner
from item.images.decode import Decoding, decode
from item.models.captioners import TransformersCaptioner
from item.profiles import Profile

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return public_profile(tmp_path_factory.mktemp("models"), "tiny")


@pytest.mark.parametrize("measure", [gpu_speed.clip, gpu_speed.blip, gpu_speed.owl])
def test_every_model_is_measured_three_ways(profile, measure):
    pictures = [decode(one, Decoding()).pixels for one in photographs(3)]
    found = measure(profile, pictures, seconds=0.05)
    assert min(found["bare"], found["adapter"], found["loop"]) > 0
    assert found["adapter / bare"] == pytest.approx(found["adapter"] / found["bare"], abs=2e-3)


def test_captions_have_the_length_that_is_measured(profile):
    captioner = load_captioner(profile.captioner)
    assert isinstance(captioner, TransformersCaptioner)
    pictures = [np.full((40, 60, 3), 9 * n, np.uint8) for n in range(3)]
    assert {len(one.split()) for one in captioner.caption(pictures)} == {gpu_speed.TOKENS}


def test_the_dumps_files_are_pictures_and_no_two_are_equal(tmp_path: Path):
    write_dump(tmp_path / "dump", 40)
    files = pq.read_table(tmp_path / "dump")["bytes"].to_pylist()
    assert len(set(files)) == 40
    assert decode(files[39], Decoding(max_side=640)).pixels.shape == (480, 640, 3)


def test_a_bare_model_gets_the_pictures_that_are_counted(monkeypatch):
    monkeypatch.setattr(gpu_speed, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    seen = Counter()
    gpu_speed._fastest(lambda some: seen.update([len(some)]), torch.zeros(100, 1), seconds=0.01)
    assert set(seen) == {16, 32, 64}


def test_figures_are_compared_with_one_device_and_the_loop():
    speeds = {"clip": 600, "blip": 50, "owl": 200}
    names = {name: {"bare": bare, "loop": 1.0} for name, bare in speeds.items()}
    found = compared(names | {"pipeline": {"images_per_second": 25.0}})
    assert found["pipeline / loop"]["value"] == 25.0 * 8
    assert found["pipeline / all bare on one device"] == {"value": 0.875, "aim": 0.9}
    assert compared({"embed": {"images_per_second": 624.0}}) == {
        "embeddings alone": {"value": 624.0, "aim": 1000.0},
        "embeddings alone / published": {"value": 2.0, "aim": None},
    }
    assert compared(names) == {}


@pytest.mark.parametrize("wrong", [("--parts", "clip,sam"), ("--size", "huge")])
def test_a_wrong_name_is_refused(wrong):
    app = typer.Typer()
    app.command()(gpu_speed.main)
    done = CliRunner().invoke(app, list(wrong))
    assert done.exit_code == 2
    assert "Traceback" not in done.output
