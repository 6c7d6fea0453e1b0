"""The configuration of a featurize job: one frozen object, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator

from item.errors import UsageError
from item.images.perturb import NONE, Perturbation
from item.profiles import Profile
from pipelines.configuration import PublishingConfiguration, resolved_with_profile
from pipelines.input.plan import InputOptions
from pipelines.storage.places import Place, Places


class FeaturizingOptions(PublishingConfiguration):
    """How images are featurized, whatever dump they come from."""

    profile: Profile
    """Which models; a name or a YAML file, or the keys of one."""
    reading: InputOptions = InputOptions()
    """How the input is read."""
    max_error_rate: float = Field(default=0.25, ge=0, le=1)
    """Largest share of a night's rows, repeated URIs aside, that may have no features.

    Failed rows and rejected rows are counted separately.
    """
    overwrite: Literal["nothing", "all"] = "nothing"
    """Published rows that are computed again, beside those that failed or whose files changed."""
    reuse: bool = True
    """Whether a picture takes the features of an earlier one with the same bytes."""
    reuse_nights: int = Field(default=30, ge=0)
    """Latest nights that are searched for it; 16 bytes of memory a row."""
    rows_per_part: int = Field(default=1024, ge=1)
    """Rows of a finished part, at most; a kill costs the unfinished parts."""
    wait_for_gpus: bool = False
    """Whether the cluster starts GPU machines by itself: workers then wait for them, and grow to
    ``most_workers``; else a cluster that lacks GPUs is refused."""


class FeaturizeConfiguration(FeaturizingOptions):
    """Everything that ``jobs/featurize.py`` does, and nothing else."""

    input: Places = Field(min_length=1)
    """Folders, ``s3://`` prefixes, tables, lists of URIs and archives."""
    output: Place = Field(min_length=1)
    """Root of the ``features`` table."""
    perturbation: str = NONE
    """A change to each image before it is decoded, as :mod:`item.images.perturb` names it.

    ``image_id``, ``byte_count``, size, format and quality are then those of the perturbed
    file; its row is the one of the same ``uri`` in a table of the images as they are.
    """

    @field_validator("perturbation")
    @classmethod
    def _can_be_applied_and_decoded(cls, name: str, info: ValidationInfo) -> str:
        try:
            format = Perturbation.parse(name).format
        except UsageError as error:
            raise ValueError(str(error)) from None
        profile = info.data.get("profile")
        if profile and format and format not in profile.decoding.formats:
            raise ValueError(f"'{name}' writes {format}, which profile.decoding.formats leaves out")
        return name

    def with_pinned_models(self) -> Self:
        """The same for every process of the run; UsageError if a model is not there."""
        return self.model_copy(update={"profile": self.profile.pinned(self.storage.endpoint_url)})


def resolve(
    file: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> FeaturizeConfiguration:
    """The configuration of a featurize job, as :func:`resolved_with_profile` finds it."""
    return resolved_with_profile(FeaturizeConfiguration, file, options, settings)
