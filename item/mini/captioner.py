"""The captioner of the ``mini`` profile: a small transformer decoder, beam-searched.

It reads the backbone's 8x8 feature map and, as words, the ImageNet classes that the
backbone's classifier finds most probable. Training swaps class names in captions and
classes alike, so the decoder learns to copy names that no caption ever held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from item.errors import UsageError
from item.mini.backbone import CLASSES, HEAD_CHANNELS, slices
from item.mini.checkpoint import FOLDER, load_weights, save_weights
from item.mini.text_backbone import WIDTH as NAME_WIDTH
from item.mini.whole_pictures import CELLS, whole_pictures

SEARCHED_AT_ONCE = 32
WIDTH = 256
LAYERS = 3
HEADS = 8
CONCEPTS = 5
MAX_WORDS = 20
PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")

COPY_WIDTH = 64

State = list[tuple[Tensor, Tensor]]


class Memory(NamedTuple):
    """What the decoder reads of n images."""

    tokens: Tensor
    """(n, 64 + classes, width): cells of the map, then class names."""
    copy_keys: Tensor
    """(n, candidates, 64): one for each word of each class name."""
    copy_words: Tensor
    """(n, candidates): these words' indices, PAD where a name is shorter."""

    def repeated(self, rows: Tensor) -> Memory:
        """The memory of the given rows."""
        return Memory(*(part[rows] for part in self))


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


class Copying(nn.Module):
    """Raises the words of the classes that the classifier sees, where they belong.

    A pointer (See et al. 2017) added to the logits: a word that no caption held can be
    said once a class names it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, COPY_WIDTH)
        self.name = nn.Linear(NAME_WIDTH, COPY_WIDTH)
        self.word = nn.Linear(WIDTH, COPY_WIDTH, bias=False)
        self.probability = nn.Linear(1, COPY_WIDTH)

    def keys(self, names: Tensor, likelihood: Tensor, words: Tensor) -> Tensor:
        """Names (n, c, 384), log-probabilities (n, c, 1), word embeddings (n, c, w, width)
        -> keys (n, c * w, 64).
        """
        of_class = self.name(names) + self.probability(likelihood)
        return (of_class.unsqueeze(2) + self.word(words)).flatten(1, 2)

    def forward(self, logits: Tensor, x: Tensor, memory: Memory) -> Tensor:
        """Logits (n, t, words) raised at the candidates, from states (n, t, width)."""
        scores = self.query(x) @ memory.copy_keys.transpose(1, 2) / COPY_WIDTH**0.5
        words = memory.copy_words.unsqueeze(1).expand_as(scores)
        return logits.scatter_add(2, words, scores.masked_fill(words == PAD, 0.0))


class Decoder(nn.Module):
    """Words from a feature map and class names; the trained part of the captioner."""

    def __init__(self, vocabulary_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, WIDTH)
        self.positions = nn.Parameter(torch.zeros(MAX_WORDS + 1, WIDTH))
        self.cells = nn.Parameter(torch.zeros(CELLS * CELLS, WIDTH))
        self.map_norm = nn.LayerNorm(HEAD_CHANNELS)
        self.map_projection = nn.Linear(HEAD_CHANNELS, WIDTH)
        self.name_projection = nn.Linear(NAME_WIDTH, WIDTH)
        self.probability = nn.Linear(1, WIDTH)
        self.memory_norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.copying = Copying()
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.dropout = nn.Dropout(dropout)

    def memory(self, maps: Tensor, names: Tensor, probabilities: Tensor, words: Tensor) -> Memory:
        """What the decoder reads.

        Maps (n, 1280, 8, 8), class-name embeddings (n, c, 384), their probabilities (n, c)
        and the indices of their words (n, c, w), padded.
        """
        tokens = self.map_norm(maps.flatten(2).transpose(1, 2))
        cells = self.map_projection(self.dropout(tokens)) + self.cells
        likelihood = probabilities.clamp_min(1e-4).log().unsqueeze(2)
        concepts = self.name_projection(names) + self.probability(likelihood)
        return Memory(
            self.memory_norm(torch.cat([cells, concepts], dim=1)),
            self.copying.keys(names, likelihood, self.words(words)),
            words.flatten(1),
        )

    def crossed(self, memory: Memory) -> State:
        """Keys and values of the memory for each layer."""
        return [block.cross_attention.keys_values(memory.tokens) for block in self.blocks]

    def forward(self, words: Tensor, memory: Memory) -> Tensor:
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
        x = self.norm(x).unflatten(0, (n, captions)).flatten(1, 2)
        return self.logits(x, memory).unflatten(1, (captions, length))

    def logits(self, x: Tensor, memory: Memory) -> Tensor:
        """States (n, t, width) -> logits (n, t, words)."""
        return self.copying(x @ self.words.weight.T + self.bias, x, memory)

    def step(
        self, words: Tensor, position: int, memory: Memory, crossed: State, past: State
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
        return self.logits(self.norm(x), memory).squeeze(1), grown


@torch.inference_mode()
def beam_search(
    decoder: Decoder, memory: Memory, beams: int = 3, length_penalty: float = 0.8
) -> list[list[int]]:
    """The most probable caption of each image, as word indices.

    Parameters
    ----------
    memory : of n images, by :meth:`Decoder.memory`
    beams : width of the search
    length_penalty : a finished caption scores log-probability / words ** length_penalty

    Returns
    -------
    n lists of indices, without start and end; deterministic.
    """
    n = len(memory.tokens)
    rows = torch.arange(n).repeat_interleave(beams)
    crossed = [(keys[rows], values[rows]) for keys, values in decoder.crossed(memory)]
    memory = memory.repeated(rows)
    past: State = []
    sequences = torch.full((n * beams, 1), START)
    # Only the first beam counts at the start: the others are copies of it.
    scores = torch.full((n, beams), -torch.inf)
    scores[:, 0] = 0.0
    best: list[tuple[float, list[int]]] = [(-torch.inf, [])] * n
    searching = list(range(n))
    for position in range(MAX_WORDS + 1):
        logits, past = decoder.step(sequences[:, -1], position, memory, crossed, past)
        steps = logits.log_softmax(1)
        steps[:, [PAD, START, UNKNOWN]] = -torch.inf
        _forbid_repeats(sequences, steps)
        if position == MAX_WORDS:
            steps[:, :END] = steps[:, END + 1 :] = -torch.inf
        totals = (scores.unsqueeze(2) + steps.unflatten(0, (len(searching), beams))).flatten(1)
        # Twice the beams: as many may end here, and the search goes on with the others.
        top, chosen = totals.topk(2 * beams, dim=1)
        parents, words = chosen // steps.shape[1], chosen % steps.shape[1]
        next_images, next_rows, next_words, next_scores = [], [], [], []
        for place, image in enumerate(searching):
            kept: list[tuple[int, int, float]] = []
            for score, parent, word in zip(
                top[place].tolist(), parents[place].tolist(), words[place].tolist(), strict=True
            ):
                row = place * beams + parent
                if word == END:
                    final = score / max(position, 1) ** length_penalty
                    if final > best[image][0]:
                        best[image] = (final, sequences[row, 1:].tolist())
                elif len(kept) < beams:
                    kept.append((row, word, score))
            # A caption only loses by going on, up to the gain of the length penalty.
            if best[image][0] < kept[0][2] / MAX_WORDS**length_penalty:
                next_images.append(image)
                next_rows += [row for row, _, _ in kept]
                next_words += [word for _, word, _ in kept]
                next_scores.append([score for _, _, score in kept])
        if not next_images or position == MAX_WORDS:
            break
        order = torch.tensor(next_rows)
        if len(next_images) < len(searching):
            memory = memory.repeated(order)
            crossed = [(keys[order], values[order]) for keys, values in crossed]
        searching, scores = next_images, torch.tensor(next_scores)
        past = [(keys[order], values[order]) for keys, values in past]
        sequences = torch.cat([sequences[order], torch.tensor(next_words).unsqueeze(1)], dim=1)
    return [words for _, words in best]


@dataclass(frozen=True)
class Language:
    """The captioner's words, and what it calls each ImageNet class."""

    vocabulary: list[str]
    names: Tensor
    """(1000, 384) sentence embeddings of the class names."""
    name_words: Tensor
    """(1000, w) indices of the words that may name the class, PAD where there are fewer."""

    def called(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Names (n, c, 384) and words (n, c, w) of class indices (n, c)."""
        return self.names[classes], self.name_words[classes]

    def sentence(self, words: Sequence[int]) -> str:
        """Word indices as a caption."""
        return " ".join(self.vocabulary[word] for word in words)


class MiniCaptioner:
    """One sentence a picture; see :class:`item.captioning.Captioner`."""

    def __init__(self, weights: Path | None = None, beams: int = 3) -> None:
        self.beams = beams
        self.whole = whole_pictures()
        self.backbone = self.whole.backbone
        self.decoder, self.language = load_decoder(weights)

    @torch.inference_mode()
    def caption(self, pictures: Sequence[NDArray[np.uint8]]) -> list[str]:
        """Pictures (h, w, 3) -> one lower-case sentence each."""
        captions: list[str] = []
        for part in slices(pictures, SEARCHED_AT_ONCE):
            maps = self.whole.maps(part)
            probabilities, classes = top_classes(self.backbone.classify(maps))
            names, words = self.language.called(classes)
            memory = self.decoder.memory(self.backbone.head(maps), names, probabilities, words)
            captions += map(self.language.sentence, beam_search(self.decoder, memory, self.beams))
        return captions


def load_decoder(weights: Path | None = None) -> tuple[Decoder, Language]:
    """The trained decoder and its language, shipped ones unless ``weights`` is given.

    Raises
    ------
    UsageError
        If a file is missing or damaged.
    """
    tensors = load_weights("captioner", weights)
    path = (weights or FOLDER / "captioner.safetensors").with_suffix(".json")
    if not path.is_file():
        raise UsageError(f"The vocabulary '{path.name}' is missing: reinstall item.")
    words = json.loads(path.read_text())
    language = Language(
        words["vocabulary"],
        tensors.pop("names").reshape(CLASSES, NAME_WIDTH),
        torch.tensor(words["name_words"]),
    )
    decoder = Decoder(len(language.vocabulary))
    decoder.load_state_dict(tensors)
    return decoder.eval().requires_grad_(False), language


def save_decoder(decoder: Decoder, language: Language, path: Path) -> None:
    """Weights as safetensors, words as JSON beside them."""
    save_weights({**decoder.state_dict(), "names": language.names}, path)
    words = {"vocabulary": language.vocabulary, "name_words": language.name_words.tolist()}
    path.with_suffix(".json").write_text(json.dumps(words) + "\n")


def top_classes(logits: Tensor) -> tuple[Tensor, Tensor]:
    """ImageNet logits (n, 1000) -> the most probable classes: probabilities, indices (n, 5)."""
    top = logits.softmax(1).topk(CONCEPTS, dim=1)
    return top.values, top.indices


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


def _forbid_repeats(sequences: Tensor, steps: Tensor) -> None:
    """No word twice in a row, and no pair of words twice in a caption."""
    rows: list[int] = []
    words: list[int] = []
    for row, said in enumerate(sequences.tolist()):
        forbidden = {said[-1], *(second for first, second in pairwise(said) if first == said[-1])}
        rows += [row] * len(forbidden)
        words += forbidden
    steps[rows, words] = -torch.inf
