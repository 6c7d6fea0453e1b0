"""The CLIP of the ``mini`` profile: two frozen backbones, trained pooling on top."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from item.images.boxes import Picture, cell_cover
from item.mini.backbone import CHANNELS, CLASSES, HEAD_CHANNELS, slices
from item.mini.checkpoint import load_weights
from item.mini.text_backbone import WIDTH, TextBackbone
from item.mini.whole_pictures import CELLS, whole_pictures

HEADS = 8
REGION_BATCH = 16
TEXTS_KEPT = 20_000
"""Embeddings of texts that are remembered: captions name the same few things again and again."""


class AttentionPooling(nn.Module):
    """Pools sets of tokens with ``HEADS`` learned attentions, beside their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, HEADS)
        self.values = nn.Linear(width, WIDTH)
        self.mean = nn.Linear(width, WIDTH)

    def forward(self, tokens: Tensor, cover: Tensor) -> Tensor:
        """Tokens (n, t, width), and how much of each is in each set (n, sets, t), from 0 to 1.

        Returns (n, sets, 384). A token counts as that much of one: half of it weighs half.
        """
        tokens = self.norm(tokens)
        logits = self.attention(tokens).unsqueeze(1) + cover.log().unsqueeze(3)
        values = self.values(tokens).unflatten(2, (HEADS, -1))
        pooled = torch.einsum("nsth,nthd->nshd", logits.softmax(2), values).flatten(2)
        mean = cover @ tokens / cover.sum(dim=2, keepdim=True)
        return pooled + self.mean(mean)


class Residual(nn.Module):
    """x + MLP(LayerNorm(x))."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * WIDTH, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class JointSpace(nn.Module):
    """The trained part: from both backbones' outputs into one space of 384 dimensions.

    The image side sees the ImageNet classifier too: the expected sentence embedding of
    the class names, weighted by their probabilities, brings words into the image tower
    that 6,091 captioned photographs could not teach.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.head = nn.Conv2d(CHANNELS, HEAD_CHANNELS, 1)
        self.image_pooling = AttentionPooling(HEAD_CHANNELS)
        self.class_names = nn.Linear(WIDTH, WIDTH)
        self.image_mlp = Residual(dropout)
        self.text_pooling = AttentionPooling(WIDTH)
        self.text_mlp = Residual(dropout)
        self.dropout = nn.Dropout(dropout)
        self.log_temperature = nn.Parameter(torch.tensor(-2.7))

    def images(self, maps: Tensor, names: Tensor) -> Tensor:
        """Maps (n, 320, h, w), expected class-name embeddings (n, 384) -> unit (n, 384)."""
        everything = maps.new_ones(len(maps), 1, maps.shape[2] * maps.shape[3])
        return self.regions(maps, names.unsqueeze(1), everything).squeeze(1)

    def regions(self, maps: Tensor, names: Tensor, cover: Tensor) -> Tensor:
        """Regions of pictures, all pooled from the one map of each.

        Parameters
        ----------
        maps : (n, 320, h, w)
        names : expected class-name embeddings (n, regions, 384)
        cover : how much of each cell is in each region (n, regions, h * w)

        Returns
        -------
        Unit vectors (n, regions, 384).
        """
        tokens = nn.functional.relu6(self.head(maps)).flatten(2).transpose(1, 2)
        pooled = self.image_pooling(self.dropout(tokens), cover) + self.class_names(names)
        return normalize(self.image_mlp(pooled), dim=2)

    def texts(self, states: Tensor, mask: Tensor) -> Tensor:
        """Token states (n, t, 384) and mask (n, t), True for real ones -> unit (n, 384)."""
        cover = mask.unsqueeze(1).to(states.dtype)
        pooled = self.text_pooling(self.dropout(states), cover).squeeze(1)
        return normalize(self.text_mlp(pooled), dim=1)


def expected_names(class_logits: Tensor, name_embeddings: Tensor) -> Tensor:
    """ImageNet logits (..., 1000), names (1000, 384) -> expected names (..., 384)."""
    return class_logits.softmax(-1) @ name_embeddings


class MiniDualEncoder:
    """Image and text embeddings in one space; see :class:`item.embedding.DualEncoder`.

    Pictures are squashed to squares of 256 pixels, as the training data was. Their regions are
    pooled from the same map, cell by cell as far as a cell lies in the region: a region sees what
    is around it, and costs next to nothing.
    """

    dimensions = WIDTH

    def __init__(self, weights: Path | None = None, layer_columns: int = 0) -> None:
        self.whole = whole_pictures()
        self.backbone = self.whole.backbone
        self.text_backbone = TextBackbone()
        self.space = JointSpace().eval().requires_grad_(False)
        tensors = load_weights("dual_encoder", weights)
        self.names = tensors.pop("names").reshape(CLASSES, WIDTH)
        self.space.load_state_dict(tensors)
        self._texts: dict[str, NDArray[np.float32]] = {}
        self.layer_columns = layer_columns
        if layer_columns:
            layers = load_weights("layers")
            self.layer_means = layers["means"]
            self.layer_directions = layers["directions"][:, :layer_columns].contiguous()

    def embed_images(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Whole pictures (h, w, 3) -> unit rows (n, 384)."""
        return self._embed_maps(self.whole.maps(pictures))

    @torch.inference_mode()
    def embed_with_layers(
        self, pictures: Sequence[Picture], middles: Sequence[Picture] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Whole pictures (h, w, 3) -> unit rows (n, 384), layers (n, columns).

        ``middles`` are the pictures' centre crops, if they are cut already.
        """
        maps, pooled = self.whole.maps_and_layers(pictures, middles)
        layers = (pooled - self.layer_means) @ self.layer_directions
        return self._embed_maps(maps), layers.numpy()

    @torch.inference_mode()
    def embed_regions(
        self, pictures: Sequence[Picture], boxes: Sequence[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """Boxes (k, 4) of each picture (h, w, 3) -> unit rows (k, 384) in the same space."""
        found = [np.zeros((0, WIDTH), np.float32)] * len(pictures)
        named = [place for place, of_picture in enumerate(boxes) if len(of_picture)]
        # Those of a grid are equally many in most pictures.
        for _, alike in itertools.groupby(named, key=lambda place: len(boxes[place])):
            for part in slices(list(alike), REGION_BATCH):
                maps = self.whole.maps([pictures[place] for place in part])
                cover = [cell_cover(boxes[place], pictures[place], CELLS) for place in part]
                regions = self._embed_cover(maps, torch.from_numpy(np.stack(cover)))
                for place, rows in zip(part, regions, strict=True):
                    found[place] = rows
        return found

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> unit rows (n, 384)."""
        new = sorted({text for text in texts if text not in self._texts}, key=len)
        if len(self._texts) + len(new) > TEXTS_KEPT:
            self._texts.clear()
            new = sorted(set(texts), key=len)
        for part in slices(new, 32):
            self._texts.update(zip(part, self._embed_new(part), strict=True))
        rows = [self._texts[text] for text in texts]
        return np.stack(rows) if rows else np.zeros((0, WIDTH), np.float32)

    def forget(self) -> None:
        """Compute everything anew from here on."""
        self.whole.forget()
        self._texts.clear()

    @torch.inference_mode()
    def _embed_new(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.space.texts(*self.text_backbone(texts)).numpy()

    def _embed_cover(self, maps: Tensor, cover: Tensor) -> NDArray[np.float32]:
        names = expected_names(self.backbone.classify_regions(maps, cover), self.names)
        return self.space.regions(maps, names, cover).numpy()

    @torch.inference_mode()
    def _embed_maps(self, maps: Tensor) -> NDArray[np.float32]:
        rows = [torch.zeros(0, WIDTH)]
        for part in maps.split(64):
            names = expected_names(self.backbone.classify(part), self.names)
            rows.append(self.space.images(part, names))
        return torch.cat(rows).numpy()
