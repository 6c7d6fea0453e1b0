"""One method in one trial: trained, calibrated and tested on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from item.heads.columns import FeatureArrays
from item.heads.fitting import fit
from item.heads.head import Head
from item.heads.settings import Balance, HeadSettings, balanced_weights
from item.statistics import metrics
from item.statistics.calibration import (
    OperatingPoints,
    Thresholds,
    fit_familiarity,
    fit_platt,
    fit_thresholds,
)
from item.statistics.metrics import overlap_weights, weighted_auroc, weighted_summary
from pipelines.evaluate.methods import Method, shuffled
from pipelines.evaluate.protocols import ALL, HeldOut, Trial
from pipelines.train.rows import LabelledRows

RATES = (0.01, 0.05)
"""Operating points: shares of real pictures that may be called generated."""
UNFAMILIAR_SHARE = 0.005
MOST_POINTS = 120
"""Of a ROC curve; more than a plot can show would only make its file large."""

SourceAndGenerator = tuple[str, str]


class Slice(NamedTuple):
    """Names of the rows that a metric is of."""

    subset: str
    real_source: str
    generator: str


@dataclass(eq=False)
class Outcome:
    """What one method did in one trial."""

    trial: Trial
    method: Method
    scored: pd.DataFrame
    """Score and label of each row that was tested on, beside each real source."""
    points: dict[Slice, dict[str, float]] = field(default_factory=dict)
    """Metrics by name."""
    resampled: dict[Slice, dict[str, NDArray[np.float32]]] = field(default_factory=dict)
    """The same in each resample."""
    counts: dict[Slice, tuple[int, int]] = field(default_factory=dict)
    """Generated and real rows."""
    operating: list[dict[str, Any]] = field(default_factory=list)
    curves: list[pd.DataFrame] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Answers:
    """What a head says of all rows, and the thresholds by which it gives verdicts."""

    scores: NDArray
    unfamiliar: NDArray[np.bool_]
    thresholds: Thresholds
    threshold_at: dict[float, float]
    """Score above which a picture is flagged, by the share of real ones that may be."""

    def undecided(self) -> NDArray[np.bool_]:
        likely_generated = self.scores > self.thresholds.likely_generated
        likely_real = self.scores < self.thresholds.likely_real
        return ~(likely_generated | likely_real) | self.unfamiliar


def topic_weights(
    arrays: FeatureArrays, rows: LabelledRows, trials: Sequence[Trial]
) -> dict[SourceAndGenerator, NDArray[np.float32]]:
    """Weights (n,) under which a generator's images and a source's photographs have equal topics.

    The topic is what a logistic regression on the caption's embedding knows of the label,
    predicted for groups that it was not fitted on.
    """
    weights: dict[SourceAndGenerator, NDArray[np.float32]] = {}
    for test in (test for trial in trials for test in trial.tests):
        pair = (test.real_source, test.generator)
        if pair in weights or test.subset != ALL:
            continue
        real = (rows.labels == 0) & (rows.sources == test.real_source)
        chosen = np.flatnonzero(real | (rows.labels == 1) & (rows.generators == test.generator))
        labels, groups = rows.labels[chosen].astype(np.int64), rows.groups[chosen]
        folds = min(5, *(len(np.unique(groups[labels == label])) for label in (0, 1)))
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
            arrays.caption[chosen],
            labels,
            groups=groups,
            cv=StratifiedGroupKFold(folds, shuffle=True, random_state=0),
            method="predict_proba",
        )[:, 1]
        weights[pair] = np.zeros(len(rows), np.float32)
        weights[pair][chosen] = overlap_weights(labels, predicted)
    return weights


def measure(
    arrays: FeatureArrays,
    rows: LabelledRows,
    weights: NDArray[np.int32],
    topics: Mapping[SourceAndGenerator, NDArray[np.float32]],
    trial: Trial,
    method: Method,
    points: OperatingPoints,
    head: Head | None = None,
) -> Outcome:
    """Train and calibrate a method, and test it on held-out rows.

    Parameters
    ----------
    arrays : of all rows, in their order
    weights : (resamples, rows), how often each resample holds each row
    topics : by :func:`topic_weights`
    points : at which verdicts are given
    head : takes the place of training
    """
    labels = rows.labels.astype(np.int64)
    if method.shuffle is not None:
        arrays = shuffled(arrays, labels, method.shuffle, trial.seed)
    if head is not None:
        answers = _answers_of_head(head, arrays)
    else:
        answers = _answers_after_training(method.head, arrays, rows, trial, points)
    scores, undecided = answers.scores, answers.undecided()
    outcome = Outcome(trial, method, _scored_rows(trial, labels, scores))
    for test in trial.tests:
        key = Slice(test.subset, test.real_source, test.generator)
        truth, predicted = labels[test.rows], scores[test.rows]
        draws = weights[:, test.rows]
        outcome.points[key] = metrics.summary(truth, predicted, 0.5)
        outcome.counts[key] = (int(truth.sum()), int((truth == 0).sum()))
        resampled = weighted_summary(truth, predicted, 0.5, draws)
        if test.subset == ALL and (test.real_source, test.generator) in topics:
            balance = topics[test.real_source, test.generator][test.rows]
            point = weighted_auroc(truth, predicted, balance[np.newaxis])
            outcome.points[key]["topic_matched_auroc"] = float(point[0])
            resampled["topic_matched_auroc"] = weighted_auroc(truth, predicted, draws * balance)
        outcome.resampled[key] = {
            name: values.astype(np.float32) for name, values in resampled.items()
        }
        if test.subset != ALL:
            continue
        if trial.seed == 0:
            outcome.curves.append(_roc_curve(truth, predicted, test))
        for rate, threshold in answers.threshold_at.items():
            outcome.operating.append(
                {
                    "real_source": test.real_source,
                    "asked_fpr": rate,
                    **_at_threshold(threshold, truth, predicted, draws),
                    "uncertain_share": float(np.mean(undecided[test.rows])),
                    "abstained_share": float(np.mean(answers.unfamiliar[test.rows])),
                }
            )
    return outcome


def conformal_threshold(real_scores: NDArray, rate: float) -> float:
    """Above which at most this share of new real scores lies, as in split conformal prediction
    (Vovk et al. 2005); infinite if there are too few rows to say."""
    place = int(np.ceil((len(real_scores) + 1) * (1 - rate)))
    return float(np.sort(real_scores)[place - 1]) if place <= len(real_scores) else float("inf")


def _answers_of_head(head: Head, arrays: FeatureArrays) -> _Answers:
    about = head.description
    return _Answers(
        about.calibration.scores(head.fitted.logits(arrays)[1]),
        head.familiarity.unfamiliar(arrays.image),
        about.thresholds,
        {about.operating_points.real_called_generated: about.thresholds.likely_generated},
    )


def _answers_after_training(
    head: HeadSettings,
    arrays: FeatureArrays,
    rows: LabelledRows,
    trial: Trial,
    points: OperatingPoints,
) -> _Answers:
    labels, origins = rows.labels.astype(np.int64), rows.origins()
    training, calibration = trial.training, trial.calibration
    settings = head.model_copy(update={"seed": trial.seed})
    calibration_arrays = arrays.take(calibration)
    fitted = fit(
        arrays.take(training),
        labels[training],
        balanced_weights(labels[training], origins[training], settings.balance),
        settings,
        (calibration_arrays, labels[calibration]),
    )
    logits = fitted.logits(arrays)[1]
    # Both labels weigh the same: a score of one half is even odds at equal prevalence.
    balanced = balanced_weights(labels[calibration], origins[calibration], settings.balance)
    scores = fit_platt(logits[calibration], labels[calibration], balanced).scores(logits)
    # With few rows the quantile is at least the second farthest one.
    share = max(UNFAMILIAR_SHARE, 2 / (len(calibration) + 1))
    familiarity = fit_familiarity(arrays.image[training], calibration_arrays.image, share)
    real_scores = scores[calibration][labels[calibration] == 0]
    return _Answers(
        scores,
        familiarity.unfamiliar(arrays.image),
        fit_thresholds(scores[calibration], labels[calibration], points),
        {rate: conformal_threshold(real_scores, rate) for rate in RATES},
    )


def _at_threshold(
    threshold: float, labels: NDArray, scores: NDArray, weights: NDArray[np.int32]
) -> dict[str, Any]:
    """Shares of real and of generated rows above a threshold."""
    flagged, real = scores > threshold, labels == 0
    drawn = weights[:, real]
    resampled = (drawn * flagged[real]).sum(1) / np.maximum(drawn.sum(1), 1)
    return {
        "realised_fpr": float(flagged[real].mean()),
        "resampled": resampled.astype(np.float32),
        "tpr": float(flagged[~real].mean()),
    }


def _roc_curve(labels: NDArray, scores: NDArray, test: HeldOut) -> pd.DataFrame:
    false, true, _ = roc_curve(labels, scores)
    shown = np.unique(np.linspace(0, len(false) - 1, MOST_POINTS).round().astype(int))
    return pd.DataFrame(
        {
            "real_source": test.real_source,
            "generator": test.generator,
            "fpr": false[shown],
            "tpr": true[shown],
        }
    )


def _scored_rows(trial: Trial, labels: NDArray, scores: NDArray) -> pd.DataFrame:
    """Scores beside each real source, each row once, both labels weighing the same."""
    frames = []
    for source in dict.fromkeys(test.real_source for test in trial.tests):
        tested = [t.rows for t in trial.tests if (t.subset, t.real_source) == (ALL, source)]
        rows = np.unique(np.concatenate(tested))
        weight = balanced_weights(labels[rows], np.full(len(rows), ""), Balance.LABEL)
        columns = {"score": scores[rows], "label": labels[rows], "weight": weight}
        frames.append(pd.DataFrame({"real_source": source, **columns}))
    return pd.concat(frames, ignore_index=True)
