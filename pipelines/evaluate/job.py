"""An evaluation: protocols, baselines, controls and ablations, with intervals, as tables.

Every (trial, method) pair is a Ray task of its own. What the tables hold, and how the results
page reads them, is in :mod:`pipelines.results.tables`.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import psutil
import ray

from item.statistics.metrics import cluster_weights
from item.version import __version__
from pipelines.evaluate.measure import Outcome, measure, topic_weights
from pipelines.evaluate.plan import EvaluationPlan
from pipelines.evaluate.protocols import SENTENCES
from pipelines.evaluate.tabulate import tabulate
from pipelines.runtime.start import start_ray
from pipelines.storage.access import filesystem
from pipelines.storage.atomic import write_atomically
from pipelines.storage.urls import join


def run_evaluation(
    plan: EvaluationPlan, progress: Callable[[int, int, float], None]
) -> dict[str, pd.DataFrame]:
    """Train, test, and write the tables; returns them by name.

    Parameters
    ----------
    progress : called with the trainings done, their total, and the seconds so far
    """
    configuration, rows = plan.configuration, plan.rows
    started = time.monotonic()
    weights = cluster_weights(
        rows.labels.astype(np.int64), rows.groups, configuration.resamples, seed=0
    )
    start_ray(configuration.object_store_gb)
    shared_weights = ray.put(weights)
    topics = ray.put(topic_weights(plan.arrays[None], rows, plan.trials))
    arrays = {variant: ray.put(table) for variant, table in plan.arrays.items()}
    shared_rows, head = ray.put(rows), ray.put(plan.head)
    task = ray.remote(num_cpus=1)(measure)
    pending = [
        task.remote(
            arrays[method.variant],
            shared_rows,
            shared_weights,
            topics,
            trial,
            method,
            configuration.operating_points,
            head,
        )
        for trial, method in plan.tasks()
    ]
    outcomes: list[Outcome] = []
    total = len(pending)
    while pending:
        done, pending = ray.wait(pending)
        outcomes += ray.get(done)
        progress(len(outcomes), total, time.monotonic() - started)
    tables = tabulate(outcomes, plan.methods, plan.methods[0].name)
    _write(plan, tables)
    return tables


def _write(plan: EvaluationPlan, tables: Mapping[str, pd.DataFrame]) -> None:
    configuration = plan.configuration
    fs, root = filesystem(configuration.output, configuration.storage)
    for name, table in tables.items():
        write_atomically(fs, join(root, f"{name}.parquet"), table.to_parquet(index=False))
    text = json.dumps(_description(plan), indent=2, ensure_ascii=False) + "\n"
    write_atomically(fs, join(root, "evaluation.json"), text.encode())


def _description(plan: EvaluationPlan) -> dict[str, Any]:
    """``evaluation.json``: what was measured on what."""
    configuration, rows = plan.configuration, plan.rows
    protocols = dict.fromkeys(trial.protocol for trial in plan.trials)
    memory = round(psutil.virtual_memory().total / 2**30)
    return {
        "command": shlex.join(["python", *sys.argv]),
        "machine": f"{os.cpu_count()} {platform.machine()} cores, {memory} GiB",
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": __version__,
        "feature_set_id": rows.feature_set_id,
        "seeds": configuration.seeds if plan.head is None else 1,
        "resamples": configuration.resamples,
        "data": [origin | {"source": origin["source"] or "unknown"} for origin in rows.describe()],
        "protocols": [{"name": name, "sentence": SENTENCES[name]} for name in protocols],
        "methods": [
            {"name": method.name, "kind": str(method.purpose), "sentence": method.sentence}
            for method in plan.methods
        ],
        "notes": list(plan.notes),
        "shipped": plan.methods[0].name,
    }
