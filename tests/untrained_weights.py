"""Weights of the right names and shapes that nobody trained, for tests of the code around them."""

from __future__ import annotations

from pathlib import Path

import torch

from item.mini.backbone import CLASSES
from item.mini.captioner import SPECIAL, Decoder
from item.mini.checkpoint import save_weights
from item.mini.dual_encoder import JointSpace
from item.mini.text_backbone import WIDTH
from item.mini.training import save_vocabulary

WORDS = ("a", "ball", "cat", "dog", "on", "red", "sits", "the")


def write_dual_encoder(folder: Path, seed: int = 0) -> Path:
    """A dual encoder's weights file in ``folder``."""
    torch.manual_seed(seed)
    path = folder / "dual_encoder.safetensors"
    save_weights({**JointSpace().state_dict(), "names": torch.randn(CLASSES, WIDTH)}, path)
    return path


def write_captioner(folder: Path, seed: int = 0) -> Path:
    """A captioner's weights file in ``folder``, its vocabulary beside it."""
    torch.manual_seed(seed)
    vocabulary = [*SPECIAL, *WORDS]
    path = folder / "captioner.safetensors"
    save_weights(
        {**Decoder(len(vocabulary)).state_dict(), "names": torch.randn(CLASSES, WIDTH)}, path
    )
    save_vocabulary(vocabulary, path.with_suffix(".json"))
    return path
