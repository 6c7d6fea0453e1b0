"""Captioners of the real architectures with a few ten thousand random weights, as repositories.

Nobody trained them, but they speak in words, end their sentences and say different things of
different pictures: what adapters and pipelines need in order to be tested.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    BartTokenizer,
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GPT2Tokenizer,
)

SIDE = 32
FLORENCE_SIDE = 64
WIDTH = 32
WORDS = (
    *("a", "the", "two", "red", "small", "old", "on", "in", "under", "beside", "and"),
    *("dog", "cat", "car", "tree", "table", "house", "boat", "bird", "chair", "woman"),
)
LAYER = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 2 * WIDTH,
}
VISION = {**LAYER, "image_size": SIDE, "patch_size": 8}
POSITIONS = {"max_position_embeddings": 128}


def tiny_blip(folder: Path) -> Path:
    """BLIP with one layer each for pictures of 32 x 32 and texts, in ``folder``, returned.

    The files are those of Salesforce/blip-image-captioning-base.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    vocabulary = {token: index for index, token in enumerate([*special, *WORDS])}
    tokenizer = BertTokenizer(vocab=vocabulary, additional_special_tokens=["[DEC]", "[ENC]"])
    text = {
        **POSITIONS,
        "bos_token_id": vocabulary["[DEC]"],
        "eos_token_id": vocabulary["[SEP]"],
        "sep_token_id": vocabulary["[SEP]"],
        "pad_token_id": vocabulary["[PAD]"],
    }
    model = BlipForConditionalGeneration(
        BlipConfig(
            vision_config=VISION,
            text_config={**LAYER, "vocab_size": len(vocabulary), **text},
            projection_dim=8,
        )
    )
    spoken = [vocabulary[word] for word in (*WORDS, "[SEP]")]
    _teach_to_speak(model, model.text_decoder.get_input_embeddings(), spoken, seed=1)
    BlipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def tiny_blip2(folder: Path) -> Path:
    """BLIP-2 with an OPT of one layer, for pictures of 32 x 32, in ``folder``, returned."""
    vocabulary = _byte_vocabulary("<s>", "<pad>", "</s>")
    tokenizer = GPT2Tokenizer(
        vocab=vocabulary,
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token="<pad>",
    )
    queries = 4
    processor = Blip2Processor(
        BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer, queries
    )
    text = {
        **POSITIONS,
        "model_type": "opt",
        "ffn_dim": 2 * WIDTH,
        "word_embed_proj_dim": WIDTH,
        "bos_token_id": vocabulary["</s>"],
        "eos_token_id": vocabulary["</s>"],
        "pad_token_id": vocabulary["<pad>"],
    }
    model = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=VISION,
            qformer_config={**LAYER, "cross_attention_frequency": 1},
            text_config={**LAYER, "vocab_size": len(tokenizer), **text},
            num_query_tokens=queries,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    spoken = [vocabulary[token] for token in (*(f"Ġ{word}" for word in WORDS), "</s>")]
    _teach_to_speak(model, model.get_input_embeddings(), spoken, seed=0)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def tiny_florence2(folder: Path) -> Path:
    """Florence-2 with a BART of one layer, for pictures of 64 x 64, in ``folder``, returned."""
    vocabulary = _byte_vocabulary("<s>", "<pad>", "</s>", "<unk>")
    tokenizer = BartTokenizer(vocab=vocabulary, extra_special_tokens={"image_token": "<image>"})
    size = {"height": FLORENCE_SIDE, "width": FLORENCE_SIDE}
    images = CLIPImageProcessor(size=size, do_center_crop=False)
    images.image_seq_length = (FLORENCE_SIDE // 32) ** 2 + 1
    processor = Florence2Processor(images, tokenizer)
    text = {
        **POSITIONS,
        "model_type": "bart",
        "d_model": WIDTH,
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 2 * WIDTH),
    }
    model = Florence2ForConditionalGeneration(
        Florence2Config(
            vision_config={
                "depths": (1, 1, 1, 1),
                "embed_dim": (8, 8, 16, 16),
                "num_heads": (1, 1, 2, 2),
                "num_groups": (1, 1, 2, 2),
                "window_size": 4,
                "projection_dim": WIDTH,
            },
            text_config={**text, "vocab_size": len(tokenizer)},
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    spoken = [vocabulary[token] for token in (*(f"Ġ{word}" for word in WORDS), "</s>")]
    _teach_to_speak(model, model.get_input_embeddings(), spoken, seed=2)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _byte_vocabulary(*special: str) -> dict[str, int]:
    """Special tokens, every byte, then the words, each with the space before it."""
    tokens = [*special, *sorted(ByteLevel.alphabet()), *(f"Ġ{word}" for word in WORDS)]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _teach_to_speak(model: nn.Module, words: nn.Embedding, spoken: list[int], seed: int) -> None:
    """Random weights under which picture and position decide what comes next of ``spoken``.

    The last of ``spoken`` ends a caption.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "position" in name and "vision" not in name:
                weight.normal_(0, 1, generator=generator)
            elif weight.ndim > 1:
                weight.normal_(0, 3 * weight[0].numel() ** -0.5, generator=generator)
        # Embeddings are also what the next word is compared with: large ones only repeat.
        words.weight.normal_(0, 0.2, generator=generator)
        words.weight[spoken[-1]] *= 2
        silent = torch.ones(len(words.weight), dtype=torch.bool)
        silent[spoken] = False
        words.weight[silent] *= 0.05
