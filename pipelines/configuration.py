"""What the configurations of all jobs share, and how one is resolved and written down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from item.errors import UsageError
from item.profiles import load_profile, profile_of
from item.settings import overridden, validated
from pipelines.storage.configuration import Storage

Configuration = TypeVar("Configuration", bound=BaseModel)


class JobConfiguration(BaseModel):
    """One frozen object for each job, checked before any work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    storage: Storage = Storage()
    """How S3-compatible storage is reached."""

    def as_yaml(self) -> str:
        """The resolved configuration, as ``--config`` accepts it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class RayJobConfiguration(JobConfiguration):
    """Of a job that runs on Ray."""

    object_store_gb: float | None = Field(default=None, gt=0)
    """Memory for rows between stages, in GB, whatever the size of the input; unset, 2, and where
    there are GPUs a third of what Ray has, if that is more."""


class PublishingConfiguration(RayJobConfiguration):
    """Of a job that publishes nights, each under a lease; see :mod:`pipelines.tables.lease`."""

    lease_seconds: float = Field(default=120.0, ge=1)
    """Seconds after which another run may take over the night of a dead run."""
    exclusive_lease: bool = True
    """Whether the storage must be able to create a file only if there is none."""


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
        profile = profile_of(values["profile"], of_profile)
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
