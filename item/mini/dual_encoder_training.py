"""How the dual encoder of ``mini`` was trained; ``jobs/models.py train-mini`` runs it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from item.mini.backbone import Backbone, slices
from item.mini.dual_encoder import JointSpace, expected_names
from item.mini.imagenet_words import everyday_names
from item.mini.optimisation import Optimisation
from item.mini.photographs import Photographs, batches, grid_cover
from item.mini.text_backbone import TextBackbone, TokenStates

WHOLE_VIEWS = (0, 1)
"""Views that show all of a photograph, and so whatever its captions name."""


@dataclass(frozen=True)
class DualEncoderRecipe:
    """Hyperparameters of the joint space; ``phrase_weight`` 0 leaves grounding out."""

    epochs: int = 14
    batch: int = 512
    phrase_batch: int = 256
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
    against images by their best region, a multiple-instance form of the same loss: no box
    is ever shown, the region that fits best carries the gradient.

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
    cover = grid_cover()
    captions = TokenStates(text, [c for of_image in photographs.captions for c in of_image])
    prompts = TokenStates(
        text,
        [
            f"a photo of {p}"
            for p in sorted({p for of_image in photographs.phrases for p in of_image})
        ],
    )
    optimisation = Optimisation(
        space,
        space.parameters(),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        steps=recipe.epochs * (len(photographs) // recipe.batch),
        warm_up=0.1,
        memory=0.98,
    )
    for epoch in range(recipe.epochs):
        space.train()
        losses = []
        for rows in batches(len(photographs), recipe.batch, chooser):
            views = [chooser.randrange(len(photographs.views)) for _ in rows]
            chosen = [chooser.choice(photographs.captions[row]) for row in rows]
            logits = photographs.class_logits(rows, views)
            images = space.images(photographs.maps(rows, views), expected_names(logits, names))
            texts = space.texts(*captions.of(chosen))
            scale = torch.exp(-space.log_temperature).clamp(max=100)
            loss = info_nce(scale * images @ texts.T)
            if recipe.phrase_weight:
                with_phrases = [row for row in rows if photographs.phrases[row]]
                some = with_phrases[: recipe.phrase_batch]
                phrases = [f"a photo of {chooser.choice(photographs.phrases[row])}" for row in some]
                maps = photographs.maps(some, [chooser.choice(WHOLE_VIEWS) for _ in some])
                crops = cover.expand(len(some), -1, -1)
                expected = expected_names(backbone.classify_regions(maps, crops), names)
                regions = space.regions(maps, expected, crops)
                similarity = best_region(space.texts(*prompts.of(phrases)), regions)
                loss = loss + recipe.phrase_weight * info_nce(scale * similarity)
            losses.append(optimisation.step(loss))
        say(f"dual encoder: epoch {epoch + 1}/{recipe.epochs}, loss {np.mean(losses):.3f}")
    return optimisation.trained(), names


def info_nce(logits: Tensor) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021) of logits (n, n): row i belongs to column i."""
    target = torch.arange(len(logits))
    return (cross_entropy(logits.float(), target) + cross_entropy(logits.float().T, target)) / 2


def best_region(texts: Tensor, regions: Tensor) -> Tensor:
    """Texts (n, 384), regions of m images (m, k, 384) -> similarity to the best one (n, m).

    A soft maximum: more than the one best region learn.
    """
    similarity = torch.einsum("pd,ikd->pik", texts, regions)
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
    every = [caption for of_image in photographs.captions for caption in of_image]
    texts = torch.cat([space.texts(*text(part)) for part in slices(every, 256)])
    similarity = images @ texts.T
    recalls: dict[str, float] = {}
    for k in (1, 5, 10):
        best_texts = owners[similarity.topk(k, dim=1).indices]
        own = (best_texts == torch.arange(len(images)).unsqueeze(1)).any(1)
        best_images = similarity.T.topk(k, dim=1).indices
        recalls[f"image_to_text_r{k}"] = float(own.float().mean())
        recalls[f"text_to_image_r{k}"] = float(
            (best_images == owners.unsqueeze(1)).any(1).float().mean()
        )
    return recalls


def _start_from(space: JointSpace, backbone: Backbone) -> None:
    """The head starts as ImageNet's, which classifies already."""
    convolution = backbone.conv_head.conv
    with torch.no_grad():
        space.head.weight.copy_(convolution.weight)
        space.head.bias.copy_(convolution.bias)
