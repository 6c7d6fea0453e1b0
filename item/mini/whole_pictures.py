"""Feature maps of whole pictures: captioner and dual encoder read the same ones."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from item.mini.backbone import Backbone, feature_maps

SIDE = 224
BATCH = 4
"""Larger batches are slower: their layers' outputs leave the cache of a core."""
KEPT = 256
"""Maps that are remembered, of 63 kB each: those of a few batches of a worker."""


class WholePictures:
    """Computes maps, and remembers them for the other model of the process.

    Parameters
    ----------
    backbone : shared by both models
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()

    @torch.inference_mode()
    def maps(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Pictures (h, w, 3) of any sizes -> maps (n, 320, 7, 7)."""
        names = [_name(picture) for picture in pictures]
        named = zip(names, pictures, strict=True)
        new = {name: picture for name, picture in named if name not in self._known}
        fresh = feature_maps(self.backbone, list(new.values()), SIDE, BATCH)
        maps = {name: self._known[name] for name in names if name not in new}
        maps |= dict(zip(new, fresh, strict=True))
        for name, known in maps.items():
            self._known[name] = known
            self._known.move_to_end(name)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return torch.stack([maps[name] for name in names]) if names else fresh

    def forget(self) -> None:
        """Compute everything anew from here on."""
        self._known.clear()


@lru_cache(maxsize=1)
def whole_pictures() -> WholePictures:
    """The one of this process."""
    return WholePictures(Backbone())


def _name(picture: NDArray[np.uint8]) -> bytes:
    digest = hashlib.blake2b(picture.tobytes(), digest_size=16)
    digest.update(str(picture.shape).encode())
    return digest.digest()
