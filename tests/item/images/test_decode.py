"""Bytes into pixels, whatever the bytes are."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import AvifImagePlugin
from PIL import Image as PillowImage
from pydantic import ValidationError

from item.images.decode import Decoding, Image, decode, image_id, squash
from item.images.errors import ImageError
from item.tables import ErrorCode, Note
from tests.support.odd_files import (
    ODD_FILES,
    ORANGE,
    Accepted,
    encode,
    flat,
    quadrants,
    textured,
    turned,
)

DEFAULT = Decoding()
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: np.swapaxes(stored, 0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(np.swapaxes(stored, 0, 1), 2),
    8: np.rot90,
}
"""How the stored pixels are turned for each EXIF orientation."""

WHOLE_FILES = [
    encode(textured(60, 44), "JPEG"),
    encode(textured(60, 44), "JPEG", progressive=True),
    encode(textured(60, 44), "PNG"),
    encode(textured(60, 44), "WEBP"),
    encode(textured(60, 44), "GIF"),
    encode(textured(60, 44), "BMP"),
    encode(textured(60, 44), "TIFF"),
    encode(textured(60, 44), "TIFF", compression="tiff_lzw"),
    encode(textured(60, 44), "TIFF", big_tiff=True),
    encode(textured(60, 44), "AVIF"),
    turned(6),
    turned(6, "PNG"),
    encode(flat((9, 9, 9, 9), "CMYK"), "JPEG"),
    *(ODD_FILES[f"animated {format}"][0] for format in ("gif", "webp", "png", "avif")),
]


def outcome(data: bytes, decoding: Decoding = DEFAULT) -> Image | ErrorCode:
    try:
        return decode(data, decoding)
    except ImageError as error:
        return error.code


@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_file_gives_what_is_expected_of_it(name: str) -> None:
    data, expected = ODD_FILES[name]
    found = outcome(data)
    if isinstance(expected, ErrorCode) or isinstance(found, ErrorCode):
        assert found == expected
        return
    assert Accepted(found.format, (found.width, found.height), found.notes) == Accepted(
        expected.format, expected.size, expected.notes
    )
    assert found.pixels.dtype == np.uint8
    assert found.pixels.ndim == 3
    assert found.pixels.shape[2] == 3
    assert max(found.pixels.shape) <= max(DEFAULT.max_side, 3)
    if expected.colour is not None:
        assert np.abs(found.pixels.mean(axis=(0, 1)) - expected.colour).max() <= 3


def test_corpus_covers_every_reason_and_every_note() -> None:
    expected = [expectation for _, expectation in ODD_FILES.values()]
    codes = {code for code in expected if isinstance(code, ErrorCode)}
    notes = {note for file in expected if isinstance(file, Accepted) for note in file.notes}
    assert len(ODD_FILES) >= 40
    assert codes == {
        ErrorCode.EMPTY_FILE,
        ErrorCode.NOT_AN_IMAGE,
        ErrorCode.UNSUPPORTED_FORMAT,
        ErrorCode.TRUNCATED,
        ErrorCode.CORRUPT,
        ErrorCode.TOO_MANY_PIXELS,
    }
    assert notes == set(Note)


def test_odd_files_leave_no_trace_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for data, _ in ODD_FILES.values():
            outcome(data)
    assert [str(warning.message) for warning in caught] == []
    assert capfd.readouterr() == ("", "")


def test_warnings_made_errors_change_no_outcome() -> None:
    data, expected = ODD_FILES["jpeg with broken exif"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = outcome(data)
    assert isinstance(found, Image)
    assert isinstance(expected, Accepted)


def test_pillow_settings_of_the_process_stay_as_they_were() -> None:
    before = PillowImage.MAX_IMAGE_PIXELS
    for name in ("png bomb of 50,000 x 50,000", "30,000 x 300 jpeg"):
        outcome(ODD_FILES[name][0], Decoding(max_pixels=10**9))
    assert before == PillowImage.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_is_turned_upright(format: str, orientation: int) -> None:
    image = decode(turned(orientation, format), DEFAULT)
    upright = UPRIGHT[orientation](np.asarray(quadrants()))
    assert image.pixels.shape == upright.shape
    # WebP and JPEG blur the colours where the quarters meet.
    assert np.abs(image.pixels.astype(int) - upright).mean() < 12


def test_turned_picture_is_shrunk_as_it_is_shown() -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    image = decode(encode(textured(1600, 400), "JPEG", exif=exif), Decoding(max_side=100))
    assert (image.width, image.height) == (400, 1600)
    assert image.pixels.shape == (100, 25, 3)


def test_shrunk_jpeg_looks_like_the_full_picture() -> None:
    full = textured(1600, 1200)
    image = decode(encode(full, "JPEG", quality=95), Decoding(max_side=200))
    fair = np.asarray(full.resize((200, 150), PillowImage.Resampling.LANCZOS), int)
    assert np.abs(image.pixels - fair).mean() < 3


def test_deep_grey_keeps_its_steps() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    data = encode(PillowImage.fromarray(np.tile(ramp, (4, 1))), "TIFF")
    grey = decode(data, DEFAULT).pixels[0, :, 0]
    np.testing.assert_array_equal(grey, np.arange(256))


def test_small_picture_is_not_enlarged() -> None:
    assert decode(encode(flat(size=(7, 5)), "PNG"), DEFAULT).pixels.shape == (5, 7, 3)


def test_same_bytes_give_same_pixels() -> None:
    data = encode(textured(900, 700), "JPEG")
    np.testing.assert_array_equal(decode(data, DEFAULT).pixels, decode(data, DEFAULT).pixels)


def test_file_over_the_byte_limit_is_rejected_and_one_at_it_is_not() -> None:
    data = encode(flat(), "PNG")
    assert outcome(data, Decoding(max_bytes=len(data) - 1)) == ErrorCode.TOO_MANY_BYTES
    assert isinstance(outcome(data, Decoding(max_bytes=len(data))), Image)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_picture_over_the_pixel_limit_is_rejected_and_one_at_it_is_not(format: str) -> None:
    data = encode(flat(), format)
    assert outcome(data, Decoding(max_pixels=64 * 48 - 1)) == ErrorCode.TOO_MANY_PIXELS
    assert isinstance(outcome(data, Decoding(max_pixels=64 * 48)), Image)


def test_format_left_out_of_the_profile_is_unsupported() -> None:
    data = encode(flat(), "GIF")
    assert outcome(data, Decoding(formats=("JPEG",))) == ErrorCode.UNSUPPORTED_FORMAT


def test_pillow_without_avif_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(ImageError, match="Pillow was built without") as error:
        decode(ODD_FILES["avif"][0], DEFAULT)
    assert error.value.code is ErrorCode.UNSUPPORTED_FORMAT


def test_brands_are_read_within_their_box() -> None:
    boxes = b"\0\0\0\x10ftypheic\0\0\0\0" + b"\0\0\0\x0cfreeavif"
    assert outcome(boxes) == ErrorCode.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    "wrong", [{"formats": ("EPS",)}, {"formats": ()}, {"max_side": 0}, {"max_sides": 9}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Decoding.model_validate(wrong)


def test_error_names_the_particulars_and_survives_pickling() -> None:
    with pytest.raises(ImageError) as raised:
        decode(ODD_FILES["bmp bomb"][0], DEFAULT)
    assert "30000 x 30000" in str(raised.value)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (copy.code, copy.message) == (raised.value.code, raised.value.message)


def test_image_id_is_the_sha256_of_the_bytes() -> None:
    assert image_id(b"abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")


@given(st.binary(max_size=300), st.sampled_from([b"", *{data[:12] for data in WHOLE_FILES}]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_decode_or_raise_an_image_error(data: bytes, start: bytes) -> None:
    outcome(start + data)


@given(st.sampled_from(WHOLE_FILES), st.floats(0, 1, exclude_max=True))
@settings(max_examples=300, deadline=None)
def test_any_beginning_of_a_file_decodes_or_is_cut_off(data: bytes, share: float) -> None:
    found = outcome(data[: int(share * len(data))])
    assert isinstance(found, Image) or found in {
        ErrorCode.EMPTY_FILE,
        ErrorCode.NOT_AN_IMAGE,
        ErrorCode.TRUNCATED,
    }


@given(
    st.sampled_from(WHOLE_FILES),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
)
@settings(max_examples=400, deadline=None)
def test_changed_bytes_decode_or_raise_an_image_error(
    data: bytes, changes: list[tuple[float, int]]
) -> None:
    changed = bytearray(data)
    for share, value in changes:
        # Squared, to change headers more often than pixels.
        changed[int(share**2 * len(data))] = value
    outcome(bytes(changed), Decoding(max_pixels=1_000_000))


@given(
    st.sampled_from(["JPEG", "PNG"]),
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 300),
)
@settings(max_examples=60, deadline=None)
def test_picture_is_bounded_and_keeps_its_shape(
    format: str, width: int, height: int, max_side: int
) -> None:
    image = decode(encode(flat(size=(width, height)), format), Decoding(max_side=max_side))
    bounded_height, bounded_width, _ = image.pixels.shape
    assert (image.width, image.height) == (width, height)
    assert max(bounded_width, bounded_height) == min(max_side, max(width, height))
    scale = min(1, max_side / max(width, height))
    assert abs(bounded_width - width * scale) <= 0.5 or bounded_width == 1
    assert abs(bounded_height - height * scale) <= 0.5 or bounded_height == 1
    assert np.abs(image.pixels.astype(int) - ORANGE).max() <= 6


def test_squash_ignores_the_aspect_ratio() -> None:
    square = squash(np.asarray(quadrants(64, 16)), 32)
    assert square.shape == (32, 32, 3)
    np.testing.assert_array_equal(square[4, 4], (255, 0, 0))
    np.testing.assert_array_equal(square[28, 28], (255, 255, 255))
