"""Dual encoders through open_clip: CLIP, SigLIP and their kin, from a repository on disk.

open_clip, timm and transformers are imported where they are needed and not above: importing
them takes seconds, and every worker imports this module's callers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from item.errors import UsageError
from item.layers import centre_crop, random_projection
from item.models.batching import Batches, automatic_size, device, dtype
from item.models.open_clip_files import (
    empty_model,
    load_weights,
    read_config,
    read_preprocessing,
    read_tokenizer,
    weights_file,
)
from item.models.open_clip_layers import LayeredTower
from item.models.precision import Precision

CHARACTERS_A_TOKEN = 32
"""No text's tokens are longer on average: what lies beyond is cut before it is tokenised, since
the time that a tokenizer takes grows with the square of a word's length."""
CACHED_WORDS = 1 << 16
TEXT_STEP = 8
"""Tokens of a batch are cut to a multiple of this, so that the shapes are few."""


class OpenClipEncoder:
    """A dual encoder of open_clip; see :class:`item.embedding.DualEncoder`.

    Pictures are resized on the CPU as the repository's ``preprocess_cfg`` says, sent as uint8
    and normalised on the device; nothing waits for the device until all batches of a call are
    on their way, so that the next batch is resized while the last one is computed. Causal
    text towers see no more tokens than the longest text of the batch has.

    Parameters
    ----------
    folder : an open_clip repository: ``open_clip_config.json``, weights and, unless the text
        tower reads CLIP's own tokens, tokenizer files
    precision : of weights and activations; embeddings are normalised in float32
    batch_size : pictures, and texts, that pass through the model at once; None finds it
    share : of the GPU that is this encoder's own
    allow_pickle : whether weights may be read from a pickle, without running its code
    compiled : whether the towers pass through torch.compile; batches are then filled up to
        ``batch_size``, so that each tower is compiled once
    layer_columns : to which :func:`item.layers.random_projection` brings what the image tower's
        blocks or stages see; 0 for none

    Raises
    ------
    UsageError
        Something is missing in the folder, damaged, or not known to the installed open_clip.
    """

    def __init__(
        self,
        folder: Path,
        *,
        precision: Precision = "float32",
        batch_size: int | None = None,
        share: float = 1.0,
        allow_pickle: bool = False,
        compiled: bool = False,
        layer_columns: int = 0,
    ) -> None:
        config = read_config(folder)
        weights = weights_file(folder, allow_pickle)
        self.dimensions: int = config["model_cfg"]["embed_dim"]
        self.precision = precision
        self.preprocessing = read_preprocessing(folder, config)
        self.tokenizer = read_tokenizer(folder, config["model_cfg"]["text_cfg"])
        self.device = device()
        model = empty_model(folder, config["model_cfg"])
        load_weights(model, weights)
        self.model = model.eval().requires_grad_(False).to(self.device, dtype(precision))
        self.model.visual.to(memory_format=torch.channels_last)
        self.layer_columns = layer_columns
        self._half = (layer_columns + 1) // 2
        self._tower = LayeredTower(self.model.visual) if layer_columns else None
        self._projection: Tensor | None = None
        self.compiled = compiled
        self.height, self.width = _pair(self.model.visual.image_size)
        self._causal = _causal_mask(self.model)
        self._mean, self._std = (
            255 * torch.tensor(values, device=self.device).reshape(1, 3, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(threads, "resize") if threads > 1 else None
        self._images: Batches[NDArray[np.uint8], Tensor] = Batches(self._image_rows, 1)
        self._texts: Batches[Tensor, Tensor] = Batches(self._text_rows, 1)
        architecture = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:24]
        name = f"{architecture} {precision}"
        self._images.size = batch_size or automatic_size(self._blank_images, f"{name} image", share)
        self._texts.size = batch_size or automatic_size(self._full_texts, f"{name} text", share)
        if compiled:
            self.model.visual.compile(dynamic=False)
            self.model.text.compile(dynamic=False)

    @property
    def halvings(self) -> int:
        """How often a batch was halved because it did not fit into memory."""
        return self._images.halvings + self._texts.halvings

    def embed_images(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Pictures (h, w, 3) of any sizes -> unit rows (n, dimensions)."""
        return self._collected(self._images(pictures))[:, : self.dimensions]

    def embed_with_layers(
        self, pictures: Sequence[NDArray[np.uint8]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pictures (h, w, 3) of any sizes -> unit rows (n, dimensions), layers (n, columns).

        Half of the columns are those of the pictures, half those of their centre crops.
        """
        crops = [centre_crop(picture, max(self.height, self.width)) for picture in pictures]
        rows = self._collected(self._images([*pictures, *crops]))
        embeddings, layers = rows[: len(pictures), : self.dimensions], rows[:, self.dimensions :]
        both = np.concatenate([layers[: len(pictures)], layers[len(pictures) :]], axis=1)
        return embeddings, both[:, : self.layer_columns]

    def embed_crops(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Parts of pictures (h, w, 3) -> unit rows (n, dimensions) in the same space."""
        return self.embed_images(crops)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts, each cut where the context ends -> unit rows (n, dimensions)."""
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        if not distinct:
            return np.zeros((0, self.dimensions), np.float32)
        tokens = self._tokens(list(distinct))
        longest_first = self._lengths(tokens).argsort(descending=True, stable=True)
        rows = self._collected(self._texts(tokens[longest_first]))
        rows[longest_first.numpy()] = rows.copy()
        return rows[[distinct[text] for text in texts]]

    @torch.inference_mode()
    def _image_rows(self, pictures: Sequence[NDArray[np.uint8]]) -> Sequence[Tensor]:
        count = self._images.size if self.compiled else len(pictures)
        shape = (count, self.height, self.width, 3)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        run = self._threads.map if self._threads else map
        for _ in run(self.preprocessing.fit, pictures, pixels.numpy()):
            pass
        on_device = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        images = ((on_device - self._mean) / self._std).to(dtype(self.precision))
        if self._tower is not None:
            self._tower.forget()
        rows = normalize(self.model.encode_image(images, normalize=False).float(), dim=1)
        if self._tower is not None:
            rows = torch.cat([rows, self._projected(self._tower.pooled())], dim=1)
        return rows[: len(pictures)].unbind()

    def _projected(self, pooled: Tensor) -> Tensor:
        """Pooled blocks (n, numbers) -> (n, half of the columns)."""
        if self._projection is None:
            signs = random_projection(pooled.shape[1], self._half)
            self._projection = torch.from_numpy(signs).to(self.device)
        return pooled @ self._projection

    @torch.inference_mode()
    def _text_rows(self, tokens: Tensor) -> Sequence[Tensor]:
        count, context = tokens.shape
        if self.compiled:
            tokens = torch.cat([tokens, tokens[:1].expand(self._texts.size - count, -1)])
        elif self._causal is not None:
            length = int(self._lengths(tokens).max())
            context = min(context, math.ceil(length / TEXT_STEP) * TEXT_STEP)
        tokens = tokens[:, :context].contiguous()
        if self.device.type == "cuda":
            tokens = tokens.pin_memory()
        tokens = tokens.to(self.device, non_blocking=True)
        if self._causal is not None and not self.compiled:
            mask = {"attn_mask": self._causal[:context, :context]}
            features = torch.func.functional_call(self.model.text, mask, (tokens,))
        else:
            features = self.model.encode_text(tokens, normalize=False)
        return normalize(features[:count].float(), dim=1).unbind()

    def _collected(self, rows: Sequence[Tensor]) -> NDArray[np.float32]:
        if not rows:
            return np.zeros((0, self.dimensions + self._half), np.float32)
        found = torch.stack(list(rows)).cpu().numpy()
        if not np.isfinite(found).all():
            raise UsageError(
                f"The dual encoder computes infinite values in {self.precision}: set "
                "profile.clip.precision to bfloat16 or float32."
            )
        return found

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        """Texts -> tokens (n, context) on the CPU."""
        limit = CHARACTERS_A_TOKEN * self.tokenizer.context_length
        tokens = self.tokenizer(
            [" ".join(text.split())[:limit] if len(text) > limit else text for text in texts]
        )
        words = getattr(self.tokenizer, "cache", {})
        if len(words) > CACHED_WORDS:  # every new word of every caption stays there
            special = list(itertools.islice(words.items(), len(self.tokenizer.all_special_ids)))
            words.clear()
            words.update(special)
        if (highest := int(tokens.max())) >= self.model.text.vocab_size:
            raise UsageError(
                f"The tokenizer gives the token {highest}, but the text tower knows only "
                f"{self.model.text.vocab_size}: its files belong to another model."
            )
        return tokens

    def _lengths(self, tokens: Tensor) -> Tensor:
        """Tokens (n, context) -> how many of each row the text tower has to see."""
        if self._causal is None:
            return torch.full((len(tokens),), tokens.shape[1])
        if self.model.text.pool_type == "eos":
            tokens = (tokens == self.model.text.eos_id).int()
        return tokens.argmax(dim=1) + 1

    def _blank_images(self, count: int) -> Sequence[Tensor]:
        return self._image_rows([np.zeros((self.height, self.width, 3), np.uint8)] * count)

    def _full_texts(self, count: int) -> Sequence[Tensor]:
        return self._text_rows(self._tokens(["a " * self.tokenizer.context_length] * count))


def _causal_mask(model: nn.Module) -> Tensor | None:
    """The text tower's mask if what follows a text's end cannot change its embedding."""
    from open_clip import CustomTextCLIP
    from open_clip.transformer import TextTransformer

    text = model.text
    if not isinstance(model, CustomTextCLIP) or not isinstance(text, TextTransformer):
        return None
    ends = text.pool_type in ("argmax", "eos") and text.cls_emb is None and not text.output_tokens
    return text.attn_mask if ends else None


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
