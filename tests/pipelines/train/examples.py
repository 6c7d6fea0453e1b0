"""Labelled rows without files, and a training that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.storage.configuration import Storage
from pipelines.train.configuration import TrainConfiguration
from pipelines.train.rows import LabelledRows
from tests.item.heads.examples import DIFFERENCES, FEATURE_SET


def labelled_rows(rows: list[tuple[int, str, int]]) -> LabelledRows:
    """Rows by label, generator and group, without files."""
    labels, generators, groups = zip(*rows, strict=True)
    return LabelledRows(
        fragments=(),
        fragment=np.zeros(len(rows), np.int64),
        place=np.arange(len(rows)),
        uris=np.arange(len(rows)).astype(str).astype(object),
        labels=np.array(labels, np.int8),
        generators=np.array([g if y else None for y, g in zip(labels, generators, strict=True)]),
        sources=np.full(len(rows), None),
        groups=np.unique(groups, return_inverse=True)[1],
        feature_set_id=FEATURE_SET,
        dimensions=8,
        layers=3,
        storage=Storage(),
    )


def three_generators(of_c: int = 20) -> LabelledRows:
    rows = [(1, "a", n) for n in range(100)] + [(1, "b", 200 + n) for n in range(100)]
    rows += [(1, "c", 400 + n) for n in range(of_c)] + [(0, "", 600 + n) for n in range(200)]
    return labelled_rows(rows)


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


def configured(features: str, output: Path, **changes: Any) -> TrainConfiguration:
    head = {**SMALL["head"], **changes.pop("head", {})}
    values = {**SMALL, "features": [features], "output": str(output), **changes, "head": head}
    return TrainConfiguration.model_validate(values)
