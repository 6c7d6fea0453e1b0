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
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from item.errors import UsageError
from item.images.boxes import Picture, rows_by_picture, whole_pixels
from item.images.fit import is_fitted
from item.layers import random_projection
from item.models.batching import Batches, automatic_size, device, dtype
from item.models.open_clip import device_crops
from item.models.open_clip.files import (
    empty_model,
    load_weights,
    read_tokenizer,
    weights_file,
)
from item.models.open_clip.layers import LayeredTower
from item.models.open_clip.preprocessing import read_config, read_fit
from item.models.precision import Precision
from item.models.upload import upload

CHARACTERS_A_TOKEN = 32
"""No text's tokens are longer on average: what lies beyond is cut before it is tokenised, since
the time that a tokenizer takes grows with the square of a word's length."""
CACHED_WORDS = 1 << 16
TEXT_STEP = 8
"""Tokens of a batch are cut to a multiple of this, so that the shapes are few."""


class SentBack(NamedTuple):
    """Rows that are on their way from the device."""

    rows: Tensor
    """(n, numbers) in memory that the processor reads, once they have arrived."""
    arrived: torch.cuda.Event | None
    """When they have; None if they are there."""


class Region(NamedTuple):
    """A part of a picture that lies on the device."""

    pictures: Tensor
    """By :func:`item.models.upload.upload`."""
    place: int
    """Which of the pictures."""
    box: NDArray[np.intp]
    """x0, y0, x1, y1 in whole pixels."""


class OpenClipEncoder:
    """A dual encoder of open_clip; see :class:`item.embedding.RegionEncoder`.

    Pictures are fitted on the CPU as the repository's ``preprocess_cfg`` says, unless they come
    fitted, sent as uint8 and normalised on the device. Regions are cut and fitted on a GPU where
    there is one. Nothing waits for the device until all batches of a call are on their way, and
    several threads may call at once: while one waits, the batch of the next is on its way. Causal
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
        self.fit = read_fit(folder)
        self.middle = self.fit.middle
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
        self.cuts_on_device = self.device.type == "cuda"
        self._lock = threading.Lock()
        self._causal = _causal_mask(self.model)
        self._mean, self._std = (
            255 * torch.tensor(values, device=self.device).reshape(1, 3, 1, 1)
            for values in (self.fit.preprocessing.mean, self.fit.preprocessing.std)
        )
        threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(threads, "resize") if threads > 1 else None
        self._images: Batches[Picture, Tensor] = Batches(self._image_rows, 1)
        self._regions: Batches[Region, Tensor] = Batches(self._region_rows, 1)
        self._texts: Batches[Tensor, Tensor] = Batches(self._text_rows, 1)
        architecture = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:24]
        name = f"{architecture} {precision}"
        self._images.size = batch_size or automatic_size(self._blank_images, f"{name} image", share)
        self._regions.size = self._images.size
        self._texts.size = batch_size or automatic_size(self._full_texts, f"{name} text", share)
        if compiled:
            self.model.visual.compile(dynamic=False)
            self.model.text.compile(dynamic=False)

    @property
    def halvings(self) -> int:
        """How often a batch was halved because it did not fit into memory."""
        return self._images.halvings + self._regions.halvings + self._texts.halvings

    def embed_images(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """Pictures (h, w, 3) of any sizes -> unit rows (n, dimensions)."""
        with self._lock:
            rows = self._sent_back(self._images(pictures))
        return self._collected(rows)[:, : self.dimensions]

    def embed_with_layers(
        self, pictures: Sequence[Picture], middles: Sequence[Picture] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pictures (h, w, 3) of any sizes -> unit rows (n, dimensions), layers (n, columns).

        Half of the columns are those of the pictures, half those of their centre crops
        ``middles``, which are cut here if they are not given.
        """
        if middles is None:
            middles = [self.middle(picture) for picture in pictures]
        with self._lock:
            sent = self._sent_back(self._images([*pictures, *middles]))
        rows = self._collected(sent)
        embeddings, layers = rows[: len(pictures), : self.dimensions], rows[:, self.dimensions :]
        both = np.concatenate([layers[: len(pictures)], layers[len(pictures) :]], axis=1)
        return embeddings, both[:, : self.layer_columns]

    def embed_regions(
        self, pictures: Sequence[Picture], boxes: Sequence[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """Boxes (k, 4) of each picture (h, w, 3) -> unit rows (k, dimensions) in the same space."""
        wanted = [
            (place, whole_pixels(pictures[place], box))
            for place, of_picture in enumerate(boxes)
            for box in of_picture
        ]
        with self._lock:
            if self.cuts_on_device and wanted:
                pixels = upload(pictures, self.device)
                found = self._regions([Region(pixels, place, box) for place, box in wanted])
            else:
                found = self._images(
                    [pictures[place][y0:y1, x0:x1] for place, (x0, y0, x1, y1) in wanted]
                )
            sent = self._sent_back(found)
        return rows_by_picture(self._collected(sent)[:, : self.dimensions], boxes)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts, each cut where the context ends -> unit rows (n, dimensions)."""
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        if not distinct:
            return np.zeros((0, self.dimensions), np.float32)
        with self._lock:
            tokens = self._tokens(list(distinct))
            longest_first = self._lengths(tokens).argsort(descending=True, stable=True)
            sent = self._sent_back(self._texts(tokens[longest_first]))
        rows = self._collected(sent)
        rows[longest_first.numpy()] = rows.copy()
        return rows[[distinct[text] for text in texts]]

    def _image_rows(self, pictures: Sequence[Picture]) -> Sequence[Tensor]:
        count = self._images.size if self.compiled else len(pictures)
        shape = (count, self.fit.height, self.fit.width, 3)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        batch = pixels.numpy()
        if all(is_fitted(self.fit, picture) for picture in pictures):
            np.stack(pictures, out=batch[: len(pictures)])
        else:
            run = self._threads.map if self._threads else map
            for place, picture in enumerate(run(self.fit, pictures)):
                batch[place] = picture
        return self._tower_rows(pixels.to(self.device, non_blocking=True))[: len(pictures)]

    def _region_rows(self, regions: Sequence[Region]) -> Sequence[Tensor]:
        missing = self._regions.size - len(regions) if self.compiled else 0
        regions = [*regions, *[regions[-1]] * missing]
        places = [region.place for region in regions]
        boxes = np.stack([region.box for region in regions])
        pixels = device_crops.cut(regions[0].pictures, places, boxes, self.fit)
        return self._tower_rows(pixels)[: len(regions) - missing]

    @torch.inference_mode()
    def _tower_rows(self, pixels: Tensor) -> Sequence[Tensor]:
        """Fitted uint8 pixels (n, height, width, 3) on the device -> a row each."""
        on_device = pixels.permute(0, 3, 1, 2)
        images = ((on_device - self._mean) / self._std).to(dtype(self.precision))
        if self._tower is not None:
            self._tower.forget()
        rows = normalize(self.model.encode_image(images, normalize=False).float(), dim=1)
        if self._tower is not None:
            rows = torch.cat([rows, self._projected(self._tower.pooled())], dim=1)
        return rows.unbind()

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

    def _sent_back(self, rows: Sequence[Tensor]) -> SentBack:
        """Rows on their way from the device: what is computed after them does not delay them."""
        if not rows:
            return SentBack(torch.zeros((0, self.dimensions + self._half)), None)
        found = torch.stack(list(rows))
        if self.device.type != "cuda":
            return SentBack(found, None)
        here = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        here.copy_(found, non_blocking=True)
        there = torch.cuda.Event()
        there.record()
        return SentBack(here, there)

    def _collected(self, sent: SentBack) -> NDArray[np.float32]:
        if sent.arrived is not None:
            sent.arrived.synchronize()
        found = sent.rows.numpy()
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
        blank = np.zeros((self.fit.height, self.fit.width, 3), np.uint8)
        return self._image_rows([blank] * count)

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
