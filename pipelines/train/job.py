"""A training plan: features tables with labels in, a calibrated head out."""

from __future__ import annotations

import json
import posixpath
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from item.heads.attribution import Attribution, fit_attribution
from item.heads.columns import FeatureArrays, fit_statistics
from item.heads.fitted import Fitted
from item.heads.fitting import Epoch, fit, validation_rows
from item.heads.head import DESCRIPTION, Description, ErrorRates, Head, TrainingSource
from item.heads.settings import Balance, balanced_weights
from item.statistics.calibration import (
    Calibration,
    Thresholds,
    fit_familiarity,
    fit_platt,
    fit_thresholds,
)
from item.statistics.metrics import mean_over_pairs, summary
from item.statistics.source_thresholds import SourcePromise, fit_source_thresholds
from item.version import __version__
from pipelines.runtime.start import start_ray
from pipelines.storage.access import filesystem
from pipelines.storage.atomic import write_atomically
from pipelines.storage.urls import join, redact
from pipelines.tables.provenance import versions
from pipelines.train.plan import CHECKPOINTS, TrainingPlan
from pipelines.train.progress import Bulletin, TrainingProgress, Trainings
from pipelines.train.rows import Indices, counted
from pipelines.train.unseen_sources import unseen_logits
from pipelines.train.workers import Workers, train, training_dataset

MANIFEST = "training.json"
CONFIGURATION = "training.yaml"


def train_head(plan: TrainingPlan) -> dict[str, Any]:
    """Train, calibrate and save the head; returns the manifest that is written beside it."""
    started = time.monotonic()
    configuration, rows = plan.configuration, plan.rows
    parts = {name: plan.in_memory(part) for name, part in plan.parts().items()}
    arrays = {name: rows.arrays(part) for name, part in parts.items()}
    familiarity = fit_familiarity(
        arrays["training"].image, arrays["calibration"].image, configuration.unfamiliar_share
    )
    facts: dict[str, Any] = {}
    if configuration.head.kind.in_memory:
        fitted = _fit_here(plan, parts, arrays)
    else:
        fitted, facts = _fit_in_ray(plan, parts, arrays)
    seconds = round(time.monotonic() - started, 3)
    judged = (
        _judged_on_sources(plan, arrays)
        if plan.leaves_sources_out()
        else _judged_on_rows(plan, parts, arrays, fitted)
    )
    calibration, thresholds = judged.calibration, judged.thresholds
    metrics = {
        name: {
            "rows": len(parts[name]),
            **summary(
                rows.labels[parts[name]],
                calibration.scores(fitted.logits(arrays[name])[1]),
                thresholds.likely_generated,
            ),
        }
        for name in ("calibration", "validation")
    }
    metrics |= judged.metrics
    notes = [*plan.remarks(), judged.note]
    if not calibration.keeps_order:
        notes.append("The head ranks the calibration rows no better than chance: do not use it.")
    description = Description(
        feature_set_id=rows.feature_set_id,
        dimensions=rows.dimensions,
        layers=rows.layers,
        settings=configuration.head,
        calibration=calibration,
        operating_points=configuration.operating_points,
        thresholds=thresholds,
        training_sources=tuple(
            TrainingSource(**origin) for origin in counted(rows, plan.split.training)
        ),
        metrics=metrics,
        error_rates=judged.error_rates,
        promises=judged.promises,
        notes=tuple(notes),
        code_version=__version__,
    )
    attribution = _attributed(plan, parts, arrays, fitted)
    head = Head.of(description, fitted, familiarity, attribution)
    manifest = {
        "head_id": head.head_id,
        "features": [redact(path) for path in configuration.features],
        "labels": configuration.labels and redact(configuration.labels),
        "feature_set_id": rows.feature_set_id,
        "rows": {name: counted(rows, part) for name, part in plan.parts().items()},
        "left_out": rows.left_out,
        "notes": notes,
        "metrics": metrics,
        "attribution": attribution and attribution.known.model_dump(mode="json"),
        "seconds": seconds,
        "versions": versions(),
        **facts,
    }
    _publish(plan, head, manifest)
    return manifest


@dataclass(frozen=True)
class _Judged:
    """What a head's logits mean."""

    calibration: Calibration
    thresholds: Thresholds
    note: str
    promises: tuple[SourcePromise, SourcePromise] | None = None
    error_rates: ErrorRates | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


def _judged_on_rows(
    plan: TrainingPlan, parts: dict[str, Indices], arrays: dict[str, FeatureArrays], fitted: Fitted
) -> _Judged:
    """By the rows set apart, which are of the sources that were trained on."""
    logits = fitted.logits(arrays["calibration"])[1]
    labels = plan.rows.labels[parts["calibration"]]
    # Both labels weigh the same: a score of one half means even odds at equal prevalence.
    even = balanced_weights(labels, labels, Balance.LABEL)
    calibration = fit_platt(logits, labels, even)
    thresholds = fit_thresholds(
        calibration.scores(logits), labels, plan.configuration.operating_points
    )
    note = "The thresholds hold on pictures of these sources: of others nothing is promised."
    return _Judged(calibration, thresholds, note)


def _judged_on_sources(plan: TrainingPlan, arrays: dict[str, FeatureArrays]) -> _Judged:
    """By heads that were trained without a row's source."""
    configuration, rows, names = plan.configuration, plan.rows, ("training", "calibration")
    points = configuration.operating_points
    chosen = plan.judged()
    labels = rows.labels[chosen]
    left_out = plan.families[chosen]
    started = time.monotonic()
    with Trainings() as shown:
        logits = unseen_logits(
            FeatureArrays.concat(arrays[name] for name in names),
            labels,
            rows.origins()[chosen],
            left_out,
            configuration.head,
            configuration.source_folds,
            lambda done, total: shown.show(done, total, time.monotonic() - started),
        )
    weights = balanced_weights(labels, left_out, Balance.ROOT)
    calibration = fit_platt(logits, labels, weights)
    scores = calibration.scores(logits)
    found = fit_source_thresholds(scores, labels, left_out, points, configuration.source_confidence)
    promises = (found.real, found.generated)
    error_rates = _error_rates(labels, left_out, promises, scores, found.thresholds)
    note = (
        f"With {found.real.confidence:.0%} confidence at most {points.real_called_generated:.1%} "
        f"of the photographs of a new source are called generated; '{error_rates.worst_source}', "
        f"left out, had {error_rates.worst_share:.1%}."
    )
    measured = summary(labels, scores, found.thresholds.likely_generated)
    pairs = mean_over_pairs(labels, scores, left_out)
    metrics = {"unseen_sources": {"rows": len(labels), "mean_auroc": pairs, **measured}}
    return _Judged(calibration, found.thresholds, note, promises, error_rates, metrics)


def _error_rates(
    labels: NDArray,
    left_out: NDArray,
    promises: tuple[SourcePromise, SourcePromise],
    scores: NDArray,
    thresholds: Thresholds,
) -> ErrorRates:
    """How often sources were called generated that neither head nor threshold had seen."""
    real = promises[0].left_out
    worst = max(real, key=lambda name: real[name])
    counts = {name: int(((labels == 0) & (left_out == name)).sum()) for name in real}
    generated = labels == 1
    return ErrorRates(
        measured_on=f"pictures of {len(real)} sources and {promises[1].sources} generators, each "
        "scored by a head that was trained without it",
        real_rows=sum(counts.values()),
        real_flagged=sum(round(real[name] * count) for name, count in counts.items()),
        generated_rows=int(generated.sum()),
        generated_flagged=int((scores[generated] > thresholds.likely_generated).sum()),
        worst_source=worst,
        worst_share=real[worst],
    )


def _attributed(
    plan: TrainingPlan, parts: dict[str, Indices], arrays: dict[str, FeatureArrays], fitted: Fitted
) -> Attribution | None:
    """Which families of generators the head's columns tell apart; None without two of them."""
    configuration = plan.configuration
    names = np.array([configuration.families.get(name, name) for name in plan.families], object)
    sides = {}
    for name in ("training", "calibration"):
        generated = plan.rows.labels[parts[name]] == 1
        columns = fitted.columns(arrays[name].take(generated))
        sides[name] = columns, names[parts[name]][generated]
    started = time.monotonic()
    with Trainings() as shown:
        return fit_attribution(
            *sides["training"],
            sides["calibration"],
            configuration.attribution_rejected,
            lambda done, total: shown.show(done, total, time.monotonic() - started),
        )


def _fit_here(
    plan: TrainingPlan, parts: dict[str, Indices], arrays: dict[str, FeatureArrays]
) -> Fitted:
    rows, head = plan.rows, plan.configuration.head
    training = parts["training"]
    weights = balanced_weights(rows.labels[training], rows.origins()[training], head.balance)
    return fit(arrays["training"], rows.labels[training], weights, head)


def _fit_in_ray(
    plan: TrainingPlan, parts: dict[str, Indices], arrays: dict[str, FeatureArrays]
) -> tuple[Fitted, dict[str, Any]]:
    """The fitted head, and what the manifest says of its training."""
    configuration, rows, head = plan.configuration, plan.rows, plan.configuration.head
    labels = rows.labels[parts["training"]]
    statistics = fit_statistics(
        arrays["training"], labels, head.groups, head.centred, head.whitened
    )
    validation = validation_rows(
        arrays["validation"], rows.labels[parts["validation"]], head, statistics
    )
    training = plan.split.training
    weights = balanced_weights(rows.labels[training], rows.origins()[training], head.balance)
    start_ray(configuration.object_store_gb, preserve_order=True)
    bulletin = Bulletin.remote()  # type: ignore[attr-defined]
    workers = Workers(
        number=configuration.workers,
        cpus=configuration.cpus_per_worker,
        gpu=configuration.gpu,
        max_failures=configuration.max_failures,
        name=plan.name(),
        checkpoints=join(configuration.output, CHECKPOINTS),
        storage=configuration.storage,
    )
    with TrainingProgress(bulletin):
        data = training_dataset(rows, training, weights, head, statistics)
        trained = train(data, validation, head, (rows.dimensions, rows.layers), workers, bulletin)
    facts = {
        "workers": configuration.workers,
        "starts": trained.starts,
        "rows_per_second": [round(speed, 1) for speed in trained.rows_per_second],
        "epochs": [_plain(epoch) for epoch in trained.history],
    }
    return Fitted(head, statistics, trained.model), facts


def _publish(plan: TrainingPlan, head: Head, manifest: dict[str, Any]) -> None:
    """Write the bundle, ``head.json`` last, and remove the checkpoints."""
    configuration = plan.configuration
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
