"""How the mini models were trained; ``jobs/train_mini.py`` runs it.

Both backbones stay frozen, so their outputs are computed once, for three views of each
photograph (as it is, mirrored, a random crop) and for the crops of the grounding grid.
What is trained on top of them fits in minutes on two cores.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from item.crop_grid import CropGrid, crop_grid
from item.mini.backbone import Backbone, normalise, slices
from item.mini.captioner import (
    END,
    MAX_WORDS,
    PAD,
    SPECIAL,
    START,
    UNKNOWN,
    Decoder,
    Language,
    beam_search,
    top_classes,
    words_of,
)
from item.mini.dual_encoder import CROP_SIDE, JointSpace, expected_names
from item.mini.imagenet_words import everyday_names, plural
from item.mini.text_backbone import TextBackbone
from item.mini.whole_pictures import SIDE

VIEWS = ("plain", "mirrored", "crop")
GRID_PHOTOGRAPHS = 5_500
"""Photographs whose grid crops are seen; each costs as much as four views."""
Picture = NDArray[np.uint8]


@dataclass
class Photographs:
    """Captioned photographs as the trained parts see them.

    ``views[v]`` are backbone maps (n, 7, 7, 320) in float16, ``logits[v]`` ImageNet
    logits (n, 1000); ``grid`` are maps of the grid's crops (n, crops, 4, 4, 320).
    """

    views: list[NDArray[np.float16]]
    logits: list[Tensor]
    grid: NDArray[np.float16] | None
    captions: list[list[str]]
    phrases: list[list[str]]

    def __len__(self) -> int:
        return len(self.captions)

    def subset(self, rows: NDArray[np.intp]) -> Photographs:
        """The photographs at the given positions."""
        return Photographs(
            [view[rows] for view in self.views],
            [logits[rows] for logits in self.logits],
            None if self.grid is None else self.grid[rows],
            [self.captions[row] for row in rows],
            [self.phrases[row] for row in rows],
        )

    def maps(self, rows: Sequence[int], views: Sequence[int]) -> Tensor:
        """Maps of one view each -> (n, 320, 7, 7)."""
        stacked = np.stack([self.views[v][r] for r, v in zip(rows, views, strict=True)])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).float()

    def class_logits(self, rows: Sequence[int], views: Sequence[int]) -> Tensor:
        """ImageNet logits of one view each -> (n, 1000)."""
        return torch.stack([self.logits[v][r] for r, v in zip(rows, views, strict=True)])


def cache_maps(pictures: Sequence[Picture], folder: Path, say: Callable[[str], None]) -> None:
    """Compute the backbone's maps of all views and grid crops into ``folder``, once.

    In bfloat16, which takes half the time; the maps are kept in half precision anyway.
    """
    backbone = Backbone().to(torch.bfloat16)
    generator = np.random.default_rng(0)
    ways: dict[str, Callable[[Picture], list[Picture]]] = {
        "plain": lambda picture: [picture],
        "mirrored": lambda picture: [np.ascontiguousarray(picture[:, ::-1])],
        "crop": lambda picture: [_random_crop(picture, generator)],
        "grid": _grid_crops,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, way in ways.items():
        target = folder / f"{name}.npy"
        if target.exists():
            continue
        side = CROP_SIDE if name == "grid" else SIDE
        started = time.monotonic()
        blocks = []
        for part in slices(pictures[: GRID_PHOTOGRAPHS if name == "grid" else None], 16):
            crops = [crop for picture in part for crop in way(picture)]
            with torch.inference_mode():
                maps = backbone(normalise(crops, side).to(torch.bfloat16))
            cells = maps.permute(0, 2, 3, 1).float().half().numpy()
            blocks.append(cells if len(crops) == len(part) else _by_picture(cells, len(part)))
        partial = target.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(blocks))
        partial.rename(target)
        say(f"cached {name} in {time.monotonic() - started:.0f} s")


def load_photographs(
    folder: Path, captions: list[list[str]], phrases: list[list[str]]
) -> Photographs:
    """The cached maps together with captions and phrases, ready for training."""
    backbone = Backbone()
    views = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in VIEWS]
    logits = [class_logits(view, backbone) for view in views]
    crops = np.load(folder / "grid.npy", mmap_mode="r")
    grid = np.zeros((len(captions), *crops.shape[1:]), np.float16)
    grid[: len(crops)] = crops
    seen = [some if row < len(crops) else [] for row, some in enumerate(phrases)]
    return Photographs(views, logits, grid, captions, seen)


@torch.inference_mode()
def class_logits(maps: NDArray[np.float16], backbone: Backbone) -> Tensor:
    """ImageNet logits (n, 1000) of cached maps (n, 7, 7, 320)."""
    parts = [
        backbone.classify(torch.tensor(part).permute(0, 3, 1, 2).float())
        for part in np.array_split(maps, range(128, len(maps), 128))
    ]
    return torch.cat(parts)


# ---------------------------------------------------------------- dual encoder


@dataclass(frozen=True)
class DualEncoderRecipe:
    """Hyperparameters of the joint space; ``phrase_weight`` 0 leaves grounding out."""

    epochs: int = 14
    batch: int = 512
    phrase_batch: int = 96
    phrase_weight: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    dropout: float = 0.1
    seed: int = 0


def train_dual_encoder(
    photographs: Photographs, recipe: DualEncoderRecipe, say: Callable[[str], None]
) -> tuple[JointSpace, Tensor]:
    """Contrastive training of the joint space on images, captions, crops and phrases.

    Whole images against captions with InfoNCE (CLIP, Radford et al. 2021). Phrases
    against images by their best crop, a multiple-instance form of the same loss: no box
    is ever shown, the crop that fits best carries the gradient.

    Returns
    -------
    space : the trained part, in evaluation mode
    names : (1000, 384) sentence embeddings of the ImageNet classes
    """
    torch.manual_seed(recipe.seed)
    chooser = random.Random(recipe.seed)
    text = TextBackbone()
    names = text.sentences(everyday_names())
    space = JointSpace(recipe.dropout)
    backbone = Backbone()
    _start_from(space, backbone)
    crop_logits = None if photographs.grid is None else _grid_logits(photographs.grid, backbone)
    captions = TokenStates(text, [c for some in photographs.captions for c in some])
    prompts = TokenStates(
        text, [f"a photo of {p}" for p in sorted({p for some in photographs.phrases for p in some})]
    )
    optimiser = torch.optim.AdamW(
        space.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * (len(photographs) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.1
    )
    average = torch.optim.swa_utils.AveragedModel(
        space, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98)
    )
    for epoch in range(recipe.epochs):
        space.train()
        losses = []
        for rows in _batches(len(photographs), recipe.batch, chooser):
            views = [chooser.randrange(len(photographs.views)) for _ in rows]
            chosen = [chooser.choice(photographs.captions[row]) for row in rows]
            logits = photographs.class_logits(rows, views)
            images = space.images(photographs.maps(rows, views), expected_names(logits, names))
            texts = space.texts(*captions.of(chosen))
            scale = torch.exp(-space.log_temperature).clamp(max=100)
            loss = info_nce(scale * images @ texts.T)
            if recipe.phrase_weight and photographs.grid is not None:
                some = [row for row in rows if photographs.phrases[row]][: recipe.phrase_batch]
                similarity = _phrase_similarity(
                    space, photographs, crop_logits, names, prompts, some, chooser
                )
                loss = loss + recipe.phrase_weight * info_nce(scale * similarity)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(space.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(space)
            losses.append(loss.item())
        say(f"dual encoder: epoch {epoch + 1}/{recipe.epochs}, loss {np.mean(losses):.3f}")
    trained: JointSpace = average.module
    return trained.eval(), names


def info_nce(logits: Tensor) -> Tensor:
    """Symmetric InfoNCE: row i belongs to column i."""
    target = torch.arange(len(logits))
    return (cross_entropy(logits.float(), target) + cross_entropy(logits.float().T, target)) / 2


def _phrase_similarity(
    space: JointSpace,
    photographs: Photographs,
    crop_logits: Tensor | None,
    names: Tensor,
    prompts: TokenStates,
    rows: list[int],
    chooser: random.Random,
) -> Tensor:
    """Best-crop similarities (n, n) of one phrase of each image against each image."""
    assert photographs.grid is not None and crop_logits is not None
    phrases = [f"a photo of {chooser.choice(photographs.phrases[row])}" for row in rows]
    crops = torch.from_numpy(photographs.grid[rows]).flatten(0, 1).permute(0, 3, 1, 2).float()
    expected = expected_names(crop_logits[rows].flatten(0, 1), names)
    regions = space.images(crops, expected).unflatten(0, (len(rows), -1))
    texts = space.texts(*prompts.of(phrases))
    similarity = torch.einsum("pd,ikd->pik", texts, regions)
    # A soft maximum lets more than the one best crop learn.
    return (similarity * (similarity.detach() * 20).softmax(2)).sum(2)


@torch.inference_mode()
def retrieval(space: JointSpace, names: Tensor, photographs: Photographs) -> dict[str, float]:
    """Recall at 1, 5, 10 on n images and their captions, the usual retrieval protocol.

    An image counts as found by a caption when it ranks among the first k of all images;
    a caption of an image when any of its captions ranks among the first k of all.
    """
    text = TextBackbone()
    rows = list(range(len(photographs)))
    images = torch.cat(
        [
            space.images(
                photographs.maps(part, [0] * len(part)),
                expected_names(photographs.class_logits(part, [0] * len(part)), names),
            )
            for part in slices(rows, 128)
        ]
    )
    owners = torch.tensor([row for row in rows for _ in photographs.captions[row]])
    every = [caption for some in photographs.captions for caption in some]
    texts = torch.cat([space.texts(*text(part)) for part in slices(every, 256)])
    similarity = images @ texts.T
    found: dict[str, float] = {}
    for k in (1, 5, 10):
        best_texts = owners[similarity.topk(k, dim=1).indices]
        own = (best_texts == torch.arange(len(images)).unsqueeze(1)).any(1)
        best_images = similarity.T.topk(k, dim=1).indices
        found[f"image_to_text_r{k}"] = float(own.float().mean())
        found[f"text_to_image_r{k}"] = float(
            (best_images == owners.unsqueeze(1)).any(1).float().mean()
        )
    return found


class TokenStates:
    """Token states of fixed texts from the frozen text backbone, computed once."""

    def __init__(self, backbone: TextBackbone, texts: Sequence[str]) -> None:
        self.rows: dict[str, Tensor] = {}
        with torch.inference_mode():
            for part in slices(sorted(set(texts), key=len), 256):
                states, mask = backbone(part)
                for text, state, length in zip(part, states, mask.sum(1).tolist(), strict=True):
                    self.rows[text] = state[:length].half().clone()

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Padded states (n, t, 384) and mask (n, t) of the given texts."""
        rows = [self.rows[text].float() for text in texts]
        states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        return states, torch.arange(states.shape[1]) < lengths.unsqueeze(1)


# ------------------------------------------------------------------- captioner


@dataclass(frozen=True)
class CaptionerRecipe:
    """Hyperparameters of the captioner.

    ``swap`` is the chance that a class named in an image's captions is exchanged, in the
    captions and among the classes; 0 leaves the names of ImageNet unused by words. Each
    epoch shows ``captions_per_image`` of an image's captions of at most ``longest`` words.
    """

    epochs: int = 15
    batch: int = 64
    learning_rate: float = 8e-4
    weight_decay: float = 0.02
    dropout: float = 0.2
    label_smoothing: float = 0.1
    minimum_count: int = 4
    captions_per_image: int = 2
    longest: int = 16
    swap: float = 0.5
    concepts: bool = True
    seed: int = 0


def vocabulary_of(captions: Sequence[Sequence[str]], recipe: CaptionerRecipe) -> list[str]:
    """Special words, the captions' words that are common enough, and class-name words."""
    counts = Counter(word for some in captions for caption in some for word in words_of(caption))
    words = {word for word, count in counts.items() if count >= recipe.minimum_count}
    if recipe.concepts:
        for name in everyday_names():
            words |= {*words_of(name), *words_of(plural(name))}
    return [*SPECIAL, *sorted(words)]


def language_of(vocabulary: list[str], concepts: bool = True) -> Language:
    """A vocabulary with its names of the ImageNet classes; nameless without concepts."""
    index = {word: number for number, word in enumerate(vocabulary)}
    names = everyday_names()
    rows = [
        sorted({*words_of(name), *words_of(plural(name))}) if concepts else [] for name in names
    ]
    length = max(1, *map(len, rows))
    words = [[index[word] for word in row] + [PAD] * (length - len(row)) for row in rows]
    embeddings = TextBackbone().sentences(names)
    if not concepts:
        embeddings = torch.zeros_like(embeddings)
    return Language(vocabulary, embeddings, torch.tensor(words))


def train_captioner(
    photographs: Photographs,
    recipe: CaptionerRecipe,
    say: Callable[[str], None],
    start: tuple[Decoder, Language] | None = None,
) -> tuple[Decoder, Language]:
    """Cross-entropy training of the decoder, with swapped classes.

    ``start`` is an earlier result to go on from. The decoder is returned in evaluation
    mode, with its weights averaged over the last steps.
    """
    torch.manual_seed(recipe.seed)
    chooser = random.Random(recipe.seed)
    if start is None:
        vocabulary = vocabulary_of(photographs.captions, recipe)
        language = language_of(vocabulary, recipe.concepts)
        decoder = Decoder(len(vocabulary), recipe.dropout)
        _start_words(decoder, TextBackbone().sentences(vocabulary))
    else:
        language = start[1]
        decoder = Decoder(len(language.vocabulary), recipe.dropout)
        decoder.load_state_dict(start[0].state_dict())
    index = {word: number for number, word in enumerate(language.vocabulary)}
    class_names = everyday_names()
    rows_of = {name: class_names.index(name) for name in sorted(set(class_names))}
    backbone = Backbone()
    decay = [p for p in decoder.parameters() if p.ndim > 1]
    plain = [p for p in decoder.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": decay, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )
    steps = recipe.epochs * (len(photographs) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.08
    )
    average = torch.optim.swa_utils.AveragedModel(
        decoder, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    for epoch in range(recipe.epochs):
        decoder.train()
        losses = []
        for rows in _batches(len(photographs), recipe.batch, chooser):
            views = [chooser.randrange(len(photographs.views)) for _ in rows]
            probabilities, classes = top_classes(photographs.class_logits(rows, views))
            captions = [_sample(photographs.captions[row], recipe, chooser) for row in rows]
            if recipe.concepts:
                for number in range(len(rows)):
                    if chooser.random() < recipe.swap:
                        _swap_class(
                            captions[number],
                            classes[number],
                            probabilities[number],
                            class_names,
                            rows_of,
                            chooser,
                        )
            words = encode(captions, index)
            names, name_words = language.called(classes)
            maps = backbone.head(photographs.maps(rows, views))
            memory = decoder.memory(maps, names, probabilities, name_words)
            logits = decoder(words[:, :, :-1], memory)
            loss = cross_entropy(
                logits.float().flatten(0, 2),
                words[:, :, 1:].flatten(),
                ignore_index=PAD,
                label_smoothing=recipe.label_smoothing,
            )
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(decoder)
            losses.append(loss.item())
        say(f"captioner: epoch {epoch + 1}/{recipe.epochs}, loss {np.mean(losses):.3f}")
    trained: Decoder = average.module
    return trained.eval(), language


def _sample(
    captions: Sequence[str], recipe: CaptionerRecipe, chooser: random.Random
) -> list[list[str]]:
    words = sorted((words_of(caption) for caption in captions), key=len)
    short = [some for some in words if len(some) <= recipe.longest] or words[:1]
    return [chooser.choice(short)[: recipe.longest] for _ in range(recipe.captions_per_image)]


def encode(captions: list[list[list[str]]], index: dict[str, int]) -> Tensor:
    """Words (images, captions, words) -> indices (n, c, t), padded, with start and end."""
    rows = [
        [[START, *(index.get(word, UNKNOWN) for word in words[:MAX_WORDS]), END] for words in some]
        for some in captions
    ]
    length = max(len(row) for some in rows for row in some)
    padded = [[row + [PAD] * (length - len(row)) for row in some] for some in rows]
    return torch.tensor(padded)


def _swap_class(
    captions: list[list[str]],
    classes: Tensor,
    probabilities: Tensor,
    class_names: list[str],
    rows_of: dict[str, int],
    chooser: random.Random,
) -> None:
    """Exchange a class that the captions name for another, in place, in both."""
    for number, probability in zip(classes.tolist(), probabilities.tolist(), strict=True):
        old = class_names[number]
        head = old.split()[-1]
        mentions = sum(head in words or plural(head) in words for words in captions)
        if probability < 0.1 or not mentions:
            continue
        new = chooser.choice(sorted(rows_of))
        for position, words in enumerate(captions):
            captions[position] = _renamed(words, old.split(), new)
        for place, other in enumerate(classes.tolist()):
            if class_names[other] == old:
                classes[place] = rows_of[new]
        return


def _renamed(words: list[str], old: list[str], new: str) -> list[str]:
    """``words`` with the head noun of ``old`` (and its own modifiers) exchanged."""
    head = old[-1]
    renamed: list[str] = []
    for word in words:
        if word in (head, plural(head)):
            while renamed and renamed[-1] in old[:-1]:
                renamed.pop()
            renamed += words_of(plural(new) if word != head else new)
        else:
            renamed.append(word)
    return renamed


@torch.inference_mode()
def captions_of(decoder: Decoder, language: Language, photographs: Photographs) -> list[str]:
    """Beam-searched captions of the photographs' plain view."""
    backbone = Backbone()
    captions: list[str] = []
    for rows in slices(list(range(len(photographs))), 50):
        views = [0] * len(rows)
        probabilities, classes = top_classes(photographs.class_logits(rows, views))
        maps = backbone.head(photographs.maps(rows, views))
        names, words = language.called(classes)
        memory = decoder.memory(maps, names, probabilities, words)
        captions += map(language.sentence, beam_search(decoder, memory))
    return captions


def caption_metrics(captions: list[str], references: list[list[str]]) -> dict[str, float]:
    """Corpus BLEU-4 and CIDEr (pycocoevalcap), on lower-case words without punctuation."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    found = {number: [caption] for number, caption in enumerate(captions)}
    wanted = {
        number: [" ".join(words_of(reference)) for reference in some]
        for number, some in enumerate(references)
    }
    bleu, _ = Bleu(4).compute_score(wanted, found, verbose=0)
    cider, _ = Cider().compute_score(wanted, found)
    return {"bleu4": float(bleu[3]), "cider": float(cider)}


def _start_from(space: JointSpace, backbone: Backbone) -> None:
    """The head starts as ImageNet's, which classifies already."""
    convolution = backbone.conv_head.conv
    with torch.no_grad():
        space.head.weight.copy_(convolution.weight)
        space.head.bias.copy_(convolution.bias)


def _start_words(decoder: Decoder, meanings: Tensor) -> None:
    """Words start where a sentence encoder puts them: rare ones have neighbours at once."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(meanings.shape[1], decoder.words.embedding_dim, generator=generator)
    centred = meanings - meanings.mean(0)
    with torch.no_grad():
        start = centred @ projection
        decoder.words.weight.copy_(0.05 * start / start.std())


def _grid_logits(grid: NDArray[np.float16], backbone: Backbone) -> Tensor:
    """ImageNet logits (n, crops, 1000) of the grid's crops, in half precision."""
    flat = grid.reshape(-1, *grid.shape[2:])
    return class_logits(flat, backbone).half().unflatten(0, grid.shape[:2]).float()


def _batches(rows: int, size: int, chooser: random.Random) -> Iterator[list[int]]:
    order = list(range(rows))
    chooser.shuffle(order)
    return (order[start : start + size] for start in range(0, rows - size + 1, size))


def _random_crop(picture: Picture, generator: np.random.Generator) -> Picture:
    """At least half of the picture's area, mirrored every other time."""
    height, width = picture.shape[:2]
    area, aspect = generator.uniform(0.5, 1), np.exp(generator.uniform(-0.2, 0.2))
    rows = min(height, int(height * np.sqrt(area) * aspect))
    columns = min(width, int(width * np.sqrt(area) / aspect))
    top = generator.integers(0, height - rows + 1)
    left = generator.integers(0, width - columns + 1)
    part = picture[top : top + rows, left : left + columns]
    return np.ascontiguousarray(part[:, ::-1] if generator.random() < 0.5 else part)


def _grid_crops(picture: Picture) -> list[Picture]:
    height, width = picture.shape[:2]
    boxes = crop_grid(width, height, CropGrid(threshold=0)).round().astype(int)
    return [np.ascontiguousarray(picture[y0:y1, x0:x1]) for x0, y0, x1, y1 in boxes]


def _by_picture(cells: NDArray[np.float16], pictures: int) -> NDArray[np.float16]:
    return cells.reshape(pictures, -1, *cells.shape[1:])
