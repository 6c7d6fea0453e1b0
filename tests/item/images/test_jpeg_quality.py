"""The quality of a JPEG, from its quantisation tables."""

from __future__ import annotations

import pytest

from item.images.decode import Decoding, decode
from item.images.jpeg_quality import estimate_jpeg_quality
from tests.support.odd_files import encode, flat, textured

DEFAULT = Decoding()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
def test_jpeg_quality_is_recovered(mode: str, quality: int) -> None:
    data = encode(textured().convert(mode), "JPEG", quality=quality)
    assert decode(data, DEFAULT).jpeg_quality == quality


def test_jpeg_quality_is_recovered_for_all_of_libjpegs_tables() -> None:
    found = [
        decode(encode(flat(), "JPEG", quality=quality), DEFAULT).jpeg_quality
        for quality in range(1, 101)
    ]
    assert found == list(range(1, 101))


def test_jpeg_quality_of_strange_tables() -> None:
    near = [value + 1 for value in [16] * 64]
    assert estimate_jpeg_quality([]) is None
    assert estimate_jpeg_quality([[0] * 64]) is None
    assert estimate_jpeg_quality([[16] * 63]) is None
    assert 1 <= (estimate_jpeg_quality([near]) or 0) <= 100
    assert estimate_jpeg_quality([[60_000] * 64, [60_000] * 64]) == 1


def test_only_jpegs_have_a_jpeg_quality() -> None:
    assert decode(encode(flat(), "PNG"), DEFAULT).jpeg_quality is None
