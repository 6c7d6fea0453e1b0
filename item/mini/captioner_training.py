"""How the captioner of ``mini`` was trained; ``jobs/models.py train-mini`` runs it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from item.mini.backbone import Backbone, slices
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
from item.mini.imagenet_words import everyday_names, plural
from item.mini.optimisation import Optimisation
from item.mini.photographs import Photographs, batches
from item.mini.text_backbone import TextBackbone


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
    counts = Counter(
        word for of_image in captions for caption in of_image for word in words_of(caption)
    )
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

    Parameters
    ----------
    photographs : with captions
    recipe : how long and how
    say : hears a line of each epoch
    start : an earlier result to go on from

    Returns
    -------
    The decoder in evaluation mode, its weights averaged over the last steps, and its language.
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
    optimisation = Optimisation(
        decoder,
        [{"params": decay}, {"params": plain, "weight_decay": 0.0}],
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        steps=recipe.epochs * (len(photographs) // recipe.batch),
        warm_up=0.08,
        memory=0.995,
    )
    for epoch in range(recipe.epochs):
        decoder.train()
        losses = []
        for rows in batches(len(photographs), recipe.batch, chooser):
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
            losses.append(optimisation.step(loss))
        say(f"captioner: epoch {epoch + 1}/{recipe.epochs}, loss {np.mean(losses):.3f}")
    return optimisation.trained(), language


def _sample(
    captions: Sequence[str], recipe: CaptionerRecipe, chooser: random.Random
) -> list[list[str]]:
    words = sorted((words_of(caption) for caption in captions), key=len)
    short = [caption for caption in words if len(caption) <= recipe.longest] or words[:1]
    return [chooser.choice(short)[: recipe.longest] for _ in range(recipe.captions_per_image)]


def encode(captions: list[list[list[str]]], index: dict[str, int]) -> Tensor:
    """Words (images, captions, words) -> indices (n, c, t), padded, with start and end."""
    rows = [
        [
            [START, *(index.get(word, UNKNOWN) for word in words[:MAX_WORDS]), END]
            for words in of_image
        ]
        for of_image in captions
    ]
    length = max(len(row) for of_image in rows for row in of_image)
    padded = [[row + [PAD] * (length - len(row)) for row in of_image] for of_image in rows]
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

    hypotheses = {number: [caption] for number, caption in enumerate(captions)}
    expected = {
        number: [" ".join(words_of(reference)) for reference in of_image]
        for number, of_image in enumerate(references)
    }
    bleu, _ = Bleu(4).compute_score(expected, hypotheses, verbose=0)
    cider, _ = Cider().compute_score(expected, hypotheses)
    return {"bleu4": float(bleu[3]), "cider": float(cider)}


def _start_words(decoder: Decoder, meanings: Tensor) -> None:
    """Words start where a sentence encoder puts them: rare ones have neighbours at once."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(meanings.shape[1], decoder.words.embedding_dim, generator=generator)
    centred = meanings - meanings.mean(0)
    with torch.no_grad():
        start = centred @ projection
        decoder.words.weight.copy_(0.05 * start / start.std())
