"""What a folder of model files holds, and the ``item-model.json`` by which it is checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from item.errors import UsageError

MANIFEST = "item-model.json"
CONFIGS = ("config.json", "open_clip_config.json")
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.safetensors")
"""Configuration, tokenizer, processor and weights, which all lie in a repository's top folder."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
OPEN_CLIP = ("open_clip*.safetensors", *(f"open_clip*{kind[1:]}" for kind in PICKLED))
LEFT_BY_TRAINING = ("training_args.*", "optimizer.*", "scheduler.*", "rng_state*")

PLAIN_NAME = re.compile(r"(?!\.)[^/\\:\x00-\x1f\x7f]{1,200}")
"""A name that stays in its folder wherever it is written, and is not hidden there."""
AGAIN = "run 'python jobs/models.py fetch' again"


def wanted(
    names: Iterable[str], patterns: Sequence[str] = MODEL_FILES, allow_pickle: bool = False
) -> list[str]:
    """Names of the files that make up a model, sorted.

    Where a repository has open_clip's weights, it is they that count: those beside them are the
    same model for another library.

    Parameters
    ----------
    names : of all files in the folder; those in its subfolders are never wanted
    patterns : as the shell knows them
    allow_pickle : whether pickled weights do where there are no safetensors
    """
    plain = sorted(name for name in names if PLAIN_NAME.fullmatch(name) and name != MANIFEST)
    found = [name for name in plain if _matches(name, patterns)]
    if allow_pickle and not _safetensors(found):
        pickled = [name for name in plain if _matches(name, PICKLED)]
        found += [name for name in pickled if not _matches(name, LEFT_BY_TRAINING)]
    if any(_matches(name, OPEN_CLIP) for name in found):
        others = (*PICKLED, "*.safetensors", "*.index.json")
        found = [name for name in found if _matches(name, OPEN_CLIP) or not _matches(name, others)]
    return sorted(set(found))


class FileFacts(BaseModel):
    """What a file must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Manifest(BaseModel):
    """The ``item-model.json`` of a mirror: what it is a copy of, and its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(default=1, ge=1, le=1)
    source: str = Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")
    """The hub id, or the name of the folder that was copied."""
    commit: str = Field(pattern=r"^([0-9a-f]{40}|sha256:[0-9a-f]{12})$")
    requested: str | None = None
    """The branch or tag that stood for the commit when it was copied."""
    files: dict[str, FileFacts]

    @property
    def revision(self) -> str:
        """As the hub id itself would give it."""
        return f"{self.source}@{self.commit}"

    @classmethod
    def parse(cls, content: bytes, where: str) -> Manifest:
        """A manifest from its bytes; UsageError if it is damaged or names files elsewhere."""
        try:
            found = cls.model_validate_json(content)
        except ValidationError:
            raise UsageError(f"The {MANIFEST} in {where} is damaged: {AGAIN}.") from None
        for name in found.files:
            if not PLAIN_NAME.fullmatch(name) or name == MANIFEST:
                raise UsageError(
                    f"The {MANIFEST} in {where} is refused: it lists {name!r}, which is no file "
                    "of that folder."
                )
        return found

    def as_bytes(self) -> bytes:
        """The file's content."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def check_revision(manifest: Manifest, revision: str | None, where: str) -> None:
    """UsageError if a mirror holds another revision than the one that is asked for."""
    if revision not in (None, manifest.commit, manifest.requested):
        raise UsageError(
            f"In {where} lies {manifest.revision}, not revision {revision}: {AGAIN}, or change "
            "`files.revision`."
        )


def check_contents(
    where: str, sizes: Mapping[str, int], manifest: Manifest | None, allow_pickle: bool
) -> None:
    """UsageError if a folder's files are not a model's, judged by names and sizes.

    Parameters
    ----------
    where : the folder as a sentence names it
    sizes : bytes of every file in it
    manifest : of the folder, if it has one: nothing may be missing and no model file beside it
    allow_pickle : whether pickled weights do
    """
    if manifest is not None:
        for name, facts in manifest.files.items():
            if name not in sizes:
                raise UsageError(f"The file '{name}' is missing in {where}: {AGAIN}.")
            if sizes[name] != facts.size:
                raise damaged(name, where, f"has {sizes[name]:,} bytes, not {facts.size:,}")
        for name in wanted(sizes, (*MODEL_FILES, *PICKLED)):
            if name not in manifest.files:
                raise UsageError(
                    f"The file '{name}' in {where} is not one of those that {MANIFEST} lists: "
                    f"remove it, or {MANIFEST} to take the folder as it is."
                )
    if not any(name in sizes for name in CONFIGS):
        configs = " or ".join(CONFIGS)
        raise UsageError(f"There is no {configs} in {where}: set `files.source` to a model.")
    if _safetensors(sizes):
        return
    if not wanted(sizes, (), allow_pickle=True):
        raise UsageError(f"There are no safetensors weights in {where}.")
    if not allow_pickle:
        raise UsageError(
            f"The weights in {where} are pickled, and to load them may run code of whoever made "
            "them: convert them to safetensors, or set `files.allow_pickle` to true."
        )


def damaged(name: str, where: str, how: str) -> UsageError:
    """The refusal of a file that is not what it must be."""
    return UsageError(f"The file '{name}' in {where} is damaged (it {how}): fetch it again.")


def _safetensors(names: Iterable[str]) -> bool:
    return any(_matches(name, ("*.safetensors",)) for name in names if PLAIN_NAME.fullmatch(name))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
