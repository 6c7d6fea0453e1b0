"""What a file is, by its first bytes."""

from __future__ import annotations

import re

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"IIRO", "ORF"),
    (b"IIRS", "ORF"),
    (b"MMOR", "ORF"),
    (b"IIU\0", "RW2"),
    (b"II\x1a\0\0\0HEAPCCDR", "CRW"),
    (b"FUJIFILMCCD-RAW", "RAF"),
    (b"FOVb", "X3F"),
    (b"\0MRM", "MRW"),
    (b"8BPS", "PSD"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"icns", "ICNS"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc", "JPEG XR"),
    (b"DDS ", "DDS"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"qoif", "QOI"),
    (b"gimp xcf", "XCF"),
    (b"\x8aMNG\r\n\x1a\n", "MNG"),
    (b"\x1a\x45\xdf\xa3", "WebM"),
)
CAMERA_RAW = frozenset({"CR2", "CR3", "CRW", "IIQ", "MRW", "ORF", "RAF", "RW2", "X3F"})
"""Cameras' raw files that their first bytes tell; others are TIFFs."""
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)


def format_name(data: bytes) -> str | None:
    """Name of the format that the first bytes announce, decoded here or not."""
    if data[:4] == b"II*\0" and data[8:10] == b"CR":
        return "CR2"
    if data[:4] in (b"II*\0", b"MM\0*") and data[8:12] == data[:1] * 4:
        return "IIQ"
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if re.match(rb"P[1-7]\s", data):
        return "PNM"
    if data[4:8] == b"ftyp" and len(data) >= 12:  # else which of many formats is not said
        brands = data[8 : min(72, max(12, int.from_bytes(data[:4], "big")))]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if re.match(rb"hei[cxms]|hev[cxms]|mif1|msf1", brands):
            return "HEIC"
        return "CR3" if brands.startswith(b"crx ") else "MP4"
    text = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<?xml", b"<!--", b"<!doctype svg", b"<svg")) and b"<svg" in text:
        return "SVG"
    return None
