"""A scoring job: features, or images that are featurized first, and a head in, scores out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from item.errors import UsageError
from item.heads.head import Head
from pipelines.featurize.plan import FeaturizingPlan, plan_featurizing
from pipelines.featurize.run import run_featurizing
from pipelines.score.configuration import ImageScoringConfiguration
from pipelines.score.heads import load_head
from pipelines.score.job import ScoringPlan, plan_scoring, run_scoring
from pipelines.storage.access import check_readable, check_writable
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import normalise, redact
from pipelines.tables.features import FeatureTable
from pipelines.tables.identity import FEATURES, OwnTable, own_table


@dataclass(frozen=True, eq=False)
class ImageScoringPlan:
    """A checked piece of work; one of the two parts is there."""

    configuration: ImageScoringConfiguration
    head: Head
    featurizing: FeaturizingPlan | None
    scoring: ScoringPlan | None

    @property
    def features_are_made(self) -> bool:
        """Whether the input is images."""
        return self.featurizing is not None

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        if self.scoring:
            return self.scoring.describe()
        assert self.featurizing is not None
        return self.featurizing.describe() | {
            "head": self.head.head_id,
            "scores": self.configuration.output,
        }


def plan_image_scoring(configuration: ImageScoringConfiguration) -> ImageScoringPlan:
    """Check everything before any work.

    Raises
    ------
    UsageError
        As :func:`~pipelines.featurize.plan.plan_featurizing` and
        :func:`~pipelines.score.job.plan_scoring` say, and for a head of another feature set
        than the profile makes.
    """
    storage = configuration.storage
    head = load_head(configuration.head, storage)
    for place in configuration.input:
        check_readable(place, storage)
    if (features := _features(configuration)) is not None:
        scored = plan_scoring(configuration.scoring(*features))
        return ImageScoringPlan(configuration, head, None, scored)
    featurizing = configuration.featurizing().with_pinned_models()
    head.check_feature_set(featurizing.profile.feature_set_id())
    if normalise(featurizing.output) == normalise(configuration.output):
        raise UsageError("Features and scores are two tables: give them two places.")
    check_writable(configuration.output, storage)
    return ImageScoringPlan(configuration, head, plan_featurizing(featurizing), None)


def run_image_scoring(job: ImageScoringPlan) -> dict[str, Any]:
    """Featurize if need be, then score; returns the manifest of the scores.

    Raises
    ------
    ErrorRateError, LeaseHeldError
        As :func:`pipelines.featurize.run.run_together` says.
    """
    if job.scoring:
        return run_scoring(job.scoring)
    assert job.featurizing is not None
    run_featurizing(job.featurizing)
    features = job.featurizing.configuration.output
    return run_scoring(plan_scoring(job.configuration.scoring(features)))


def _features(
    configuration: ImageScoringConfiguration,
) -> tuple[str, tuple[str, ...] | None] | None:
    """Root and nights of the features table that the input is of; None if it is images.

    Raises
    ------
    UsageError
        If the input is another of our tables, or features that lie in no night's folder.
    """
    storage = configuration.storage
    found = [(place, own_table(place, storage)) for place in configuration.input]
    ours = [(place, table) for place, table in found if table is not None]
    if not ours:
        return None
    place, table = ours[0]
    if len(found) > 1:
        raise UsageError(
            f"{redact(place)} is {_TOLD[table.kind]}, which is no picture: score a features table "
            "by itself, and pictures by themselves."
        )
    if table.kind != FEATURES:
        raise UsageError(
            f"{redact(place)} is {_TOLD[table.kind]}: give the features that belong to it, which "
            "are in a folder features/, or pictures."
        )
    if not table.has_nights:
        raise UsageError(
            f"{redact(place)} is features that lie in no folder date=…: put the file into one, "
            "such as features/date=2026-01-31/, and give features/."
        )
    if table.night is None:
        return table.root, None
    _check_whole(place, table, storage)
    return table.root, (table.night,)


_TOLD = {
    FEATURES: "a features table",
    "scores": "a table of scores",
    "rejects": "a table of rejects",
    "evidence": "a table of small pictures",
}


def _check_whole(place: str, table: OwnTable, storage: Storage) -> None:
    """UsageError if a file was given that is only one of its night's."""
    files = FeatureTable(table.root, storage).published([str(table.night)])
    if place.endswith(".parquet") and len(files) > 1:
        raise UsageError(
            f"{redact(place)} is one of {len(files)} files of its night: give the night's folder, "
            f"{redact(table.root)}/date={table.night}."
        )
