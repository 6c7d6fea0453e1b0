"""A head trained in this process: whole, bounded in memory, on disk or in S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from item.errors import UsageError
from item.heads.head import Head
from pipelines.score.heads import load_head
from pipelines.storage.configuration import Storage
from pipelines.train import job
from pipelines.train.configuration import TrainConfiguration
from pipelines.train.job import train_head
from pipelines.train.plan import plan_training
from pipelines.train.rows import LabelledRows
from tests.item.heads.examples import FEATURE_SET, features_table
from tests.pipelines.train.examples import configured
from tests.support.feature_tables import write_features


def test_logistic_head_is_trained_and_explains_itself(features: str, tmp_path: Path) -> None:
    configuration = configured(features, tmp_path / "head", head={"kind": "logistic"})
    manifest = train_head(plan_training(configuration))
    head = load_head(str(tmp_path / "head"), Storage())
    about = head.description
    assert about.feature_set_id == FEATURE_SET
    assert about.metrics["validation"]["auroc"] > 0.75
    assert sum(source.rows for source in about.training_sources) == len(
        plan_training(configured(features, tmp_path / "other")).split.training
    )
    assert json.loads((tmp_path / "head" / "training.json").read_text()) == manifest
    written = yaml.safe_load((tmp_path / "head" / "training.yaml").read_text())
    assert TrainConfiguration.model_validate(written) == configuration


def test_rows_in_memory_are_bounded(
    features: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = configured(features, tmp_path, head={"kind": "logistic"})
    plan = plan_training(bounded.model_copy(update={"rows_in_memory": 110}))
    lengths: list[int] = []
    real = LabelledRows.arrays
    monkeypatch.setattr(
        LabelledRows,
        "arrays",
        lambda self, rows: (lengths.append(len(rows)), real(self, rows))[1],
    )
    train_head(plan)
    assert max(lengths) == 110


def test_failed_writing_leaves_no_head(
    features: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = tmp_path / "head"
    train_head(plan_training(configured(features, head, head={"kind": "logistic"})))
    write_atomically = job.write_atomically

    def failing(fs: Any, path: str, content: bytes) -> None:
        if path.endswith(".safetensors"):
            raise OSError("disk full")
        write_atomically(fs, path, content)

    monkeypatch.setattr(job, "write_atomically", failing)
    second = configured(features, head, head={"kind": "logistic", "seed": 1}, overwrite=True)
    with pytest.raises(OSError, match="disk full"):
        train_head(plan_training(second))
    with pytest.raises(UsageError, match="There is no head"):
        Head.load(head)


def test_head_in_s3_is_written_and_read(features: str, bucket: str) -> None:
    url = f"s3://{bucket}/heads/first"
    configuration = configured(features, Path("x"), head={"kind": "logistic"})
    train_head(plan_training(configuration.model_copy(update={"output": url})))
    assert load_head(url, Storage()).description.feature_set_id == FEATURE_SET
    with pytest.raises(UsageError, match="There is no head at s3://"):
        load_head(f"s3://{bucket}/heads/second", Storage())


def test_families_of_generators_are_learned_under_the_names_that_are_given(
    tmp_path: Path,
) -> None:
    table = features_table(900, generator=[f"model-{row % 6 // 2}" for row in range(900)])
    features = write_features(tmp_path / "features", table)
    names = {"model-0": "First", "model-1": "Second"}
    head = {"kind": "logistic", "groups": ["global_misalignment", "layers"]}
    configuration = configured(features, tmp_path / "head", head=head, families=names)
    manifest = train_head(plan_training(configuration))
    known = load_head(str(tmp_path / "head"), Storage()).description.attribution
    assert known is not None and set(known.families) <= {"First", "Second", "model-2"}
    assert len(known.families) >= 2
    assert manifest["attribution"]["families"] == list(known.families)


@pytest.mark.parametrize("kind", ["logistic", "kernel"])
def test_head_on_layers_is_trained_and_scores(kind: str, features: str, tmp_path: Path) -> None:
    head = {"kind": kind, "groups": ["layers", "global_misalignment"]}
    train_head(plan_training(configured(features, tmp_path / "head", head=head)))
    scores = load_head(str(tmp_path / "head"), Storage()).score(features_table(50, seed=7))
    assert np.isfinite(scores.score).all()
