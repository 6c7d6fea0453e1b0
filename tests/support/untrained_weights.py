"""Weights of the right names and shapes that nobody trained, for tests of the code around them."""

from __future__ import annotations

from pathlib import Path

import torch

from item.mini import MOST_LAYERS
from item.mini.backbone import CLASSES, POOLED
from item.mini.captioner import PAD, SPECIAL, Decoder, Language, save_decoder
from item.mini.checkpoint import save_weights
from item.mini.dual_encoder import JointSpace
from item.mini.text_backbone import WIDTH

WORDS = ("a", "ball", "cat", "dog", "on", "red", "sits", "the")


def write_dual_encoder(folder: Path, seed: int = 0) -> Path:
    """A dual encoder's weights file in ``folder``, and the projection of its layers beside it."""
    torch.manual_seed(seed)
    layers = {"means": torch.zeros(2 * POOLED), "directions": torch.randn(2 * POOLED, MOST_LAYERS)}
    save_weights(layers, folder / "layers.safetensors")
    path = folder / "dual_encoder.safetensors"
    save_weights({**JointSpace().state_dict(), "names": torch.randn(CLASSES, WIDTH)}, path)
    return path


def write_captioner(folder: Path, seed: int = 0) -> Path:
    """A captioner's weights file in ``folder``, its words beside it."""
    torch.manual_seed(seed)
    vocabulary = [*SPECIAL, *WORDS]
    name_words = torch.randint(PAD, len(vocabulary), (CLASSES, 2)).clamp_min(len(SPECIAL))
    language = Language(vocabulary, torch.randn(CLASSES, WIDTH), name_words)
    path = folder / "captioner.safetensors"
    save_decoder(Decoder(len(vocabulary)), language, path)
    return path
