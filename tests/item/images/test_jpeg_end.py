"""A JPEG that lacks nothing but its end mark is a picture; one that lacks more is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.images.decode import Decoding, decode
from item.images.errors import ImageError
from item.images.jpeg_end import lacks_only_its_end
from item.tables import ErrorCode, Note
from tests.support.odd_files import encode, flat, textured

FILES = {
    "baseline": encode(textured(200, 150), "JPEG", quality=90),
    "progressive": encode(textured(200, 150), "JPEG", quality=90, progressive=True),
    "grey": encode(textured(200, 150).convert("L"), "JPEG"),
    "cmyk": encode(flat((9, 9, 9, 9), "CMYK"), "JPEG"),
    "one colour": encode(flat(), "JPEG"),
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


def test_progressive_file_without_its_last_scan_is_truncated() -> None:
    content = FILES["progressive"]
    last = content.rindex(b"\xff\xda")
    before = content.rindex(b"\xff\xc4", 0, last) if b"\xff\xc4" in content[:last] else last
    assert not lacks_only_its_end(content[:before], 512)
    with pytest.raises(ImageError) as error:
        decode(content[:before], Decoding())
    assert error.value.code is ErrorCode.TRUNCATED


def test_half_a_file_of_one_colour_is_truncated() -> None:
    content = encode(flat(size=(640, 480)), "JPEG")
    start = content.index(b"\xff\xda") + 40
    assert not lacks_only_its_end(content[:start], 512)
