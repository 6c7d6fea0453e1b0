"""Dual encoders of real open_clip architectures with random weights, as its repositories.

Nobody trained them, but different pictures and different texts have different embeddings: what
adapters and pipelines need in order to be tested.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.push_to_hf_hub import save_config_for_hf, save_for_hf
from safetensors.torch import save_file
from torch import nn
from transformers import BertTokenizer, RobertaConfig, T5Tokenizer

WORDS = (
    *("a", "the", "two", "red", "small", "old", "photo", "of", "on", "in", "and"),
    *("dog", "cat", "car", "tree", "table", "house", "boat", "bird", "chair", "woman"),
)
SIGLIP_COLOURS = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}


def tiny_clip(folder: Path) -> Path:
    """A ViT of two layers for pictures of 32 x 32, a text tower of one, in ``folder``, returned.

    The files are those of timm/vit_large_patch14_clip_224.openai: QuickGELU, and no tokenizer,
    since open_clip has CLIP's own.
    """
    architecture = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {"width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**architecture)
    _enliven(model)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    _save_config(model, folder, architecture, {})
    return folder


def tiny_siglip(folder: Path) -> Path:
    """timm's test ViT with attention pooling, for pictures of 160 x 160, and a text tower of one
    layer that is not causal, in ``folder``, returned.

    The files are those of timm/ViT-B-16-SigLIP: a tokenizer of T5's kind, canonical texts,
    pictures squashed to squares.
    """
    tokens = ["</s>", "<pad>", "<unk>", "▁", *(f"▁{word}" for word in WORDS)]
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    vocabulary = [(token, -float(index)) for index, token in enumerate([*tokens, *letters])]
    vocabulary[0], vocabulary[1] = vocabulary[1], vocabulary[0]
    architecture = {
        "embed_dim": 96,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit3",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": len(vocabulary),
            "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 96,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    }
    torch.manual_seed(1)
    model = open_clip.CustomTextCLIP(**architecture_of(architecture))
    _enliven(model)
    tokenizer = T5Tokenizer(vocabulary, extra_ids=0, pad_token="</s>")
    _save(model, tokenizer, folder, architecture, SIGLIP_COLOURS)
    return folder


def tiny_roberta_clip(folder: Path) -> Path:
    """A ViT of one layer and a RoBERTa of one, mean-pooled, in ``folder``, returned.

    The files are those of laion/CLIP-ViT-B-32-roberta-base-laion2B-s12B-b32k, with the text
    tower's ``config.json`` beside them.
    """
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {token: index for index, token in enumerate([*special, *WORDS])}
    text = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    text.save_pretrained(folder)
    architecture = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 12,
            "hf_model_name": "roberta-base",
            "hf_tokenizer_name": "roberta-base",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "mean_pooler",
        },
    }
    torch.manual_seed(2)
    here = {"hf_model_name": str(folder), "hf_model_pretrained": False}
    text_cfg = {**architecture["text_cfg"], **here}
    model = open_clip.CustomTextCLIP(**{**architecture, "text_cfg": text_cfg})
    _enliven(model)
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = BertTokenizer(vocab=vocabulary, mask_token="<mask>", **names)
    _save(model, tokenizer, folder, architecture, {})
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Set values of a repository's open_clip_config.json, by path: ``model_cfg__embed_dim=3``."""
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = config
        for part in sections:
            section = section[part]
        section[key] = value
    path.write_text(json.dumps(config))


def architecture_of(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """What the model's class takes: all but the key by which open_clip chooses the class."""
    return {key: value for key, value in model_cfg.items() if key != "custom_text"}


def _save(
    model: nn.Module, tokenizer: Any, folder: Path, architecture: dict, colours: dict
) -> None:
    open_clip.set_model_preprocess_cfg(model, {**_openai(), **colours})
    save_for_hf(model, tokenizer, architecture, str(folder), safe_serialization=True)


def _save_config(model: nn.Module, folder: Path, architecture: dict, colours: dict) -> None:
    open_clip.set_model_preprocess_cfg(model, {**_openai(), **colours})
    save_config_for_hf(model, folder / "open_clip_config.json", architecture)


def _openai() -> dict[str, Any]:
    return {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }


def _enliven(model: nn.Module) -> None:
    """Weights as large as trained ones: untrained layers hardly change what passes through."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "logit" not in name:
                parameter.normal_(std=(len(parameter) / parameter.numel()) ** 0.5)
            elif name.endswith(("gamma", "bias")):
                parameter.normal_(std=0.3)
