"""Captioned photographs as the trained parts see them: outputs of the frozen backbones.

Both backbones stay frozen, so their outputs are computed once, for three views of each
photograph (as it is, mirrored, a random crop) and for the crops of the grounding grid.
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

from item.images.boxes import CropGrid, Picture, crop_grid
from item.mini.backbone import Backbone, normalise, slices
from item.mini.dual_encoder import CROP_SIDE
from item.mini.whole_pictures import SIDE

VIEWS = ("plain", "mirrored", "crop")


GRID_PHOTOGRAPHS = 5_500
"""Photographs whose grid crops are seen; each costs as much as four views."""


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
    """The cached maps together with captions and phrases, ready for training.

    Parameters
    ----------
    folder : of :func:`cache_maps`
    captions, phrases : of each of its n photographs
    """
    backbone = Backbone()
    views = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in VIEWS]
    logits = [class_logits(view, backbone) for view in views]
    crops = np.load(folder / "grid.npy", mmap_mode="r")
    grid = np.zeros((len(captions), *crops.shape[1:]), np.float16)
    grid[: len(crops)] = crops
    seen = [of_image if row < len(crops) else [] for row, of_image in enumerate(phrases)]
    return Photographs(views, logits, grid, captions, seen)


@torch.inference_mode()
def class_logits(maps: NDArray[np.float16], backbone: Backbone) -> Tensor:
    """ImageNet logits (n, 1000) of cached maps (n, 7, 7, 320)."""
    parts = [
        backbone.classify(torch.tensor(part).permute(0, 3, 1, 2).float())
        for part in np.array_split(maps, range(128, len(maps), 128))
    ]
    return torch.cat(parts)


def grid_logits(grid: NDArray[np.float16], backbone: Backbone) -> Tensor:
    """ImageNet logits (n, crops, 1000) of the grid's crops, in half precision."""
    flat = grid.reshape(-1, *grid.shape[2:])
    return class_logits(flat, backbone).half().unflatten(0, grid.shape[:2]).float()


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


def batches(rows: int, size: int, chooser: random.Random) -> Iterator[list[int]]:
    """The numbers below ``rows`` in random order, ``size`` at a time; what is left over is not."""
    order = list(range(rows))
    chooser.shuffle(order)
    return (order[start : start + size] for start in range(0, rows - size + 1, size))
