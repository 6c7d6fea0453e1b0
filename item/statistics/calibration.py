"""From a head's logit to a verdict: a probability, two thresholds, and when to abstain.

All of it is fitted on rows that the head was not trained on and that no result is measured on.
Fitting needs scikit-learn, which is imported only there; scoring does without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize
from scipy.special import expit

from item.errors import UsageError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST_TRAINING_ROWS = 100
"""Fewer embeddings say too little of how training images spread."""


# Probabilities


@dataclass(frozen=True)
class Calibration:
    """The probability of being generated, ``1 / (1 + exp(-(slope * logit + intercept)))``.

    ``dataclasses.asdict`` and ``Calibration(**values)`` take it to JSON and back.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept)):
            raise ValueError("A calibration needs a finite slope and a finite intercept.")

    @property
    def keeps_order(self) -> bool:
        """Whether a higher logit means a higher score.

        If not, the head ranked the calibration rows no better than chance. Its scores are
        right for those rows, but it is not fit for use.
        """
        return self.slope > 0

    def scores(self, logits: ArrayLike) -> Floats:
        """Probabilities of the shape of ``logits``; NaN stays NaN."""
        return expit(self.slope * np.asarray(logits, np.float64) + self.intercept)


def fit_platt(
    logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> Calibration:
    """Slope and intercept of greatest likelihood (Platt 1999, Probabilistic Outputs for SVMs).

    The targets are Platt's, ``(N1 + 1) / (N1 + 2)`` for the N1 generated rows and
    ``1 / (N0 + 2)`` for the N0 real ones, so that perfectly separated rows still give a
    finite slope. Probabilities presume the share of generated rows that the data have.

    Parameters
    ----------
    logits : (n,)
    labels : (n,), 1 generated, 0 real, both present
    weights : (n,), not negative, or None for equal ones; only their ratios matter

    Returns
    -------
    Calibration. Its slope is negative where logits run against the labels (``keeps_order``).

    Raises
    ------
    ValueError
        If rows are missing, of one class, or not finite.
    """
    from item.statistics.metrics import checked

    truth, values = checked(labels, logits)
    weight = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    if weight.shape != truth.shape or not np.isfinite(weight).all() or weight.min() < 0:
        raise ValueError("Weights must be one finite number a row, none of them negative.")
    if not weight.any():
        raise ValueError("Some weights must be above 0, and all are 0.")
    weight = weight / weight.mean()
    generated, real = weight[truth == 1].sum(), weight[truth == 0].sum()
    target = np.where(truth == 1, (generated + 1) / (generated + 2), 1 / (real + 2))

    # The optimiser sees logits of mean 0 and deviation 1, whatever the head's scale is.
    centre = values.mean()
    scale = np.sqrt(np.mean((values - centre) ** 2)) or 1.0
    columns = np.column_stack([(values - centre) / scale, np.ones(len(values))])

    def cross_entropy(parameters: Floats) -> tuple[float, Floats]:
        z = columns @ parameters
        loss = np.mean(weight * (np.logaddexp(0, z) - target * z))
        return float(loss), columns.T @ (weight * (expit(z) - target)) / len(z)

    best = minimize(cross_entropy, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    slope = float(best[0] / scale)
    return Calibration(slope, float(best[1] - slope * centre))


# Thresholds


class OperatingPoints(BaseModel):
    """How often each confident verdict may be wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    real_called_generated: float = Field(default=0.01, gt=0, lt=0.5)
    """At most this share of real pictures gets ``likely_generated``."""
    generated_called_real: float = Field(default=0.05, gt=0, lt=0.5)
    """At most this share of generated pictures gets ``likely_real``."""


@dataclass(frozen=True)
class Thresholds:
    """Calibrated scores below and above which a verdict is confident; between, it is uncertain.

    ``dataclasses.asdict`` and ``Thresholds(**values)`` take them to JSON and back.
    """

    likely_real: float
    """A score below it is ``likely_real``."""
    likely_generated: float
    """A score above it is ``likely_generated``."""

    def __post_init__(self) -> None:
        if not self.likely_real <= self.likely_generated:
            raise ValueError("The threshold likely_real must not lie above likely_generated.")

    @classmethod
    def of_limits(cls, lowest_generated: float, highest_real: float) -> Thresholds:
        """From the limit of each class: half-way between them where they cross.

        Parameters
        ----------
        lowest_generated : below it lie only as many generated rows as may be called real
        highest_real : above it lie only as many real rows as may be called generated
        """
        if highest_real < lowest_generated:
            lowest_generated = highest_real = (highest_real + lowest_generated) / 2
        return cls(likely_real=lowest_generated, likely_generated=highest_real)


def fit_thresholds(scores: ArrayLike, labels: ArrayLike, points: OperatingPoints) -> Thresholds:
    """The narrowest band of uncertainty that keeps the operating points on new rows like these.

    Each threshold is the conservative quantile of split conformal prediction, the
    ``ceil((n + 1)(1 - share))``-th of the n scores of one class in order (Vovk et al. 2005;
    Angelopoulos and Bates 2021, A Gentle Introduction to Conformal Prediction): a new row
    passes it with a chance of at most ``share``, averaged over draws of the calibration rows,
    if it comes from where they came from. Pictures of another source carry no such promise.
    Where the two thresholds cross, any score between them keeps both points, and both are put
    half-way.

    Parameters
    ----------
    scores : (n,) calibrated scores
    labels : (n,), 1 generated, 0 real

    Raises
    ------
    UsageError
        If a class has too few rows for its operating point.
    ValueError
        If scores are missing or not finite.
    """
    from item.statistics.metrics import checked

    truth, values = checked(labels, scores, needed=())
    highest_real = _upper_limit(
        values[truth == 0], points.real_called_generated, "real pictures to calibrate on"
    )
    lowest_generated = -_upper_limit(
        -values[truth == 1], points.generated_called_real, "generated pictures to calibrate on"
    )
    return Thresholds.of_limits(lowest_generated, highest_real)


def _upper_limit(values: NDArray, share: float, what: str) -> float:
    """The least of ``values`` that a new one like them exceeds with a chance of at most ``share``.

    With n values, ``floor((n + 1) share) - 1`` of them may exceed it.
    """
    # As the decimal that was written: in binary, 100 * 0.29 is less than 29.
    exact = Fraction(str(float(share)))
    above = math.floor((len(values) + 1) * exact) - 1
    if above < 0:
        raise UsageError(
            f"A share of {share:g} needs at least {math.ceil(1 / exact) - 1} {what}, "
            f"and there are {len(values)}."
        )
    return float(np.sort(values)[len(values) - 1 - above])


# Verdicts


class Verdict(StrEnum):
    """What is said of a picture."""

    LIKELY_GENERATED = "likely_generated"
    UNCERTAIN = "uncertain"
    LIKELY_REAL = "likely_real"
    NOT_SCORED = "not_scored"
    """The row has no features, and so no score."""


class Abstention(StrEnum):
    """Why a picture with a score is called uncertain whatever the score."""

    OUT_OF_DISTRIBUTION = "out_of_distribution"
    NO_CAPTION = "no_caption"

    @property
    def sentence(self) -> str:
        """The reason in words."""
        return _SENTENCES[self]


_SENTENCES = {
    Abstention.OUT_OF_DISTRIBUTION: "The picture is unlike those that the detector learned from.",
    Abstention.NO_CAPTION: "The picture has no caption to compare it with.",
}


def verdicts(scores: ArrayLike, thresholds: Thresholds, abstained: ArrayLike) -> list[Verdict]:
    """The verdict on each row.

    Parameters
    ----------
    scores : (n,) calibrated scores; NaN is ``not_scored``
    thresholds : of the head that gave the scores
    abstained : bool, (n,); such rows are ``uncertain``, unless they are not scored
    """
    values, held_back = np.asarray(scores, np.float64), np.asarray(abstained, bool)
    if values.ndim != 1 or values.shape != held_back.shape:
        raise ValueError("Scores and abstentions must be two lists of one length.")
    cases = [
        (np.isnan(values), Verdict.NOT_SCORED),
        (held_back, Verdict.UNCERTAIN),
        (values > thresholds.likely_generated, Verdict.LIKELY_GENERATED),
        (values < thresholds.likely_real, Verdict.LIKELY_REAL),
        (np.ones(len(values), bool), Verdict.UNCERTAIN),
    ]
    first = np.argmax([mask for mask, _ in cases], axis=0)
    return [cases[case][1] for case in first]


# Familiarity


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Whether a picture is like those that a head learned from.

    The measure is the Mahalanobis distance of image embeddings to the training images (Lee
    et al. 2018, A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks), here to one Gaussian of all of them, in the space of their leading
    principal components.
    """

    mean: NDArray[np.float32]
    """(d,)"""
    whitening: NDArray[np.float32]
    """(d, components): takes a centred embedding to coordinates of unit variance."""
    limit: NDArray[np.float32]
    """(1,), the greatest distance that is still familiar."""

    def distances(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Mahalanobis distances of embeddings of shape (n, d), shape (n,)."""
        centred = np.asarray(embeddings, np.float64) - self.mean
        return np.linalg.norm(centred @ self.whitening, axis=1).astype(np.float32)

    def unfamiliar(self, embeddings: ArrayLike) -> Mask:
        """Which embeddings of shape (n, d) lie beyond the limit, shape (n,); NaN does."""
        return ~(self.distances(embeddings) <= self.limit)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """As named arrays, for safetensors."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray]) -> Familiarity:
        """The inverse of :meth:`tensors`."""
        return cls(
            **{field.name: np.asarray(tensors[field.name], np.float32) for field in fields(cls)}
        )


def fit_familiarity(
    training: ArrayLike, held_out: ArrayLike, share: float = 0.005, explained: float = 0.95
) -> Familiarity:
    """Learn the training images' spread, and the limit from held-out images.

    Held-out images set the limit because training images lie nearer to their own mean. A new
    image like the held-out ones is unfamiliar with a chance of at most ``share``, as in
    :func:`fit_thresholds`.

    Parameters
    ----------
    training : (n, d) image embeddings; a sample of some ten thousand is enough
    held_out : (m, d) embeddings of images that are not among them, of the same kind
    share : how many images like the held-out ones may be called unfamiliar
    explained : share of the training variance that the components kept explain; the
        covariance in their space is shrunk (Ledoit and Wolf 2004)

    Raises
    ------
    UsageError
        If there are too few training rows, or too few held-out rows for ``share``.
    ValueError
        If embeddings are not finite, or all the same.
    """
    from sklearn.covariance import LedoitWolf
    from sklearn.decomposition import PCA

    rows = np.asarray(training, np.float64)
    if len(rows) < LEAST_TRAINING_ROWS:
        raise UsageError(
            f"Knowing unfamiliar pictures needs at least {LEAST_TRAINING_ROWS} training pictures, "
            f"and there are {len(rows)}."
        )
    if not (np.isfinite(rows).all() and np.isfinite(np.asarray(held_out, np.float64)).all()):
        raise ValueError("Embeddings must be finite numbers, and some are NaN or infinite.")
    if np.allclose(rows, rows[0]):
        raise ValueError("The training embeddings are all the same.")
    principal = PCA(explained, svd_solver="covariance_eigh").fit(rows)
    precision = LedoitWolf().fit(principal.transform(rows)).precision_
    whitening = principal.components_.T @ np.linalg.cholesky(precision)
    mean = principal.mean_.astype(np.float32)
    unlimited = Familiarity(mean, whitening.astype(np.float32), np.full(1, np.inf, np.float32))
    limit = _upper_limit(unlimited.distances(held_out), share, "held-out pictures")
    return Familiarity(mean, unlimited.whitening, np.full(1, limit, np.float32))
