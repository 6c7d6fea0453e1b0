"""What the blocks or stages of an open_clip image tower see, taken on the way to the embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from item.errors import UsageError
from item.layers import pooled_maps, pooled_tokens

PLACES = (
    ("transformer.resblocks",),  # open_clip's own ViT
    ("trunk.blocks",),  # a ViT of timm
    ("trunk.stages",),  # a ConvNeXt of timm
    ("layer1", "layer2", "layer3", "layer4"),  # CLIP's ResNet
)
"""Where image towers keep their blocks or stages."""


class LayeredTower:
    """Listens to a tower's blocks or stages.

    Parameters
    ----------
    visual : image tower of an open_clip model; it is not changed otherwise

    Raises
    ------
    UsageError
        If its blocks are not where those of the known kinds are.
    """

    def __init__(self, visual: nn.Module) -> None:
        self._seen: list[Tensor] = []
        self._with_class_token = _has_class_token(visual)
        for block in _blocks(visual):
            block.register_forward_hook(self._hear)

    def _hear(self, _block: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._seen.append(output)

    def forget(self) -> None:
        """Before a batch: what a batch left that did not end."""
        self._seen.clear()

    def pooled(self) -> Tensor:
        """Of the last batch: (n, numbers) by :mod:`item.layers`."""
        seen = list(self._seen)
        self._seen.clear()
        if seen[0].dim() == 4:
            return pooled_maps(seen)
        return pooled_tokens(seen, self._with_class_token)


def _blocks(visual: nn.Module) -> list[nn.Module]:
    for names in PLACES:
        try:
            found = [visual.get_submodule(name) for name in names]
        except AttributeError:
            continue
        return list(found[0].children()) if len(found) == 1 else found
    raise UsageError(
        f"The image tower is a {type(visual).__name__}, whose blocks are not known: set "
        "profile.clip.layers=0."
    )


def _has_class_token(visual: nn.Module) -> bool:
    trunk = getattr(visual, "trunk", visual)
    tokens = (getattr(trunk, name, None) for name in ("class_embedding", "cls_token"))
    return any(isinstance(token, torch.Tensor) for token in tokens)
