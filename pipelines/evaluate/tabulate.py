"""The outcomes of all trials as the tables of the evaluation folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from item.statistics.metrics import interval
from pipelines.evaluate.measure import Outcome
from pipelines.evaluate.methods import Method
from pipelines.evaluate.protocols import LEAVE_SOURCES_OUT

BINS = np.linspace(0, 1, 11)
"""Of the reliability diagram."""
GREATER_IS_WORSE = ("brier", "ece")
MEAN = "mean"
"""Also what stands in place of a source's name where a value is a mean over all of them."""
AGGREGATES = (MEAN, "worst", "spread")
"""What stands in place of a generator's name where a value is made of all of them."""
COMPARED = ("auroc", "ap", "topic_matched_auroc")
"""Metrics by which methods are compared in the same resamples."""


class Setting(NamedTuple):
    """What a row of the tables is of; the names are those of its columns."""

    protocol: str
    method: str
    subset: str
    real_source: str


@dataclass(frozen=True, eq=False)
class Estimate:
    """A metric, and what it is in each resample; rows are means over seeds."""

    value: float
    resampled: NDArray
    generated: float
    real: float


Estimates = dict[Setting, dict[str, dict[str, Estimate]]]
"""By metric, and by generator or what is made of all of them."""


def tabulate(
    outcomes: Sequence[Outcome], compared: Sequence[Method], ours: str
) -> dict[str, pd.DataFrame]:
    """Outcomes of all trials as the tables of the evaluation folder.

    A value is the mean over seeds; so is its value in each resample, from which its interval
    is taken. A resample draws the same groups for all seeds and methods.
    """
    order = {method.name: place for place, method in enumerate(compared)}
    arranged = sorted(
        outcomes,
        key=lambda outcome: (
            outcome.trial.protocol,
            order[outcome.method.name],
            outcome.trial.seed,
            outcome.trial.held_out,
        ),
    )
    estimates = _estimates(arranged)
    return {
        "metrics": _metrics(estimates),
        "differences": _differences(estimates, ours),
        "roc": _roc(arranged),
        "reliability": _reliability(arranged),
        "operating_points": _operating_points(arranged),
    }


def _estimates(outcomes: Sequence[Outcome]) -> Estimates:
    of_seeds: dict[Setting, dict[str, dict[str, list[Estimate]]]] = {}
    for outcome in outcomes:
        for test, values in outcome.points.items():
            setting = Setting(
                outcome.trial.protocol, outcome.method.name, test.subset, test.real_source
            )
            for metric, value in values.items():
                resampled = outcome.resampled[test][metric]
                by_generator = of_seeds.setdefault(setting, {}).setdefault(metric, {})
                by_generator.setdefault(test.generator, []).append(
                    Estimate(value, resampled, *outcome.counts[test])
                )
    estimates: Estimates = {}
    for setting, by_metric in of_seeds.items():
        for metric, by_generator in by_metric.items():
            means = {name: _mean(seeds) for name, seeds in by_generator.items()}
            over = _over_generators(list(means.values()), metric)
            estimates.setdefault(setting, {})[metric] = means | over
    return estimates | _over_sources(estimates)


def _over_sources(estimates: Estimates) -> Estimates:
    """Means over the sources of photographs, where none of them was trained on."""
    together: dict[Setting, list[dict[str, dict[str, Estimate]]]] = {}
    for setting, by_metric in estimates.items():
        if setting.protocol == LEAVE_SOURCES_OUT:
            together.setdefault(setting._replace(real_source=MEAN), []).append(by_metric)
    return {
        setting: {
            metric: {MEAN: _mean([of_source[metric][MEAN] for of_source in sources])}
            for metric in sources[0]
            if all(metric in of_source for of_source in sources)
        }
        for setting, sources in together.items()
    }


def _mean(seeds: Sequence[Estimate]) -> Estimate:
    return Estimate(
        float(np.mean([seed.value for seed in seeds])),
        np.mean([seed.resampled for seed in seeds], axis=0),
        float(np.mean([seed.generated for seed in seeds])),
        float(np.mean([seed.real for seed in seeds])),
    )


def _over_generators(each: Sequence[Estimate], metric: str) -> dict[str, Estimate]:
    """Mean, worst and spread."""
    worst = np.max if metric in GREATER_IS_WORSE else np.min
    ways: Sequence[Callable[..., Any]] = (np.mean, worst, np.ptp)
    return {
        name: Estimate(
            float(way([estimate.value for estimate in each])),
            way([estimate.resampled for estimate in each], axis=0),
            sum(estimate.generated for estimate in each),
            each[0].real,
        )
        for name, way in zip(AGGREGATES, ways, strict=True)
    }


def _metrics(estimates: Estimates) -> pd.DataFrame:
    rows = []
    for setting, by_metric in estimates.items():
        for metric, by_generator in by_metric.items():
            for generator, estimate in by_generator.items():
                between = interval(estimate.resampled)
                rows.append(
                    {
                        **setting._asdict(),
                        "generator": generator,
                        "metric": metric,
                        "value": estimate.value,
                        "low": between.low,
                        "high": between.high,
                        "generated": estimate.generated,
                        "real": estimate.real,
                    }
                )
    return pd.DataFrame(rows)


def _differences(estimates: Estimates, ours: str) -> pd.DataFrame:
    """Our method minus each other one, in the same resamples; means over generators."""
    rows = []
    for setting, by_metric in estimates.items():
        own = estimates.get(setting._replace(method=ours))
        if setting.method == ours or own is None:
            continue
        for metric in COMPARED:
            if metric not in own or metric not in by_metric:
                continue
            a, b = own[metric]["mean"], by_metric[metric]["mean"]
            between = interval(a.resampled - b.resampled)
            rows.append(
                {
                    "protocol": setting.protocol,
                    "method": ours,
                    "baseline": setting.method,
                    "subset": setting.subset,
                    "real_source": setting.real_source,
                    "metric": metric,
                    "difference": a.value - b.value,
                    "low": between.low,
                    "high": between.high,
                }
            )
    names = ["protocol", "method", "baseline", "subset", "real_source", "metric"]
    return pd.DataFrame(rows, columns=[*names, "difference", "low", "high"])


def _roc(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    curves = [_named(curve, outcome) for outcome in outcomes for curve in outcome.curves]
    return pd.concat(curves, ignore_index=True)


def _reliability(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Score against share of generated rows, all seeds together, at equal prevalence."""
    scored = [_named(outcome.scored, outcome) for outcome in outcomes]
    rows = pd.concat(scored, ignore_index=True)
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


def _named(table: pd.DataFrame, outcome: Outcome) -> pd.DataFrame:
    return table.assign(protocol=outcome.trial.protocol, method=outcome.method.name)


def _operating_points(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Means over seeds and generators; the real rows of a source are the same for each."""
    gathered: dict[tuple[str, str, str, float], list[dict[str, Any]]] = {}
    for outcome in outcomes:
        for point in outcome.operating:
            method, protocol = outcome.method.name, outcome.trial.protocol
            key = (protocol, method, point["real_source"], point["asked_fpr"])
            gathered.setdefault(key, []).append(point)
    rows = []
    for (protocol, method, source, asked), points in gathered.items():
        between = interval(np.mean([point["resampled"] for point in points], axis=0))
        means = {
            name: float(np.mean([point[name] for point in points]))
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
