"""Bytes into pixels: once, early, at bounded size, and without trusting the bytes.

A file is recognised by its first bytes, its declared size is checked, and only then does
the one Pillow decoder for that format see it. Whatever is wrong with a file comes out as
an `ImageError` with a code from the closed list in `item.tables`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import AvifImagePlugin
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pydantic import BaseModel, Field, field_validator

from item.images.colours import eight_bit_rgb, raw_mode_of
from item.images.errors import ImageError
from item.images.formats import CAMERA_RAW, format_name
from item.images.jpeg_end import END_MARK, lacks_pixels, with_end_mark
from item.images.jpeg_quality import jpeg_quality_of
from item.images.tiff import camera_raw, full_page
from item.images.truncation import ends_early, gif_end, jpeg_end, without_metadata
from item.tables import ErrorCode, Note

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"]
USUAL_FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_FILE_CLASSES: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
}
# Opened by class, not by PIL.Image.open: that would try other formats' parsers, turn JPEGs
# into MPOs, and apply the process-wide MAX_IMAGE_PIXELS before the limit of the profile.
_HEIC_EXTRA = "the extra heif: pip install 'item-audit[heif]'"


class Decoding(BaseModel, frozen=True, extra="forbid"):
    """How images are decoded; part of a model profile.

    Memory is bounded by these numbers. Measured beyond the file itself, at its peak and for
    each declared pixel: 24 bytes for a WebP, 17 for an AVIF, 14 for a HEIC and for a PNG or TIFF
    with transparency, 9 for other files, 6 to 8 for a progressive JPEG and less than 1 for any
    other JPEG, which is shrunk while it is decoded. A TIFF whose directory is built to do harm
    can take 40 bytes for each of its own, and an AVIF that declares less than it holds 1 GB.
    """

    max_side: int = Field(default=512, ge=1)
    """Pictures are shrunk so that the longer side has at most so many pixels."""
    max_pixels: int = Field(default=100_000_000, ge=1)
    """A declared width x height above this is rejected before anything is decoded."""
    max_bytes: int = Field(default=64 * 2**20, ge=1)
    """A larger file is rejected."""
    formats: tuple[Format, ...] = Field(default=USUAL_FORMATS, min_length=1)
    """Pillow's names of the formats that are decoded; HEIC needs the extra ``heif``."""

    @field_validator("formats")
    @classmethod
    def _can_be_decoded(cls, formats: tuple[Format, ...]) -> tuple[Format, ...]:
        if "HEIC" in formats and find_spec("pillow_heif") is None:
            raise ValueError(f"the format HEIC needs {_HEIC_EXTRA}")
        return formats


@dataclass(frozen=True)
class Image:
    """A decoded image.

    Attributes
    ----------
    pixels : uint8 ndarray of shape (height', width', 3)
        RGB, upright, shrunk to `Decoding.max_side` where it was larger.
    width, height : int
        Size of the upright image at full size, in pixels.
    format : str
        Lower case: ``"jpeg"``, ``"png"``, ...
    jpeg_quality : float or None
        Estimate from 1 to 100; None for other formats.
    notes : tuple of Note
        What was done to an unusual image.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    jpeg_quality: float | None
    notes: tuple[Note, ...]


def image_id(data: bytes) -> str:
    """SHA-256 of the bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, decoding: Decoding) -> Image:
    """Decode an image file at bounded size.

    The first frame of an animation or page of a document; CMYK to RGB; more than 8 bits
    scaled to 8; transparency on white; EXIF orientation applied; colour profiles ignored.
    The same bytes give the same pixels.

    Parameters
    ----------
    data : bytes
        The file, of any length and content.
    decoding : Decoding

    Returns
    -------
    Image

    Raises
    ------
    ImageError
        The only exception, whatever the bytes are.
    """
    name = _recognise(data, decoding)
    _silence_pillow()
    notes: set[Note] = set()
    with _blame_file(name, data):
        if name == "WEBP":
            _check_webp_canvas(data, decoding)
        data = _prepared(name, data, notes)
        file = _file_class(name)(io.BytesIO(data))
        _check_size(file, data, decoding)
        if isinstance(file, JpegImageFile):
            whole = _whole_jpeg(data, decoding)
            if whole is not data:
                notes.add(Note.END_MARK_ADDED)
                data, file = whole, JpegImageFile(io.BytesIO(whole))
        size, raw_mode = file.size, raw_mode_of(file)
        turned_by_pillow = isinstance(file, TiffImageFile)
        orientation = _tiff_orientation(file) if isinstance(file, TiffImageFile) else 1
        if _is_animated(file, data):
            notes.add(Note.FIRST_FRAME)
        file.draft(file.mode, _bounded(size, decoding.max_side))
        file.load()
        if isinstance(file, JpegImageFile):
            _check_pixels_are_there(file, data, decoding)
        if turned_by_pillow:
            size = file.size
        else:
            orientation = _exif_orientation(file)
        picture = eight_bit_rgb(file, raw_mode, _bounded(size, decoding.max_side), notes)
    if orientation in _TURNS:
        notes.add(Note.EXIF_ROTATED)
        if not turned_by_pillow:
            picture = picture.transpose(_TURNS[orientation])
            size = size[::-1] if orientation >= 5 else size
    quality = jpeg_quality_of(file) if isinstance(file, JpegImageFile) else None
    return Image(
        pixels=np.array(picture),
        width=size[0],
        height=size[1],
        format=name.lower(),
        jpeg_quality=quality,
        notes=tuple(note for note in Note if note in notes),
    )


def squash(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize to a square, whatever the aspect ratio.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (height, width, 3)
    side : int

    Returns
    -------
    uint8 ndarray of shape (side, side, 3); bicubic with antialiasing.
    """
    square = PIL.Image.fromarray(pixels).resize((side, side), PIL.Image.Resampling.BICUBIC)
    return np.array(square)


# What a file is, and whether it may be decoded.


def _recognise(data: bytes, decoding: Decoding) -> str:
    """Name of the format in which the file is to be decoded."""
    if not data:
        raise ImageError(ErrorCode.EMPTY_FILE, ErrorCode.EMPTY_FILE.sentence)
    if len(data) > decoding.max_bytes:
        raise ImageError(
            ErrorCode.TOO_MANY_BYTES,
            f"The file has {len(data)} bytes, and the limit is {decoding.max_bytes}.",
        )
    name = format_name(data)
    raw = name if name in CAMERA_RAW else camera_raw(data) if name == "TIFF" else None
    if raw is not None:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"The file is a camera's raw file{raw and f' ({raw})'}, which holds a sensor's values "
            "and a small preview.",
        )
    if name is None:
        raise ImageError(
            ErrorCode.NOT_AN_IMAGE,
            f"The first bytes, {data[:8].hex(' ')}, are those of no known image format.",
        )
    if name not in decoding.formats:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"The file looks like {name}, and only {', '.join(decoding.formats)} are decoded"
            + (f"; {name} can be added to profile.decoding.formats" if name in _NAMES else "")
            + (f" and needs {_HEIC_EXTRA}." if name == "HEIC" else "."),
        )
    if name == "AVIF" and not AvifImagePlugin.SUPPORTED:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            "The file looks like AVIF, which the installed Pillow was built without.",
        )
    return name


_NAMES = frozenset(get_args(Format))


def _file_class(name: str) -> type[ImageFile]:
    if name == "HEIC":
        from pillow_heif import HeifImageFile

        found: type[ImageFile] = HeifImageFile
        return found
    return _FILE_CLASSES[name]


def _prepared(name: str, data: bytes, notes: set[Note]) -> bytes:
    """The file as its decoder takes it: without what nobody reads, its full page first."""
    if name == "PNG":
        return without_metadata(data)
    if name == "TIFF" and (whole := full_page(data)) is not data:
        notes.add(Note.FULL_SIZE_PAGE)
        return whole
    return data


def _whole_jpeg(data: bytes, decoding: Decoding) -> bytes:
    """The JPEG with the end mark, if it lacks nothing else."""
    # The search for the mark takes a third of the time of decoding: most files end with it.
    if data.endswith(END_MARK) or jpeg_end(data)[0]:
        return data
    return with_end_mark(data, decoding.max_side) or data


# Limits, before any pixel is decoded.

_MAX_SCANS = 500
"""Of a progressive JPEG; each costs a pass over the whole image, and encoders write about 10."""


def _check_size(file: ImageFile, data: bytes, decoding: Decoding) -> None:
    _check_pixels(*file.size, decoding)
    if isinstance(file, TiffImageFile):
        # libtiff holds one whole tile, however small the image is.
        tile = file.tag_v2.get(322), file.tag_v2.get(323)
        if isinstance(tile[0], int) and isinstance(tile[1], int):
            _check_pixels(tile[0], tile[1], decoding)
    if file.info.get("progressive") and data.count(b"\xff\xda") > _MAX_SCANS:
        _, scans = jpeg_end(data)
        if scans > _MAX_SCANS:
            raise ImageError(
                ErrorCode.CORRUPT, f"The JPEG has {scans} scans, and the limit is {_MAX_SCANS}."
            )


def _check_pixels(width: int, height: int, decoding: Decoding) -> None:
    if width * height > decoding.max_pixels:
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS,
            f"The image declares {width} x {height} pixels, "
            f"and the limit is {decoding.max_pixels} in all.",
        )


def _check_webp_canvas(data: bytes, decoding: Decoding) -> None:
    # libwebp allocates the whole canvas as soon as the file is opened.
    if data[12:16] == b"VP8X" and len(data) >= 30:
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif data[12:16] == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif data[12:16] == b"VP8 " and len(data) >= 30:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        return
    _check_pixels(width, height, decoding)


def _bounded(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    width, height = size
    scale = min(1.0, max_side / max(size))
    return max(1, round(width * scale)), max(1, round(height * scale))


# Pixels.

_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112


def _check_pixels_are_there(file: JpegImageFile, data: bytes, decoding: Decoding) -> None:
    if lacks_pixels(file, data, decoding.max_side):
        raise ImageError(
            ErrorCode.TRUNCATED,
            f"The JPEG of {len(data)} bytes has an end mark, but its last pixels are missing.",
        )


def _exif_orientation(file: ImageFile) -> int:
    exif = PIL.Image.Exif()
    try:
        exif.load(file.info.get("exif") or b"")
        return int(exif.get(_ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF raises nearly anything and does not harm the pixels
        return 1


def _tiff_orientation(file: TiffImageFile) -> int:
    value = file.tag_v2.get(_ORIENTATION_TAG)
    return value if isinstance(value, int) else 1


def _is_animated(file: ImageFile, data: bytes) -> bool:
    if isinstance(file, GifImageFile):  # Pillow would go on to parse the next frame
        return gif_end(data)[1] > 1
    return bool(getattr(file, "is_animated", False))


# Whose fault a failure is, and whether the file merely ends too early.


@contextmanager
def _blame_file(name: str, data: bytes) -> Iterator[None]:
    """Turn whatever Pillow raises into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS, f"The {name} is too large for Pillow: {_ascii(error)}."
        ) from error
    except Exception as error:  # Pillow's parsers raise nearly any type on hostile bytes
        if ends_early(name, data):
            code, what = ErrorCode.TRUNCATED, "ends before all of its pixels were read"
        else:
            code, what = ErrorCode.CORRUPT, "cannot be decoded"
        raise ImageError(
            code, f"The {name} of {len(data)} bytes {what}: {_ascii(error)}."
        ) from error


def _ascii(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return re.sub(r"[^ -~]", "?", text)[:200].rstrip(". ")


_PILLOW_WARNINGS = r"PIL(\.|$)"


def _silence_pillow() -> None:
    """Keep Pillow's remarks on odd files from the log; what matters is in code and notes.

    `warnings.catch_warnings` swaps state of the whole process and is unsafe where threads
    decode side by side; one lasting filter for Pillow's own modules is not.
    """
    if not any(
        action == "ignore" and module is not None and module.pattern == _PILLOW_WARNINGS
        for action, _, _, module, _ in warnings.filters
    ):
        warnings.filterwarnings("ignore", module=_PILLOW_WARNINGS)


logging.getLogger("PIL").setLevel(logging.CRITICAL)
