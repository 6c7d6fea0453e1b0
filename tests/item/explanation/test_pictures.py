"""Pictures for people: boxes where they belong, words that are read, hostile text or not."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from item.explanation.pictures import (
    LEAST_SIDE,
    LINE,
    OTHERS,
    WEAKEST,
    annotate,
    drawable,
    thumbnail,
)
from item.explanation.sentences import NamedObject
from item.images.decode import Decoding
from item.images.errors import ImageError
from item.tables import ErrorCode
from tests.support.odd_files import ODD_FILES, encode, flat
from tests.support.photographs import photograph

SIZE = (2000, 1600)
"""Of the file whose picture is 1000 x 800 here."""


def picture(shade: int) -> NDArray[np.uint8]:
    return np.full((800, 1000, 3), shade, np.uint8)


def named(
    phrase: str = "dog",
    box: tuple[float, float, float, float] | None = (400, 400, 1200, 1200),
    grounded: bool = True,
) -> NamedObject:
    return NamedObject(phrase, box, 0.25, grounded)


def drawn(
    *objects: NamedObject, weakest: NamedObject | None = None, shade: int = 0
) -> NDArray[np.uint8]:
    return np.array(annotate(picture(shade), objects, weakest, SIZE))


def coloured(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[int, ...] | None:
    """x0, y0, x1, y1 of the pixels of a colour in the picture, without the legend."""
    y, x = np.nonzero((pixels[:800] == colour).all(axis=2))
    return (x.min(), y.min(), x.max(), y.max()) if len(x) else None


def test_box_is_scaled_to_the_picture() -> None:
    found = coloured(drawn(named()), OTHERS)
    assert found == pytest.approx((200, 200, 600, 600), abs=2)


def test_small_picture_is_enlarged_with_its_boxes() -> None:
    small = np.zeros((80, 100, 3), np.uint8)
    shown = annotate(small, [named()], None, SIZE)
    assert shown.width == LEAST_SIDE
    found = coloured(np.array(shown)[:512], OTHERS)
    assert found == pytest.approx((128, 128, 384, 384), abs=2)


def test_weakest_has_its_own_colour_above_the_others() -> None:
    weak, other = named("dog"), named("red dog")
    pixels = drawn(weak, other, weakest=weak)
    assert coloured(pixels, WEAKEST) == pytest.approx((200, 200, 600, 600), abs=2)
    assert coloured(drawn(weak, other), WEAKEST) is None
    assert pixels[599, 400].tolist() == list(WEAKEST)


def test_object_that_was_not_found_has_a_line_and_no_box() -> None:
    pixels = drawn(named(grounded=False))
    assert not pixels[:800].any()
    assert pixels[800:].any()
    assert len(pixels) > 800 + LINE


def test_picture_without_objects_is_left_as_it_is() -> None:
    assert (drawn(shade=77) == picture(77)).all()


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_frames_and_labels_are_seen_on_any_shade(shade: int) -> None:
    pixels = drawn(named(), shade=shade).astype(int)
    # From outside to inside, across the left side of the box: black, the colour, the picture.
    across = pixels[590, 195:210].sum(axis=1)
    assert across.min() == 0
    assert sum(OTHERS) in across
    # The label: the colour on black.
    label = pixels[200 : 200 + LINE, 203:250].reshape(-1, 3)
    assert (label == 0).all(axis=1).sum() > 100
    assert (label == OTHERS).all(axis=1).sum() > 10


def test_labels_of_one_place_do_not_cover_each_other() -> None:
    one = drawn(named("dog"))
    two = drawn(named("dog"), named("dog"))
    left, right = 203, 280
    assert (two[200 : 200 + LINE, left:right] == one[200 : 200 + LINE, left:right]).all()
    assert (two[200 + LINE : 200 + 2 * LINE, left:right] != 0).any()


BOXES = st.none() | st.tuples(*[st.floats() | st.floats(-10, 3000)] * 4)
NAMED = st.builds(NamedObject, st.text(), BOXES, st.none() | st.floats(), st.booleans())


@settings(max_examples=60)
@given(
    st.lists(NAMED, max_size=4),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
)
def test_any_text_and_any_box_is_drawn(
    objects: list[NamedObject], shape: tuple[int, int], size: tuple[int, int]
) -> None:
    pixels = np.zeros((*shape, 3), np.uint8)
    shown = annotate(pixels, objects, objects[0] if objects else None, size)
    assert shown.mode == "RGB"
    assert max(shown.size) >= LEAST_SIDE


def test_any_number_of_objects_has_a_bounded_legend() -> None:
    assert len(drawn(*[named(str(number)) for number in range(1000)])) < 1200


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("brown dog", "brown dog"),
        ("café", "cafe"),
        ("cafe\u0301", "cafe"),
        ("猫 dog", "? dog"),
        ("a\nb\x00\ud800\u202e", "a?b???"),
        ("x" * 200, "x" * 39 + "…"),
    ],
)
def test_text_is_one_line_of_letters_that_the_font_has(text: str, shown: str) -> None:
    assert drawable(text) == shown


# Thumbnails


def opened(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data), formats=["JPEG"])


def test_thumbnail_is_a_small_upright_jpeg_without_metadata() -> None:
    picture = photograph("rocket").resize((1200, 800))
    exif = picture.getexif()
    exif[0x0112] = 6
    exif[0x010E] = "where the photographer lives"
    small = opened(thumbnail(encode(picture, "JPEG", exif=exif), Decoding()))
    assert small.size == (213, 320)
    assert not small.getexif()


def test_thumbnail_of_a_small_picture_keeps_its_size() -> None:
    small = opened(
        thumbnail(encode(flat((200, 30, 30), size=(40, 30)), "PNG"), Decoding(), side=64)
    )
    assert small.size == (40, 30)
    assert small.getpixel((20, 15)) == pytest.approx((200, 30, 30), abs=4)


@pytest.mark.parametrize("name", [name for name, (_, out) in ODD_FILES.items()])
def test_odd_files_have_a_thumbnail_or_a_reason(name: str) -> None:
    data, expected = ODD_FILES[name]
    if not isinstance(expected, ErrorCode):
        assert max(opened(thumbnail(data, Decoding())).size) <= 320
        return
    with pytest.raises(ImageError) as caught:
        thumbnail(data, Decoding())
    assert caught.value.code == expected
