"""Odd image files, made in memory: what crawls bring in, and what attackers send.

``ODD_FILES`` maps a name to the bytes and to what decoding them must give: an
``ErrorCode``, or an ``Accepted`` with size, notes and, for pictures of one colour, the
colour. All numbers hold under the default `Decoding`.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from item.tables import ErrorCode, Note
from tests.support.tiffs import picture as tiff_page
from tests.support.tiffs import sensor, tiff_of

Colour = tuple[int, int, int]

ORANGE: Colour = (230, 120, 40)
WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Accepted:
    """What decoding an odd file that is accepted gives."""

    format: str
    size: tuple[int, int] = (64, 48)
    """Width and height, upright and full-size."""
    notes: tuple[Note, ...] = ()
    colour: Colour | None = None
    """The mean colour, within 3, of a picture of one colour."""


Expectation = ErrorCode | Accepted


def encode(picture: Image.Image, format: str, **options: Any) -> bytes:
    """The picture as a file in memory."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def flat(colour: Any = ORANGE, mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture of one colour."""
    return Image.new(mode, size, colour)


def textured(width: int = 160, height: int = 120, seed: int = 0) -> Image.Image:
    """A smooth picture with noise, so that encoded files have many bytes to lose."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1)
    return Image.fromarray((base + random.normal(0, 12, base.shape)).clip(0, 255).astype(np.uint8))


def quadrants(width: int = 64, height: int = 48) -> Image.Image:
    """Red, green, blue and white quarters, row by row: shows how a picture is turned."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width: int, height: int, bits: int, colour_type: int, *chunks: bytes) -> bytes:
    """A PNG of a header and the given chunks."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IEND", b"")]
    )


def with_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    """The JPEG with an application segment after its first marker."""
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload
    return jpeg[:2] + segment + jpeg[2:]


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """The JPEG without its first segment of this kind."""
    start = jpeg.index(bytes([0xFF, marker]))
    (length,) = struct.unpack_from(">H", jpeg, start + 2)
    return jpeg[:start] + jpeg[start + 2 + length :]


def turned(orientation: int, format: str = "JPEG", **options: Any) -> bytes:
    """The quadrants in a file that asks to be turned before it is shown."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(quadrants(), format, exif=exif, **options)


def many_scans(scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan: each costs a pass over the image."""
    jpeg = encode(flat(size=(640, 480)), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * scans + b"\xff\xd9"


def sixteen_bit_rgb_png() -> bytes:
    """RGB with 16 bits a channel, which Pillow reads but does not write."""
    row = b"\0" + struct.pack(">HHH", *(257 * value for value in ORANGE)) * 64
    return png(64, 48, 16, 2, png_chunk(b"IDAT", zlib.compress(row * 48)))


def transparent_palette(alphas: bytes) -> bytes:
    """An orange palette PNG; ``alphas`` are those of palette entries 0 and 1."""
    picture = Image.new("P", (64, 48), 0)
    picture.putpalette([*ORANGE, 0, 0, 0])
    return encode(picture, "PNG", transparency=alphas)


def bmp_claiming(width: int, height: int) -> bytes:
    """A small BMP with another size in its header."""
    bmp = bytearray(encode(flat(), "BMP"))
    struct.pack_into("<II", bmp, 18, width, height)
    return bytes(bmp)


def webp_claiming(width: int, height: int) -> bytes:
    """A small animated WebP with another canvas in its header."""
    webp = bytearray(_animation("WEBP"))
    webp[24:27] = (width - 1).to_bytes(3, "little")
    webp[27:30] = (height - 1).to_bytes(3, "little")
    return bytes(webp)


def tiff_with(changes: dict[int, int]) -> bytes:
    """An uncompressed grey TIFF of 64 x 48 pixels with other or further tags, all long."""
    tags = {256: 64, 257: 48, 258: 8, 259: 1, 262: 1, 273: 256, 277: 1, 278: 48, 279: 64 * 48}
    tags |= changes
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items())
    )
    head = b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)
    return head.ljust(256, b"\0") + bytes([100]) * 64 * 48


def _animation(format: str, **options: Any) -> bytes:
    later = [flat((0, 0, 200)), flat((0, 200, 0))]
    return encode(flat(), format, save_all=True, append_images=later, **options)


def _zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("picture.jpg", bytes(2_000_000))
    return buffer.getvalue()


def _text_bomb() -> bytes:
    bomb = zlib.compress(bytes(5_000_000))
    text = png_chunk(b"zTXt", b"Comment\0\0" + bomb)
    profile = png_chunk(b"iCCP", b"icc\0\0" + bomb)
    good = encode(flat(), "PNG")
    return good[:33] + text + profile + good[33:]


def _text_named_transparency() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("transparency", "zero")
    return encode(flat(), "PNG", pnginfo=info)


def _mpo() -> bytes:
    return encode(flat(), "MPO", save_all=True, append_images=[flat((0, 0, 200))])


def _ycck_jpeg() -> bytes:
    # libjpeg reads the four stored channels (200, 128, 128, 255) as a grey of 200 and no
    # black, gives CMY 55 for it, and Adobe's files are inverted.
    jpeg = bytearray(encode(flat((55, 127, 127, 0), "CMYK"), "JPEG", quality=95))
    adobe = jpeg.index(b"Adobe")
    jpeg[adobe + 11] = 2
    return bytes(jpeg)


def _grey_tiff(values: Any, dtype: str) -> bytes:
    return encode(Image.fromarray(np.full((48, 64), values, dtype)), "TIFF")


def _ramp_tiff(white: float, dtype: str) -> bytes:
    """Left half black, right half at full scale: means 127.5 if scaled, not clipped."""
    values = np.zeros((48, 64), dtype)
    values[:, 32:] = white
    return encode(Image.fromarray(values), "TIFF")


def _two_pages() -> bytes:
    return encode(flat(), "TIFF", save_all=True, append_images=[flat((0, 0, 200))])


def _made() -> dict[str, tuple[bytes, Expectation]]:
    jpeg = encode(textured(), "JPEG", quality=90)
    progressive = encode(textured(), "JPEG", quality=90, progressive=True)
    avif = encode(textured(), "AVIF")
    picture_png = encode(textured(), "PNG")
    gif = encode(textured(), "GIF")
    webp = encode(textured(), "WEBP", lossless=True)
    bmp = encode(textured(), "BMP")
    tiff = encode(textured(), "TIFF")
    lzw = encode(textured(), "TIFF", compression="tiff_lzw")
    orange_jpeg = encode(flat(), "JPEG", quality=95)
    orange_png = encode(flat(), "PNG")
    cmyk = encode(flat((0, 255, 255, 0), "CMYK"), "JPEG", quality=95)
    half = flat((*ORANGE, 128), "RGBA")
    on_white = tuple(round((128 * value + 127 * 255) / 255) for value in ORANGE)
    assert len(on_white) == 3
    thumbnail = with_segment(jpeg, 0xE2, b"THUMB" + orange_jpeg)
    transparent = (Note.TRANSPARENCY_ON_WHITE,)
    scaled = (Note.SIXTEEN_BIT_SCALED,)
    first = (Note.FIRST_FRAME,)
    converted = (Note.CMYK_CONVERTED,)

    files: dict[str, tuple[bytes, Expectation]] = {
        # Not images.
        "no bytes": (b"", ErrorCode.EMPTY_FILE),
        "one byte": (b"\xff", ErrorCode.NOT_AN_IMAGE),
        "zero bytes": (bytes(5000), ErrorCode.NOT_AN_IMAGE),
        "html error page": (
            b"<!DOCTYPE html><html><body>404 <svg></svg></body></html>",
            ErrorCode.NOT_AN_IMAGE,
        ),
        "text": (b"BMW and other words that begin like a bitmap", ErrorCode.NOT_AN_IMAGE),
        "json": (b'{"error": "rate limit"}', ErrorCode.NOT_AN_IMAGE),
        "zip bomb": (_zip_bomb(), ErrorCode.NOT_AN_IMAGE),
        "gzipped jpeg": (gzip.compress(orange_jpeg, mtime=0), ErrorCode.NOT_AN_IMAGE),
        "jpeg after a newline": (b"\n" + orange_jpeg, ErrorCode.NOT_AN_IMAGE),
        # Images, of formats that are not decoded.
        "ico": (encode(flat(size=(32, 32)), "ICO"), ErrorCode.UNSUPPORTED_FORMAT),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', ErrorCode.UNSUPPORTED_FORMAT),
        "svg after xml": (
            b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- a --><svg></svg>',
            ErrorCode.UNSUPPORTED_FORMAT,
        ),
        "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", ErrorCode.UNSUPPORTED_FORMAT),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ErrorCode.UNSUPPORTED_FORMAT),
        "psd": (b"8BPS\0\1" + bytes(20), ErrorCode.UNSUPPORTED_FORMAT),
        "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ErrorCode.UNSUPPORTED_FORMAT),
        "camera raw": (
            tiff_of([tiff_page(flat(), [sensor((640, 480))], t254=1)]),
            ErrorCode.UNSUPPORTED_FORMAT,
        ),
        "mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isommp41", ErrorCode.UNSUPPORTED_FORMAT),
        "jpeg 2000": (encode(flat(), "JPEG2000"), ErrorCode.UNSUPPORTED_FORMAT),
        "pnm": (encode(flat(), "PPM"), ErrorCode.UNSUPPORTED_FORMAT),
        "lab tiff": (encode(flat((9, 9, 9), "LAB"), "TIFF"), ErrorCode.UNSUPPORTED_FORMAT),
        # Cut off.
        "avif: name only": (b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf", ErrorCode.TRUNCATED),
        "avif cut in half": (avif[: len(avif) // 2], ErrorCode.TRUNCATED),
        "jpeg: magic only": (jpeg[:4], ErrorCode.TRUNCATED),
        "jpeg cut in its header": (jpeg[:100], ErrorCode.TRUNCATED),
        "jpeg cut in half": (jpeg[: len(jpeg) // 2], ErrorCode.TRUNCATED),
        "jpeg cut at 90%": (jpeg[: len(jpeg) * 9 // 10], ErrorCode.TRUNCATED),
        "large jpeg cut at 90%": (
            (large := encode(textured(1500, 1000), "JPEG"))[: len(large) * 9 // 10],
            ErrorCode.TRUNCATED,
        ),
        "progressive jpeg cut in half": (
            progressive[: len(progressive) // 2],
            ErrorCode.TRUNCATED,
        ),
        "cut jpeg with a whole thumbnail": (
            thumbnail[: len(thumbnail) * 3 // 4],
            ErrorCode.TRUNCATED,
        ),
        "png: magic only": (picture_png[:8], ErrorCode.TRUNCATED),
        "png cut in its header": (picture_png[:20], ErrorCode.TRUNCATED),
        "png cut in half": (picture_png[: len(picture_png) // 2], ErrorCode.TRUNCATED),
        "gif cut in its palette": (gif[:100], ErrorCode.TRUNCATED),
        "gif cut in half": (gif[: len(gif) // 2], ErrorCode.TRUNCATED),
        "webp cut in its header": (webp[:25], ErrorCode.TRUNCATED),
        "webp cut in half": (webp[: len(webp) // 2], ErrorCode.TRUNCATED),
        "bmp cut in half": (bmp[: len(bmp) // 2], ErrorCode.TRUNCATED),
        "tiff cut in half": (tiff[: len(tiff) // 2], ErrorCode.TRUNCATED),
        "lzw tiff cut in half": (lzw[: len(lzw) // 2], ErrorCode.TRUNCATED),
        "big tiff with its directory far beyond the end": (
            b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(50),
            ErrorCode.TRUNCATED,
        ),
        # Contradictory.
        "png with a bad checksum": (
            picture_png[:29] + b"\0\0\0\0" + picture_png[33:],
            ErrorCode.CORRUPT,
        ),
        "png of no width": (png(0, 48, 8, 2), ErrorCode.CORRUPT),
        "png without pixels": (png(64, 48, 8, 2), ErrorCode.CORRUPT),
        "png with garbage for pixels": (
            png(64, 48, 8, 2, png_chunk(b"IDAT", b"garbage" * 99)),
            ErrorCode.CORRUPT,
        ),
        "jpeg without tables": (
            without_segment(without_segment(orange_jpeg, 0xDB), 0xDB),
            ErrorCode.CORRUPT,
        ),
        "jpeg with too many scans": (many_scans(2000), ErrorCode.CORRUPT),
        "jpeg of 12 bits": (
            orange_jpeg.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
            ErrorCode.CORRUPT,
        ),
        "webp with garbage inside": (webp[:40] + bytes(len(webp) - 40), ErrorCode.CORRUPT),
        "tiff of an unknown layout": (tiff_with({277: 2**31}), ErrorCode.CORRUPT),
        # Bombs.
        "png bomb of 50,000 x 50,000": (
            png(50_000, 50_000, 1, 0, png_chunk(b"IDAT", zlib.compress(bytes(6251 * 999)))),
            ErrorCode.TOO_MANY_PIXELS,
        ),
        "bmp bomb": (bmp_claiming(30_000, 30_000), ErrorCode.TOO_MANY_PIXELS),
        "gif bomb": (
            gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:],
            ErrorCode.TOO_MANY_PIXELS,
        ),
        "webp bomb": (webp_claiming(16_000, 16_000), ErrorCode.TOO_MANY_PIXELS),
        "tiff bomb": (tiff_with({256: 2**24}), ErrorCode.TOO_MANY_PIXELS),
        "tiff bomb in its tiles": (
            tiff_with({322: 2**16, 323: 2**16, 324: 256, 325: 64 * 48}),
            ErrorCode.TOO_MANY_PIXELS,
        ),
        "png with bombs for text and profile": (_text_bomb(), Accepted("png", colour=ORANGE)),
        # Sizes.
        "one pixel": (encode(flat(size=(1, 1)), "PNG"), Accepted("png", (1, 1), (), ORANGE)),
        "1 x 5000": (encode(flat(size=(1, 5000)), "PNG"), Accepted("png", (1, 5000), (), ORANGE)),
        "30,000 x 300 jpeg": (
            encode(flat(size=(30_000, 300)), "JPEG", quality=95),
            Accepted("jpeg", (30_000, 300), (), ORANGE),
        ),
        # Modes.
        "jpeg": (orange_jpeg, Accepted("jpeg", colour=ORANGE)),
        "grey jpeg": (
            encode(flat(90, "L"), "JPEG"),
            Accepted("jpeg", colour=(90, 90, 90)),
        ),
        "progressive jpeg": (
            encode(flat(), "JPEG", quality=95, progressive=True),
            Accepted("jpeg", colour=ORANGE),
        ),
        "black and white png": (encode(flat(1, "1"), "PNG"), Accepted("png", colour=WHITE)),
        "grey png": (encode(flat(90, "L"), "PNG"), Accepted("png", colour=(90, 90, 90))),
        "palette png": (encode(flat().quantize(4), "PNG"), Accepted("png", colour=ORANGE)),
        "palette png, half transparent": (
            transparent_palette(b"\x80\x40"),
            Accepted("png", notes=transparent, colour=on_white),
        ),
        "palette png, only unused entries transparent": (
            transparent_palette(b"\xff\0"),
            Accepted("png", colour=ORANGE),
        ),
        "grey png with alpha": (
            encode(flat((0, 0), "LA"), "PNG"),
            Accepted("png", notes=transparent, colour=WHITE),
        ),
        "palette tiff with alpha": (
            encode(flat((*ORANGE, 0), "RGBA").convert("PA"), "TIFF"),
            Accepted("tiff", notes=transparent, colour=WHITE),
        ),
        "half transparent png": (
            encode(half, "PNG"),
            Accepted("png", notes=transparent, colour=on_white),
        ),
        "opaque png with alpha": (
            encode(flat((*ORANGE, 255), "RGBA"), "PNG"),
            Accepted("png", colour=ORANGE),
        ),
        "png with a transparent colour": (
            encode(flat(), "PNG", transparency=ORANGE),
            Accepted("png", notes=transparent, colour=WHITE),
        ),
        "png of 4 bits": (
            png(1, 1, 4, 0, png_chunk(b"IDAT", zlib.compress(b"\0\xf0"))),
            Accepted("png", (1, 1), colour=WHITE),
        ),
        "png with a text named transparency": (
            _text_named_transparency(),
            Accepted("png", colour=ORANGE),
        ),
        "webp": (encode(flat(), "WEBP", quality=95), Accepted("webp", colour=ORANGE)),
        "lossless webp": (
            encode(flat(), "WEBP", lossless=True),
            Accepted("webp", colour=ORANGE),
        ),
        "half transparent webp": (
            encode(half, "WEBP", lossless=True),
            Accepted("webp", notes=transparent, colour=on_white),
        ),
        "transparent gif": (
            encode(flat(0, "P"), "GIF", transparency=0),
            Accepted("gif", notes=transparent, colour=WHITE),
        ),
        "bmp": (encode(flat(), "BMP"), Accepted("bmp", colour=ORANGE)),
        "palette bmp": (encode(flat().quantize(4), "BMP"), Accepted("bmp", colour=ORANGE)),
        "jpeg in a tiff": (
            encode(flat(), "TIFF", compression="jpeg", quality=95),
            Accepted("tiff", colour=ORANGE),
        ),
        "cmyk jpeg": (cmyk, Accepted("jpeg", notes=converted, colour=(255, 0, 0))),
        "cmyk jpeg without adobe's mark": (
            without_segment(cmyk, 0xEE),
            Accepted("jpeg", notes=converted, colour=(255, 0, 0)),
        ),
        "ycck jpeg": (_ycck_jpeg(), Accepted("jpeg", notes=converted, colour=(55, 55, 55))),
        "cmyk tiff": (
            encode(flat((0, 255, 255, 0), "CMYK"), "TIFF"),
            Accepted("tiff", notes=converted, colour=(255, 0, 0)),
        ),
        "grey tiff": (tiff_with({}), Accepted("tiff", colour=(100, 100, 100))),
        # More than 8 bits.
        "grey png of 16 bits": (
            encode(Image.fromarray(np.full((48, 64), 100 * 257, np.uint16)), "PNG"),
            Accepted("png", notes=scaled, colour=(100, 100, 100)),
        ),
        "rgb png of 16 bits": (
            sixteen_bit_rgb_png(),
            Accepted("png", notes=scaled, colour=ORANGE),
        ),
        "grey tiff of 16 bits": (
            _grey_tiff(100 * 257, "uint16"),
            Accepted("tiff", notes=scaled, colour=(100, 100, 100)),
        ),
        "dark grey tiff of 16 bits": (
            _grey_tiff(257, "uint16"),
            Accepted("tiff", notes=scaled, colour=(1, 1, 1)),
        ),
        "grey tiff of 32 bits": (
            _ramp_tiff(2_000_000_000, "int32"),
            Accepted("tiff", notes=scaled, colour=(127, 127, 127)),
        ),
        "grey tiff of floats": (
            _grey_tiff(100 / 255, "float32"),
            Accepted("tiff", notes=scaled, colour=(100, 100, 100)),
        ),
        "grey tiff of floats that are no numbers": (
            _grey_tiff(float("nan"), "float32"),
            Accepted("tiff", notes=scaled, colour=(0, 0, 0)),
        ),
        "avif": (avif, Accepted("avif", size=(160, 120))),
        "avif named jpg": (encode(flat(), "AVIF"), Accepted("avif", colour=ORANGE)),
        "transparent avif": (
            encode(flat((0, 0, 0, 0), "RGBA"), "AVIF"),
            Accepted("avif", notes=(Note.TRANSPARENCY_ON_WHITE,), colour=WHITE),
        ),
        "jpeg without its end mark": (
            orange_jpeg[:-2],
            Accepted("jpeg", notes=(Note.END_MARK_ADDED,), colour=ORANGE),
        ),
        # More than one picture.
        "tiff with a small copy first": (
            tiff_of([tiff_page(flat(WHITE, size=(8, 6)), t254=1), tiff_page(flat())]),
            Accepted("tiff", notes=(Note.FULL_SIZE_PAGE,), colour=ORANGE),
        ),
        "animated avif": (_animation("AVIF"), Accepted("avif", notes=first, colour=ORANGE)),
        "animated gif": (_animation("GIF"), Accepted("gif", notes=first, colour=ORANGE)),
        "animated webp": (
            _animation("WEBP", lossless=True),
            Accepted("webp", notes=first, colour=ORANGE),
        ),
        "animated png": (_animation("PNG"), Accepted("png", notes=first, colour=ORANGE)),
        "tiff of two pages": (_two_pages(), Accepted("tiff", notes=first, colour=ORANGE)),
        "mpo": (_mpo(), Accepted("jpeg")),
        "two jpegs in one file": (
            orange_jpeg + encode(flat((0, 0, 200)), "JPEG"),
            Accepted("jpeg", colour=ORANGE),
        ),
        # Around the picture.
        "jpeg with garbage behind it": (
            orange_jpeg + bytes(range(256)) * 20,
            Accepted("jpeg", colour=ORANGE),
        ),
        "png with garbage behind it": (
            orange_png + b"garbage" * 100,
            Accepted("png", colour=ORANGE),
        ),
        "gif with garbage behind it": (
            encode(flat(), "GIF") + b"," * 100,
            Accepted("gif", colour=ORANGE),
        ),
        "jpeg with broken exif": (
            with_segment(orange_jpeg, 0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xee" * 40),
            Accepted("jpeg", colour=ORANGE),
        ),
        "jpeg with exif of nothing": (
            with_segment(orange_jpeg, 0xE1, b"Exif\0\0"),
            Accepted("jpeg", colour=ORANGE),
        ),
        "jpeg with a huge profile": (
            encode(flat(), "JPEG", quality=95, icc_profile=bytes(5_000_000)),
            Accepted("jpeg", colour=ORANGE),
        ),
        "jpeg with an mpo index of nonsense": (
            with_segment(orange_jpeg, 0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 30),
            Accepted("jpeg", colour=ORANGE),
        ),
    }
    for orientation in range(1, 9):
        size = (64, 48) if orientation < 5 else (48, 64)
        notes = (Note.EXIF_ROTATED,) if orientation > 1 else ()
        for format in ("jpeg", "png", "webp", "tiff", "avif"):
            files[f"{format} of orientation {orientation}"] = (
                turned(orientation, format.upper()),
                Accepted(format, size, notes),
            )
    files["jpeg of orientation 99"] = (turned(99), Accepted("jpeg"))
    return files


ODD_FILES = _made()
