"""How an open_clip repository wants its pictures: resized, cropped or padded."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.Image import Resampling
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from item.errors import UsageError
from item.layers import CentreCrop

CONFIG = "open_clip_config.json"
USUAL_SIDE = 224
"""Of the pictures of a tower whose configuration does not say, in open_clip."""
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
        rows, columns = self.resized(image.height, image.width, height, width)
        resampling = self.resampling(height == width)
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

    def resized(self, rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
        """Rows and columns before cropping and padding."""
        if self.resize_mode == "squash":
            return height, width
        if self.resize_mode == "shortest" and height == width:
            short = min(rows, columns)
            return int(height * rows / short), int(width * columns / short)
        ratios = (rows / height, columns / width)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(rows / ratio)), max(1, round(columns / ratio))

    def resampling(self, square: bool) -> Resampling:
        """By which kernel, for inputs that are square or not."""
        # open_clip forgets the interpolation where the input is not square.
        forgotten = self.resize_mode == "shortest" and not square
        bilinear = self.interpolation == "bilinear" and not forgotten
        return Resampling.BILINEAR if bilinear else Resampling.BICUBIC


@dataclass(frozen=True)
class OpenClipFit:
    """A repository's way to fit pictures; see :class:`item.images.fit.Fit`."""

    preprocessing: Preprocessing
    height: int
    width: int

    @property
    def resamples_bilinearly(self) -> bool:
        """Whether the kernel is bilinear; else it is bicubic."""
        return self.preprocessing.resampling(self.height == self.width) is Resampling.BILINEAR

    @property
    def middle(self) -> CentreCrop:
        """How the middle of a picture is fitted, for the layers."""
        return CentreCrop(max(self.height, self.width))

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Picture (h, w, 3) -> (height, width, 3)."""
        if picture.shape[:2] == (self.height, self.width):
            return picture
        out = np.empty((self.height, self.width, 3), np.uint8)
        self.preprocessing.fit(picture, out)
        return out


def read_fit(folder: Path) -> OpenClipFit:
    """How the image tower of a repository wants its pictures.

    Raises
    ------
    UsageError
        If the configuration is missing or damaged, or asks for what is not known here.
    """
    config = read_config(folder)
    preprocessing = read_preprocessing(folder, config)
    match config["model_cfg"]["vision_cfg"].get("image_size", USUAL_SIDE):
        case int(side):
            return OpenClipFit(preprocessing, side, side)
        case [int(height), int(width)]:
            return OpenClipFit(preprocessing, height, width)
    raise UsageError(
        f"The {CONFIG} in '{folder}' has an image_size that is neither a number nor a height and a "
        "width."
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The repository's configuration, with all keys that are read without asking."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        what = f"no {CONFIG} in the folder" if folder.is_dir() else "no folder"
        raise UsageError(
            f"There is {what} '{folder}': set `files.source` to a repository of open_clip's."
        ) from None
    except ValueError:
        raise UsageError(f"The {CONFIG} in '{folder}' is damaged: it is no JSON.") from None
    match config:
        case {"model_cfg": {"embed_dim": int(), "vision_cfg": dict(), "text_cfg": dict()}}:
            return config
    raise UsageError(
        f"The {CONFIG} in '{folder}' is not open_clip's: it has no model_cfg with embed_dim, "
        "vision_cfg and text_cfg."
    )


def read_preprocessing(folder: Path, config: dict[str, Any]) -> Preprocessing:
    given = config.get("preprocess_cfg", {})
    if isinstance(given, dict):
        given = {key: value for key, value in given.items() if value is not None}
    try:
        return Preprocessing.model_validate(given)
    except ValidationError:
        raise UsageError(
            f"The preprocess_cfg of {CONFIG} in '{folder}' is not known to this version: its "
            f"resizing and colours must be among those of open_clip {_version()}."
        ) from None


def _version() -> str:
    return importlib.metadata.version("open_clip_torch")


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
