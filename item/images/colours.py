"""Pixels of any mode into eight bits of red, green and blue."""

from __future__ import annotations

import numpy as np
import PIL.Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from item.images.errors import ImageError
from item.tables import ErrorCode, Note


def raw_mode_of(file: ImageFile) -> str:
    """How the file stores its pixels, in Pillow's words: RGB;16B, L;4, ..."""
    args = file.tile[0].args if file.tile else None
    return str(args[0] if isinstance(args, tuple) and args else args)


def eight_bit_rgb(
    file: ImageFile, raw_mode: str, size: tuple[int, int], notes: set[Note]
) -> PIL.Image.Image:
    """The loaded file as RGB at the given size; adds to ``notes`` what was done to it."""
    if file.mode == "F" or file.mode.startswith("I"):
        notes.add(Note.SIXTEEN_BIT_SCALED)
        return _scale_to_eight_bits(file, raw_mode, size).convert("RGB")
    deep = isinstance(file, PngImageFile | TiffImageFile) and ";16" in raw_mode
    if deep:
        notes.add(Note.SIXTEEN_BIT_SCALED)  # Pillow has kept the upper byte of each value
        file.info.pop("transparency", None)  # a colour of 16 bits: no pixel equals it now
    if file.mode == "CMYK":
        notes.add(Note.CMYK_CONVERTED)
    if file.mode == "LAB":
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT, "The TIFF is in L*a*b* colours, which are not decoded."
        )
    picture = _on_white(file, notes)
    if picture.size != size:
        picture = picture.resize(size, PIL.Image.Resampling.BICUBIC, reducing_gap=3.0)
    return picture.convert("RGB")


def _on_white(file: ImageFile, notes: set[Note]) -> PIL.Image.Image:
    """The file as grey or RGB, its transparent parts white."""
    if not file.has_transparency_data:
        return file.convert("L" if file.mode in ("1", "L") else "RGB")
    premultiplied = {"La": "LA", "RGBa": "RGBA"}.get(file.mode)
    layer = (file.convert(premultiplied) if premultiplied else file).convert("RGBA")
    alpha = layer.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return layer.convert("RGB")
    notes.add(Note.TRANSPARENCY_ON_WHITE)
    picture = PIL.Image.new("RGB", layer.size, "white")
    picture.paste(layer, mask=alpha)
    return picture


def _scale_to_eight_bits(file: ImageFile, raw_mode: str, size: tuple[int, int]) -> PIL.Image.Image:
    """Grey of 12, 16 or 32 bits or of floats as 8 bits, white being the full scale.

    Only 12 and 16 bits say what white is. For wider numbers it is the least of the usual
    full scales that holds all values: 1 for floats, 255, 65,535 and then the largest value.
    """
    wide = file if file.mode in ("I", "F") else file.convert("I")
    # BOX: a filter that overshoots could push a value past its full scale.
    values = np.array(wide.resize(size, PIL.Image.Resampling.BOX), dtype=np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    if file.mode not in ("I", "F"):
        white = 4095.0 if raw_mode == "I;12" else 65535.0
    else:
        largest = float(values.max())
        scales = (1.0, 255.0, 65535.0) if file.mode == "F" else (255.0, 65535.0)
        white = next((scale for scale in scales if largest <= scale), largest)
    return PIL.Image.fromarray(np.rint(values * (255.0 / white)).clip(0, 255).astype(np.uint8))
