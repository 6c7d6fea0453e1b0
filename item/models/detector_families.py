"""What differs between OWLv2, OWL-ViT and GroundingDINO: how phrases and pictures enter them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from item.images.boxes import Picture

OWL_PROMPT = "a photo of a {phrase}"
MAX_ASPECT = 16
"""GroundingDINO chooses its 900 queries from the cells of its feature maps. A thinner picture
has fewer, and is widened first."""

Texts = tuple[dict[str, Tensor], Tensor]
"""A model's text inputs, and which columns of its logits belong to each phrase: bool of shape
(n_pictures, most phrases, columns)."""


class Family(Protocol):
    """What differs between the models."""

    def texts(self, phrases: Sequence[Sequence[str]]) -> Texts:
        """Model inputs for the phrases of some pictures, at least one each."""
        ...

    def widened(self, picture: Picture) -> Picture:
        """The picture as the image processor gets it: this one, perhaps with a margin."""
        ...

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the boxes of a widened picture are fractions of."""
        ...

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The size of a picture in the model: only pictures of one size share a batch."""
        ...


class Owl:
    """OWLv2, which pads pictures to squares at the bottom or right, and OWL-ViT, which does not."""

    def __init__(self, model: Any, tokenizer: Any, square: bool) -> None:
        self.tokenizer = tokenizer
        self.context: int = model.config.text_config.max_position_embeddings
        self.square = square

    def texts(self, phrases: Sequence[Sequence[str]]) -> Texts:
        most = max(map(len, phrases))
        # No attention mask: each token sees those before it only, and the last word's is read.
        ids = torch.zeros((len(phrases), most, self.context), dtype=torch.long)
        prompts = [
            OWL_PROMPT.replace("{phrase}", _encodable(phrase))
            for of_picture in phrases
            for phrase in of_picture
        ]
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.context,
            truncation=True,
            return_tensors="pt",
        )["input_ids"]
        counts = [len(of_picture) for of_picture in phrases]
        for row, of_picture in enumerate(tokens.split(counts)):
            ids[row, : len(of_picture)] = of_picture
        columns = torch.eye(most, dtype=torch.bool).expand(len(phrases), -1, -1)
        return {"input_ids": ids.flatten(0, 1)}, columns

    def widened(self, picture: Picture) -> Picture:
        return picture

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        return (max(height, width),) * 2 if self.square else (height, width)

    def resized(self, height: int, width: int) -> tuple[int, int]:  # noqa: ARG002
        return 0, 0  # one size for all pictures


class GroundingDino:
    """GroundingDINO: a picture's phrases are one text, and the logits' columns its tokens.

    Its backbone and its group normalisation see the margin that pictures of different sizes need
    in order to share a batch, so that it would change their boxes: here they never share one.
    """

    def __init__(self, model: Any, tokenizer: Any, images: Any) -> None:
        self.tokenizer = tokenizer
        self.size = images.size
        self.grey = np.array([round(255 * mean) for mean in images.image_mean], np.uint8)
        self.columns: int = model.config.max_text_len
        self.context = min(self.columns, model.config.text_config.max_position_embeddings)
        self.stop: int = tokenizer.convert_tokens_to_ids(".")
        special = {*model.model.special_tokens.tolist(), *tokenizer.all_special_ids}
        self.dropped = special - {tokenizer.unk_token_id}

    def texts(self, phrases: Sequence[Sequence[str]]) -> Texts:
        rows = [self._text(of_picture) for of_picture in phrases]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        seen = torch.zeros_like(ids)
        columns = torch.zeros((len(rows), max(map(len, phrases)), self.columns), dtype=torch.bool)
        for row, (tokens, spans) in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            seen[row, : len(tokens)] = 1
            for place, (start, end) in enumerate(spans):
                columns[row, place, start:end] = True
        return {"input_ids": ids, "attention_mask": seen}, columns

    def _text(self, phrases: Sequence[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of "phrase. phrase." and each phrase's span in them; empty if it does not fit.

        Tokens that would end a phrase, such as full stops, are left out of it.
        """
        encoded = self.tokenizer(
            [_encodable(phrase).strip().lower() for phrase in phrases],
            add_special_tokens=False,
            truncation=True,
            max_length=self.context,
        )["input_ids"]
        named = [[token for token in tokens if token not in self.dropped] for tokens in encoded]
        room = self.context - 2
        if sum(len(tokens) + 1 for tokens in named) > room:
            named = [tokens[: max(room // len(named) - 1, 1)] for tokens in named]
        ids, spans = [self.tokenizer.cls_token_id], []
        for tokens in named:
            if not tokens or len(ids) + len(tokens) + 2 > self.context:
                spans.append((0, 0))
                continue
            spans.append((len(ids), len(ids) + len(tokens)))
            ids += [*tokens, self.stop]
        return [*ids, self.tokenizer.sep_token_id], spans

    def widened(self, picture: Picture) -> Picture:
        height, width = self._at_least(*picture.shape[:2])
        if (height, width) == picture.shape[:2]:
            return picture
        wide = np.tile(self.grey, (height, width, 1))
        wide[: picture.shape[0], : picture.shape[1]] = picture
        return wide

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def resized(self, height: int, width: int) -> tuple[int, int]:
        from transformers.image_transforms import get_size_with_aspect_ratio

        height, width = self._at_least(height, width)
        if self.size.shortest_edge and self.size.longest_edge:
            edges = (self.size.shortest_edge, self.size.longest_edge)
            height, width = get_size_with_aspect_ratio((height, width), *edges)
        return height, width

    def _at_least(self, height: int, width: int) -> tuple[int, int]:
        least = math.ceil(max(height, width) / MAX_ASPECT)
        return max(height, least), max(width, least)


def _encodable(phrase: str) -> str:
    """Without halves of surrogate pairs, which tokenizers refuse."""
    return phrase.encode(errors="ignore").decode()
