"""The projection of the layers: principal components of what the backbone's stages see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from item.mini import MOST_LAYERS
from item.mini.whole_pictures import whole_pictures


def fit_layers(
    batches: Iterable[Sequence[NDArray[np.uint8]]], say: Callable[[str], None]
) -> dict[str, Tensor]:
    """Means and directions of standardised pooled stages, those of most variance first.

    No label is looked at. The projected columns together have a mean square of 1, and keep their
    proportions among each other.

    Parameters
    ----------
    batches : of pictures (h, w, 3) of any sizes, of all kinds that are to be told apart
    say : hears how many pictures were seen

    Returns
    -------
    ``means`` (2 * POOLED,) and ``directions`` (2 * POOLED, 256): layers of pooled stages x are
    ``(x - means) @ directions``.
    """
    whole, found, count = whole_pictures(), [], 0
    for pictures in batches:
        found.append(whole.layers(pictures))
        count += len(pictures)
        say(f"{count} pictures seen")
    pooled = torch.cat(found).double()
    means, deviations = pooled.mean(dim=0), pooled.std(dim=0).clamp_min(1e-3)
    standard = (pooled - means) / deviations
    variances, directions = torch.linalg.eigh(standard.T @ standard / len(standard))
    largest = torch.arange(len(variances) - 1, len(variances) - 1 - MOST_LAYERS, -1)
    scale = variances[largest].mean().sqrt()
    chosen = directions[:, largest] / deviations.unsqueeze(1) / scale
    return {"means": means.float(), "directions": chosen.float()}
