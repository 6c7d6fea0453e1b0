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
from pipelines.storage.urls import normalise
from pipelines.tables.features import FeatureTable


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
    if _is_features(configuration):
        scored = plan_scoring(configuration.scoring(configuration.input[0]))
        return ImageScoringPlan(configuration, head, None, scored)
    head.check_feature_set(configuration.profile.feature_set_id())
    featurizing = configuration.featurizing()
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


def _is_features(configuration: ImageScoringConfiguration) -> bool:
    if len(configuration.input) > 1:
        return False
    table = FeatureTable(configuration.input[0], configuration.storage)
    published = table.published()
    return bool(published) and table.facts(table.path, published[0]).get("table") == "features"
