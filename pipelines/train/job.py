"""A training job: features tables with labels in, a calibrated head out."""

from __future__ import annotations

import hashlib
import json
import posixpath
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from item.errors import UsageError
from item.heads.columns import Evidence, fit_statistics
from item.heads.fitted import Fitted
from item.heads.fitting import Epoch, fit, validation_rows
from item.heads.head import DESCRIPTION, Description, Head, TrainingSource
from item.heads.settings import Balance, HeadSettings, Kind, balanced_weights
from item.statistics.calibration import OperatingPoints, fit_familiarity, fit_platt, fit_thresholds
from item.statistics.metrics import summary
from pipelines.featurize.configuration import resolved
from pipelines.runtime.start import start_ray
from pipelines.storage.files import (
    Storage,
    check_writable,
    filesystem,
    join,
    redact,
    write_atomically,
)
from pipelines.tables.provenance import code_version, versions
from pipelines.train.progress import Bulletin, TrainingProgress
from pipelines.train.rows import Indices, LabelledRows, Split, counted, read_labelled, split
from pipelines.train.workers import Workers, train, training_dataset

CHECKPOINTS = "_training"
MANIFEST = "training.json"
CONFIGURATION = "training.yaml"


class TrainConfiguration(BaseModel):
    """Everything that ``jobs/train.py`` does, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...] = Field(min_length=1)
    """Features tables: folders, ``s3://`` prefixes or Parquet files."""
    output: str = Field(min_length=1)
    """Folder or ``s3://`` prefix of the head; with several machines one that all reach."""
    overwrite: bool = False
    metadata: str | None = None
    """Parquet with ``uri`` and ``group_column``."""
    group_column: str | None = None
    """Rows that are equal in it, such as in their prompt, stay on one side of the split."""
    leave_out: tuple[str, ...] = ()
    """Generators and real sources to keep unseen, for testing the head on them."""
    head: HeadSettings = HeadSettings()
    validation_generator: str | None = None
    """Generator whose rows say when training stops; the rarest of three or more if unset."""
    calibration_share: float = Field(default=0.2, gt=0, lt=0.5)
    """Share of the groups to calibrate on."""
    validation_share: float = Field(default=0.2, gt=0, lt=0.5)
    """Share of the groups, of real rows at least, that say when training stops."""
    operating_points: OperatingPoints = OperatingPoints()
    unfamiliar_share: float = Field(default=0.005, gt=0, lt=0.5)
    """Share of pictures like the training ones that may be called unfamiliar."""
    rows_in_memory: int = Field(default=50_000, ge=1000)
    """Most rows to fit statistics on, to calibrate on, and to validate on, each; and to train
    a logistic head on. All training rows train the others."""
    workers: int = Field(default=1, ge=1)
    cpus_per_worker: float = Field(default=0.5, gt=0)
    """CPUs that Ray sets aside for a worker; less than one leaves room for reading."""
    gpu: bool = False
    """Whether each worker has a GPU."""
    max_failures: int = Field(default=3, ge=0)
    """Workers that may be lost; training goes on from the last epoch."""
    object_store_gb: float = Field(default=2.0, gt=0)
    """Memory for rows between reading and training, in GB."""
    storage: Storage = Storage()

    @model_validator(mode="after")
    def _metadata_has_a_use(self) -> TrainConfiguration:
        if self.metadata is not None and self.group_column is None:
            raise ValueError("metadata needs group_column, the column of groups in it")
        return self

    def as_yaml(self) -> str:
        """The resolved configuration, as ``--config`` accepts it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def resolve(
    file: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> TrainConfiguration:
    """Defaults, then the YAML file, then command-line options, then ``--set`` keys.

    Parameters
    ----------
    file : path of a YAML file whose keys are those of the configuration
    options : by dotted key, such as ``head.kind``; None where not given
    settings : by dotted key

    Raises
    ------
    UsageError
        One sentence a mistake, with the key and what is allowed.
    """
    return resolved(TrainConfiguration, file, options, settings)


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """A checked piece of work: which rows will be used for what."""

    configuration: TrainConfiguration
    rows: LabelledRows
    split: Split

    def remarks(self) -> list[str]:
        """What its owner should know before the work begins."""
        left_out = [f"{number:,} {reason}" for reason, number in self.rows.left_out.items()]
        return [
            *([f"Rows left out: {', '.join(left_out)}."] if left_out else []),
            *self.split.notes,
        ]

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        return {
            "feature set": self.rows.feature_set_id,
            "rows": {name: counted(self.rows, part) for name, part in self.parts().items()},
            "remarks": self.remarks(),
            "output": self.configuration.output,
            "head": self.configuration.head.model_dump(mode="json"),
        }

    def parts(self) -> dict[str, Indices]:
        """Rows by what they are for."""
        found = self.split
        return {
            "training": found.training,
            "calibration": found.calibration,
            "validation": found.validation,
        }

    def name(self) -> str:
        """The same for every try at the same work."""
        configuration = self.configuration.model_dump_json(exclude={"overwrite", "max_failures"})
        what = [configuration, self.rows.feature_set_id]
        what += [f"{one.url} {one.row_group} {one.rows}" for one in self.rows.fragments]
        return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]


def prepare(configuration: TrainConfiguration) -> TrainingJob:
    """Check everything that can be checked before training; reads every row once.

    Raises
    ------
    UsageError
        Output that exists, tables that cannot be trained on, or too few rows for the
        operating points.
    """
    _check_output(configuration)
    rows = read_labelled(
        configuration.features,
        configuration.storage,
        configuration.metadata,
        configuration.group_column,
    ).without(configuration.leave_out)
    found = split(
        rows,
        configuration.head.seed,
        configuration.calibration_share,
        configuration.validation_share,
        configuration.validation_generator,
    )
    labels = rows.labels[found.calibration]
    # Says before training whether there are rows enough, whatever their scores will be.
    fit_thresholds(np.zeros(len(labels)), labels, configuration.operating_points)
    return TrainingJob(configuration, rows, found)


def run(job: TrainingJob) -> dict[str, Any]:
    """Train, calibrate and save the head; returns the manifest that is written beside it."""
    started = time.monotonic()
    configuration, rows = job.configuration, job.rows
    parts = {name: _sample(job, part) for name, part in job.parts().items()}
    evidence = {name: rows.evidence(part) for name, part in parts.items()}
    familiarity = fit_familiarity(
        evidence["training"].image, evidence["calibration"].image, configuration.unfamiliar_share
    )
    facts: dict[str, Any] = {}
    if configuration.head.kind == Kind.LOGISTIC:
        fitted = _fit_here(job, parts, evidence)
    else:
        fitted, facts = _fit_in_ray(job, parts, evidence)
    seconds = round(time.monotonic() - started, 3)
    logits = fitted.logits(evidence["calibration"])[1]
    labels = rows.labels[parts["calibration"]]
    # Both labels weigh the same: a score of one half means even odds at equal prevalence.
    even = balanced_weights(labels, labels, Balance.LABEL)
    calibration = fit_platt(logits, labels, even)
    thresholds = fit_thresholds(calibration.scores(logits), labels, configuration.operating_points)
    metrics = {
        name: {
            "rows": len(parts[name]),
            **summary(
                rows.labels[parts[name]],
                calibration.scores(fitted.logits(evidence[name])[1]),
                thresholds.likely_generated,
            ),
        }
        for name in ("calibration", "validation")
    }
    notes = list(job.remarks())
    if not calibration.keeps_order:
        notes.append("The head ranks the calibration rows no better than chance: do not use it.")
    description = Description(
        feature_set_id=rows.feature_set_id,
        dimensions=rows.dimensions,
        settings=configuration.head,
        calibration=calibration,
        operating_points=configuration.operating_points,
        thresholds=thresholds,
        training_sources=tuple(TrainingSource(**one) for one in counted(rows, job.split.training)),
        metrics=metrics,
        notes=tuple(notes),
        code_version=code_version(),
    )
    head = Head.of(description, fitted, familiarity)
    manifest = {
        "head_id": head.head_id,
        "features": [redact(path) for path in configuration.features],
        "feature_set_id": rows.feature_set_id,
        "rows": {name: counted(rows, part) for name, part in job.parts().items()},
        "left_out": rows.left_out,
        "notes": notes,
        "metrics": metrics,
        "seconds": seconds,
        "versions": versions(),
        **facts,
    }
    _publish(job, head, manifest)
    return manifest


def _fit_here(job: TrainingJob, parts: dict[str, Indices], evidence: dict[str, Evidence]) -> Fitted:
    rows, head = job.rows, job.configuration.head
    training = parts["training"]
    weights = balanced_weights(rows.labels[training], rows.origins()[training], head.balance)
    return fit(evidence["training"], rows.labels[training], weights, head)


def _fit_in_ray(
    job: TrainingJob, parts: dict[str, Indices], evidence: dict[str, Evidence]
) -> tuple[Fitted, dict[str, Any]]:
    """The fitted head, and what the manifest says of its training."""
    configuration, rows, head = job.configuration, job.rows, job.configuration.head
    labels = rows.labels[parts["training"]]
    statistics = fit_statistics(
        evidence["training"], labels, head.groups, head.centred, head.whitened
    )
    validation = validation_rows(
        evidence["validation"], rows.labels[parts["validation"]], head, statistics
    )
    training = job.split.training
    weights = balanced_weights(rows.labels[training], rows.origins()[training], head.balance)
    start_ray(configuration.object_store_gb, preserve_order=True)
    bulletin = Bulletin.remote()  # type: ignore[attr-defined]
    workers = Workers(
        number=configuration.workers,
        cpus=configuration.cpus_per_worker,
        gpu=configuration.gpu,
        max_failures=configuration.max_failures,
        name=job.name(),
        checkpoints=join(configuration.output, CHECKPOINTS),
        storage=configuration.storage,
    )
    with TrainingProgress(bulletin):
        data = training_dataset(rows, training, weights, head, statistics)
        trained = train(data, validation, head, rows.dimensions, workers, bulletin)
    facts = {
        "workers": configuration.workers,
        "starts": trained.starts,
        "rows_per_second": [round(speed, 1) for speed in trained.rows_per_second],
        "epochs": [_plain(epoch) for epoch in trained.history],
    }
    return Fitted(head, statistics, trained.model), facts


def _sample(job: TrainingJob, rows: Indices) -> Indices:
    """As many of the rows as are kept in memory at once, in order."""
    limit = job.configuration.rows_in_memory
    if len(rows) <= limit:
        return rows
    rng = np.random.default_rng(job.configuration.head.seed)
    return np.sort(rng.choice(rows, limit, replace=False))


def _check_output(configuration: TrainConfiguration) -> None:
    check_writable(configuration.output, configuration.storage)
    fs, path = filesystem(configuration.output, configuration.storage)
    fs.invalidate_cache()
    if configuration.overwrite or not fs.exists(path):
        return
    names = {posixpath.relpath(found, path).split("/")[0] for found in fs.find(path)}
    if names - {CHECKPOINTS}:
        what = "a head" if DESCRIPTION in names else "other files"
        raise UsageError(
            f"{redact(configuration.output)} holds {what} already: choose another output, or "
            "replace it with --overwrite."
        )


def _publish(job: TrainingJob, head: Head, manifest: dict[str, Any]) -> None:
    """Write the bundle, ``head.json`` last, and remove the checkpoints."""
    configuration = job.configuration
    fs, path = filesystem(configuration.output, configuration.storage)
    if fs.exists(posixpath.join(path, DESCRIPTION)):
        fs.rm_file(posixpath.join(path, DESCRIPTION))
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    beside = {MANIFEST: text.encode(), CONFIGURATION: configuration.as_yaml().encode()}
    for name, content in {**beside, **head.files()}.items():
        write_atomically(fs, posixpath.join(path, name), content)
    checkpoints = posixpath.join(path, CHECKPOINTS)
    fs.invalidate_cache()
    if fs.exists(checkpoints):
        fs.rm(checkpoints, recursive=True)


def _plain(epoch: Epoch) -> dict[str, Any]:
    return asdict(epoch) | {"stage": str(epoch.stage)}
