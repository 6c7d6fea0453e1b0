"""Captioned photographs as the trained parts see them: outputs of the frozen backbones.

Both backbones stay frozen, so their outputs are computed once, for three views of each
photograph (as it is, mirrored, a random crop); the crops of the grounding grid are regions of
the same maps.
What is trained on top of them fits in minutes on two cores.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from item.images.boxes import CropGrid, Picture, cell_cover, crop_grid
from item.mini.backbone import Backbone, normalise, slices
from item.mini.whole_pictures import CELLS, SIDE

VIEWS = ("plain", "mirrored", "crop")


@dataclass
class Photographs:
    """Captioned photographs as the trained parts see them.

    ``views[v]`` are backbone maps (n, 8, 8, 320) in float16, ``logits[v]`` ImageNet
    logits (n, 1000).
    """

    views: list[NDArray[np.float16]]
    logits: list[Tensor]
    captions: list[list[str]]
    phrases: list[list[str]]

    def __len__(self) -> int:
        return len(self.captions)

    def subset(self, rows: NDArray[np.intp]) -> Photographs:
        """The photographs at the given positions."""
        return Photographs(
            [view[rows] for view in self.views],
            [logits[rows] for logits in self.logits],
            [self.captions[row] for row in rows],
            [self.phrases[row] for row in rows],
        )

    def maps(self, rows: Sequence[int], views: Sequence[int]) -> Tensor:
        """Maps of one view each -> (n, 320, 8, 8)."""
        stacked = np.stack([self.views[v][r] for r, v in zip(rows, views, strict=True)])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).float()

    def class_logits(self, rows: Sequence[int], views: Sequence[int]) -> Tensor:
        """ImageNet logits of one view each -> (n, 1000)."""
        return torch.stack([self.logits[v][r] for r, v in zip(rows, views, strict=True)])


def cache_maps(pictures: Sequence[Picture], folder: Path, say: Callable[[str], None]) -> None:
    """Compute the backbone's maps of all views into ``folder``, once.

    In bfloat16, which takes half the time; the maps are kept in half precision anyway.
    """
    backbone = Backbone().to(torch.bfloat16)
    generator = np.random.default_rng(0)
    ways: dict[str, Callable[[Picture], Picture]] = {
        "plain": lambda picture: picture,
        "mirrored": lambda picture: np.ascontiguousarray(picture[:, ::-1]),
        "crop": lambda picture: _random_crop(picture, generator),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, way in ways.items():
        target = folder / f"{name}.npy"
        if target.exists():
            continue
        started = time.monotonic()
        blocks = []
        for part in slices(pictures, 16):
            seen = normalise([way(picture) for picture in part], SIDE).to(torch.bfloat16)
            with torch.inference_mode():
                maps = backbone(seen)
            blocks.append(maps.permute(0, 2, 3, 1).float().half().numpy())
        partial = target.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(blocks))
        partial.rename(target)
        say(f"cached {name} in {time.monotonic() - started:.0f} s")


def load_photographs(
    folder: Path, captions: list[list[str]], phrases: list[list[str]]
) -> Photographs:
    """The cached maps together with captions and phrases, ready for training.

    Parameters
    ----------
    folder : of :func:`cache_maps`
    captions, phrases : of each of its n photographs
    """
    backbone = Backbone()
    views = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in VIEWS]
    logits = [class_logits(view, backbone) for view in views]
    return Photographs(views, logits, captions, phrases)


@torch.inference_mode()
def class_logits(maps: NDArray[np.float16], backbone: Backbone) -> Tensor:
    """ImageNet logits (n, 1000) of cached maps (n, 8, 8, 320)."""
    parts = [
        backbone.classify(torch.tensor(part).permute(0, 3, 1, 2).float())
        for part in np.array_split(maps, range(128, len(maps), 128))
    ]
    return torch.cat(parts)


def grid_cover() -> Tensor:
    """How much of each cell is in each crop of the grounding grid (crops, 64)."""
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    boxes = crop_grid(SIDE, SIDE, CropGrid(threshold=0))
    return torch.from_numpy(cell_cover(boxes, square, CELLS))


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


def batches(rows: int, size: int, chooser: random.Random) -> Iterator[list[int]]:
    """The numbers below ``rows`` in random order, ``size`` at a time; what is left over is not."""
    order = list(range(rows))
    chooser.shuffle(order)
    return (order[start : start + size] for start in range(0, rows - size + 1, size))
