"""Evaluation: protocols, baselines, controls and ablations, with intervals, as tables.

Every (training, method) pair is a Ray task of its own. What the tables hold, and how the
results page reads them, is in :mod:`pipelines.results.tables`.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import psutil
import ray
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from item.errors import UsageError
from item.heads.columns import Evidence
from item.heads.fitting import fit
from item.heads.head import Head
from item.heads.settings import HeadSettings, balanced_weights
from item.statistics import metrics
from item.statistics.calibration import (
    OperatingPoints,
    fit_familiarity,
    fit_platt,
    fit_thresholds,
)
from item.statistics.metrics import (
    cluster_weights,
    interval,
    overlap_weights,
    weighted_auroc,
    weighted_summary,
)
from pipelines.evaluate.methods import OURS, Method, Purpose, methods, shuffled
from pipelines.evaluate.protocols import (
    ALL,
    LEAVE_ONE_OUT,
    ONE_TO_ALL,
    PAIRS,
    SENTENCES,
    Design,
    HeldOut,
    Trial,
    most_frequent,
)
from pipelines.featurize.configuration import resolved
from pipelines.runtime.start import start_ray
from pipelines.score.heads import load_head
from pipelines.storage.files import Storage, check_writable, filesystem, join, write_atomically
from pipelines.tables.provenance import code_version
from pipelines.train.rows import LabelledRows, joined, read_labelled

RATES = (0.01, 0.05)
"""Operating points: shares of real pictures that may be called generated."""
UNFAMILIAR_SHARE = 0.005
BINS = np.linspace(0, 1, 11)
"""Of the reliability diagram."""
GREATER_IS_WORSE = ("brier", "ece")
TRAINED_HEAD = "trained_head"


class EvaluateConfiguration(BaseModel):
    """Everything that ``jobs/evaluate.py`` does, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...] = Field(min_length=1)
    """Features tables with labels, generators and sources."""
    output: str = Field(min_length=1)
    """Folder or ``s3://`` prefix of the tables."""
    trained: str | None = None
    """A head to measure as it is; nothing is trained then."""
    metadata: str | None = None
    """Parquet with ``uri``, ``group_column`` and ``subset_column``."""
    group_column: str | None = None
    """Rows that are equal in it, such as in their prompt, stay together."""
    subset_column: str | None = None
    """Column of the metadata by which a subset of the generated rows is measured apart."""
    subset_values: tuple[str | None, ...] = (None,)
    subset_name: str = Field(default="realistic", pattern=r"^[a-z][a-z_]*$")
    train_on_subset: bool = True
    """Whether generated rows outside the subset are not trained on."""
    protocols: tuple[str, ...] = (ONE_TO_ALL, LEAVE_ONE_OUT)
    training_generator: str | None = None
    """Of the protocol one_to_all; the most frequent if unset."""
    training_source: str | None = None
    """Source of the real rows to train on; the most frequent if unset."""
    variants: dict[str, str] = {}
    """Further features tables of the same images by name, for ablations."""
    head: HeadSettings = HeadSettings()
    operating_points: OperatingPoints = OperatingPoints()
    seeds: int = Field(default=5, ge=1)
    resamples: int = Field(default=1000, ge=20)
    object_store_gb: float = Field(default=1.0, gt=0)
    """Memory for rows that tasks share, in GB."""
    storage: Storage = Storage()

    @model_validator(mode="after")
    def _fits_together(self) -> EvaluateConfiguration:
        unknown = set(self.protocols) - {ONE_TO_ALL, LEAVE_ONE_OUT, *PAIRS}
        if unknown or not self.protocols:
            allowed = ", ".join([ONE_TO_ALL, LEAVE_ONE_OUT, *PAIRS])
            raise ValueError(f"protocols must be among {allowed}")
        if self.subset_column is not None and self.metadata is None:
            raise ValueError("subset_column needs metadata, the table that has it")
        return self


def resolve(
    file: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> EvaluateConfiguration:
    """Defaults, then the YAML file, then command-line options, then ``--set`` keys."""
    return resolved(EvaluateConfiguration, file, options, settings)


@dataclass(frozen=True, eq=False)
class Evaluating:
    """A checked evaluation: what will be trained and tested, on what."""

    configuration: EvaluateConfiguration
    rows: LabelledRows
    trials: tuple[Trial, ...]
    methods: tuple[Method, ...]
    evidence: dict[str | None, Evidence]
    """Of the main table under None, and of each variant."""
    head: Head | None
    notes: tuple[str, ...] = ()

    def tasks(self) -> list[tuple[int, int]]:
        """(trial, method) pairs; ablations and shuffles only where all methods stand."""
        return [
            (number, place)
            for number, trial in enumerate(self.trials)
            for place, method in enumerate(self.methods)
            if trial.protocol != LEAVE_ONE_OUT or method.purpose != Purpose.ABLATION
        ]

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        return {
            "feature set": self.rows.feature_set_id,
            "rows": self.rows.describe(),
            "trainings": len(self.tasks()) if self.head is None else 0,
            "methods": [method.name for method in self.methods],
            "notes": list(self.notes),
            "output": self.configuration.output,
        }


def prepare(configuration: EvaluateConfiguration) -> Evaluating:
    """Check everything that can be checked before any training.

    Raises
    ------
    UsageError
        Tables that cannot be measured on, a protocol whose rows they lack, a head of another
        feature set, an output that cannot be written.
    """
    storage = configuration.storage
    check_writable(configuration.output, storage)
    rows = read_labelled(
        configuration.features, storage, configuration.metadata, configuration.group_column
    )
    everything = np.arange(len(rows))
    evidence: dict[str | None, Evidence] = {None: rows.evidence(everything)}
    subsets, notes = _subsets(configuration, rows)
    if configuration.trained is not None:
        head = load_head(configuration.trained, storage)
        head.check_feature_set(rows.feature_set_id)
        trial = _as_it_is(rows, subsets)
        name = f"head {head.head_id}"
        sentence = f"The trained head {configuration.trained}, as it is."
        shipped = Method(name, Purpose.OURS, sentence, head.description.settings)
        notes += _seen(head, rows)
        return Evaluating(configuration, rows, (trial,), (shipped,), evidence, head, tuple(notes))
    for name, path in configuration.variants.items():
        evidence[name] = _variant(rows, name, path, storage)
    design = _design(configuration, rows, subsets)
    trials = tuple(
        trial
        for protocol in configuration.protocols
        for trial in design.trials(protocol, configuration.seeds)
    )
    for trial in trials:
        labels = rows.labels[trial.calibration]
        # Says before training whether there are rows enough, whatever their scores will be.
        fit_thresholds(np.zeros(len(labels)), labels, configuration.operating_points)
    compared = tuple(methods(configuration.head, tuple(configuration.variants)))
    notes += [
        f"Trained on photographs of {design.training_source}; other photographs were never "
        "trained on.",
    ]
    return Evaluating(configuration, rows, trials, compared, evidence, None, tuple(notes))


def _subsets(
    configuration: EvaluateConfiguration, rows: LabelledRows
) -> tuple[dict[str, NDArray[np.bool_]], list[str]]:
    subsets = {ALL: np.ones(len(rows), bool)}
    if configuration.subset_column is None:
        return subsets, []
    values = joined(
        rows.uris, str(configuration.metadata), configuration.subset_column, configuration.storage
    ).to_pylist()
    kept = np.array([value in configuration.subset_values for value in values])
    subsets[configuration.subset_name] = kept
    wanted = ", ".join("null" if value is None else value for value in configuration.subset_values)
    return subsets, [
        f"The subset {configuration.subset_name}: {configuration.subset_column} is {wanted}."
    ]


def _design(
    configuration: EvaluateConfiguration,
    rows: LabelledRows,
    subsets: dict[str, NDArray[np.bool_]],
) -> Design:
    real = rows.labels == 0
    source = configuration.training_source or most_frequent(list(rows.sources[real]))
    generator = configuration.training_generator or most_frequent(list(rows.generators[~real]))
    if source is None or generator is None:
        raise UsageError("An evaluation needs the columns source and generator to be filled.")
    learnable = np.ones(len(rows), bool)
    if configuration.train_on_subset and configuration.subset_name in subsets:
        learnable = real | subsets[configuration.subset_name]
    return Design(rows, source, generator, subsets, learnable)


def _as_it_is(rows: LabelledRows, subsets: dict[str, NDArray[np.bool_]]) -> Trial:
    """Every generator beside every real source, for a head that is trained already."""
    real = rows.labels == 0
    tests = [
        HeldOut(
            subset,
            source,
            generator,
            np.flatnonzero(
                real & (rows.sources == source) | ~real & chosen & (rows.generators == generator)
            ),
        )
        for subset, chosen in subsets.items()
        for source in sorted({name for name in rows.sources[real] if name})
        for generator in sorted({name for name in rows.generators[~real] if name})
        if (~real & chosen & (rows.generators == generator)).any()
    ]
    if not tests:
        raise UsageError("An evaluation needs the columns source and generator to be filled.")
    none = np.array([], np.int64)
    return Trial(TRAINED_HEAD, 0, "", none, none, tuple(tests))


def _seen(head: Head, rows: LabelledRows) -> list[str]:
    """What the head has been trained on must not pass for unseen."""
    trained = head.description.training_sources
    here = {name for name in [*rows.generators, *rows.sources[rows.labels == 0]] if name}
    known = {one.generator if one.label else one.source for one in trained}
    both = sorted(here & {name for name in known if name})
    if not both:
        return []
    return [f"The head was trained on rows of {', '.join(both)}: figures on those are not unseen."]


def _variant(rows: LabelledRows, name: str, path: str, storage: Storage) -> Evidence:
    """Evidence of the same images from another table, in the order of the main one."""
    other = read_labelled([path], storage)
    places = pd.Series(np.arange(len(other)), index=other.uris)
    chosen = places.reindex(rows.uris)
    if chosen.isna().any():
        raise UsageError(
            f"The table '{name}' at {path} lacks {int(chosen.isna().sum())} of the images, "
            f"the first of them {rows.uris[int(np.flatnonzero(chosen.isna())[0])]!r}."
        )
    return other.evidence(chosen.to_numpy(np.int64))


# Measuring


Key = tuple[str, str]
"""real source, generator"""


def topic_weights(
    evidence: Evidence, rows: LabelledRows, trials: Sequence[Trial]
) -> dict[Key, NDArray[np.float32]]:
    """Weights (n,) under which a generator's images and a source's photographs have equal topics.

    The topic is what a logistic regression on the caption's embedding knows of the label,
    predicted for groups that it was not fitted on.
    """
    found: dict[Key, NDArray[np.float32]] = {}
    for test in (test for trial in trials for test in trial.tests):
        key = (test.real_source, test.generator)
        if key in found or test.subset != ALL:
            continue
        real = (rows.labels == 0) & (rows.sources == test.real_source)
        chosen = np.flatnonzero(real | (rows.labels == 1) & (rows.generators == test.generator))
        labels = rows.labels[chosen].astype(np.int64)
        folds = min(5, *(len(np.unique(rows.groups[chosen][labels == one])) for one in (0, 1)))
        if folds < 2:
            continue
        model = GridSearchCV(
            LogisticRegression(class_weight="balanced", max_iter=1000),
            {"C": [0.003, 0.03, 0.3, 3.0]},
            scoring="neg_log_loss",
            cv=3,
        )
        predicted = cross_val_predict(
            make_pipeline(StandardScaler(), model),
            evidence.caption[chosen],
            labels,
            groups=rows.groups[chosen],
            cv=StratifiedGroupKFold(folds, shuffle=True, random_state=0),
            method="predict_proba",
        )[:, 1]
        found[key] = np.zeros(len(rows), np.float32)
        found[key][chosen] = overlap_weights(labels, predicted)
    return found


@dataclass(eq=False)
class Outcome:
    """What one method did in one trial."""

    trial: Trial
    method: Method
    scored: pd.DataFrame
    """Score and label of each row that was tested on, beside each real source."""
    points: dict[tuple[str, str, str], dict[str, float]] = field(default_factory=dict)
    """Metrics by (subset, real source, generator)."""
    resampled: dict[tuple[str, str, str], dict[str, NDArray[np.float32]]] = field(
        default_factory=dict
    )
    """The same in each resample."""
    counts: dict[tuple[str, str, str], tuple[int, int]] = field(default_factory=dict)
    """Generated and real rows."""
    operating: list[dict[str, Any]] = field(default_factory=list)
    curves: list[pd.DataFrame] = field(default_factory=list)


def measure(
    evidence: Evidence,
    rows: LabelledRows,
    weights: NDArray[np.int32],
    topics: Mapping[Key, NDArray[np.float32]],
    trial: Trial,
    method: Method,
    points: OperatingPoints,
    head: Head | None = None,
) -> Outcome:
    """Train and calibrate a method, and test it on rows that it has not seen.

    Parameters
    ----------
    evidence : of all rows, in their order
    weights : (resamples, rows), how often each resample holds each row
    topics : by :func:`topic_weights`
    points : at which verdicts are given
    head : takes the place of training
    """
    labels = rows.labels.astype(np.int64)
    if method.shuffle is not None:
        evidence = shuffled(evidence, labels, method.shuffle, trial.seed)
    if head is not None:
        logits = head.fitted.logits(evidence)[1]
        scores = head.description.calibration.scores(logits)
        unfamiliar = head.familiarity.unfamiliar(evidence.image)
        thresholds = head.description.thresholds
        asked = head.description.operating_points.real_called_generated
        at_rate = {asked: thresholds.likely_generated}
    else:
        learned, apart = trial.training, trial.calibration
        settings = method.head.model_copy(update={"seed": trial.seed})
        weighed = balanced_weights(labels[learned], rows.origins()[learned], settings.balance)
        some = evidence.take(apart)
        fitted = fit(
            evidence.take(learned), labels[learned], weighed, settings, (some, labels[apart])
        )
        logits = fitted.logits(evidence)[1]
        # Both labels weigh the same: a score of one half is even odds at equal prevalence.
        even = balanced_weights(labels[apart], rows.origins()[apart], settings.balance)
        calibration = fit_platt(logits[apart], labels[apart], even)
        scores = calibration.scores(logits)
        # Few rows cannot show how far the farthest of many familiar ones lies.
        share = max(UNFAMILIAR_SHARE, 2 / (len(apart) + 1))
        familiarity = fit_familiarity(evidence.image[learned], some.image, share)
        unfamiliar = familiarity.unfamiliar(evidence.image)
        thresholds = fit_thresholds(scores[apart], labels[apart], points)
        at_rate = {rate: _threshold(scores[apart][labels[apart] == 0], rate) for rate in RATES}
    outcome = Outcome(trial, method, _scored(trial, labels, scores))
    for test in trial.tests:
        key = (test.subset, test.real_source, test.generator)
        truth, said = labels[test.rows], scores[test.rows]
        outcome.points[key] = metrics.summary(truth, said, 0.5)
        outcome.counts[key] = (int(truth.sum()), int((truth == 0).sum()))
        found = weighted_summary(truth, said, 0.5, weights[:, test.rows])
        if test.subset == ALL and (test.real_source, test.generator) in topics:
            alike = topics[test.real_source, test.generator][test.rows]
            drawn = weights[:, test.rows] * alike
            outcome.points[key]["topic_matched_auroc"] = float(
                weighted_auroc(truth, said, alike[np.newaxis])[0]
            )
            found["topic_matched_auroc"] = weighted_auroc(truth, said, drawn)
        outcome.resampled[key] = {name: x.astype(np.float32) for name, x in found.items()}
        if test.subset == ALL:
            if trial.seed == 0:
                outcome.curves.append(_curve(truth, said, test))
            verdicts = (said > thresholds.likely_generated) | (said < thresholds.likely_real)
            for rate, threshold in at_rate.items():
                outcome.operating.append(
                    _at(rate, threshold, truth, said, weights[:, test.rows], test)
                    | {
                        "uncertain_share": float(np.mean(~verdicts | unfamiliar[test.rows])),
                        "abstained_share": float(np.mean(unfamiliar[test.rows])),
                    }
                )
    return outcome


def _threshold(scores: NDArray, rate: float) -> float:
    """Above which at most this share of new real scores lies, as in split conformal prediction
    (Vovk et al. 2005); infinite if there are too few rows to say."""
    place = int(np.ceil((len(scores) + 1) * (1 - rate)))
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else float("inf")


def _at(
    rate: float,
    threshold: float,
    labels: NDArray,
    scores: NDArray,
    weights: NDArray[np.int32],
    test: HeldOut,
) -> dict[str, Any]:
    flagged = scores > threshold
    real = labels == 0
    drawn = weights[:, real]
    resampled = (drawn * flagged[real]).sum(1) / np.maximum(drawn.sum(1), 1)
    return {
        "real_source": test.real_source,
        "asked_fpr": rate,
        "realised_fpr": float(flagged[real].mean()),
        "resampled": resampled.astype(np.float32),
        "tpr": float(flagged[~real].mean()),
    }


def _curve(labels: NDArray, scores: NDArray, test: HeldOut) -> pd.DataFrame:
    false, true, _ = roc_curve(labels, scores)
    # More points than a plot can show would only make its file large.
    shown = np.unique(np.linspace(0, len(false) - 1, 120).round().astype(int))
    false, true = false[shown], true[shown]
    return pd.DataFrame(
        {
            "real_source": test.real_source,
            "generator": test.generator,
            "fpr": false,
            "tpr": true,
        }
    )


def _scored(trial: Trial, labels: NDArray, scores: NDArray) -> pd.DataFrame:
    """Scores beside each real source, each row once, both labels weighing the same."""
    found = []
    for source in dict.fromkeys(test.real_source for test in trial.tests):
        tested = [t.rows for t in trial.tests if (t.subset, t.real_source) == (ALL, source)]
        rows = np.unique(np.concatenate(tested))
        weight = balanced_weights(labels[rows], np.full(len(rows), ""), HeadSettings().balance)
        found.append(
            pd.DataFrame(
                {
                    "real_source": source,
                    "score": scores[rows],
                    "label": labels[rows],
                    "weight": weight,
                }
            )
        )
    return pd.concat(found, ignore_index=True)


def run(job: Evaluating, progress: Callable[[int, int, float], None]) -> dict[str, pd.DataFrame]:
    """Train, test, and write the tables; returns them by name.

    Parameters
    ----------
    progress : hears of trainings done, of how many, after how many seconds
    """
    configuration, rows = job.configuration, job.rows
    started = time.monotonic()
    weights = cluster_weights(
        rows.labels.astype(np.int64), rows.groups, configuration.resamples, seed=0
    )
    start_ray(configuration.object_store_gb)
    shared = ray.put(weights)
    topics = ray.put(topic_weights(job.evidence[None], rows, job.trials))
    evidence = {name: ray.put(one) for name, one in job.evidence.items()}
    bare, head = ray.put(rows), ray.put(job.head)
    task = ray.remote(num_cpus=1)(measure)
    pending = [
        task.remote(
            evidence[job.methods[place].variant],
            bare,
            shared,
            topics,
            job.trials[number],
            job.methods[place],
            configuration.operating_points,
            head,
        )
        for number, place in job.tasks()
    ]
    outcomes: list[Outcome] = []
    total = len(pending)
    while pending:
        done, pending = ray.wait(pending)
        outcomes += ray.get(done)
        progress(len(outcomes), total, time.monotonic() - started)
    tables = tabulate(outcomes, job.methods, OURS if job.head is None else job.methods[0].name)
    _write(job, tables)
    return tables


# Tables


def tabulate(
    outcomes: Sequence[Outcome], compared: Sequence[Method], ours: str
) -> dict[str, pd.DataFrame]:
    """Outcomes of all trials as the tables of the evaluation folder.

    A figure is the mean over seeds; so is its value in each resample, from which its interval
    is taken. A resample draws the same groups for all seeds and methods.
    """
    order = {method.name: place for place, method in enumerate(compared)}
    arranged = sorted(
        outcomes,
        key=lambda one: (
            one.trial.protocol,
            order[one.method.name],
            one.trial.seed,
            one.trial.held_out,
        ),
    )
    figures = _figures(arranged)
    return {
        "metrics": _metrics(figures),
        "differences": _differences(figures, ours),
        "roc": _rocs(arranged),
        "reliability": _reliability(arranged),
        "operating_points": _operating_points(arranged),
    }


@dataclass(frozen=True, eq=False)
class Figure:
    """A metric, and what it is in each resample; rows are means over seeds."""

    value: float
    resampled: NDArray
    generated: float
    real: float


Where = tuple[str, str, str, str]
"""protocol, method, subset, real source"""
Figures = dict[Where, dict[str, dict[str, Figure]]]
"""By metric, and by generator or what is made of all of them."""


def _figures(outcomes: Sequence[Outcome]) -> Figures:
    seeds: dict[Where, dict[str, dict[str, list[Figure]]]] = {}
    for one in outcomes:
        for (subset, source, generator), values in one.points.items():
            place = (one.trial.protocol, one.method.name, subset, source)
            counts = one.counts[subset, source, generator]
            for metric, value in values.items():
                resampled = one.resampled[subset, source, generator][metric]
                by_generator = seeds.setdefault(place, {}).setdefault(metric, {})
                by_generator.setdefault(generator, []).append(Figure(value, resampled, *counts))
    figures: Figures = {}
    for place, by_metric in seeds.items():
        for metric, by_generator in by_metric.items():
            each = {name: _mean(some) for name, some in by_generator.items()}
            figures.setdefault(place, {})[metric] = each | _over(list(each.values()), metric)
    return figures


def _mean(figures: Sequence[Figure]) -> Figure:
    return Figure(
        float(np.mean([one.value for one in figures])),
        np.mean([one.resampled for one in figures], axis=0),
        float(np.mean([one.generated for one in figures])),
        float(np.mean([one.real for one in figures])),
    )


def _over(figures: Sequence[Figure], metric: str) -> dict[str, Figure]:
    """Mean, worst and spread over generators."""
    generated = sum(one.generated for one in figures)
    worst = np.max if metric in GREATER_IS_WORSE else np.min
    ways: dict[str, Callable[..., Any]] = {"mean": np.mean, "worst": worst, "spread": np.ptp}
    return {
        name: Figure(
            float(way([one.value for one in figures])),
            way([one.resampled for one in figures], axis=0),
            generated,
            figures[0].real,
        )
        for name, way in ways.items()
    }


def _metrics(figures: Figures) -> pd.DataFrame:
    rows = []
    for (protocol, method, subset, source), by_metric in figures.items():
        for metric, by_generator in by_metric.items():
            for generator, figure in by_generator.items():
                between = interval(figure.resampled)
                rows.append(
                    {
                        "protocol": protocol,
                        "method": method,
                        "subset": subset,
                        "real_source": source,
                        "generator": generator,
                        "metric": metric,
                        "value": figure.value,
                        "low": between.low,
                        "high": between.high,
                        "generated": figure.generated,
                        "real": figure.real,
                    }
                )
    return pd.DataFrame(rows)


def _differences(figures: Figures, ours: str) -> pd.DataFrame:
    """Our method minus each other one, in the same resamples; means over generators."""
    rows = []
    for (protocol, method, subset, source), by_metric in figures.items():
        own = figures.get((protocol, ours, subset, source))
        if method == ours or own is None:
            continue
        for metric in ("auroc", "ap", "topic_matched_auroc"):
            if metric not in own or metric not in by_metric:
                continue
            a, b = own[metric]["mean"], by_metric[metric]["mean"]
            between = interval(a.resampled - b.resampled)
            rows.append(
                {
                    "protocol": protocol,
                    "method": ours,
                    "baseline": method,
                    "subset": subset,
                    "real_source": source,
                    "metric": metric,
                    "difference": a.value - b.value,
                    "low": between.low,
                    "high": between.high,
                }
            )
    names = ["protocol", "method", "baseline", "subset", "real_source", "metric"]
    return pd.DataFrame(rows, columns=[*names, "difference", "low", "high"])


def _rocs(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    named = [
        curve.assign(protocol=one.trial.protocol, method=one.method.name)
        for one in outcomes
        for curve in one.curves
    ]
    return pd.concat(named, ignore_index=True)


def _reliability(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Score against share of generated rows, all seeds together, at equal prevalence."""
    named = [
        one.scored.assign(protocol=one.trial.protocol, method=one.method.name) for one in outcomes
    ]
    rows = pd.concat(named, ignore_index=True)
    place = np.clip(np.digitize(rows["score"], BINS) - 1, 0, len(BINS) - 2)
    rows = rows.assign(
        bin_low=BINS[place],
        bin_high=BINS[place + 1],
        weighted_score=rows["score"] * rows["weight"],
        weighted_label=rows["label"] * rows["weight"],
    )
    by = ["protocol", "method", "real_source", "bin_low", "bin_high"]
    sums = rows.groupby(by, as_index=False, sort=False).agg(
        score=("weighted_score", "sum"),
        label=("weighted_label", "sum"),
        weight=("weight", "sum"),
        rows=("score", "size"),
    )
    return sums.assign(
        mean_score=sums["score"] / sums["weight"],
        share_generated=(sums["label"] / sums["weight"]).clip(0, 1),
    ).drop(columns=["score", "label", "weight"])


def _operating_points(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Means over seeds and generators; the real rows of a source are the same for each."""
    gathered: dict[tuple[str, str, str, float], list[dict[str, Any]]] = {}
    for one in outcomes:
        for found in one.operating:
            key = (
                one.trial.protocol,
                one.method.name,
                found["real_source"],
                found["asked_fpr"],
            )
            gathered.setdefault(key, []).append(found)
    rows = []
    for (protocol, method, source, asked), some in gathered.items():
        between = interval(np.mean([one["resampled"] for one in some], axis=0))
        means = {
            name: float(np.mean([one[name] for one in some]))
            for name in ("realised_fpr", "tpr", "uncertain_share", "abstained_share")
        }
        rows.append(
            {
                "protocol": protocol,
                "method": method,
                "real_source": source,
                "asked_fpr": asked,
                "low": between.low,
                "high": between.high,
                **means,
            }
        )
    return pd.DataFrame(rows)


def _write(job: Evaluating, tables: Mapping[str, pd.DataFrame]) -> None:
    configuration = job.configuration
    fs, root = filesystem(configuration.output, configuration.storage)
    for name, table in tables.items():
        write_atomically(fs, join(root, f"{name}.parquet"), table.to_parquet(index=False))
    facts = json.dumps(describe(job), indent=2, ensure_ascii=False) + "\n"
    write_atomically(fs, join(root, "evaluation.json"), facts.encode())


def describe(job: Evaluating) -> dict[str, Any]:
    """``evaluation.json``: what was measured on what."""
    configuration, rows = job.configuration, job.rows
    protocols = dict.fromkeys(trial.protocol for trial in job.trials)
    sentences = SENTENCES | {TRAINED_HEAD: "A head that was trained before, as it is."}
    memory = round(psutil.virtual_memory().total / 2**30)
    return {
        "command": shlex.join(["python", *sys.argv]),
        "machine": f"{os.cpu_count()} {platform.machine()} cores, {memory} GiB",
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": code_version(),
        "feature_set_id": rows.feature_set_id,
        "seeds": configuration.seeds if job.head is None else 1,
        "resamples": configuration.resamples,
        "data": [one | {"source": one["source"] or "unknown"} for one in rows.describe()],
        "protocols": [{"name": name, "sentence": sentences[name]} for name in protocols],
        "methods": [
            {"name": one.name, "kind": str(one.purpose), "sentence": one.sentence}
            for one in job.methods
        ],
        "notes": list(job.notes),
        "shipped": job.methods[0].name,
    }
