"""An open_clip repository on disk: its configuration, weights and tokenizer, read and checked.

open_clip, timm and transformers are imported where they are needed and not above: importing
them takes seconds, and every worker imports this module's callers.
"""

from __future__ import annotations

import copy
import difflib
import importlib.metadata
import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from item.errors import UsageError
from item.models.open_clip.preprocessing import CONFIG

if TYPE_CHECKING:
    from torch import nn

SAFETENSORS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
"""Where weights are looked for. timm's repositories have its own ``model.safetensors`` beside
open_clip's, with the image tower alone: hence the order."""


PICKLED = (
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)


HUB_PREFIX = "hf-hub:"


TOKENIZER_OPTIONS = frozenset({"clean", "language", "strip_sep_token"})
"""What a repository may ask of its tokenizer. Others read files, drop words at random, or run
the repository's code."""


def hub_id(source: str) -> str:
    """Where a model's files come from, once names that only open_clip knows are translated.

    Parameters
    ----------
    source : a pair such as ``ViT-L-14/openai``, ``hf-hub:org/name``, or what is no name of
        open_clip's: a hub id, a folder, an address

    Returns
    -------
    The hub id ``org/name`` of a pair or after ``hf-hub:``; any other source as it is.

    Raises
    ------
    UsageError
        The pair is not known, or its weights are not on the hub.
    """
    if source.startswith(HUB_PREFIX):
        return source.removeprefix(HUB_PREFIX)
    name, *tags = source.split("/")
    names = _architectures()
    if len(tags) > 1 or Path(source).exists():
        return source
    if name not in names:
        lower = {known.lower(): known for known in names}
        near = difflib.get_close_matches(name.lower(), lower, cutoff=0.8)
        if tags and near:
            meant = ", ".join(f"{lower[one]}/{tags[0]}" for one in near)
            raise UsageError(
                f"open_clip knows no architecture '{name}' (did you mean {meant}?); a repository "
                f"of that name is {HUB_PREFIX}{source}."
            )
        return source
    return _pair_on_hub(name, tags[0] if tags else "")


def _pair_on_hub(name: str, tag: str) -> str:
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    known = list_pretrained_tags_by_model(name)
    found = get_pretrained_cfg(name, tag)
    if not found:
        if not known:
            raise UsageError(f"open_clip knows no weights of {name}: choose another architecture.")
        near = difflib.get_close_matches(tag, known, n=5) or known[:5]
        named = ", ".join(f"{name}/{one}" for one in near)
        unknown = f"no weights '{tag}'" if tag else "several weights"
        raise UsageError(
            f"open_clip knows {unknown} of {name}: set `files.source` to one of its pairs, "
            f"such as {named}."
        )
    if not found.get("hf_hub"):
        raise UsageError(
            f"The weights {name}/{tag} are not on the hub: give a folder in the layout of "
            f"open_clip's repositories, with {CONFIG}."
        )
    # "org/name/", or "org/name/file" where the weights have a name of their own.
    return "/".join(found["hf_hub"].split("/")[:2])


def _architectures() -> list[str]:
    """Names of open_clip's architectures, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    folders = (spec and spec.submodule_search_locations) or []
    found = (path for folder in folders for path in Path(folder, "model_configs").glob("*.json"))
    return sorted(path.stem for path in found)


def weights_file(folder: Path, allow_pickle: bool) -> Path:
    """The file with the weights."""
    if safe := _preferred(folder, SAFETENSORS, ["*.safetensors"]):
        return safe
    pickled = _preferred(folder, PICKLED, ["*.bin", "*.pt", "*.pth", "*.ckpt"])
    if pickled is None:
        raise UsageError(f"There are no safetensors weights in '{folder}'.")
    if not allow_pickle:
        raise UsageError(
            f"The weights in '{folder}' are pickled, and to load them may run code of whoever "
            "made them: convert them to safetensors, or set `files.allow_pickle` to true."
        )
    return pickled


def _preferred(folder: Path, names: Sequence[str], patterns: Sequence[str]) -> Path | None:
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    named = [folder / name for name in names if folder / name in found]
    return next(iter([*named, *found]), None)


def read_tokenizer(folder: Path, text: dict[str, Any]) -> Any:
    from open_clip import get_tokenizer

    asked = text.get("tokenizer_kwargs", {})
    if not isinstance(asked, dict) or not asked.keys() <= TOKENIZER_OPTIONS:
        raise UsageError(
            f"The tokenizer_kwargs of {CONFIG} in '{folder}' may only hold "
            f"{', '.join(sorted(TOKENIZER_OPTIONS))}."
        )
    own_files = {"local_files_only": True, "trust_remote_code": False}
    try:
        return get_tokenizer(
            f"local-dir:{folder}", **(own_files if text.get("hf_tokenizer_name") else {})
        )
    except Exception as error:  # tokenizers raise nearly any type on missing or damaged files
        raise UsageError(
            f"The tokenizer in '{folder}' cannot be loaded ({_reason(error)}): the repository's "
            "tokenizer files must be there."
        ) from None


def empty_model(folder: Path, model_cfg: dict[str, Any]) -> nn.Module:
    """The architecture with random weights, in float32 on the CPU."""
    import open_clip
    import timm

    model_cfg = copy.deepcopy(model_cfg)
    model_cfg.pop("custom_text", None)
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    if (name := vision.get("timm_model_name")) is not None:
        if not timm.is_model(str(name)):
            raise UsageError(
                f"The architecture '{name}' in '{folder}' is not known to timm "
                f"{_version('timm')}: install a newer one."
            )
        vision["timm_model_pretrained"] = False
    if (name := text.get("hf_model_name")) is not None:
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"The text tower in '{folder}' is a {name}: copy that model's config.json there."
            )
        text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    # Also where open_clip would take its class CLIP, whose text tower is the same but does not
    # stand by itself and always reads the whole context.
    kind = open_clip.CoCa if "multimodal_cfg" in model_cfg else open_clip.CustomTextCLIP
    try:
        return kind(**model_cfg)
    except Exception as error:  # open_clip hands configurations on unchecked
        raise UsageError(
            f"The architecture in '{folder}' is not known to open_clip "
            f"{_version('open_clip_torch')} ({_reason(error)})."
        ) from None


def load_weights(model: nn.Module, weights: Path) -> None:
    """Fill the model with the file's weights."""
    from open_clip import load_checkpoint

    try:
        load_checkpoint(model, str(weights), strict=True, weights_only=True)
    except pickle.UnpicklingError:
        raise UsageError(
            f"The weights '{weights}' are damaged, or hold more than tensors: convert them to "
            "safetensors."
        ) from None
    except (SafetensorError, OSError, EOFError) as error:
        raise UsageError(f"The weights '{weights}' are damaged ({_reason(error)}).") from None
    except Exception as error:  # open_clip rearranges tensors before it compares their shapes
        raise UsageError(
            f"The weights '{weights}' are not those of the architecture in {CONFIG} "
            f"({_reason(error)})."
        ) from None


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _reason(error: Exception) -> str:
    """The first words of an exception, fit to stand in a sentence."""
    words = " ".join(f"{error}".split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:200]}…"
