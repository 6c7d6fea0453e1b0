"""What happens to pictures on the web: compressed again, shrunk, cropped, blurred, noisy.

A perturbation takes the bytes of an image file and gives those of another. It has a name
from a closed list, so that a table can say which one it was made under::

    Perturbation.parse("resize-0.5+jpeg-75").apply(data)

Steps joined by ``+`` follow one another; ``none`` is no step at all.

=========================  ================================================================
``jpeg-95 90 75 50 30``    JPEG of this libjpeg quality, colours at half size (4:2:0)
``webp-80``                lossy WebP of this quality
``blur-1 2 4``             Gaussian of this standard deviation in pixels
``resize-0.75 0.5 0.25``   both sides times this, Lanczos; the picture stays small
``crop-0.9 0.8 0.5``       the middle, this share of each side
``noise-5 10``             Gaussian of this standard deviation in grey levels, each channel
                           for itself, rounded and kept within 0 and 255
=========================  ================================================================

A codec compresses wherever it stands in a chain. The file that comes out is the last step's
own JPEG or WebP, and a PNG after any other step, so that nothing changes but what was asked.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import PIL.Image
from PIL.Image import Resampling
from PIL.ImageFilter import GaussianBlur

from item.errors import UsageError
from item.images.decode import Decoding, Format, decode, image_id
from item.images.errors import ImageError
from item.tables import ErrorCode

STEPS = (
    *("jpeg-95", "jpeg-90", "jpeg-75", "jpeg-50", "jpeg-30"),
    "webp-80",
    *("blur-1", "blur-2", "blur-4"),
    *("resize-0.75", "resize-0.5", "resize-0.25"),
    *("crop-0.9", "crop-0.8", "crop-0.5"),
    *("noise-5", "noise-10"),
)
"""Every step there is."""
STANDARD = (*STEPS, "resize-0.75+jpeg-90", "resize-0.5+jpeg-75")
"""What the robustness report goes through, in its order."""
NONE = "none"
"""The name of leaving the bytes as they are."""

_DEFAULT = Decoding()
_OWN = Decoding(max_side=sys.maxsize, max_pixels=sys.maxsize, max_bytes=sys.maxsize)
"""For files written here: their size is bounded already."""


@dataclass(frozen=True)
class Perturbation:
    """A chain of steps, each a name in `STEPS`; ``str()`` gives the chain's name.

    Raises
    ------
    UsageError
        For a step that is not in the list.
    """

    steps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for step in self.steps:
            if step not in STEPS:
                raise UsageError(
                    f"There is no perturbation step {step!r}: write {NONE}, or join with + "
                    f"any of {', '.join(STEPS)}."
                )

    @classmethod
    def parse(cls, name: str) -> Self:
        """The perturbation of a name such as ``jpeg-75``, ``crop-0.8+jpeg-50`` or ``none``.

        Raises
        ------
        UsageError
            If the name is none.
        """
        return cls() if name == NONE else cls(tuple(name.split("+")))

    def __str__(self) -> str:
        return "+".join(self.steps) or NONE

    @property
    def format(self) -> Format | None:
        """What `apply` writes; None where it writes nothing."""
        return _format(self.steps[-1]) if self.steps else None

    def apply(self, data: bytes, decoding: Decoding = _DEFAULT) -> bytes:
        """Perturb an image file.

        The picture is the one that `item.images.decode.decode` sees, at full size: upright, its
        first frame, 8 bits, transparent parts white, without metadata. The same bytes give
        the same bytes under the same versions of Pillow and NumPy: noise is seeded with
        their SHA-256. Memory, measured beyond the files at its peak and for each pixel: 14
        bytes, 24 for a WebP, 28 where a WebP step stands inside a chain.

        Parameters
        ----------
        data : bytes
            The file, of any length and content.
        decoding : Decoding
            Its limits hold for what is read and what is written; `max_side` plays no part.

        Returns
        -------
        bytes
            `data` itself where there is no step, and where it cannot be decoded: whoever
            decodes it next learns why.

        Raises
        ------
        ImageError
            The picture, once perturbed, is too large for its format or for the limits.
        """
        if not self.steps:
            return data
        # A picture within the limit has no side longer than this, so none is shrunk.
        full_size = decoding.model_copy(update={"max_side": decoding.max_pixels})
        try:
            picture = PIL.Image.fromarray(decode(data, full_size).pixels)
        except ImageError:
            return data
        random = np.random.default_rng(int(image_id(data), 16))
        *steps, last = self.steps
        for step in steps:
            picture = _changed(picture, step, random)
        if _format(last) == "PNG":
            picture = _changed(picture, last, random)
        file = _encoded(picture, last)
        if len(file) > decoding.max_bytes:
            raise ImageError(
                ErrorCode.TOO_MANY_BYTES,
                f"The file has {len(file)} bytes after {self}, "
                f"and the limit is {decoding.max_bytes}.",
            )
        return file


def _changed(picture: PIL.Image.Image, step: str, random: np.random.Generator) -> PIL.Image.Image:
    """The picture after one step."""
    kind, _, amount = step.partition("-")
    match kind:
        case "blur":
            # Pillow's Gaussian is three box filters, one after the other.
            return picture.filter(GaussianBlur(float(amount)))
        case "resize":
            return picture.resize(_scaled(picture.size, float(amount)), Resampling.LANCZOS)
        case "crop":
            width, height = _scaled(picture.size, float(amount))
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            return picture.crop((left, top, left + width, top + height))
        case "noise":
            return _noisy(picture, float(amount), random)
        case _:
            return PIL.Image.fromarray(decode(_encoded(picture, step), _OWN).pixels)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _noisy(
    picture: PIL.Image.Image, deviation: float, random: np.random.Generator
) -> PIL.Image.Image:
    pixels = np.array(picture)
    values = pixels.reshape(-1)
    # Piece by piece: noise for a whole picture takes 24 bytes a pixel.
    for start in range(0, len(values), 1 << 20):
        piece = values[start : start + (1 << 20)]
        noise = random.normal(0, deviation, len(piece))
        piece[:] = np.rint(piece + noise).clip(0, 255)
    return PIL.Image.fromarray(pixels)


def _format(step: str) -> Format:
    """The kind of file that a step leaves."""
    match step.partition("-")[0]:
        case "jpeg":
            return "JPEG"
        case "webp":
            return "WEBP"
        case _:
            return "PNG"


def _encoded(picture: PIL.Image.Image, step: str) -> bytes:
    """The picture as the file that a step leaves."""
    format = _format(step)
    options: dict[str, Any] = {"compress_level": 1}
    if format != "PNG":
        options = {"quality": int(step.partition("-")[2])}
    if format == "JPEG":
        options["subsampling"] = "4:2:0"
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format, **options)
    except (OSError, ValueError) as error:
        # A JPEG has at most 65,500 pixels a side and a WebP 16,383; besides, a WebP's first
        # partition, which grows with the picture and its detail, has at most 512 KiB.
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS,
            f"The picture has {picture.width} x {picture.height} pixels, too many for "
            f"{step}: {error}.",
        ) from error
    return buffer.getvalue()
