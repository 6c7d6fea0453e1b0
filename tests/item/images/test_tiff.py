"""Which page of a TIFF is the picture, and which TIFFs are cameras' raw files."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.images.decode import Decoding, decode
from item.images.errors import ImageError
from item.images.tiff import camera_raw, directories, full_page
from item.tables import ErrorCode, Note
from tests.support.odd_files import ORANGE, flat
from tests.support.tiffs import Page, picture, sensor, tiff_of

BLUE = (20, 40, 200)
FULL = (384, 288)
SMALL = flat(BLUE, size=(96, 72))
WHOLE = flat(ORANGE, size=FULL)

RAW = {
    "nef": [picture(SMALL, [sensor(FULL, compression=34713)], t254=1, t271=b"NIKON CORPORATION\0")],
    "pef": [picture(SMALL, t271=b"PENTAX\0"), sensor(FULL, compression=65535)],
    "srw": [picture(SMALL, [sensor(FULL)], t254=1, t271=b"SAMSUNG\0")],
    "dng": [picture(SMALL, t254=1, t50706=b"\1\4\0\0")],
    "dng of a scanner": [picture(WHOLE, t50706=b"\1\4\0\0")],
    "linear raw": [picture(SMALL, [sensor(FULL, 34892)], t254=1)],
    "arw": [picture(SMALL, t271=b"SONY\0"), sensor(FULL, compression=32767)],
    "sensor first": [sensor(FULL)],
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", RAW)
def test_raw_file_of_a_camera_is_no_picture(name: str, order: str) -> None:
    data = tiff_of(RAW[name], order)
    kind = name[:3].upper() if name[:3] in ("nef", "pef", "srw", "dng", "arw") else ""
    assert camera_raw(data) == kind
    with pytest.raises(ImageError, match="camera's raw file") as error:
        decode(data, Decoding())
    assert error.value.code is ErrorCode.UNSUPPORTED_FORMAT
    assert (f"({kind})" in error.value.message) == bool(kind)


@pytest.mark.parametrize(
    ("magic", "kind"),
    [
        (b"IIRO", "ORF"),
        (b"IIRS", "ORF"),
        (b"MMOR", "ORF"),
        (b"IIU\0", "RW2"),
        (b"FUJIFILMCCD-RAW 0201", "RAF"),
        (b"FOVb", "X3F"),
        (b"\0MRM", "MRW"),
        (b"II*\0\x10\0\0\0CR\2\0", "CR2"),
        (b"II\x1a\0\0\0HEAPCCDR", "CRW"),
        (b"II*\0\x08\0\0\0IIII", "IIQ"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "CR3"),
    ],
)
def test_raw_files_with_a_name_of_their_own_are_known(magic: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=rf"camera's raw file \({kind}\)") as error:
        decode(magic + bytes(200), Decoding())
    assert error.value.code is ErrorCode.UNSUPPORTED_FORMAT


def test_maker_of_a_scanner_or_camera_alone_makes_no_raw_file() -> None:
    data = tiff_of([picture(WHOLE, t271=b"NIKON CORPORATION\0")])
    assert camera_raw(data) is None
    assert (decode(data, Decoding()).width, decode(data, Decoding()).height) == FULL


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


@pytest.mark.parametrize("order", ["<", ">"])
def test_big_tiffs_have_directories_too(order: str) -> None:
    data = tiff_of([picture(SMALL, t254=1), picture(WHOLE)], order, big=True)
    assert [page.area for page in directories(full_page(data)).pages] == [384 * 288]
    if order == "<":  # Pillow reads no others
        image = decode(data, Decoding())
        assert (image.width, image.height) == FULL and Note.FULL_SIZE_PAGE in image.notes
    assert camera_raw(tiff_of(RAW["nef"], order, big=True)) == "NEF"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_reduced_copy_without_its_full_page_is_truncated(order: str, big: bool) -> None:
    first = picture(SMALL, t254=1)
    below = tiff_of([picture(SMALL, t254=1, t330=10_000_000)], order, big)
    start = len(tiff_of([first], order, big))
    chain = tiff_of([first, picture(WHOLE)], order, big)
    second = chain.index(WHOLE.tobytes()) + len(WHOLE.tobytes())
    for data in (below, chain[: start - 1], chain[:start], chain[: start + 5000], chain[:second]):
        with pytest.raises(ImageError, match="ends before its full-size page") as error:
            decode(data, Decoding())
        assert error.value.code is ErrorCode.TRUNCATED


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
    assert len(directories(bytes(data)).pages) == 1
    many = tiff_of([picture(flat(size=(1, 1)), t254=1)] * 1000)
    assert len(directories(many).pages) < 100
    wide = tiff_of([Page({330: tuple(range(8, 8 + 60_000))}, bytes(60_000))])
    started = time.process_time()
    assert len(directories(wide).pages) < 100
    assert time.process_time() - started < 5


def test_offsets_beyond_every_file_are_left() -> None:
    head = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16)
    entry = struct.pack("<HHQQ", 330, 16, 2, 2**64 - 1)
    for entries in (1, 2**63, 2**64 - 1):
        data = head + struct.pack("<Q", entries) + entry + bytes(8)
        assert directories(data).cut
        assert not any(page.tags.get(330) for page in directories(data).pages)
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
