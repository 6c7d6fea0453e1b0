"""A robustness report: pictures changed as the web changes them, featurized and scored again.

::

    OUTPUT/sample/part-0.parquet        the images drawn, where a sample was asked for
    OUTPUT/features/<perturbation>/     a features table each; ``none`` has the images as they are
    OUTPUT/robustness.parquet           one row for each perturbation and head
    OUTPUT/robustness.json, .yaml       what was measured, and the resolved configuration

A row of a perturbed table is compared with the row of the same URI in the clean one.
"""

from __future__ import annotations

import io
import json
import posixpath
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from item.heads.head import Head
from item.images.perturb import NONE
from pipelines.evaluate.robustness.configuration import (
    SAMPLE,
    RobustnessConfiguration,
    head_name,
)
from pipelines.evaluate.robustness.labels import check_labels
from pipelines.evaluate.robustness.sampling import image_clusters, seen_in_training
from pipelines.evaluate.robustness.scoring import compare, score_table
from pipelines.featurize.plan import plan_featurizing
from pipelines.featurize.run import run_featurizing
from pipelines.input.sample import drawn_rows, write_sample, written_sample
from pipelines.score.heads import load_head
from pipelines.storage.access import check_readable, check_writable, filesystem
from pipelines.storage.atomic import write_atomically
from pipelines.storage.urls import join, redact
from pipelines.tables.features import FeatureTable
from pipelines.tables.provenance import versions
from pipelines.train.labels import Labels
from pipelines.train.rows import counted_origins

REPORT = "robustness"

SCHEMA = pa.schema(
    [
        ("perturbation", pa.string()),
        ("method", pa.string()),
        *((name, pa.float64()) for name in ("auroc", "low", "high")),
        *((name, pa.float64()) for name in ("flip_rate", "flip_low", "flip_high")),
        ("uncertain_share", pa.float64()),
        ("rows", pa.int64()),
    ]
)
"""``robustness.parquet``; a method is the name of a head's folder."""


@dataclass(frozen=True, eq=False)
class RobustnessPlan:
    """A checked report: the images, the heads and what is done to the images."""

    configuration: RobustnessConfiguration
    heads: dict[str, Head]
    """By the name of their folder."""
    sample: pd.DataFrame | None
    """Label, generator and source of the images drawn; None where all of the input is used."""
    sample_is_written: bool
    labels: Labels | None = None
    """Of the images, where they stand beside the input."""
    notes: tuple[str, ...] = ()
    """What was noticed of the input where all of it is used."""

    @property
    def perturbations(self) -> tuple[str, ...]:
        """In the order of the report, the images as they are first."""
        return (NONE, *self.configuration.perturbations)

    def remarks(self) -> list[str]:
        """What its owner should know before the work begins."""
        if self.sample is None:
            return list(self.notes)
        return [*self.notes, *seen_in_training(self.heads, self.sample)]

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        configuration = self.configuration
        return {
            "input": [redact(one) for one in configuration.input],
            "sample": "all of the input" if self.sample is None else counted_origins(self.sample),
            "perturbations": list(self.perturbations),
            "heads": {name: head.head_id for name, head in self.heads.items()},
            "output": redact(configuration.output),
            "remarks": self.remarks(),
        }

    def table(self, perturbation: str) -> FeatureTable:
        """The features table of a perturbation."""
        output = self.configuration.of_table(perturbation).output
        return FeatureTable(output, self.configuration.storage)


def plan_robustness(configuration: RobustnessConfiguration) -> RobustnessPlan:
    """Check everything that can be checked before any work, and draw the sample.

    Raises
    ------
    UsageError
        A head is missing or of another feature set, the sample cannot be drawn or another
        one is there, or a table cannot be made or continued.
    """
    configuration = configuration.with_pinned_models()
    storage = configuration.storage
    feature_set_id = configuration.profile.feature_set_id()
    heads = {head_name(url): load_head(url, storage) for url in configuration.heads}
    for head in heads.values():
        head.check_feature_set(feature_set_id)
    check_writable(configuration.output, storage)
    if configuration.metadata is not None:
        check_readable(configuration.metadata, storage)
    sampling = configuration.sampling()
    folder = join(configuration.output, SAMPLE)
    written = written_sample(sampling, folder, storage) if sampling else None
    sample = drawn_rows(sampling, storage) if sampling and written is None else written
    plan = RobustnessPlan(configuration, heads, sample, sample_is_written=written is not None)
    for name in plan.perturbations:
        plan.table(name).check_feature_set(feature_set_id, name)
    if sample is None:
        labels = Labels.read(configuration.labels, storage) if configuration.labels else None
        featurizing = plan_featurizing(configuration.of_table(NONE))
        check_labels(featurizing.plan, configuration, labels)
        return replace(plan, labels=labels, notes=tuple(featurizing.remarks()))
    image_clusters(sample["uri"], configuration)  # refuses metadata that cannot be joined
    return plan


def run_robustness(plan: RobustnessPlan, command: str = "") -> pd.DataFrame:
    """Make the tables that are not there yet, compare them, and write the report.

    Parameters
    ----------
    plan : what :func:`plan_robustness` returned
    command : what the user typed, for the report

    Returns
    -------
    The rows of ``robustness.parquet``.

    Raises
    ------
    ErrorRateError
        More images of a table are without features than the configuration allows.
    UsageError
        The input has too few labelled images to compare.
    """
    configuration = plan.configuration
    _write(plan, f"{REPORT}.yaml", configuration.as_yaml().encode())
    sampling = configuration.sampling()
    if sampling is not None and plan.sample is not None and not plan.sample_is_written:
        folder = join(configuration.output, SAMPLE)
        write_sample(plan.sample, sampling, folder, configuration.storage)
    clean: dict[str, pd.DataFrame] = {}
    rows = []
    for perturbation in featurize_each(plan):
        table = plan.table(perturbation)
        changed = {name: score_table(table, head, plan.labels) for name, head in plan.heads.items()}
        if plan.labels is not None and not clean:
            print(plan.labels.note(), file=sys.stderr, flush=True)
        clean = clean or {
            name: frame.assign(cluster=image_clusters(frame.index, configuration))
            for name, frame in changed.items()
        }
        for name, frame in changed.items():
            numbers = compare(clean[name], frame, configuration.resamples, configuration.seed)
            rows.append({"perturbation": perturbation, "method": name, **numbers})
    about = _about(plan, next(iter(clean.values())), command)
    _write(
        plan, f"{REPORT}.json", (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()
    )
    report = pa.Table.from_pylist(rows, SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(report, buffer, compression="zstd")
    _write(plan, f"{REPORT}.parquet", buffer.getvalue())
    return report.to_pandas()


def featurize_each(plan: RobustnessPlan) -> Iterator[str]:
    """Make one table after the other, ``none`` first; yields each perturbation when it is there.

    Writes to standard error which of how many it is, and the time left.
    """
    names = plan.perturbations
    left = [name for name in names if not plan.table(name).published()]
    seconds: list[float] = []
    for place, name in enumerate(names, 1):
        words = [f"[{place} of {len(names)}] {name}"]
        if name not in left:
            words.append("done before")
        elif seconds:
            ahead = len(left) - left.index(name)
            words.append(f"{timedelta(seconds=round(ahead * sum(seconds) / len(seconds)))} left")
        print(" · ".join(words), file=sys.stderr, flush=True)
        started = time.monotonic()
        run_featurizing(plan_featurizing(plan.configuration.of_table(name)))
        if name in left:
            seconds.append(time.monotonic() - started)
        yield name


def _about(plan: RobustnessPlan, clean: pd.DataFrame, command: str) -> dict[str, Any]:
    """``robustness.json``."""
    configuration, sampling = plan.configuration, plan.configuration.sampling()
    sample = None
    if sampling is not None:
        inputs = [redact(one) for one in configuration.input]
        sample = sampling.model_dump(mode="json") | {"inputs": inputs}
    return {
        "command": command,
        "feature_set_id": configuration.profile.feature_set_id(),
        "heads": [
            {"method": name, "head_id": head.head_id, "kind": str(head.description.settings.kind)}
            for name, head in plan.heads.items()
        ],
        "perturbations": list(plan.perturbations),
        "sample": sample,
        "images": counted_origins(clean),
        "clusters": configuration.group_column or "uri",
        "resamples": configuration.resamples,
        "seed": configuration.seed,
        "notes": seen_in_training(plan.heads, clean),
        "versions": versions(),
    }


def _write(plan: RobustnessPlan, name: str, content: bytes) -> None:
    fs, path = filesystem(plan.configuration.output, plan.configuration.storage)
    write_atomically(fs, posixpath.join(path, name), content)
