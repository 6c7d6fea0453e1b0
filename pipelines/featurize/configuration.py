"""The configuration of a featurize job: one frozen object, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from item.errors import UsageError
from item.images.perturb import NONE, Perturbation
from item.profiles import Profile, load_profile
from item.settings import overridden, validated
from pipelines.input.plan import InputOptions
from pipelines.storage.access import Storage

Configuration = TypeVar("Configuration", bound=BaseModel)


class FeaturizeConfiguration(BaseModel):
    """Everything that ``jobs/featurize.py`` does, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str = Field(min_length=1)
    """Folder, ``s3://`` prefix, Parquet or WebDataset tar."""
    output: str = Field(min_length=1)
    """Root of the ``features`` table."""
    profile: Profile
    perturbation: str = NONE
    """What is done to each image before it is decoded, as :mod:`item.images.perturb` names it.

    ``image_id``, ``byte_count``, size, format and quality are then those of the perturbed
    file; its row is the one of the same ``uri`` in a table of the images as they are.
    """
    reading: InputOptions = InputOptions()
    storage: Storage = Storage()
    max_error_rate: float = Field(default=0.25, ge=0, le=1)
    """Largest share of a night's rows, repeated URIs aside, that may be without features.

    Rows that failed for a passing reason and rows rejected for a lasting one count apart.
    """
    again: Literal["nothing", "failed", "all"] = "nothing"
    """Published rows that are computed anew: those that failed for a passing reason, or all."""
    reuse: bool = True
    """Whether a picture whose bytes came before takes the features that it had then."""
    reuse_nights: int = Field(default=30, ge=0)
    """How many of the latest nights are looked through for it; 16 bytes of memory a row."""
    lease_seconds: float = Field(default=120.0, ge=1)
    """After how long a night that a vanished run holds may be taken by another."""
    exclusive_lease: bool = True
    """Whether the storage must be able to create a file only if there is none."""
    rows_per_part: int = Field(default=1024, ge=1)
    """Rows of a finished part, at most; a kill costs the parts not finished."""
    object_store_gb: float = Field(default=2.0, gt=0)
    """Memory for rows between stages, in GB; what bounds a run whatever its input."""
    wait_for_gpus: bool = False
    """Whether a cluster without a GPU will get one, from its autoscaler; else it is refused."""

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
        return self.model_copy(update={"profile": self.profile.pinned()})

    def as_yaml(self) -> str:
        """The resolved configuration, as ``--config`` accepts it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def resolve(
    file: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> FeaturizeConfiguration:
    """The configuration of a featurize job, as :func:`resolved_with_profile` finds it."""
    return resolved_with_profile(FeaturizeConfiguration, file, options, settings)


def resolved_with_profile(
    kind: type[Configuration],
    file: str | None,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Configuration:
    """As :func:`resolved`, for a configuration with a key ``profile``.

    Parameters
    ----------
    kind : of configuration
    file : path of a YAML file whose keys are those of the configuration
    options : by key, None where not given; ``profile`` is a name or path
    settings : dotted keys and values, such as ``profile.captioner.beams``

    Raises
    ------
    UsageError
        One sentence a mistake, with the key and what is allowed.
    """
    given = {key: value for key, value in options.items() if value is not None}
    inner = "profile."
    of_profile = {
        key.removeprefix(inner): v for key, v in settings.items() if key.startswith(inner)
    }
    others = {key: value for key, value in settings.items() if not key.startswith(inner)}
    values = overridden({"profile": "mini", **read_settings(file), **given}, others)
    if isinstance(values["profile"], str):
        profile = load_profile(values["profile"], of_profile)
    else:
        profile = validated(Profile, overridden(values["profile"], of_profile), "profile")
    return validated(kind, {**values, "profile": profile}, "configuration")


def resolved(
    kind: type[Configuration],
    file: str | None,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Configuration:
    """Defaults, then the YAML file, then options that are given, then ``--set`` keys.

    Raises
    ------
    UsageError
        One sentence a mistake, with the key and what is allowed.
    """
    given = {key: value for key, value in options.items() if value is not None}
    values = overridden(read_settings(file), {**given, **settings})
    return validated(kind, values, "configuration")


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``key=value`` strings, values read as YAML, to a mapping."""
    parsed = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise UsageError(f"Write --set key=value, not '--set {setting}'.")
        try:
            parsed[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"The value of '--set {key}' is not readable as YAML.") from None
    return parsed


def read_settings(file: str | None) -> dict[str, Any]:
    """The keys of a YAML file, none without a file; UsageError if it is not readable."""
    if file is None:
        return {}
    try:
        values = yaml.safe_load(Path(file).read_bytes())
    except OSError as error:
        reason = error.strerror
        raise UsageError(f"The configuration file {file} cannot be read: {reason}.") from None
    except yaml.YAMLError:
        raise UsageError(f"The configuration file {file} is not YAML.") from None
    if not isinstance(values, dict):
        raise UsageError(f"The configuration file {file} must be a mapping of keys to values.")
    return values
