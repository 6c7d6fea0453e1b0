"""How a captioner's repository wants its pictures, for tasks that have no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from item.errors import UsageError
from item.models.transformers_notices import cannot_be_loaded, quiet


@dataclass(frozen=True)
class ProcessorFit:
    """To one height and width, as transformers' processors on torchvision do it.

    See :class:`item.images.fit.Fit`.
    """

    height: int
    width: int
    interpolation: str
    """One of torchvision's ``InterpolationMode``."""

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Picture (h, w, 3) -> (height, width, 3)."""
        if picture.shape[:2] == (self.height, self.width):
            return picture
        # Not above: they take seconds, and are needed where pictures are fitted.
        import torch
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import resize

        # The view stays channels last, in which torch resizes several times faster.
        pixels = torch.from_numpy(np.require(picture, requirements=["C", "W"])).permute(2, 0, 1)
        mode = InterpolationMode(self.interpolation)
        resized = resize(pixels, [self.height, self.width], mode, antialias=True)
        fitted: NDArray[np.uint8] = resized.permute(1, 2, 0).numpy()
        return fitted


def read_processor_fit(folder: Path) -> ProcessorFit:
    """How the image processor of a repository fits pictures.

    Raises
    ------
    UsageError
        If there is none, if it is damaged, or if it fits pictures in another way.
    """
    import transformers

    try:
        with quiet():
            images = transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # damaged files make parsers and constructors raise anything
        raise cannot_be_loaded("image processor", folder, error) from error
    return fit_of(images, folder)


def fit_of(images: Any, folder: Path) -> ProcessorFit:
    """How an image processor fits pictures; UsageError if not to one height and width."""
    from transformers.image_utils import pil_torch_interpolation_mapping

    squashes = images.do_resize and images.size.height and images.size.width
    if not squashes or (
        getattr(images, "do_center_crop", False) and images.crop_size != images.size
    ):
        raise UsageError(
            f"The processor in '{folder}' does not resize pictures to one height and width."
        )
    mode = pil_torch_interpolation_mapping[images.resample]
    return ProcessorFit(images.size.height, images.size.width, mode.value)
