"""Detectors of the real architectures with a few ten thousand random weights, as repositories.

Nobody trained them, but their scores and boxes differ between pictures and between phrases: what
adapters and pipelines need in order to be tested.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

WIDTH = 32
LAYER = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 2 * WIDTH,
}
OWL_SIDE = 256
OWL_CONTEXT = 16
GROUNDING_DINO_SIZE = {"shortest_edge": 72, "longest_edge": 108}
QUERIES = 12
WORDS = (
    *("a", "the", "two", "red", "small", "old", "photo", "of", "in"),
    *("dog", "cat", "car", "tree", "table", "house", "boat", "bird", "chair", "women", "st"),
)
BERT_PLACES = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012}
"""Places in the vocabulary of BERT: GroundingDINO knows the ends of phrases by number."""
QUESTION_MARK = 1029


def tiny_owlv2(folder: Path) -> Path:
    """OWLv2 with one layer each for pictures of 256 x 256 and texts, in ``folder``, returned.

    The files are those of google/owlv2-base-patch16-ensemble.
    """
    return _owl(folder, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor)


def tiny_owlvit(folder: Path) -> Path:
    """OWL-ViT, otherwise like ``tiny_owlv2``, in ``folder``, returned."""
    return _owl(
        folder, OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor
    )


def tiny_grounding_dino(folder: Path) -> Path:
    """GroundingDINO with 12 queries, for pictures of 72 to 108 pixels a side, in ``folder``.

    The files are those of IDEA-Research/grounding-dino-tiny.
    """
    vocabulary = _bert_vocabulary()
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 1, 2, 2),
            "window_size": 4,
            "out_indices": (2, 3, 4),
        },
        text_config={
            "model_type": "bert",
            **LAYER,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 64,
        },
        max_text_len=64,
        d_model=WIDTH,
        num_queries=QUERIES,
        **{f"{half}_layers": 2 for half in ("encoder", "decoder")},
        **{f"{half}_ffn_dim": 2 * WIDTH for half in ("encoder", "decoder")},
        **{f"{half}_attention_heads": 4 for half in ("encoder", "decoder")},
    )
    images = GroundingDinoImageProcessor(size=GROUNDING_DINO_SIZE)
    tokenizer = BertTokenizer(vocab=vocabulary, model_max_length=64)
    model = GroundingDinoForObjectDetection(config)
    _randomise(model, 1.0)
    with torch.no_grad():
        model.model.decoder.layer_norm.weight *= 0.1  # or every score would be 0 or 1
    return _save(folder, model, GroundingDinoProcessor(images, tokenizer))


def _owl(folder: Path, config: type, model: type, images: type, processor: type) -> Path:
    start, end = "<|startoftext|>", "<|endoftext|>"
    letters = sorted(ByteLevel.alphabet())
    merges = _merges()
    tokens = ["!", *letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, start, end]))}
    tokenizer = CLIPTokenizer(
        vocab=vocabulary, merges=merges, pad_token="!", model_max_length=OWL_CONTEXT
    )
    torch.manual_seed(0)  # of what _randomise leaves, such as the class embedding
    ends = {"bos_token_id": vocabulary[start], "eos_token_id": vocabulary[end], "pad_token_id": 0}
    built = model(
        config(
            text_config={
                **LAYER,
                **ends,
                "vocab_size": len(vocabulary),
                "max_position_embeddings": OWL_CONTEXT,
            },
            vision_config={**LAYER, "image_size": OWL_SIDE, "patch_size": 32},
            projection_dim=WIDTH,
        )
    )
    _randomise(built, 1.0)
    text = getattr(built, config.model_type).text_model
    with torch.no_grad():  # the words of a phrase decide, not the prompt nor the place alone
        text.embeddings.token_embedding.weight *= 5
        text.encoder.layers[0].self_attn.out_proj.weight *= 10
        built.class_head.logit_shift.weight *= 0.1
    size = {"height": OWL_SIDE, "width": OWL_SIDE}
    return _save(folder, built, processor(images(size=size), tokenizer))


def _merges() -> list[tuple[str, str]]:
    """Letters to words from left to right, as byte-pair encoding joins them."""
    pairs = []
    for word in WORDS:
        ended = [*word[:-1], f"{word[-1]}</w>"]
        pairs += [("".join(ended[:place]), ended[place]) for place in range(1, len(ended))]
    return list(dict.fromkeys(pairs))


def _bert_vocabulary() -> dict[str, int]:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    places = {**BERT_PLACES, "?": QUESTION_MARK}
    tokens = [*WORDS, *letters, *(f"##{letter}" for letter in letters)]
    free = iter(sorted(set(range(QUESTION_MARK)) - set(places.values())))
    places |= {token: next(free) for token in dict.fromkeys(tokens)}
    places |= {f"[unused{place}]": place for place in free}
    return dict(sorted(places.items(), key=lambda item: item[1]))


def _randomise(model: nn.Module, scale: float) -> None:
    """Weights that are large enough for pictures and phrases to decide."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                fan_in = weight[0].numel()
                weight.normal_(0, scale * fan_in**-0.5, generator=generator)


def _save(folder: Path, model: PreTrainedModel, processor: ProcessorMixin) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
