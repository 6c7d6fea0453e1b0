"""The numbers of an audit: what verdicts add up to, and which pictures to look at.

Everything that the report shows is a table here. A scope is ``all``, ``source`` or ``night``;
its name is that of the source or the night's date, None for ``all`` and for rows without a
source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from item.heads.head import ErrorRates
from item.statistics.calibration import Thresholds, Verdict
from item.statistics.drift import Counts, Drift, Sample
from item.statistics.drift import drift as compared
from item.statistics.prevalence import (
    corrected_prevalence,
    in_words,
    share,
    share_generated_of_flagged,
)
from item.tables import ErrorCode, Status
from pipelines.audit.left_out import left_out
from pipelines.audit.rows import AuditRows

SCORED = (Verdict.LIKELY_GENERATED, Verdict.UNCERTAIN, Verdict.LIKELY_REAL)
"""Verdicts on pictures that have a score."""

QUANTITIES = {
    "score": "score",
    "global_similarity": "fit of picture and caption",
    "local_similarity_mean": "fit of objects and words",
    "caption_length": "length of captions",
    "pixels": "number of pixels",
    "byte_count": "size of files",
    "format": "file format",
    "source": "mix of sources",
    "status": "share of rows with features",
}
"""What is compared with the nights before, and how a sentence calls it after "The"."""

OF_SUSPICIOUS = (
    *("date", "uri", "image_id", "source", "score", "verdict", "abstention", "caption"),
    *("weakest_phrase", "weakest_similarity", "explanation", "digital_source_type"),
)
OF_REVIEW = ("date", "uri", "source", "score", "verdict", "caption", "weakest_phrase")
"""Columns of the two tables of pictures."""

FLAGGED = Verdict.LIKELY_GENERATED

EXAMPLES = 3
"""URIs that are shown for each reason and source of rows without features."""


class DriftOptions(BaseModel):
    """When a night counts as unlike the nights before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nights: int = Field(default=14, ge=0)
    """Earlier nights that it is compared with; 0 compares with none."""
    rows_per_night: int = Field(default=100_000, ge=100)
    """Rows of each earlier night that are held in memory, at most."""
    psi: float = Field(default=0.25, gt=0)
    """Population stability index above which there is an alarm."""
    alpha: float = Field(default=0.01, gt=0, lt=1)
    """Level of the two-sample test of each quantity."""


class HourlyPrice(BaseModel):
    """What machines cost, in the configured currency."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: float = Field(default=0.0, ge=0)
    """Of one CPU core for an hour."""
    gpu: float = Field(default=0.0, ge=0)
    """Of one GPU for an hour."""


class AuditOptions(BaseModel):
    """What a report says, whichever night it is of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    error_rates: ErrorRates | None = None
    """How often the head errs, instead of what the head or the manifests say."""
    thresholds: Thresholds | None = None
    """Where the verdicts begin, instead of what the head or the manifests say."""
    drift: DriftOptions = DriftOptions()
    """When a night counts as unlike the nights before it."""
    gallery: int = Field(default=60, ge=0)
    """Most suspicious pictures that are shown."""
    source_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the gallery that one source may take while others have pictures."""
    review: int = Field(default=200, ge=0)
    """Most uncertain pictures that go into the review queue."""
    review_pictures: int = Field(default=40, ge=0)
    """How many of them, from the first, are shown."""
    bins: int = Field(default=40, ge=2, le=1000)
    """Bars of the histogram of scores."""
    price_per_hour: HourlyPrice = HourlyPrice()
    """Prices from which the report computes the cost of a run; none if both are 0."""
    currency: str = Field(default="USD", max_length=20)
    """What the prices are in."""


@dataclass(frozen=True)
class Known:
    """What is known of the head that scored the nights."""

    head_ids: tuple[str, ...]
    feature_set_ids: tuple[str, ...]
    error_rates: ErrorRates | None
    thresholds: Thresholds | None

    @property
    def middle(self) -> float:
        """The score of which the head is least sure."""
        if self.thresholds is None:
            return 0.5
        return (self.thresholds.likely_real + self.thresholds.likely_generated) / 2


def known(rows: AuditRows, options: AuditOptions) -> Known:
    """What the options and the nights' manifests say of the head.

    Nights of more than one head have no error rates and no thresholds in common, unless the
    options give them.
    """
    head_ids, feature_sets = (
        tuple(sorted(rows.rows[name].dropna().unique())) for name in ("head_id", "feature_set_id")
    )
    said: Mapping[str, Any] = {}
    if len(head_ids) == 1:
        heads = [manifest.get("head") or {} for manifest in rows.manifests.values()]
        said = next((head for head in heads if head.get("head_id") == head_ids[0]), {})
    rates, thresholds = said.get("error_rates"), said.get("thresholds")
    return Known(
        head_ids=head_ids,
        feature_set_ids=feature_sets,
        error_rates=options.error_rates or (ErrorRates.model_validate(rates) if rates else None),
        thresholds=options.thresholds or (Thresholds(**thresholds) if thresholds else None),
    )


@dataclass(frozen=True)
class Audit:
    """All numbers of a report."""

    verdicts: pd.DataFrame
    """scope, name, rows, a count for each verdict, rejected, failed; flagged_share of the
    pictures with a score, with low and high."""
    prevalence: pd.DataFrame
    """scope, name, scored, flagged; prevalence and ppv, each with _low and _high; words."""
    histogram: pd.DataFrame
    """low, high, rows, likely_generated, uncertain, likely_real."""
    families: pd.DataFrame
    """family, rows: what the flagged pictures look most like, most first; no rows where the head
    knows no families."""
    drift: pd.DataFrame
    """A row for each of :data:`QUANTITIES`: quantity, and what
    :class:`item.statistics.drift.Drift` says; no rows without nights to compare with."""
    nights_before: tuple[str, ...]
    """The nights that ``drift`` compares with."""
    suspicious: pd.DataFrame
    """The gallery, highest score first, as :meth:`AuditRows.texts` gives its rows."""
    queue: pd.DataFrame
    """The review queue, most uncertain first, likewise."""
    rejects: pd.DataFrame
    """status, error_code, source, rows, share (of the source's rows), reason, examples."""
    run: pd.DataFrame
    """One row a night; None for what is not known."""
    left_out: tuple[str, ...]
    """Sentences about what lay in the dump and was not read, or not as it says."""

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by name, as they stand beside the report."""
        return {
            "verdicts": self.verdicts,
            "prevalence": self.prevalence,
            "histogram": self.histogram,
            "families": self.families,
            "drift": self.drift,
            "suspicious": self.suspicious[list(OF_SUSPICIOUS)],
            "review": self.queue[list(OF_REVIEW)].assign(decision=""),
            "rejects": self.rejects,
            "run": self.run,
        }


def audit_of(rows: AuditRows, known: Known, options: AuditOptions) -> Audit:
    """All numbers of a report."""
    table = rows.rows
    gallery = suspicious(table, options)
    queue = uncertain(table, options, known.middle)
    texts = rows.texts(gallery.append(queue).unique())
    verdicts = verdict_counts(table)
    before = comparable(rows.history, known)
    return Audit(
        verdicts=verdicts,
        prevalence=prevalence(verdicts, known.error_rates),
        histogram=score_histogram(table, options.bins),
        families=family_counts(table),
        drift=drift(table, before, options.drift),
        nights_before=tuple(sorted(before["date"].unique())),
        suspicious=texts.loc[gallery],
        queue=texts.loc[queue],
        rejects=reject_counts(rows),
        run=run_facts(rows, options),
        left_out=tuple(left_out(rows.manifests)),
    )


# Which pictures are shown


def suspicious(rows: pd.DataFrame, options: AuditOptions) -> pd.Index:
    """Labels of the gallery's rows: the highest scores, each picture once.

    One source takes at most its share of the gallery, unless the others cannot fill the rest.
    """
    scored = rows[rows["score"].notna()].sort_values(
        ["score", "picture"], ascending=[False, True], kind="stable"
    )
    scored = scored.drop_duplicates("picture")
    place = scored.groupby("source", observed=True, dropna=False).cumcount()
    beyond = place >= math.ceil(options.gallery * options.source_share)
    chosen = scored.index[np.argsort(beyond.to_numpy(), kind="stable")][: options.gallery]
    return scored.index[scored.index.isin(chosen)]


def uncertain(rows: pd.DataFrame, options: AuditOptions, middle: float) -> pd.Index:
    """Labels of the review queue's rows: pictures that the head leaves open, each once.

    In turn one whose score lies nearest to ``middle``, and one on which the head abstained,
    whatever its score.
    """
    open_ones = rows[rows["verdict"] == Verdict.UNCERTAIN].drop_duplicates("picture")
    distance = (open_ones["score"] - middle).abs()
    order = open_ones.assign(distance=distance).sort_values(["distance", "picture"], kind="stable")
    abstained = order["abstention"].notna()
    turn = order.groupby(abstained).cumcount()
    places = np.lexsort((abstained.to_numpy(), turn.to_numpy()))
    return order.index[places][: options.review]


def with_pictures(suspicious: pd.Index, uncertain: pd.Index, options: AuditOptions) -> pd.Index:
    """Labels of the rows whose pictures the report shows."""
    return suspicious.append(uncertain[: options.review_pictures]).unique()


# Change


def comparable(history: pd.DataFrame, known: Known) -> pd.DataFrame:
    """The earlier nights that the same head scored, of the same features."""
    same = pd.Series(True, index=history.index)
    for name, ids in (("head_id", known.head_ids), ("feature_set_id", known.feature_set_ids)):
        other = history[name].notna() & ~history[name].isin(ids)
        same &= ~history["date"].isin(history["date"][other].unique())
    return history[same]


def drift(now: pd.DataFrame, before: pd.DataFrame, options: DriftOptions) -> pd.DataFrame:
    """How far each quantity moved; see :class:`Audit`."""
    columns = ["quantity", *(field.name for field in fields(Drift))]
    if before.empty:
        return pd.DataFrame(columns=columns)
    tonight, earlier = (
        {words: _sample(rows, name) for name, words in QUANTITIES.items()} for rows in (now, before)
    )
    found = compared(tonight, earlier, threshold=options.psi, alpha=options.alpha)
    rows = [{"quantity": name} | asdict(one) for name, one in zip(QUANTITIES, found, strict=True)]
    return pd.DataFrame(rows, columns=columns)


def _sample(rows: pd.DataFrame, name: str) -> Sample:
    """A quantity of all rows, or of those that have features where others cannot have it."""
    if name in ("source", "status"):
        return _counted(rows[name])
    with_features = rows[rows["status"] == Status.OK]
    match name:
        case "format":
            return _counted(with_features[name])
        case "pixels":
            return (with_features["width"].astype(float) * with_features["height"]).to_numpy()
    return with_features[name].to_numpy(np.float64)


def _counted(names: pd.Series) -> Counts:
    counts = names.value_counts(dropna=False)
    return {_or_none(name): int(number) for name, number in counts.items() if number}


# What they add up to


def verdict_counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts in all, by source and, if there are several, by night; see :class:`Audit`."""
    ones = pd.DataFrame({"rows": np.ones(len(rows), np.int64)}, index=rows.index)
    for verdict in Verdict:
        ones[verdict.value] = (rows["verdict"] == verdict).astype(np.int64)
    for status in (Status.REJECTED, Status.FAILED):
        ones[status.value] = (rows["status"] == status).astype(np.int64)
    parts = [ones.sum().to_frame().T.assign(scope="all", name=None)]
    scopes = {"source": "source"} | ({"night": "date"} if rows["date"].nunique() > 1 else {})
    for scope, column in scopes.items():
        counted = ones.groupby(rows[column], observed=True, dropna=False).sum()
        names = [None if pd.isna(name) else str(name) for name in counted.index]
        parts.append(counted.reset_index(drop=True).assign(scope=scope, name=names))
    table = pd.concat(parts, ignore_index=True)[["scope", "name", *ones.columns]]
    scored = table[list(SCORED)].sum(axis=1)
    flagged = [share(*one) for one in zip(table[FLAGGED], scored, strict=True)]
    return table.assign(
        flagged_share=[one.value for one in flagged],
        low=[one.low for one in flagged],
        high=[one.high for one in flagged],
    )


def prevalence(verdicts: pd.DataFrame, rates: ErrorRates | None) -> pd.DataFrame:
    """How many pictures of each scope are generated, as far as the head's errors are known.

    Parameters
    ----------
    verdicts : as :func:`verdict_counts` gives them
    rates : None where nobody counted them; prevalence and ppv are then NaN
    """
    found = []
    for row in verdicts.to_dict("records"):
        flagged, scored = row[FLAGGED], sum(row[verdict] for verdict in SCORED)
        estimate = corrected_prevalence(flagged, scored, rates)
        generated = share_generated_of_flagged(flagged, scored, rates)
        found.append(
            {"scope": row["scope"], "name": row["name"], "scored": scored, "flagged": flagged}
            | {"prevalence": estimate.value}
            | {"prevalence_low": estimate.low, "prevalence_high": estimate.high}
            | {"ppv": generated.value, "ppv_low": generated.low, "ppv_high": generated.high}
            | {"words": in_words(flagged, scored, rates)}
        )
    return pd.DataFrame(found)


def score_histogram(rows: pd.DataFrame, bins: int) -> pd.DataFrame:
    """Pictures by score and verdict, in bins of equal width from 0 to 1."""
    edges = np.linspace(0, 1, bins + 1)
    scored = rows[rows["score"].notna()]
    counts = {
        verdict.value: np.histogram(scored["score"][scored["verdict"] == verdict], edges)[0]
        for verdict in SCORED
    }
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], **counts})
    table.insert(2, "rows", sum(counts.values()))
    return table


def family_counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Flagged pictures by family; see :class:`Audit`."""
    named = rows["family"][(rows["verdict"] == FLAGGED) & rows["family"].notna()]
    counts = (
        named.astype(str).value_counts().sort_index().sort_values(ascending=False, kind="stable")
    )
    return pd.DataFrame({"family": counts.index, "rows": counts.to_numpy(np.int64)})


def reject_counts(rows: AuditRows) -> pd.DataFrame:
    """Rows without features by reason and source, most frequent first; see :class:`Audit`."""
    table = rows.rows
    without = table[table["status"] != Status.OK]
    keys = ["status", "error_code", "source"]
    counted = without.groupby(keys, observed=True, dropna=False).size()
    sizes = table.groupby("source", observed=True, dropna=False).size()
    of_source = {_or_none(name): int(size) for name, size in sizes.items()}
    found = []
    for key, number in counted.items():
        status, code, source = (_or_none(part) for part in key)
        examples = rows.examples.get((status or "", code or "", source or ""), ())
        found.append(
            {"status": status, "error_code": code, "source": source, "rows": int(number)}
            | {"share": number / of_source[source], "reason": _reason(code)}
            | {"examples": list(examples[:EXAMPLES])}
        )
    found.sort(key=lambda one: (-one["rows"], one["error_code"] or "", one["source"] or ""))
    columns = ("status", "error_code", "source", "rows", "share", "reason", "examples")
    return pd.DataFrame(found, columns=columns)


def run_facts(rows: AuditRows, options: AuditOptions) -> pd.DataFrame:
    """What each night's manifest says of its run, and what the run cost."""
    facts = []
    for night in rows.dates:
        manifest = rows.manifests.get(night, {})
        mine = rows.rows[rows.rows["date"] == night]
        head_id, feature_set_id = (
            ", ".join(sorted(mine[name].dropna().unique())) or None
            for name in ("head_id", "feature_set_id")
        )
        facts.append(
            {
                "date": night,
                "rows": len(mine),
                "head_id": head_id,
                "feature_set_id": feature_set_id,
                "models": _joined(manifest.get("models")),
                "started_at": manifest.get("started_at"),
                "seconds": manifest.get("seconds"),
                "images_per_second": manifest.get("images_per_second"),
                "reuse_rate": (manifest.get("reuse") or {}).get("rate"),
                "cpus": manifest.get("cpus"),
                "gpus": manifest.get("gpus"),
                "cost": _cost(manifest, options.price_per_hour),
                "currency": options.currency,
            }
        )
    return pd.DataFrame(facts)


def _cost(manifest: Mapping[str, Any], price: HourlyPrice) -> float | None:
    """Hours times machines times their price; None where a part of it is not known."""
    seconds, cpus, gpus = (manifest.get(name) for name in ("seconds", "cpus", "gpus"))
    if seconds is None or not (price.cpu or price.gpu):
        return None
    if (price.cpu and cpus is None) or (price.gpu and gpus is None):
        return None
    return seconds / 3600 * (price.cpu * (cpus or 0) + price.gpu * (gpus or 0))


def _joined(models: Mapping[str, str] | None) -> str | None:
    return "; ".join(f"{part}: {name}" for part, name in (models or {}).items()) or None


def _reason(code: str | None) -> str:
    try:
        return ErrorCode(code or "").sentence
    except ValueError:
        return "A reason that this program does not know."


def _or_none(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)
