"""The trained weights of the mini models: safetensors files beside this module."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from item.errors import UsageError

FOLDER = Path(__file__).parent / "weights"


def load_weights(name: str, path: Path | None = None) -> dict[str, Tensor]:
    """Tensors of the model ``name`` in float32, shipped ones unless ``path`` is given.

    Raises
    ------
    UsageError
        If the file is missing or damaged.
    """
    path = path or FOLDER / f"{name}.safetensors"
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UsageError(f"The weights '{path.name}' are missing: reinstall item.") from None
    except SafetensorError as error:
        raise UsageError(f"The weights '{path.name}' are damaged ({error}).") from None
    return {key: value.float() for key, value in tensors.items()}


def save_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """Save in float16: half the bytes, and no measurable loss for these models."""
    halves = {key: value.half().contiguous() for key, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(halves, path)
    path.chmod(0o644)  # safetensors makes files that only their owner can read


def revision(name: str) -> str:
    """First 12 hex digits of the SHA-256 of a shipped model's files; UsageError without them."""
    weights = FOLDER / f"{name}.safetensors"
    if not weights.is_file():
        raise UsageError(f"The weights '{weights.name}' are missing: reinstall item.")
    digest = hashlib.sha256(weights.read_bytes())
    vocabulary = weights.with_suffix(".json")
    if vocabulary.is_file():
        digest.update(vocabulary.read_bytes())
    return digest.hexdigest()[:12]
