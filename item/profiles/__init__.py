"""Profiles: which models, how they decode, and what each stage may use.

A profile is one YAML file, one of those beside this module or the user's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from item.captioning import (
    Captioning,
    GivenCaptions,
    NoCaptions,
    TransformersCaptioning,
    captioner_revision,
    check_captioner,
)
from item.embedding import (
    Clip,
    OpenClip,
    check_dual_encoder,
    clip_files,
    dual_encoder_dimensions,
    dual_encoder_revision,
)
from item.errors import UsageError
from item.grounding import (
    DetectorGrounding,
    GroundingSettings,
    check_grounder,
    grid_of,
    grounder_revision,
)
from item.images.decode import Decoding
from item.models.files.source import ModelFiles
from item.models.files.source import pinned as pinned_files
from item.phrases import PhraseExtraction, check_phrase_pipeline
from item.settings import adapted, validated
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
    """GPUs for each worker; a fraction shares one."""
    workers_per_cpu: float | None = Field(default=None, gt=0)
    """Workers for each CPU of the cluster, at least one."""
    workers_per_gpu: float | None = Field(default=None, gt=0)
    """Workers for each GPU, where the cluster has some; without either, tasks start freely."""
    most_workers: int | None = Field(default=None, ge=1)
    """To how many workers a stage grows with its cluster; unset, it keeps the first number."""
    with_previous: bool = False
    """In the workers of the model stage before, under that one's resources.

    They then start one process less, share what their models have in common and pass
    pictures on without a copy; apart, each may have as many workers as it needs.
    """
    batch_size: int = Field(ge=1)
    """Rows that a worker is given at once."""
    model_batch_size: int | None = Field(default=None, ge=1)
    """Inputs that pass through the model at once; unset, what fits into memory is found."""

    @property
    def gpu_share(self) -> float:
        """The part of one GPU that belongs to a worker; 1 for a worker without a GPU."""
        return min(self.gpus, 1.0) or 1.0


class StageResources(BaseModel):
    """Resources of each stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decode: Resources
    """Bytes to pixels."""
    caption: Resources
    """Pixels to a caption."""
    phrases: Resources = Resources(cpus=0.5, batch_size=128)
    """The caption to its phrases."""
    objects: Resources
    """Phrases of the caption to boxes."""
    embed: Resources
    """Image, caption and objects into CLIP space."""
    misalign: Resources
    """Embeddings to similarities and misalignments."""


class About(BaseModel):
    """What a person wants to know of a model before fetching it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    licence: str
    """Name of its licence."""
    gigabytes: float = Field(ge=0)
    """Size of its files."""
    memory_gigabytes: float = Field(ge=0)
    """Size of its weights in the profile's precision; batches need more."""


SHAPES_NOTHING: Any = {
    "name": True,
    "resources": True,
    "about": True,
    "captioner": {"files"},
    "grounder": {"files"},
    "clip": {"files", "compiled"},
}
"""Keys that leave the features as they are: where files lie is no part of what they hold."""
FIRST_FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
"""Stand for ``decoding.formats`` in the id: which files are read changes no picture's features,
and heads that were trained when these were all stay usable."""


class Profile(BaseModel):
    """A complete choice of models; what shapes the features gives them their id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    """First part of the feature-set id."""
    decoding: Decoding
    """How images are decoded."""
    captioner: Captioning
    """Which captioner, and how it searches."""
    phrases: PhraseExtraction
    """Which words of a caption count as objects."""
    grounder: GroundingSettings
    """How objects are found; without ``model``, a crop grid."""
    clip: Clip
    """Which dual encoder."""
    resources: StageResources
    """CPUs, GPUs, workers and batch sizes of each stage; no part of the feature-set id."""
    about: dict[str, About] = {}
    """Licences and sizes, by ``captioner``, ``grounder`` and ``clip``."""

    @property
    def dimensions(self) -> int:
        """Length of the CLIP embeddings."""
        return dual_encoder_dimensions(self.clip)

    @property
    def prompt(self) -> str:
        """What a phrase is put into before it is embedded."""
        return grid_of(self.grounder).prompt

    @property
    def captions_given(self) -> bool:
        """Whether captions come with the input."""
        return isinstance(self.captioner, GivenCaptions)

    @property
    def embeds_only(self) -> bool:
        """Whether there are neither captions nor objects."""
        return isinstance(self.captioner, NoCaptions)

    def check_models(self) -> None:
        """UsageError, in one sentence, if a model that the profile names is not there."""
        check_dual_encoder(self.clip)
        if self.embeds_only:
            return
        check_captioner(self.captioner)
        check_grounder(self.grounder)
        check_phrase_pipeline(self.phrases)

    def revisions(self) -> dict[str, str]:
        """What runs under each model's name; UsageError if a model is missing."""
        if self.embeds_only:
            return {"clip": dual_encoder_revision(self.clip)}
        return {
            "captioner": captioner_revision(self.captioner),
            "clip": dual_encoder_revision(self.clip),
            "phrases": f"{self.phrases.model}@{self.phrases.version}",
            "grounder": grounder_revision(self.grounder),
        }

    def model_files(self) -> dict[str, ModelFiles]:
        """Where the public models come from, by member; none for models that are packaged."""
        sources = {}
        if isinstance(self.captioner, TransformersCaptioning):
            sources["captioner"] = self.captioner.files
        if isinstance(self.grounder, DetectorGrounding) and not self.embeds_only:
            sources["grounder"] = self.grounder.files
        if isinstance(self.clip, OpenClip):
            sources["clip"] = clip_files(self.clip)
        return sources

    def pinned(self, endpoint_url: str | None = None) -> Profile:
        """The same models for every process of a run, though a branch may move meanwhile.

        Parameters
        ----------
        endpoint_url : of the S3-compatible storage in which models lie that name none

        Raises
        ------
        UsageError
            In one sentence, if a model that the profile names is not there.
        """
        reached = self._with_files(lambda files: files.through(endpoint_url))
        reached.check_models()
        return reached._with_files(pinned_files)

    def _with_files(self, change: Callable[[ModelFiles], ModelFiles]) -> Profile:
        updates = {
            member: getattr(self, member).model_copy(update={"files": change(source)})
            for member, source in self.model_files().items()
        }
        return self.model_copy(update=updates)

    def feature_set_id(self) -> str:
        """Name and digest of all that shapes features: tables with the same id may be mixed."""
        settings = self.model_dump(mode="json", exclude=SHAPES_NOTHING)
        settings["decoding"]["formats"] = FIRST_FORMATS
        if not self.clip.layers:  # profiles from before there were layers keep their ids
            del settings["clip"]["layers"]
        content = {
            "schema": SCHEMA_VERSION,
            "method": METHOD_VERSION,
            "revisions": self.revisions(),
            "settings": settings,
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"


def profile_names() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """A profile by its name or its YAML file's path, with dotted keys overridden.

    Parameters
    ----------
    name : one of :func:`profile_names`, or the path of a ``.yaml`` file
    overrides : values by key, such as ``{"captioner.beams": 1}``

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
    return profile_of(values, overrides)


def profile_of(values: Any, overrides: Mapping[str, Any] | None = None) -> Profile:
    """A profile that is written out, with dotted keys overridden; see :func:`load_profile`.

    Where another ``model`` is chosen, what only the earlier one takes is left out.
    """
    return validated(Profile, adapted(Profile, values, overrides or {}), "profile")
