"""Profiles: which models, how they decode, and what each stage may use.

A profile is one YAML file, one of those beside this module or the user's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from item.captioning import Captioning, captioner_revision, check_captioner
from item.embedding import (
    Clip,
    check_dual_encoder,
    dual_encoder_dimensions,
    dual_encoder_revision,
)
from item.errors import UsageError
from item.images import Decoding
from item.objects import CropGrid, PhraseExtraction, check_phrase_pipeline
from item.settings import overridden, validated
from item.tables import SCHEMA_VERSION

FOLDER = Path(__file__).parent
METHOD_VERSION = 1
"""Raised whenever the same models and settings would give other features."""


class Resources(BaseModel):
    """What one worker of a stage takes, and how many workers there are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: float = Field(gt=0)
    """CPUs that Ray sets aside for each worker; all stages run at once and must fit."""
    gpus: float = Field(default=0.0, ge=0)
    workers_per_cpu: float | None = Field(default=None, gt=0)
    """Workers for each CPU of the cluster, at least one; None lets Ray start tasks freely."""
    batch_size: int = Field(ge=1)


class StageResources(BaseModel):
    """Resources of each stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decode: Resources
    caption: Resources
    objects: Resources
    embed: Resources
    misalign: Resources


class Profile(BaseModel):
    """A complete choice of models; everything but ``resources`` shapes the features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    decoding: Decoding
    captioner: Captioning
    phrases: PhraseExtraction
    grounder: CropGrid
    clip: Clip
    resources: StageResources

    @property
    def dimensions(self) -> int:
        """Length of the CLIP embeddings."""
        return dual_encoder_dimensions(self.clip)

    def check_models(self) -> None:
        """UsageError, in one sentence, if a model that the profile names is not there."""
        check_captioner(self.captioner)
        check_dual_encoder(self.clip)
        check_phrase_pipeline(self.phrases)

    def revisions(self) -> dict[str, str]:
        """What runs under each model's name; UsageError if a model is missing."""
        return {
            "captioner": captioner_revision(self.captioner),
            "clip": dual_encoder_revision(self.clip),
            "phrases": f"{self.phrases.model}@{self.phrases.version}",
            "grounder": "crop_grid",
        }

    def feature_set_id(self) -> str:
        """Name and digest of all that shapes features: tables with the same id may be mixed."""
        content = {
            "schema": SCHEMA_VERSION,
            "method": METHOD_VERSION,
            "revisions": self.revisions(),
            "settings": self.model_dump(mode="json", exclude={"name", "resources"}),
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"


def profile_names() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """A profile by its name or its YAML file's path, with dotted keys overridden.

    Raises
    ------
    UsageError
        For an unknown name, an unreadable file, an unknown key or a value out of range.
    """
    path = FOLDER / f"{name}.yaml" if name in profile_names() else Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        known = ", ".join(profile_names())
        raise UsageError(f"There is no profile '{name}': choose one of {known}, or a YAML file.")
    try:
        values = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"The profile '{name}' is not YAML: {reason}.") from None
    return validated(Profile, overridden(values, overrides or {}), "profile")
