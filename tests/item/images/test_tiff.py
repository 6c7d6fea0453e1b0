"""Which page of a TIFF is the picture, and which TIFFs are cameras' raw files."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.images.decode import Decoding, decode
from item.images.errors import ImageError
from item.images.tiff import directories, full_page, is_camera_raw
from item.tables import ErrorCode, Note
from tests.support.odd_files import ORANGE, flat
from tests.support.tiffs import Page, picture, sensor, tiff_of

BLUE = (20, 40, 200)
FULL = (384, 288)
SMALL = flat(BLUE, size=(96, 72))
WHOLE = flat(ORANGE, size=FULL)

RAW = {
    "nef": [picture(SMALL, [sensor(FULL, compression=34713)], t254=1)],
    "dng": [picture(SMALL, t254=1, t50706=b"\1\4\0\0")],
    "dng of a scanner": [picture(WHOLE, t50706=b"\1\4\0\0")],
    "linear raw": [picture(SMALL, [sensor(FULL, 34892)], t254=1)],
    "arw": [picture(SMALL), sensor(FULL, compression=32767)],
    "sensor first": [sensor(FULL)],
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", RAW)
def test_raw_file_of_a_camera_is_no_picture(name: str, order: str) -> None:
    data = tiff_of(RAW[name], order)
    assert is_camera_raw(data)
    with pytest.raises(ImageError, match="camera's raw file") as error:
        decode(data, Decoding())
    assert error.value.code is ErrorCode.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    "magic", [b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW 0201", b"FOVb"]
)
def test_raw_files_with_a_name_of_their_own_are_known(magic: bytes) -> None:
    with pytest.raises(ImageError) as error:
        decode(magic + bytes(200), Decoding())
    assert error.value.code is ErrorCode.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "pages",
    [
        [picture(SMALL, t254=1), picture(WHOLE)],
        [picture(SMALL, t255=2), picture(WHOLE)],
        [picture(SMALL, [picture(WHOLE)], t254=1)],
        [picture(SMALL, t254=1), picture(flat(size=(99, 99))), picture(WHOLE)],
    ],
)
def test_full_size_page_is_taken_where_the_first_is_a_reduced_copy(
    pages: list[Page], order: str
) -> None:
    image = decode(tiff_of(pages, order), Decoding())
    assert (image.width, image.height) == FULL
    assert Note.FULL_SIZE_PAGE in image.notes
    assert abs(image.pixels.reshape(-1, 3).mean(0) - ORANGE).max() < 3


@pytest.mark.parametrize(
    "pages",
    [
        [picture(WHOLE)],
        [picture(WHOLE), picture(SMALL)],
        [picture(WHOLE, t254=2), picture(flat(BLUE, size=(999, 9)), t254=2)],
        [picture(WHOLE, [picture(SMALL, t254=1)])],
        [picture(WHOLE, t254=1), picture(flat(BLUE, size=(999, 999)), t254=4)],
        [picture(WHOLE, t254=1)],
    ],
)
def test_first_page_is_the_picture_otherwise(pages: list[Page]) -> None:
    data = tiff_of(pages)
    assert full_page(data) is data
    image = decode(data, Decoding())
    assert (image.width, image.height) == FULL and Note.FULL_SIZE_PAGE not in image.notes


def test_size_of_the_page_that_is_taken_is_checked() -> None:
    data = tiff_of([picture(SMALL, t254=1), picture(WHOLE)])
    with pytest.raises(ImageError) as error:
        decode(data, Decoding(max_pixels=384 * 288 - 1))
    assert error.value.code is ErrorCode.TOO_MANY_PIXELS


def test_directories_in_a_circle_or_without_end_are_left() -> None:
    data = bytearray(tiff_of([picture(SMALL), picture(WHOLE)]))
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    data[first + 2 + 12 * count : first + 6 + 12 * count] = struct.pack("<I", first)
    assert len(list(directories(bytes(data)))) == 1
    many = tiff_of([picture(flat(size=(1, 1)), t254=1)] * 1000)
    assert len(list(directories(many))) < 100
    wide = tiff_of([Page({330: tuple(range(8, 8 + 60_000))}, bytes(60_000))])
    started = time.process_time()
    assert len(list(directories(wide))) < 100
    assert time.process_time() - started < 5


def test_offsets_beyond_every_file_are_left() -> None:
    head = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16)
    entry = struct.pack("<HHQQ", 330, 16, 2, 2**64 - 1)
    for entries in (1, 2**63, 2**64 - 1):
        data = head + struct.pack("<Q", entries) + entry + bytes(8)
        assert list(directories(data)) == []
        with pytest.raises(ImageError):
            decode(data, Decoding())


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_changed_directories_give_a_picture_or_a_reason(data: st.DataObject) -> None:
    content = bytearray(
        tiff_of(data.draw(st.sampled_from([[picture(SMALL, t254=1), picture(WHOLE)], RAW["nef"]])))
    )
    places = [*range(8), *range(len(content) - 400, len(content))]
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(content), Decoding())
    except ImageError as error:
        assert error.message
