"""What a scoring job is asked to do, from features or from images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from item.mini import HEAD
from item.settings import validated
from pipelines.configuration import PublishingConfiguration, resolved_with_profile
from pipelines.featurize.configuration import FeaturizeConfiguration
from pipelines.storage.places import Place


class ScoreConfiguration(PublishingConfiguration):
    """How a ``scores`` table is made from a ``features`` table."""

    input: Place = Field(min_length=1)
    """Root of a ``features`` table."""
    head: Place = str(HEAD)
    """Folder or ``s3://`` prefix of a head; by default the one that ships with ``mini``."""
    output: Place = Field(min_length=1)
    """Root of the ``scores`` table."""
    dates: tuple[str, ...] | None = None
    """Nights to score; all of them if unset."""
    overwrite: Literal["nothing", "all"] = "nothing"
    """With ``all``, scores of another head are replaced; else they are in the way."""
    rows_per_task: int = Field(default=65_536, ge=1)
    """Rows that a task scores; a kill costs the unfinished tasks."""
    rows_per_batch: int = Field(default=4096, ge=1)
    """Rows that are scored at once, some 20 KB each."""
    workers: int | None = Field(default=None, ge=1)
    """Actors that hold the head; one for each CPU if unset, and no more than tasks."""


class ImageScoringConfiguration(FeaturizeConfiguration):
    """Everything that ``jobs/score.py`` does, and nothing else.

    ``input`` is a features table or images; ``output`` is the root of the scores. With
    ``overwrite=all``, scores of another head are replaced and features stay as they are.
    """

    head: Place = str(HEAD)
    """Folder or ``s3://`` prefix of a head; by default the one that ships with ``mini``."""
    features: Place | None = None
    """Where the features of images go; ``OUTPUT-features`` if unset."""
    rows_per_task: int = Field(default=65_536, ge=1)
    """Rows that a task scores; a kill costs the unfinished tasks."""

    def featurizing(self) -> FeaturizeConfiguration:
        """How the features of images are made."""
        values = {name: getattr(self, name) for name in FeaturizeConfiguration.model_fields}
        values["output"] = self.features or f"{self.output.rstrip('/')}-features"
        values["overwrite"] = "nothing"
        return validated(FeaturizeConfiguration, values, "configuration")

    def scoring(self, features: str, dates: tuple[str, ...] | None = None) -> ScoreConfiguration:
        """How features are scored, of some nights only if given."""
        own = set(ScoreConfiguration.model_fields) & set(type(self).model_fields)
        values = {name: getattr(self, name) for name in own} | {"input": features}
        values["dates"] = dates
        return validated(ScoreConfiguration, values, "configuration")


def resolve(
    file: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> ImageScoringConfiguration:
    """As :func:`~pipelines.featurize.configuration.resolved_with_profile`; ``features`` too."""
    found = resolved_with_profile(ImageScoringConfiguration, file, options, settings)
    return found.model_copy(update={"features": found.featurizing().output})
