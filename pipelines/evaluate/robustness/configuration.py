"""What a robustness report is asked to do: what featurizing needs, and more."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from item.errors import UsageError
from item.images.perturb import NONE, STANDARD, Perturbation
from item.settings import overridden, validated
from pipelines.configuration import read_settings
from pipelines.featurize.configuration import FeaturizeConfiguration
from pipelines.featurize.configuration import resolve as resolve_featurizing
from pipelines.input.sample import Sampling
from pipelines.storage.places import Place, Places
from pipelines.storage.urls import join, normalise

SAMPLE = "sample"
FEATURES = "features"


class RobustnessConfiguration(FeaturizeConfiguration):
    """Everything that ``jobs/robustness.py`` does: what featurizing needs, and more."""

    heads: Places = Field(min_length=1)
    """Folders or ``s3://`` prefixes of trained heads."""
    perturbations: tuple[str, ...] = STANDARD
    """What is done to the images, such as ``jpeg-75`` or ``resize-0.5+jpeg-75``; the unchanged
    images are always measured too."""
    images: int | None = Field(default=None, ge=4)
    """Size of a sample to draw; all of the input if unset."""
    seed: int = Field(default=0, ge=0)
    """Decides the sample and the resamples of the intervals."""
    generators: tuple[str, ...] = ()
    """Generators to draw generated images from."""
    sources: tuple[str, ...] = ()
    """Sources to draw real images from."""
    labels: Place | None = None
    """Parquet or CSV with ``label``, and ``uri`` or ``image_id``; perhaps ``generator`` and
    ``source``. They take the place of what the input says."""
    metadata: Place | None = None
    """Parquet or CSV with ``uri`` and ``group_column``."""
    group_column: str | None = None
    """Images that are equal in it, such as in their prompt, are drawn together."""
    resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples behind each interval."""

    @field_validator("perturbation")
    @classmethod
    def _is_a_list(cls, name: str) -> str:
        if name != NONE:
            raise ValueError("name what to go through under perturbations")
        return name

    @field_validator("perturbations")
    @classmethod
    def _known_and_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            chains = [str(Perturbation.parse(name)) for name in names]
        except UsageError as error:
            raise ValueError(str(error)) from None
        return tuple(dict.fromkeys(name for name in chains if name != NONE))

    @field_validator("heads")
    @classmethod
    def _distinct_names(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        names = [head_name(head) for head in heads]
        if len(set(names)) < len(names):
            raise ValueError("heads are told apart by their folders' names, and two are the same")
        return heads

    @model_validator(mode="after")
    def _fits_together(self) -> RobustnessConfiguration:
        if (self.metadata is None) != (self.group_column is None):
            raise ValueError("metadata and group_column need each other")
        if self.images is not None and self.labels is not None:
            raise ValueError(
                "a sample of images is drawn by the labels that the input itself has: leave out "
                "images or labels"
            )
        if self.images is None and (self.generators or self.sources):
            raise ValueError("generators and sources say what a sample holds, and need images")
        return self

    def sampling(self) -> Sampling | None:
        """How the sample is drawn; None where the whole input is used."""
        if self.images is None:
            return None
        return Sampling(
            inputs=tuple(map(normalise, self.input)),
            images=self.images,
            seed=self.seed,
            generators=self.generators,
            sources=self.sources,
        )

    def of_table(self, perturbation: str) -> FeaturizeConfiguration:
        """The configuration of the table of one perturbation."""
        values = {name: getattr(self, name) for name in FeaturizeConfiguration.model_fields}
        values["output"] = join(self.output, FEATURES, perturbation)
        values["perturbation"] = perturbation
        if self.images is not None:
            values["input"] = (join(self.output, SAMPLE),)
            values["reading"] = self.reading.model_copy(update={"kind": "parquet"})
        return validated(FeaturizeConfiguration, values, "configuration")


def head_name(head: str) -> str:
    """The name of a head's folder."""
    return posixpath.basename(normalise(head))


def resolve(
    file: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> RobustnessConfiguration:
    """Defaults, then the YAML file, then command-line options, then ``--set`` keys.

    Parameters
    ----------
    file : path of a YAML file whose keys are those of the configuration
    options : by key; None where not given
    settings : dotted keys and values, such as ``profile.captioner.beams``

    Raises
    ------
    UsageError
        One sentence a mistake, with the key and what is allowed.
    """
    inner = FeaturizeConfiguration.model_fields
    given = {key: value for key, value in options.items() if value is not None}
    values = read_settings(file) | given
    own = {key: value for key, value in settings.items() if key.split(".")[0] not in inner}
    values = overridden(values, own)
    featurize = resolve_featurizing(
        None,
        {key: value for key, value in values.items() if key in inner},
        {key: value for key, value in settings.items() if key not in own},
    )
    values |= {name: getattr(featurize, name) for name in inner}
    return validated(RobustnessConfiguration, values, "configuration")
