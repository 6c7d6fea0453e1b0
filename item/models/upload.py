"""Pictures of many sizes on a device, in one transfer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from item.images.boxes import Picture


def upload(pictures: Sequence[Picture], device: torch.device) -> Tensor:
    """Pictures (h, w, 3) of any sizes -> uint8 (n, most rows, most columns, 3) on the device.

    Nothing is said of what lies beyond a picture's own rows and columns.
    """
    rows, columns = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    shape = (len(pictures), rows, columns, 3)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    here = pixels.numpy()
    for place, picture in enumerate(pictures):
        here[place, : picture.shape[0], : picture.shape[1]] = picture
    return pixels.to(device, non_blocking=True)
