"""A small head, and the perturbations that weaken it."""

from __future__ import annotations

import numpy as np

from item.heads.fitting import fit
from item.heads.head import Description, Head, TrainingSource
from item.heads.settings import HeadSettings
from item.profiles import load_profile
from item.statistics.calibration import OperatingPoints, fit_familiarity, fit_platt, fit_thresholds
from tests.item.heads import examples

MINI = load_profile("mini").feature_set_id()
POINTS = OperatingPoints(real_called_generated=0.1, generated_called_real=0.1)
STRENGTHS = {"none": 1.0, "jpeg-75": 0.7, "blur-4": 0.0}


def small_head(feature_set: str = MINI, seed: int = 1) -> Head:
    """A logistic head for embeddings of ``examples.DIMENSIONS``."""
    how = HeadSettings(
        kind="logistic", groups=examples.DIFFERENCES, whitened=False, logistic_c=0.01
    )
    (learned, labels), (held_out, truth) = examples.labelled(seed=seed), examples.labelled(seed=9)
    fitted = fit(learned, labels, np.ones(len(labels), np.float32), how)
    calibration = fit_platt(fitted.logits(held_out)[1], truth)
    scores = calibration.scores(fitted.logits(held_out)[1])
    description = Description(
        feature_set_id=feature_set,
        dimensions=examples.DIMENSIONS,
        settings=how,
        calibration=calibration,
        operating_points=POINTS,
        thresholds=fit_thresholds(scores, truth, POINTS),
        training_sources=(
            TrainingSource(label=1, generator="model-0", source=None, rows=200),
            TrainingSource(label=0, generator=None, source="elsewhere", rows=200),
        ),
    )
    return Head.of(description, fitted, fit_familiarity(learned.image, held_out.image))
