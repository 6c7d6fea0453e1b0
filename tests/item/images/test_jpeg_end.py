"""A JPEG that lacks nothing but its end mark is a picture; one that lacks more is none."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.JpegImagePlugin import JpegImageFile

from item.images.decode import Decoding, decode
from item.images.errors import ImageError
from item.images.jpeg_end import with_end_mark
from item.tables import ErrorCode, Note
from tests.support.odd_files import encode, flat, textured

FILES = {
    "baseline": encode(textured(200, 150), "JPEG", quality=90),
    "progressive": encode(textured(200, 150), "JPEG", quality=90, progressive=True),
    "grey": encode(textured(200, 150).convert("L"), "JPEG"),
    "cmyk": encode(flat((9, 9, 9, 9), "CMYK"), "JPEG"),
    "one colour": encode(flat(), "JPEG"),
    "ends in zeros": encode(flat((128, 128, 128)), "JPEG"),
    "nothing but zeros": encode(flat((128, 128, 128), size=(640, 480)), "JPEG", optimize=True),
    "restarts": encode(textured(200, 150), "JPEG", restart_marker_rows=1),
    "larger than it is shown": encode(textured(1500, 1100), "JPEG", quality=80),
    "larger, progressive": encode(textured(1500, 1100), "JPEG", progressive=True),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_without_the_end_mark_are_those_of_the_whole_file(name: str) -> None:
    whole = decode(FILES[name], Decoding())
    cut = decode(FILES[name][:-2], Decoding())
    assert np.array_equal(cut.pixels, whole.pixels)
    assert (cut.width, cut.height) == (whole.width, whole.height)
    assert Note.END_MARK_ADDED in cut.notes and Note.END_MARK_ADDED not in whole.notes


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_cut_gives_the_same_pixels_or_is_truncated(name: str, data: st.DataObject) -> None:
    content = FILES[name]
    length = data.draw(st.integers(len(content) // 2, len(content) - 2))
    try:
        cut = decode(content[:length], Decoding())
    except ImageError as error:
        assert error.code is ErrorCode.TRUNCATED
    else:
        assert np.array_equal(cut.pixels, decode(content, Decoding()).pixels)


BOOLEANS = st.booleans()
SMEARED = 2
"""Pixels beside a block that its colours reach, where colour has fewer pixels."""


@st.composite
def jpegs(draw: st.DrawFn, progressive: st.SearchStrategy = BOOLEANS) -> bytes:
    """Small pictures as encoders write them, with and without restart markers."""
    size = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    made = textured(*size) if draw(st.booleans()) else flat((200, 30, 90), size=size)
    options: dict[str, object] = {"quality": draw(st.integers(20, 95))}
    options["progressive"] = draw(progressive)
    if draw(st.booleans()):
        name = draw(st.sampled_from(["restart_marker_blocks", "restart_marker_rows"]))
        options[name] = draw(st.integers(1, 12))
    if draw(st.booleans()):
        return encode(made.convert("L"), "JPEG", **options)
    return encode(made, "JPEG", subsampling=draw(st.sampled_from([0, 1, 2])), **options)


@settings(max_examples=int(os.environ.get("JPEG_EXAMPLES", "150")), deadline=None)
@given(content=jpegs(), data=st.data())
def test_cut_between_restart_intervals_or_anywhere_loses_nothing_in_silence(
    content: bytes, data: st.DataObject
) -> None:
    start = content.index(b"\xff\xda")
    between = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd9]", content[start:])]
    anywhere = st.integers(start, len(content) - 2)
    where = st.sampled_from([start + one for one in between]) | anywhere
    try:
        cut = decode(content[: data.draw(where)], Decoding())
    except ImageError as error:
        assert error.code in (ErrorCode.TRUNCATED, ErrorCode.CORRUPT)
    else:
        assert np.array_equal(cut.pixels, decode(content, Decoding()).pixels)


@settings(max_examples=int(os.environ.get("JPEG_EXAMPLES", "50")), deadline=None)
@given(content=jpegs(progressive=st.just(False)), share=st.floats(0, 1))
def test_cut_with_an_end_mark_loses_at_most_its_last_block(content: bytes, share: float) -> None:
    start = content.index(b"\xff\xda") + 20
    cut = content[: round(start + share * (len(content) - 2 - start))] + b"\xff\xd9"
    try:
        pixels = decode(cut, Decoding()).pixels
    except ImageError as error:
        assert error.code in (ErrorCode.TRUNCATED, ErrorCode.CORRUPT)
    else:
        differs = np.argwhere((pixels != decode(content, Decoding()).pixels).any(axis=2))
        assert not len(differs) or np.all(
            differs.max(axis=0) - differs.min(axis=0) < 16 + 2 * SMEARED
        )


def test_progressive_file_without_its_last_scan_is_truncated() -> None:
    content = FILES["progressive"]
    last = content.rindex(b"\xff\xda")
    before = content.rindex(b"\xff\xc4", 0, last) if b"\xff\xc4" in content[:last] else last
    assert with_end_mark(content[:before], 512) is None
    with pytest.raises(ImageError) as error:
        decode(content[:before], Decoding())
    assert error.value.code is ErrorCode.TRUNCATED


def test_half_a_file_of_one_colour_is_truncated() -> None:
    content = encode(flat(size=(640, 480)), "JPEG")
    start = content.index(b"\xff\xda") + 40
    assert with_end_mark(content[:start], 512) is None
    for filling in (b"", bytes(100_000), b"\xff" * 100_000):
        with pytest.raises(ImageError) as error:
            decode(content[:start] + filling, Decoding())
        assert error.value.code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("end", [b"\xff", bytes(4096), b"\xff" * 512, b"\xff" + bytes(99)])
def test_half_an_end_mark_and_a_filled_block_are_no_loss(name: str, end: bytes) -> None:
    cut = decode(FILES[name][:-2] + end, Decoding())
    assert np.array_equal(cut.pixels, decode(FILES[name], Decoding()).pixels)
    assert Note.END_MARK_ADDED in cut.notes


@pytest.mark.parametrize("name", ["baseline", "grey", "restarts", "larger than it is shown"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_end_mark_behind_half_a_file_makes_it_no_whole_one(name: str, share: float) -> None:
    content = FILES[name]
    start = content.rindex(b"\xff\xda") + 20
    cut = content[: start + int(share * (len(content) - start))].rstrip(b"\xff")
    with pytest.raises(ImageError) as error:
        decode(cut + b"\xff\xd9", Decoding())
    assert error.value.code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_grey_corner_alone_is_no_loss(mode: str, progressive: bool) -> None:
    grey = tuple([128] * len(mode))
    data = encode(flat(grey if mode != "L" else 128, mode), "JPEG", progressive=progressive)
    assert Note.END_MARK_ADDED not in decode(data, Decoding()).notes


@pytest.mark.parametrize("progressive", [False, True])
def test_limits_are_checked_before_any_pixel(
    progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(textured(200, 150), "JPEG", progressive=progressive)[:-2]
    monkeypatch.setattr(JpegImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
    with pytest.raises(ImageError) as error:
        decode(data, Decoding(max_pixels=200 * 150 - 1))
    assert error.value.code is ErrorCode.TOO_MANY_PIXELS


def test_very_many_scans_are_not_tried_again_and_again() -> None:
    content = FILES["progressive"]
    start = content.rindex(b"\xff\xda")
    data = content[:-2] + content[start:-2] * 300
    assert with_end_mark(content[:-2], 512) is not None
    assert with_end_mark(data, 512) is None
