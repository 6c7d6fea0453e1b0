"""How an open_clip repository wants its pictures: resized, cropped or padded."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.Image import Resampling
from pydantic import BaseModel, ConfigDict, Field

THIN = 16
"""From this aspect ratio on, only the part of a picture that is left after cropping is resized:
all of a 1 x 512 crop at 224 pixels would take 100 MB."""


class Preprocessing(BaseModel):
    """How a repository wants its pictures; the keys of ``preprocess_cfg`` that open_clip reads."""

    model_config = ConfigDict(frozen=True)

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    """``random`` is for training and means bicubic here, as in open_clip."""
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: int = Field(default=0, ge=0, le=255)

    def fit(self, picture: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Resize a picture, crop or pad it, and write it to ``out``.

        The pixels are those that open_clip's own transforms give, except that a picture of
        which ``shortest`` leaves no more than a sixteenth may differ by a rounding.

        Parameters
        ----------
        picture : uint8 RGB array of shape (height, width, 3)
        out : uint8 array of shape (side, side, 3), or not square, overwritten
        """
        height, width = out.shape[:2]
        image = PIL.Image.fromarray(picture)
        rows, columns = self._resized(image.height, image.width, height, width)
        resampling = self._resampling(height == width)
        if self.resize_mode == "shortest" and max(rows / height, columns / width) >= THIN:
            out[:] = _middle(image, (rows, columns), (height, width), resampling)
            return
        resized = np.asarray(image.resize((columns, rows), resampling))
        if rows < height or columns < width:
            out[:] = self.fill_color
        top, left = max(0, (height - rows) // 2), max(0, (width - columns) // 2)
        above, before = round(max(0, rows - height) / 2), round(max(0, columns - width) / 2)
        inside = resized[above : above + height, before : before + width]
        out[top : top + rows, left : left + columns] = inside

    def _resized(self, rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
        """Rows and columns before cropping and padding."""
        if self.resize_mode == "squash":
            return height, width
        if self.resize_mode == "shortest" and height == width:
            short = min(rows, columns)
            return int(height * rows / short), int(width * columns / short)
        ratios = (rows / height, columns / width)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(rows / ratio)), max(1, round(columns / ratio))

    def _resampling(self, square: bool) -> Resampling:
        # open_clip forgets the interpolation where the input is not square.
        forgotten = self.resize_mode == "shortest" and not square
        bilinear = self.interpolation == "bilinear" and not forgotten
        return Resampling.BILINEAR if bilinear else Resampling.BICUBIC


def _middle(
    image: PIL.Image.Image, resized: tuple[int, int], out: tuple[int, int], resampling: Resampling
) -> NDArray[np.uint8]:
    """What resizing to ``resized`` and cropping the middle to ``out`` gives, without the rest.

    Rows and columns, not widths and heights. Columns first, as Pillow does: the order matters
    where colours are clipped in between.
    """
    box = []
    for source, whole, part in zip((image.height, image.width), resized, out, strict=True):
        start = round((whole - part) / 2)
        box.append((start * source / whole, (start + part) * source / whole))
    (y0, y1), (x0, x1) = box
    narrow = image.resize((out[1], image.height), resampling, box=(x0, 0, x1, image.height))
    return np.asarray(narrow.resize(out[::-1], resampling, box=(0, y0, out[1], y1)))
