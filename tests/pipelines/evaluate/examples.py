"""An evaluation that takes seconds: two sources of photographs, three generators."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from item.statistics.calibration import OperatingPoints
from item.statistics.metrics import cluster_weights
from pipelines.evaluate.configuration import EvaluateConfiguration
from pipelines.evaluate.measure import Outcome, measure, topic_weights
from pipelines.evaluate.plan import EvaluationPlan
from pipelines.evaluate.protocols import ONE_TO_ALL
from tests.item.heads.examples import features_table

COUNT = 900
LOOSE = OperatingPoints(real_called_generated=0.05, generated_called_real=0.1)


def table(seed: int = 0, **columns: object):
    """Two real sources and three generators."""
    generated = np.arange(COUNT) % 2 == 1
    names = ["a", "b", "c"]
    own = {
        "generator": [
            names[row // 2 % 3] if is_generated else None
            for row, is_generated in enumerate(generated)
        ],
        "source": [
            "prompts" if is_generated else ("x", "x", "y")[row % 3]
            for row, is_generated in enumerate(generated)
        ],
    }
    return features_table(COUNT, seed, signal=3.0, **(own | columns))


def configuration(features: str, output: Path, **changes: object) -> EvaluateConfiguration:
    values = {
        "features": (features,),
        "output": str(output),
        "seeds": 2,
        "resamples": 50,
        "protocols": (ONE_TO_ALL,),
        "operating_points": LOOSE,
        "head": {"kind": "logistic", "groups": ["global_residual", "local_residual"]},
    }
    return EvaluateConfiguration(**values | changes)


def weights_of(plan: EvaluationPlan) -> np.ndarray:
    labels = plan.rows.labels.astype(np.int64)
    return cluster_weights(labels, plan.rows.groups, plan.configuration.resamples)


def outcomes_of(plan: EvaluationPlan, *names: str) -> list[Outcome]:
    weights = weights_of(plan)
    topics = topic_weights(plan.arrays[None], plan.rows, plan.trials)
    return [
        measure(plan.arrays[None], plan.rows, weights, topics, trial, method, LOOSE)
        for method in plan.methods
        for trial in plan.trials
        if method.name in names
    ]
