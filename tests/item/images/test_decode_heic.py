"""HEIC with the extra that decodes it, and what is said without it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from pydantic import ValidationError

from item.images import decode as module
from item.images.decode import Decoding, decode
from item.images.errors import ImageError
from item.tables import ErrorCode, Note
from tests.support.odd_files import ORANGE, flat, quadrants

NAME_ONLY = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.fixture(scope="module")
def decoding() -> Decoding:
    pytest.importorskip("pillow_heif")
    return Decoding(formats=("JPEG", "HEIC"))


def heic(image: PillowImage.Image, *more: PillowImage.Image, **options: object) -> bytes:
    from pillow_heif import from_pillow

    file = from_pillow(image)
    for other in more:
        file.add_from_pillow(other)
    buffer = io.BytesIO()
    file.save(buffer, quality=90, **options)
    return buffer.getvalue()


def reason(data: bytes, decoding: Decoding) -> ErrorCode:
    with pytest.raises(ImageError) as error:
        decode(data, decoding)
    return error.value.code


def test_settings_that_name_heic_are_refused_without_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValidationError, match=r"pip install 'item-audit\[heif\]'"):
        Decoding(formats=("JPEG", "HEIC"))


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"mif1", b"msf1"])
def test_reason_says_how_to_switch_heic_on(brand: bytes) -> None:
    with pytest.raises(ImageError) as error:
        decode(NAME_ONLY.replace(b"ftypheic", b"ftyp" + brand), Decoding())
    assert error.value.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "profile.decoding.formats" in error.value.message
    assert "pip install 'item-audit[heif]'" in error.value.message


def test_heic_is_decoded_with_the_extra(decoding: Decoding) -> None:
    image = decode(heic(flat(size=(640, 480))), Decoding(formats=("HEIC",), max_side=64))
    assert (image.format, image.width, image.height) == ("heic", 640, 480)
    assert image.pixels.shape == (48, 64, 3)
    assert np.abs(image.pixels.astype(int) - ORANGE).max() < 4


def test_transparent_heic_is_laid_on_white(decoding: Decoding) -> None:
    image = decode(heic(flat((0, 0, 0, 0), "RGBA")), decoding)
    assert image.notes == (Note.TRANSPARENCY_ON_WHITE,)
    assert image.pixels.min() > 250


def test_first_of_several_pictures_is_taken(decoding: Decoding) -> None:
    image = decode(heic(flat(), flat((20, 40, 200))), decoding)
    assert image.notes == (Note.FIRST_FRAME,)
    assert np.abs(image.pixels.astype(int) - ORANGE).max() < 4


def test_turned_heic_is_turned_once(decoding: Decoding) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    upright = np.rot90(np.asarray(quadrants()), -1)
    image = decode(heic(quadrants(), exif=exif.tobytes()), decoding)
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels.astype(int) - upright).mean() < 12


def test_size_is_checked_before_any_pixel(decoding: Decoding) -> None:
    small = decoding.model_copy(update={"max_pixels": 64 * 48 - 1})
    assert reason(heic(flat()), small) is ErrorCode.TOO_MANY_PIXELS


def test_heic_that_ends_early_is_truncated(decoding: Decoding) -> None:
    data = heic(quadrants())
    for length in (len(data) // 2, len(data) - 1):
        assert reason(data[:length], decoding) is ErrorCode.TRUNCATED
    assert reason(NAME_ONLY, decoding) is ErrorCode.TRUNCATED


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_changed_bytes_give_a_picture_or_a_reason(decoding: Decoding, data: st.DataObject) -> None:
    content = bytearray(heic(quadrants()))
    for place in data.draw(
        st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8), label="places"
    ):
        content[place] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(content), decoding)
    except ImageError as error:
        assert error.message
