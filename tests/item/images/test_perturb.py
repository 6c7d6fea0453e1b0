"""Each perturbation does what its name says, and nothing else."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from item.errors import UsageError
from item.images.decode import Decoding, decode
from item.images.errors import ImageError
from item.images.jpeg_quality import estimate_jpeg_quality
from item.images.perturb import STANDARD, STEPS, Perturbation
from item.tables import ErrorCode
from tests.support.odd_files import ODD_FILES, encode, flat, quadrants, textured, turned
from tests.support.photographs import photograph

WIDE = Decoding(max_side=10_000)
PHOTOGRAPH = encode(photograph("astronaut"), "PNG")
REFUSED = [name for name in ODD_FILES if isinstance(ODD_FILES[name][1], ErrorCode)]

pytestmark = pytest.mark.timeout(60)


def applied(name: str, data: bytes = PHOTOGRAPH) -> bytes:
    return Perturbation.parse(name).apply(data)


def pixels(data: bytes) -> NDArray[np.float64]:
    return decode(data, WIDE).pixels.astype(np.float64)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


# Names


@given(st.lists(st.sampled_from(STEPS), max_size=5))
def test_chain_is_the_one_that_its_name_parses_to(steps: list[str]) -> None:
    chain = Perturbation(tuple(steps))
    assert Perturbation.parse(str(chain)) == chain
    assert str(chain) == ("+".join(steps) or "none")


@pytest.mark.parametrize(
    "name",
    [
        *("", "jpeg", "jpeg-74", "jpeg-075", "JPEG-75", "blur-1.0", "jpeg-75 ", "rotate-90"),
        *("none+jpeg-75", "+", "jpeg-75+", "jpeg-75++blur-1", "jpeg-75,blur-1", "blur-1\nb"),
    ],
)
def test_bad_name_is_refused_in_a_sentence_with_what_is_allowed(name: str) -> None:
    with pytest.raises(UsageError, match=r"^There is no perturbation step '") as refusal:
        Perturbation.parse(name)
    sentence = str(refusal.value)
    assert "\n" not in sentence and sentence.endswith("noise-10.")
    assert all(step in sentence for step in (*STEPS, "none"))


def test_standard_names_are_distinct_perturbations_in_the_order_of_the_report() -> None:
    assert len(set(STANDARD)) == len(STANDARD)
    assert STANDARD[:3] == ("jpeg-95", "jpeg-90", "jpeg-75")
    assert all(Perturbation.parse(name).steps for name in STANDARD)


# Which file


def test_none_gives_the_same_bytes() -> None:
    assert applied("none") is PHOTOGRAPH
    assert Perturbation.parse("none").format is None


@pytest.mark.parametrize("name", [*STANDARD, "jpeg-75+blur-1", "webp-80+jpeg-50"])
def test_file_is_of_the_last_step_and_changed(name: str) -> None:
    last = name.split("+")[-1].split("-")[0]
    expected = {"jpeg": "JPEG", "webp": "WEBP"}.get(last, "PNG")
    file = applied(name)
    assert opened(file).format == Perturbation.parse(name).format == expected
    assert file != PHOTOGRAPH


@pytest.mark.parametrize("name", [*STANDARD, "noise-5+noise-10", "noise-5+webp-80+crop-0.8"])
def test_same_bytes_give_the_same_bytes(name: str) -> None:
    assert applied(name) == applied(name)


# Codecs


@pytest.mark.parametrize(
    ("quality", "luma", "chroma"), [(95, 2, 2), (90, 3, 3), (75, 8, 9), (50, 16, 17), (30, 27, 28)]
)
@pytest.mark.parametrize("before", ["", "resize-0.5+", "jpeg-30+", "webp-80+noise-5+"])
def test_jpeg_has_the_quality_that_was_asked(
    quality: int, luma: int, chroma: int, before: str
) -> None:
    """First steps of the tables: Annex K.1's 16 and 17, scaled as libjpeg does."""
    file = applied(f"{before}jpeg-{quality}")
    jpeg = opened(file)
    assert isinstance(jpeg, JpegImagePlugin.JpegImageFile)
    tables = [jpeg.quantization[0], jpeg.quantization[1]]
    assert [table[0] for table in tables] == [luma, chroma]
    assert estimate_jpeg_quality(tables) == decode(file, WIDE).jpeg_quality == quality
    reference = opened(encode(flat(), "JPEG", quality=quality))
    assert jpeg.quantization == reference.quantization  # type: ignore[attr-defined]


def test_jpeg_halves_the_colours_as_the_web_does() -> None:
    chroma_at_half_size = 2
    for quality in ("95", "30"):
        jpeg = opened(applied(f"jpeg-{quality}"))
        assert JpegImagePlugin.get_sampling(jpeg) == chroma_at_half_size


def test_lower_quality_is_further_from_the_picture() -> None:
    names = ["jpeg-95", "jpeg-90", "jpeg-75", "jpeg-50", "jpeg-30"]
    errors = [np.abs(pixels(applied(name)) - pixels(PHOTOGRAPH)).mean() for name in names]
    assert errors == sorted(errors) and errors[0] > 0.1


def test_webp_is_lossy_and_of_quality_80() -> None:
    file = applied("webp-80")
    assert file[12:16] == b"VP8 "
    assert file == encode(photograph("astronaut"), "WEBP", quality=80)


def test_codec_inside_a_chain_leaves_its_marks() -> None:
    once = pixels(applied("jpeg-30"))
    np.testing.assert_array_equal(pixels(applied("jpeg-30+crop-0.5")), middle(once, 0.5))


def middle(picture: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    height, width = (round(side * share) for side in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


# Blur


def test_blur_has_the_deviation_that_was_asked() -> None:
    """A white point becomes a bell: its spread is the deviation, its sum stays."""
    point = np.zeros((41, 41, 3), np.uint8)
    point[19:22, 19:22] = 255
    for sigma in (1, 2, 4):
        bell = pixels(applied(f"blur-{sigma}", encode(Image.fromarray(point), "PNG")))[..., 0]
        across = bell.sum(axis=0) / bell.sum()
        spread = (across * (np.arange(41) - 20) ** 2).sum()
        assert spread == pytest.approx(sigma**2 + 2 / 3, rel=0.15)


def test_more_blur_leaves_less_of_high_frequencies_and_the_same_light() -> None:
    names = ["none", "blur-1", "blur-2", "blur-4"]
    found = [pixels(applied(name)) for name in names]
    sharpness = [np.abs(np.diff(picture, axis=1)).mean() for picture in found]
    assert all(after < 0.75 * before for before, after in itertools.pairwise(sharpness))
    assert [picture.mean() for picture in found] == pytest.approx([found[0].mean()] * 4, abs=1)


# Size


@pytest.mark.parametrize("share", [0.75, 0.5, 0.25])
def test_resized_picture_stays_small_and_looks_the_same(share: float) -> None:
    file = applied(f"resize-{share}", encode(textured(163, 121), "PNG"))
    assert opened(file).size == (round(163 * share), round(121 * share))
    expected = textured(163, 121).resize(opened(file).size, Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pixels(file), np.array(expected))


@pytest.mark.parametrize("share", [0.9, 0.8, 0.5])
def test_crop_is_the_untouched_middle(share: float) -> None:
    whole = encode(textured(163, 121), "PNG")
    np.testing.assert_array_equal(
        pixels(applied(f"crop-{share}", whole)), middle(pixels(whole), share)
    )


def test_steps_follow_one_another_in_the_order_of_the_name() -> None:
    first, other = applied("crop-0.5+blur-4"), applied("blur-4+crop-0.5")
    assert opened(first).size == opened(other).size
    assert first != other
    assert first == applied("blur-4", applied("crop-0.5"))
    assert other == applied("crop-0.5", applied("blur-4"))
    assert applied("blur-4+crop-0.5+jpeg-75") == applied("jpeg-75", other)
    assert applied("crop-0.5+blur-4+jpeg-75") == applied("jpeg-75", first)


def test_large_picture_is_not_shrunk_on_the_way() -> None:
    data = encode(flat(size=(2000, 30)), "JPEG")
    assert opened(Perturbation.parse("crop-0.9").apply(data, Decoding(max_side=64))).width == 1800


@pytest.mark.parametrize("name", STANDARD)
def test_one_pixel_is_enough(name: str) -> None:
    assert opened(applied(name, encode(flat(size=(1, 1)), "PNG"))).size == (1, 1)


# Noise


@pytest.mark.parametrize("level", [5, 10])
def test_noise_has_the_level_that_was_asked(level: int) -> None:
    grey = encode(flat((128, 128, 128), size=(300, 200)), "PNG")
    noise = pixels(applied(f"noise-{level}", grey)) - 128
    assert noise.std() == pytest.approx(level, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.1)
    channels = np.corrcoef(noise.reshape(-1, 3).T)
    assert np.abs(channels - np.eye(3)).max() < 0.02


def test_noise_stays_within_black_and_white() -> None:
    black = pixels(applied("noise-10", encode(flat((0, 0, 0), size=(200, 100)), "PNG")))
    assert 0 < (black == 0).mean() < 0.6 and black.max() < 60


def test_noise_differs_from_file_to_file_and_from_step_to_step() -> None:
    def noise(name: str, **options: int) -> NDArray[np.float64]:
        grey = encode(flat((128, 128, 128), size=(300, 200)), "PNG", **options)
        return pixels(applied(name, grey)) - 128

    first, other = noise("noise-5"), noise("noise-5", compress_level=1)
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.02
    assert noise("noise-5+noise-5").std() == pytest.approx(5 * 2**0.5, rel=0.02)


# Odd and hostile files


@pytest.mark.parametrize("name", REFUSED)
def test_undecodable_file_stays_as_it_is(name: str) -> None:
    data = ODD_FILES[name][0]
    assert applied("noise-5+jpeg-75", data) is data


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_no_bytes_crash_it(data: bytes) -> None:
    assert applied("resize-0.5+jpeg-75", data) == data


@pytest.mark.parametrize("name", sorted(set(ODD_FILES) - set(REFUSED)))
def test_accepted_file_stays_decodable(name: str) -> None:
    data = ODD_FILES[name][0]
    before, after = decode(data, WIDE), decode(applied("blur-1", data), WIDE)
    assert (after.width, after.height, after.format) == (before.width, before.height, "png")


def test_picture_is_upright_and_says_nothing_of_turning() -> None:
    for orientation in (1, 3, 6):
        file = applied("crop-0.9", turned(orientation))
        assert not opened(file).getexif()
        np.testing.assert_allclose(pixels(file), middle(pixels(turned(orientation)), 0.9), atol=0)


@pytest.mark.parametrize(
    ("name", "size", "longest"),
    [("jpeg-75", (65_501, 1), 65_500), ("webp-80", (1, 16_384), 16_383)],
)
def test_picture_too_long_for_its_format_is_an_image_error(
    name: str, size: tuple[int, int], longest: int
) -> None:
    fits = (min(size[0], longest), min(size[1], longest))
    assert opened(applied(name, encode(flat(size=fits), "PNG"))).size == fits
    for chain in (name, f"{name}+resize-0.5"):
        with pytest.raises(ImageError, match=f"{size[0]} x {size[1]} .* {name}") as error:
            applied(chain, encode(flat(size=size), "PNG"))
        assert error.value.code == ErrorCode.TOO_MANY_PIXELS


def test_file_that_grows_past_the_limit_is_an_image_error() -> None:
    data = encode(quadrants(), "PNG")
    limited = Decoding(max_bytes=1000)
    assert Perturbation.parse("crop-0.9").apply(data, limited)
    with pytest.raises(ImageError, match=r"bytes after noise-10, .* 1000") as error:
        Perturbation.parse("noise-10").apply(data, limited)
    assert error.value.code == ErrorCode.TOO_MANY_BYTES


def test_formats_that_are_not_decoded_stay_as_they_are() -> None:
    data = encode(flat(), "JPEG")
    assert Perturbation.parse("jpeg-50+blur-1").apply(data, Decoding(formats=("PNG",))) is data
    assert applied("jpeg-50+blur-1", data) != data


def test_chain_may_pass_through_a_format_that_is_not_decoded() -> None:
    only = Decoding(formats=("PNG",))
    assert opened(Perturbation.parse("jpeg-50+blur-1").apply(PHOTOGRAPH, only)).format == "PNG"
