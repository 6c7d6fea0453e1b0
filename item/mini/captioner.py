"""The captioner of the ``mini`` profile: a small transformer decoder, beam-searched.

It reads the backbone's 7x7 feature map and, as words, the ImageNet classes that the
backbone's classifier finds most probable. Training swaps class names in captions and
classes alike, so the decoder learns to copy names that no caption ever held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from item.errors import UsageError
from item.mini.backbone import CLASSES, HEAD_CHANNELS, Backbone, normalise, slices
from item.mini.checkpoint import FOLDER, load_weights
from item.mini.text_backbone import WIDTH as NAME_WIDTH

SIDE = 224
CELLS = 49
WIDTH = 256
LAYERS = 3
HEADS = 8
CONCEPTS = 5
MAX_WORDS = 20
PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")

State = list[tuple[Tensor, Tensor]]


def words_of(caption: str) -> list[str]:
    """Lower-case words of a caption, without punctuation."""
    return re.findall(r"[a-z0-9']+", caption.lower())


class Attention(nn.Module):
    """Multi-head attention whose keys and values may be computed ahead."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.dropout = dropout

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, t, width) -> keys and values (n, heads, t, width / heads)."""
        keys, values = self.key_value(x).chunk(2, dim=2)
        return _heads(keys), _heads(values)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        y = scaled_dot_product_attention(
            _heads(self.query(x)), keys, values, attn_mask=mask, dropout_p=dropout
        )
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One decoder layer, norms first."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.self_attention = Attention(dropout)
        self.cross_attention = Attention(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * WIDTH, WIDTH),
        )
        self.dropout = nn.Dropout(dropout)


class Decoder(nn.Module):
    """Words from a feature map and class names; the trained part of the captioner."""

    def __init__(self, vocabulary_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, WIDTH)
        self.positions = nn.Parameter(torch.zeros(MAX_WORDS + 1, WIDTH))
        self.cells = nn.Parameter(torch.zeros(CELLS, WIDTH))
        self.map_norm = nn.LayerNorm(HEAD_CHANNELS)
        self.map_projection = nn.Linear(HEAD_CHANNELS, WIDTH)
        self.name_projection = nn.Linear(NAME_WIDTH, WIDTH)
        self.probability = nn.Linear(1, WIDTH)
        self.memory_norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.dropout = nn.Dropout(dropout)

    def memory(self, maps: Tensor, names: Tensor, probabilities: Tensor) -> Tensor:
        """What the decoder reads.

        Maps (n, 1280, 7, 7), class-name embeddings (n, c, 384) and their probabilities
        (n, c) -> (n, 49 + c, width).
        """
        tokens = self.map_norm(maps.flatten(2).transpose(1, 2))
        cells = self.map_projection(self.dropout(tokens)) + self.cells
        likelihood = probabilities.clamp_min(1e-4).log().unsqueeze(2)
        concepts = self.name_projection(names) + self.probability(likelihood)
        return self.memory_norm(torch.cat([cells, concepts], dim=1))

    def crossed(self, memory: Tensor) -> State:
        """Keys and values of the memory for each layer."""
        return [block.cross_attention.keys_values(memory) for block in self.blocks]

    def forward(self, words: Tensor, memory: Tensor) -> Tensor:
        """Captions (n, captions, t) of n images -> logits (n, captions, t, words).

        Captions of an image attend to its memory together, so it is projected once.
        """
        n, captions, length = words.shape
        x = self.words(words) + self.positions[:length]
        x = self.dropout(x).flatten(0, 1)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        for block, (keys, values) in zip(self.blocks, self.crossed(memory), strict=True):
            y = block.norms[0](x)
            own = block.self_attention.keys_values(y)
            x = x + block.dropout(block.self_attention(y, *own, mask=causal))
            y = block.norms[1](x).unflatten(0, (n, captions)).flatten(1, 2)
            y = block.cross_attention(y, keys, values)
            x = x + block.dropout(y.unflatten(1, (captions, length)).flatten(0, 1))
            x = x + block.dropout(block.mlp(block.norms[2](x)))
        return self.logits(self.norm(x)).unflatten(0, (n, captions))

    def logits(self, x: Tensor) -> Tensor:
        return x @ self.words.weight.T + self.bias

    def step(
        self, words: Tensor, position: int, crossed: State, past: State
    ) -> tuple[Tensor, State]:
        """Logits (n, words) after one more word each (n,), and the grown past."""
        x = (self.words(words) + self.positions[position]).unsqueeze(1)
        grown: State = []
        for index, block in enumerate(self.blocks):
            y = block.norms[0](x)
            keys, values = block.self_attention.keys_values(y)
            if past:
                keys = torch.cat([past[index][0], keys], dim=2)
                values = torch.cat([past[index][1], values], dim=2)
            grown.append((keys, values))
            x = x + block.self_attention(y, keys, values)
            x = x + block.cross_attention(block.norms[1](x), *crossed[index])
            x = x + block.mlp(block.norms[2](x))
        return self.logits(self.norm(x.squeeze(1))), grown


@torch.inference_mode()
def beam_search(
    decoder: Decoder, memory: Tensor, beams: int = 3, length_penalty: float = 1.0
) -> list[list[int]]:
    """The most probable caption of each image, as word indices.

    Parameters
    ----------
    memory : (n, m, width), of :meth:`Decoder.memory`
    beams : width of the search
    length_penalty : a finished caption scores log-probability / words ** length_penalty

    Returns
    -------
    n lists of indices, without start and end; deterministic.
    """
    n = len(memory)
    rows = torch.arange(n).repeat_interleave(beams)
    crossed = [(keys[rows], values[rows]) for keys, values in decoder.crossed(memory)]
    past: State = []
    sequences = torch.full((n * beams, 1), START)
    # Only the first beam counts at the start: the others are copies of it.
    scores = torch.full((n, beams), -torch.inf)
    scores[:, 0] = 0.0
    best: list[tuple[float, list[int]]] = [(-torch.inf, [])] * n
    for position in range(MAX_WORDS + 1):
        logits, past = decoder.step(sequences[:, -1], position, crossed, past)
        steps = logits.log_softmax(1)
        steps[:, [PAD, START, UNKNOWN]] = -torch.inf
        _forbid_repeats(sequences, steps)
        if position == MAX_WORDS:
            steps[:, :END] = steps[:, END + 1 :] = -torch.inf
        totals = (scores.unsqueeze(2) + steps.unflatten(0, (n, beams))).flatten(1)
        # Twice the beams: as many may end here, and the search goes on with the others.
        top, chosen = totals.topk(2 * beams, dim=1)
        parents, words = chosen // steps.shape[1], chosen % steps.shape[1]
        next_rows, next_words = [], []
        for image in range(n):
            kept = 0
            for score, parent, word in zip(
                top[image].tolist(), parents[image].tolist(), words[image].tolist(), strict=True
            ):
                row = image * beams + parent
                if word == END:
                    final = score / max(position, 1) ** length_penalty
                    if final > best[image][0]:
                        best[image] = (final, sequences[row, 1:].tolist())
                elif kept < beams:
                    scores[image, kept] = score
                    next_rows.append(row)
                    next_words.append(word)
                    kept += 1
        # A caption only loses by going on, up to the gain of the length penalty.
        bound = (scores[:, 0] / MAX_WORDS**length_penalty).tolist()
        ended = all(score >= most for (score, _), most in zip(best, bound, strict=True))
        if ended or position == MAX_WORDS:
            break
        order = torch.tensor(next_rows)
        past = [(keys[order], values[order]) for keys, values in past]
        sequences = torch.cat([sequences[order], torch.tensor(next_words).unsqueeze(1)], dim=1)
    return [words for _, words in best]


class MiniCaptioner:
    """One sentence a picture; see :class:`item.captioning.Captioner`."""

    def __init__(self, weights: Path | None = None, beams: int = 3, batch_size: int = 32) -> None:
        self.beams = beams
        self.batch_size = batch_size
        self.backbone = Backbone()
        tensors = load_weights("captioner", weights)
        vocabulary = (weights or FOLDER / "captioner.safetensors").with_suffix(".json")
        if not vocabulary.is_file():
            raise UsageError(f"The vocabulary '{vocabulary.name}' is missing: reinstall item.")
        self.vocabulary: list[str] = json.loads(vocabulary.read_text())
        self.names = tensors.pop("names").reshape(CLASSES, NAME_WIDTH)
        self.decoder = Decoder(len(self.vocabulary)).eval().requires_grad_(False)
        self.decoder.load_state_dict(tensors)

    @torch.inference_mode()
    def caption(self, pictures: Sequence[NDArray[np.uint8]]) -> list[str]:
        """Pictures (h, w, 3) -> one lower-case sentence each."""
        captions: list[str] = []
        for part in slices(pictures, self.batch_size):
            maps = self.backbone(normalise(part, SIDE))
            probabilities, classes = top_classes(self.backbone.classify(maps))
            memory = self.decoder.memory(
                self.backbone.head(maps), self.names[classes], probabilities
            )
            for words in beam_search(self.decoder, memory, self.beams):
                captions.append(" ".join(self.vocabulary[word] for word in words))
        return captions


def top_classes(logits: Tensor) -> tuple[Tensor, Tensor]:
    """ImageNet logits (n, 1000) -> the most probable classes: probabilities, indices (n, 5)."""
    top = logits.softmax(1).topk(CONCEPTS, dim=1)
    return top.values, top.indices


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


def _forbid_repeats(sequences: Tensor, steps: Tensor) -> None:
    """No word twice in a row, and no pair of words twice in a caption."""
    for row, words in enumerate(sequences.tolist()):
        last = words[-1]
        steps[row, last] = -torch.inf
        for first, second in pairwise(words):
            if first == last:
                steps[row, second] = -torch.inf
