"""What the backbone sees of whole pictures: captioner and dual encoder read the same."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from item.images.fit import Squash
from item.layers import CentreCrop
from item.mini.backbone import Backbone, maps_with_layers

SIDE = 256
CELLS = SIDE // 32
"""Rows, and columns, of a picture's map."""
CROP_SIDE = 224
"""Of the centre crop that the layers see."""
WHOLE, MIDDLE = Squash(SIDE), CentreCrop(CROP_SIDE)
"""How a picture is fitted for its map, and for the layers of its middle."""
BATCH = 4
"""Larger batches are slower: their layers' outputs leave the cache of a core."""
KEPT = 256
"""Pictures whose maps are remembered, 80 kB each: those of a few batches of a worker."""


class WholePictures:
    """Computes maps, and remembers them for the other model of the process.

    Parameters
    ----------
    backbone : shared by both models
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._known: OrderedDict[bytes, tuple[Tensor, Tensor]] = OrderedDict()

    def maps(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Pictures (h, w, 3) of any sizes -> maps (n, 320, 8, 8)."""
        return self._seen(pictures)[0]

    def layers(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Pictures (h, w, 3) of any sizes -> layers as :meth:`maps_and_layers` has them."""
        return self.maps_and_layers(pictures)[1]

    @torch.inference_mode()
    def maps_and_layers(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        middles: Sequence[NDArray[np.uint8]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Maps, and pooled stages of the squashed pictures and of their centre crops.

        Parameters
        ----------
        pictures : n arrays of shape (h, w, 3), of any sizes; see :mod:`item.layers`
        middles : their centre crops, if they are cut already

        Returns
        -------
        Tensors of shape (n, 320, 8, 8) and (n, 2 * ``POOLED``).
        """
        maps, squashed = self._seen(pictures)
        crops = list(map(MIDDLE, pictures)) if middles is None else middles
        _, cropped = maps_with_layers(self.backbone, crops, CROP_SIDE, BATCH)
        return maps, torch.cat([squashed, cropped], dim=1)

    def forget(self) -> None:
        """Compute everything anew from here on."""
        self._known.clear()

    @torch.inference_mode()
    def _seen(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
        """Maps and pooled stages (n, ``POOLED``) of squashed pictures."""
        if not len(pictures):
            return maps_with_layers(self.backbone, [], SIDE, BATCH)
        names = [_name(picture) for picture in pictures]
        named = zip(names, pictures, strict=True)
        new = {name: picture for name, picture in named if name not in self._known}
        fresh = maps_with_layers(self.backbone, list(new.values()), SIDE, BATCH)
        seen = {name: self._known[name] for name in names if name not in new}
        seen |= dict(zip(new, zip(*fresh, strict=True), strict=True))
        for name, known in seen.items():
            self._known[name] = known
            self._known.move_to_end(name)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        maps, layers = zip(*(seen[name] for name in names), strict=True)
        return torch.stack(maps), torch.stack(layers)


@lru_cache(maxsize=1)
def whole_pictures() -> WholePictures:
    """The one of this process."""
    return WholePictures(Backbone())


def _name(picture: NDArray[np.uint8]) -> bytes:
    digest = hashlib.blake2b(picture.tobytes(), digest_size=16)
    digest.update(str(picture.shape).encode())
    return digest.digest()
