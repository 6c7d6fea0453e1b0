"""A training job: checked first, the same from the same seed, and not lost with a worker."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from item.errors import UsageError
from item.heads.head import Head
from pipelines.score.heads import load_head
from pipelines.storage.access import Storage
from pipelines.train import job as training
from pipelines.train import rows as labelled_rows
from pipelines.train import workers as train_workers
from pipelines.train.configuration import TrainConfiguration, resolve
from pipelines.train.job import train_head
from pipelines.train.plan import plan_training
from tests.item.heads.examples import DIFFERENCES, FEATURE_SET, features_table
from tests.pipelines.train.test_rows import write

SMALL: dict[str, Any] = {
    "head": {
        "kind": "mlp",
        "groups": [str(group) for group in DIFFERENCES],
        "whitened": False,
        "hidden": [16],
        "epochs": 3,
        "batch_size": 64,
        "learning_rate": 0.01,
    },
    "operating_points": {"real_called_generated": 0.1, "generated_called_real": 0.1},
    "unfamiliar_share": 0.05,
    "cpus_per_worker": 0.25,
    "object_store_gb": 0.1,
}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("night"), features_table(500), row_group_size=100)


def configured(features: str, output: Path, **changes: Any) -> TrainConfiguration:
    head = {**SMALL["head"], **changes.pop("head", {})}
    values = {**SMALL, "features": [features], "output": str(output), **changes, "head": head}
    return TrainConfiguration.model_validate(values)


def metrics(output: Path) -> np.ndarray:
    found = Head.load(output).description.metrics
    return np.array([list(found[part].values()) for part in ("calibration", "validation")])


def epochs(manifest: dict[str, Any]) -> list[tuple[str, int]]:
    return [(epoch["stage"], epoch["number"]) for epoch in manifest["epochs"]]


# Before training


def holds_a_head(folder: Path) -> None:
    (folder / "head").mkdir()
    (folder / "head" / "head.json").touch()


def holds_other_files(folder: Path) -> None:
    (folder / "head").mkdir()
    (folder / "head" / "thesis.tex").touch()


def is_a_file(folder: Path) -> None:
    (folder / "head").touch()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (holds_a_head, "holds a head already: choose another output, or replace it with --overw"),
        (holds_other_files, "holds other files already"),
        (is_a_file, "cannot be a folder"),
    ],
)
def test_output_that_exists_is_refused(
    features: str, tmp_path: Path, make: Callable[[Path], None], sentence: str
) -> None:
    make(tmp_path)
    with pytest.raises(UsageError, match=sentence):
        plan_training(configured(features, tmp_path / "head"))


def test_too_few_rows_for_the_operating_points_are_refused(features: str, tmp_path: Path) -> None:
    points = {"real_called_generated": 0.001}
    with pytest.raises(UsageError, match="needs at least 999 real pictures to calibrate on"):
        plan_training(configured(features, tmp_path, operating_points=points))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"head.kind": "forest"}, "'head.kind'"),
        ({"head.epoch": 3}, "did you mean 'epochs'"),
        ({"metadata": "prompts.parquet"}, "metadata needs group_column"),
        ({"features": []}, "'features'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        resolve(None, {"features": ["x"], "output": "y"}, settings)


def test_settings_come_after_options_and_options_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "output": "file", "workers": 3}))
    options = {"features": ["x"], "output": "option", "head.seed": 1, "head.kind": None}
    found = resolve(str(file), options, {"head.seed": 2})
    assert (found.output, found.workers, found.head.seed) == ("option", 3, 2)
    assert TrainConfiguration.model_validate(yaml.safe_load(found.as_yaml())) == found


# In this process


def test_logistic_head_is_trained_and_explains_itself(features: str, tmp_path: Path) -> None:
    configuration = configured(features, tmp_path / "head", head={"kind": "logistic"})
    manifest = train_head(plan_training(configuration))
    head = load_head(str(tmp_path / "head"), Storage())
    about = head.description
    assert about.feature_set_id == FEATURE_SET
    assert about.metrics["validation"]["auroc"] > 0.75
    assert sum(one.rows for one in about.training_sources) == len(
        plan_training(configured(features, tmp_path / "other")).split.training
    )
    assert json.loads((tmp_path / "head" / "training.json").read_text()) == manifest
    written = yaml.safe_load((tmp_path / "head" / "training.yaml").read_text())
    assert TrainConfiguration.model_validate(written) == configuration


def test_rows_in_memory_are_bounded(
    features: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = configured(features, tmp_path, head={"kind": "logistic"})
    job = plan_training(bounded.model_copy(update={"rows_in_memory": 110}))
    asked: list[int] = []
    real = labelled_rows.LabelledRows.arrays
    monkeypatch.setattr(
        labelled_rows.LabelledRows,
        "arrays",
        lambda self, rows: (asked.append(len(rows)), real(self, rows))[1],
    )
    train_head(job)
    assert max(asked) == 110


def test_failed_writing_leaves_no_head(
    features: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = tmp_path / "head"
    train_head(plan_training(configured(features, head, head={"kind": "logistic"})))
    write_atomically = training.write_atomically

    def failing(fs: Any, path: str, content: bytes) -> None:
        if path.endswith(".safetensors"):
            raise OSError("disk full")
        write_atomically(fs, path, content)

    monkeypatch.setattr(training, "write_atomically", failing)
    again = configured(features, head, head={"kind": "logistic", "seed": 1}, overwrite=True)
    with pytest.raises(OSError, match="disk full"):
        train_head(plan_training(again))
    with pytest.raises(UsageError, match="There is no head"):
        Head.load(head)


def test_head_in_s3_is_written_and_read(features: str, bucket: str) -> None:
    url = f"s3://{bucket}/heads/first"
    configuration = configured(features, Path("x"), head={"kind": "logistic"})
    train_head(plan_training(configuration.model_copy(update={"output": url})))
    assert load_head(url, Storage()).description.feature_set_id == FEATURE_SET
    with pytest.raises(UsageError, match="There is no head at s3://"):
        load_head(f"s3://{bucket}/heads/second", Storage())


# In Ray


@pytest.fixture(scope="module")
def first(features: str, request: pytest.FixtureRequest) -> Path:
    """A head that one worker trained."""
    request.getfixturevalue("ray_cluster")
    tmp_path_factory = request.getfixturevalue("tmp_path_factory")
    output = tmp_path_factory.mktemp("first") / "head"
    train_head(plan_training(configured(features, output)))
    return output


def test_one_worker_learns_in_two_stages(first: Path) -> None:
    manifest = json.loads((first / "training.json").read_text())
    assert epochs(manifest) == [(stage, n) for stage in ("global", "local") for n in (1, 2, 3)]
    assert manifest["starts"] == 1
    assert manifest["metrics"]["validation"]["auroc"] > 0.75
    assert not (first / "_training").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_learn_together(features: str, tmp_path: Path) -> None:
    manifest = train_head(plan_training(configured(features, tmp_path / "head", workers=2)))
    assert manifest["workers"] == 2
    assert manifest["metrics"]["validation"]["auroc"] > 0.75


def killed_once(marker: Path) -> Callable[[dict[str, Any]], None]:
    """A training loop whose worker is killed amid its third epoch, the first time."""

    def loop(config: dict[str, Any]) -> None:
        inner = train_workers.batches

        def batches(size: int, seed: int, seen: list[int]) -> Iterator[Any]:
            for number, batch in enumerate(inner(size, seed, seen)):
                third = len(os.listdir(marker)) == 2
                if number == 2 and third:
                    (marker / "killed").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch
            (marker / str(seed)).touch()

        train_workers.batches = batches
        train_workers.hierarchy_loop(config)

    return loop


def test_killed_worker_is_replaced_and_the_same_seed_ends_in_the_same_metrics(
    features: str, tmp_path: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    marker.mkdir()
    monkeypatch.setattr(train_workers, "hierarchy_loop", killed_once(marker))
    manifest = train_head(plan_training(configured(features, tmp_path / "head")))
    assert (marker / "killed").exists()
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
    state = train_workers.Training(configured("x", tmp_path).head, local).state()
    torch.save(state, tmp_path / "state.pt")
    found = torch.load(tmp_path / "state.pt", weights_only=True)
    assert found["stage"] == "global"
