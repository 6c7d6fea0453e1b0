"""Training in Ray: in stages, on several workers, and not lost with one of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.train
import torch

from item.heads.head import Head
from pipelines.train import workers
from pipelines.train.job import train_head
from pipelines.train.plan import plan_training
from tests.item.heads.examples import features_table
from tests.pipelines.train.examples import configured

pytestmark = pytest.mark.timeout(240)


def metrics(output: Path) -> np.ndarray:
    of_parts = Head.load(output).description.metrics
    return np.array([list(of_parts[part].values()) for part in ("calibration", "validation")])


def epochs(manifest: dict[str, Any]) -> list[tuple[str, int]]:
    return [(epoch["stage"], epoch["number"]) for epoch in manifest["epochs"]]


@pytest.fixture(scope="module")
def first(ray_cluster: None, features: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that two workers trained."""
    output = tmp_path_factory.mktemp("first") / "head"
    train_head(plan_training(configured(features, output, workers=2)))
    return output


def test_two_workers_learn_together_in_two_stages(first: Path) -> None:
    manifest = json.loads((first / "training.json").read_text())
    assert epochs(manifest) == [(stage, n) for stage in ("global", "local") for n in (1, 2, 3)]
    assert manifest["starts"] == 1
    assert manifest["workers"] == 2
    assert manifest["metrics"]["validation"]["auroc"] > 0.75
    assert not (first / "_training").exists()


def killed_once(marker: Path) -> Callable[[dict[str, Any]], None]:
    """A training loop one of whose workers is killed amid its third epoch, the first time."""

    def loop(config: dict[str, Any]) -> None:
        inner = workers.batches
        epochs_begun = 0

        def batches(size: int, seed: int, row_counts: list[int]) -> Iterator[Any]:
            nonlocal epochs_begun
            epochs_begun += 1
            rank = ray.train.get_context().get_world_rank()
            for number, batch in enumerate(inner(size, seed, row_counts)):
                if (rank, epochs_begun, number) == (1, 3, 1) and not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

        workers.batches = batches
        workers.hierarchy_loop(config)

    return loop


def test_killed_worker_is_replaced_and_the_same_seed_ends_in_the_same_metrics(
    features: str, tmp_path: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "killed"
    monkeypatch.setattr(workers, "hierarchy_loop", killed_once(marker))
    manifest = train_head(plan_training(configured(features, tmp_path / "head", workers=2)))
    assert marker.exists()
    assert manifest["starts"] == 2
    assert epochs(manifest) == epochs(json.loads((first / "training.json").read_text()))
    assert np.allclose(metrics(first), metrics(tmp_path / "head"), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("ray_cluster")
def test_trees_grow_on_two_workers(features: str, tmp_path: Path) -> None:
    head = {"kind": "lightgbm", "boosting": {"rounds": 60, "patience": 60}}
    manifest = train_head(
        plan_training(configured(features, tmp_path / "head", workers=2, head=head))
    )
    assert manifest["metrics"]["validation"]["auroc"] > 0.75
    scores = Head.load(tmp_path / "head").score(features_table(20, seed=7))
    assert np.isfinite(scores.global_logit).all()


def test_checkpoint_holds_tensors_and_plain_values_alone(tmp_path: Path) -> None:
    local = np.arange(8) >= 4
    state = workers.Training(configured("x", tmp_path).head, local).state()
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded["stage"] == "global"
