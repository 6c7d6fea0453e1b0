"""A scoring job: features, or images that are featurized first, and a head in, scores out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from item.errors import UsageError
from item.heads.head import Head
from item.mini import HEAD
from item.settings import validated
from pipelines.featurize.configuration import FeaturizeConfiguration, resolved_with_profile
from pipelines.featurize.plan import FeaturizingPlan, plan_featurizing
from pipelines.featurize.run import run_featurizing
from pipelines.score import job as scoring
from pipelines.score.heads import load_head
from pipelines.storage.access import check_readable, check_writable
from pipelines.storage.urls import normalise
from pipelines.tables.features import FeatureTable


class ImageScoringConfiguration(FeaturizeConfiguration):
    """Everything that ``jobs/score.py`` does, and nothing else.

    ``input`` is a features table or images; ``output`` is the root of the scores.
    """

    head: str = str(HEAD)
    """Folder or ``s3://`` prefix of a head; by default the one that ships with ``mini``."""
    features: str | None = None
    """Root of the features of images; beside the scores, with ``-features`` at its end, if
    unset."""
    replace: bool = False
    """Whether scores of another head may be replaced."""
    rows_per_task: int = Field(default=65_536, ge=1)
    """Rows that a task scores; a kill costs those that were not done."""

    def featurizing(self) -> FeaturizeConfiguration:
        """How the features of images are made."""
        values = {name: getattr(self, name) for name in FeaturizeConfiguration.model_fields}
        values["output"] = self.features or f"{self.output.rstrip('/')}-features"
        return validated(FeaturizeConfiguration, values, "configuration")

    def scoring(self, features: str) -> scoring.ScoreConfiguration:
        """How features are scored."""
        own = set(scoring.ScoreConfiguration.model_fields) & set(type(self).model_fields)
        values = {name: getattr(self, name) for name in own} | {"input": features}
        return validated(scoring.ScoreConfiguration, values, "configuration")


@dataclass(frozen=True, eq=False)
class ImageScoring:
    """A checked piece of work; one of the two parts is there."""

    configuration: ImageScoringConfiguration
    head: Head
    featurizing: FeaturizingPlan | None
    scoring: scoring.Scoring | None

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


def resolve(
    file: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> ImageScoringConfiguration:
    """As :func:`~pipelines.featurize.configuration.resolved_with_profile`; ``features`` too."""
    found = resolved_with_profile(ImageScoringConfiguration, file, options, settings)
    return found.model_copy(update={"features": found.featurizing().output})


def prepare(configuration: ImageScoringConfiguration) -> ImageScoring:
    """Check everything before any work.

    Raises
    ------
    UsageError
        As :func:`pipelines.featurize.run.prepare` and :func:`pipelines.score.job.prepare` say,
        and for a head of another feature set than the profile makes.
    """
    storage = configuration.storage
    head = load_head(configuration.head, storage)
    check_readable(configuration.input, storage)
    if _is_features(configuration):
        scored = scoring.prepare(configuration.scoring(configuration.input))
        return ImageScoring(configuration, head, None, scored)
    head.check_feature_set(configuration.profile.feature_set_id())
    featurizing = configuration.featurizing()
    if normalise(featurizing.output) == normalise(configuration.output):
        raise UsageError("Features and scores are two tables: give them two places.")
    check_writable(configuration.output, storage)
    return ImageScoring(configuration, head, plan_featurizing(featurizing), None)


def run(job: ImageScoring) -> dict[str, Any]:
    """Featurize if need be, then score; returns the manifest of the scores.

    Raises
    ------
    ErrorRateError, LeaseHeldError
        As :func:`pipelines.featurize.run.run_together` says.
    """
    if job.scoring:
        return scoring.run(job.scoring)
    assert job.featurizing is not None
    run_featurizing(job.featurizing)
    features = job.featurizing.configuration.output
    return scoring.run(scoring.prepare(job.configuration.scoring(features)))


def _is_features(configuration: ImageScoringConfiguration) -> bool:
    table = FeatureTable(configuration.input, configuration.storage)
    published = table.published()
    return bool(published) and table.facts(table.path, published[0]).get("table") == "features"
