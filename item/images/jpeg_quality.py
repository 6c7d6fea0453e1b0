"""The quality that a JPEG was saved with, estimated from its quantisation tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL.JpegImagePlugin import JpegImageFile

# fmt: off
_LUMA = np.array([
    16, 11, 10, 16,  24,  40,  51,  61,
    12, 12, 14, 19,  26,  58,  60,  55,
    14, 13, 16, 24,  40,  57,  69,  56,
    14, 17, 22, 29,  51,  87,  80,  62,
    18, 22, 37, 56,  68, 109, 103,  77,
    24, 35, 55, 64,  81, 104, 113,  92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103,  99,
])
_CHROMA = np.array([
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
])
# fmt: on
_QUALITIES = np.arange(1, 101)
_PERCENT = np.where(_QUALITIES < 50, 5000 // _QUALITIES, 200 - 2 * _QUALITIES)
_STANDARD_TABLES = np.clip(
    (np.stack([_LUMA, _CHROMA]) * _PERCENT[:, None, None] + 50) // 100, 1, 255
)


def estimate_jpeg_quality(tables: Sequence[ArrayLike]) -> float | None:
    """Quality setting under which libjpeg would have made the nearest tables.

    libjpeg (``jpeg_quality_scaling`` and ``jpeg_add_quant_table`` in ``jcparam.c``) turns
    a quality q into a percentage, 5000 // q below 50 and 200 - 2 q from there on, and
    multiplies the example tables of ITU-T T.81, Annex K.1 by it, rounded and kept within
    1 and 255. This compares with the outcome for every q and returns the one with the
    smallest sum of absolute differences: exact for the tables of libjpeg and its kin,
    a likeness for others.

    Parameters
    ----------
    tables : up to two arrays of 64
        The luma and, if there is another, the chroma table, row by row (not in zigzag).

    Returns
    -------
    float from 1 to 100, or None if there is no table of 64 positive entries.
    """
    given = [np.asarray(table, dtype=np.int64).ravel() for table in tables[:2]]
    if not given or any(table.shape != (64,) or table.min() < 1 for table in given):
        return None
    standard = _STANDARD_TABLES[:, : len(given)]
    distances = np.abs(standard - np.stack(given)).sum(axis=(1, 2))
    return float(_QUALITIES[distances.argmin()])


def jpeg_quality_of(file: JpegImageFile) -> float | None:
    """Estimated quality (1 to 100) of a JPEG that Pillow has opened; None if it has no tables."""
    slots = [component[3] for component in file.layer[:2]]
    tables = [file.quantization[slot] for slot in dict.fromkeys(slots) if slot in file.quantization]
    return estimate_jpeg_quality(tables)
