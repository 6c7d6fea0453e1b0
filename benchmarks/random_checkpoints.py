"""The architectures of the ``base`` profile with random weights, as repositories on disk.

Nobody trained them: they are as fast as the real ones and say nothing true. Captions are strings of
common words, so that they hold phrases as real captions do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPTokenizer,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
)

Size = Literal["base", "thin", "tiny"]
"""``thin`` reads pictures as large as ``base`` does, and has next to no layers."""
WORDS = (
    *("on", "and", "beside"),
    *("dog", "cat", "car", "tree", "table", "house", "boat", "bird", "chair", "woman"),
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
BERT_VOCABULARY, CLIP_VOCABULARY = 30524, 49408
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def random_blip(folder: Path, size: Size) -> Path:
    """BLIP, of Salesforce/blip-image-captioning-base's shape or tiny; returns the folder."""
    side, layer = 32 if size == "tiny" else 384, {} if size == "base" else SMALL
    vocabulary = _filled([*SPECIAL, *WORDS], BERT_VOCABULARY if size == "base" else 64)
    text: dict[str, Any] = {
        **layer,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 512,
        "bos_token_id": vocabulary["[DEC]"],
        "eos_token_id": vocabulary["[SEP]"],
        "sep_token_id": vocabulary["[SEP]"],
        "pad_token_id": vocabulary["[PAD]"],
    }
    vision = {**layer, "image_size": side, "patch_size": 8 if size == "tiny" else 16}
    model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text))
    with torch.no_grad():  # as large as trained ones, so that the picture decides what is said
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
    # Only words are ever said, whatever the weights are.
    said = torch.full((len(vocabulary),), -1e4)
    said[[vocabulary[word] for word in (*WORDS, "[SEP]")]] = 0.0
    head = model.text_decoder.cls.predictions
    with torch.no_grad():
        head.bias.copy_(said)
        head.decoder.bias.copy_(said)
    tokenizer = BertTokenizer(vocab=vocabulary, additional_special_tokens=["[DEC]", "[ENC]"])
    images = BlipImageProcessor(size={"height": side, "width": side})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def random_owlv2(folder: Path, size: Size) -> Path:
    """OWLv2, of google/owlv2-base-patch16-ensemble's shape or tiny; returns the folder."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    merges = _merges()
    letters = sorted(ByteLevel.alphabet())
    tokens = ["!", *letters, *(f"{one}</w>" for one in letters), *map("".join, merges), start, end]
    length = CLIP_VOCABULARY if size == "base" else len(set(tokens))
    vocabulary = _filled(list(dict.fromkeys(tokens)), length)
    side, layer = 256 if size == "tiny" else 960, {} if size == "base" else SMALL
    text = {
        **layer,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 16,
        "bos_token_id": vocabulary[start],
        "eos_token_id": vocabulary[end],
        "pad_token_id": 0,
    }
    vision = {**layer, "image_size": side, "patch_size": 16 if size == "base" else 32}
    projection = 512 if size == "base" else 32
    config = Owlv2Config(text_config=text, vision_config=vision, projection_dim=projection)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="!", model_max_length=16)
    images = Owlv2ImageProcessor(size={"height": side, "width": side})
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    Owlv2Processor(images, tokenizer).save_pretrained(folder)
    return folder


def random_clip(folder: Path, size: Size) -> Path:
    """open_clip's ViT-L/14 with QuickGELU as OpenAI's, or a tiny ViT; returns the folder."""
    architecture = open_clip.get_model_config("ViT-L-14-quickgelu")
    if size != "base":
        side, patch = (32, 8) if size == "tiny" else (224, 14)
        architecture = {
            "embed_dim": 24,
            "quick_gelu": True,
            "vision_cfg": {"image_size": side, "layers": 1, "width": 32, "patch_size": patch},
            "text_cfg": {"width": 16, "heads": 2, "layers": 1},
        }
        architecture["vision_cfg"]["head_width"] = 16
    return _saved(architecture, folder)


def random_open_clip(folder: Path, name: str) -> Path:
    """An architecture of open_clip by its name; returns the folder."""
    return _saved(open_clip.get_model_config(name), folder)


def _saved(architecture: dict[str, Any], folder: Path) -> Path:
    model = open_clip.CLIP(**architecture)
    open_clip.set_model_preprocess_cfg(
        model,
        {
            "mean": open_clip.OPENAI_DATASET_MEAN,
            "std": open_clip.OPENAI_DATASET_STD,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    save_config_for_hf(model, folder / "open_clip_config.json", architecture)
    return folder


def _filled(tokens: list[str], length: int) -> dict[str, int]:
    """A vocabulary of that length: the tokens, then some that no text has."""
    missing = range(max(0, length - len(tokens)))
    return {token: place for place, token in enumerate([*tokens, *(f"[u{n}]" for n in missing)])}


def _merges() -> list[tuple[str, str]]:
    """Letters to words from left to right, as byte-pair encoding joins them."""
    pairs = []
    for word in WORDS:
        ended = [*word[:-1], f"{word[-1]}</w>"]
        pairs += [("".join(ended[:place]), ended[place]) for place in range(1, len(ended))]
    return list(dict.fromkeys(pairs))
