"""The equations, by hand and by the laws that hold for all embeddings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from item.misalignment import (
    centre,
    fit_regression,
    global_misalignment,
    global_similarity,
    image_similarities,
    local_misalignment,
    local_similarities,
    pooled_similarities,
    unexplained,
    ungrounded_fraction,
)

POOLED = ("min", "mean", "max", "std", "count")


def unit(rng, *shape):
    rows = rng.standard_normal(shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def padded_objects(rng, images, objects, dimensions):
    """Crops, phrases, named and grounded, with NaN wherever an object is not grounded."""
    named = rng.random((images, objects)) < 0.7
    grounded = named & (rng.random((images, objects)) < 0.7)
    crops = unit(rng, images, objects, dimensions)
    crops[~grounded] = np.nan
    return crops, unit(rng, images, objects, dimensions), named, grounded


def pooled_columns(similarities, grounded):
    pooled = pooled_similarities(similarities, grounded)
    return np.stack([getattr(pooled, name) for name in POOLED], axis=1)


generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
sizes = st.integers(1, 6)


# By hand: in the plane, (0.6, 0.8) and (1, 0) have cosine 0.6.


def test_global_similarity_is_the_dot_product():
    assert global_similarity([[0.6, 0.8], [0, 1]], [[1, 0], [0, -1]]) == pytest.approx([0.6, -1])


def test_global_misalignment_is_image_minus_caption():
    difference = global_misalignment([[0.6, 0.8]], [[1, 0]])
    np.testing.assert_allclose(difference, [[-0.4, 0.8]], atol=1e-6)


def test_local_similarities_pair_each_crop_with_its_own_phrase():
    crops, phrases = [[[0.6, 0.8], [1, 0]]], [[[1, 0], [0, 1]]]
    np.testing.assert_allclose(local_similarities(crops, phrases), [[0.6, 0]], atol=1e-6)


def test_image_similarities_compare_the_image_with_every_phrase():
    similarities = image_similarities([[0.6, 0.8]], [[[1, 0], [0, 1], [-1, 0]]])
    np.testing.assert_allclose(similarities, [[0.6, 0.8, -0.6]], atol=1e-6)


def test_local_misalignment_averages_grounded_objects_only():
    crops = [[[1, 0], [0, 1], [-1, 0]]]
    phrases = [[[0, 1], [0, 1], [1, 0]]]
    mean = local_misalignment(crops, phrases, np.array([[True, True, False]]))
    np.testing.assert_allclose(mean, [[0.5, -0.5]])


def test_pooled_similarities_by_hand():
    pooled = pooled_similarities([[0.2, 0.4, 0.9]], np.array([[True, True, False]]))
    found = [pooled.min[0], pooled.mean[0], pooled.max[0], pooled.std[0], pooled.count[0]]
    assert found == pytest.approx([0.2, 0.3, 0.4, 0.1, 2])


def test_ungrounded_fraction_counts_named_objects_only():
    named = np.array([[True, True, True, False], [False] * 4])
    grounded = np.array([[True, False, False, False], [False] * 4])
    assert ungrounded_fraction(named, grounded) == pytest.approx([2 / 3, 0])


def test_centre_subtracts_the_mean_and_renormalises():
    np.testing.assert_allclose(
        centre([[1, 0], [0, 1]], [0.5, 0]), [[1, 0], [-0.4472136, 0.8944272]]
    )


def test_what_a_caption_explains_is_taken_off():
    rng = np.random.default_rng(0)
    captions, rest = unit(rng, 400, 6), 0.1 * unit(rng, 400, 6)
    turn = rng.standard_normal((6, 6))
    pictures = captions @ turn + 3 + rest
    regression = fit_regression(pictures[:300], captions[:300], penalty=1e-6)
    left = unexplained(pictures[300:], captions[300:], regression)
    np.testing.assert_allclose(left, rest[300:], atol=0.03)
    # The plain difference keeps what the caption explains.
    assert np.abs(pictures[300:] - captions[300:]).mean() > 10 * np.abs(left).mean()


def test_an_overwhelming_penalty_leaves_the_mean_as_expectation():
    rng = np.random.default_rng(1)
    captions, pictures = unit(rng, 50, 4), unit(rng, 50, 4)
    left = unexplained(pictures, captions, fit_regression(pictures, captions, penalty=1e12))
    np.testing.assert_allclose(left, pictures - pictures.mean(axis=0), atol=1e-6)


def test_centre_turns_the_mean_itself_into_zeros():
    np.testing.assert_array_equal(centre([[0.6, 0.8]], np.float32([0.6, 0.8])), [[0, 0]])


@pytest.mark.parametrize("objects", [0, 3])
def test_no_grounded_object_gives_zeros(objects):
    nothing = np.full((2, objects, 4), np.nan)
    grounded = np.zeros((2, objects), bool)
    np.testing.assert_array_equal(local_misalignment(nothing, nothing, grounded), np.zeros((2, 4)))
    np.testing.assert_array_equal(pooled_columns(nothing[..., 0], grounded), np.zeros((2, 5)))
    np.testing.assert_array_equal(ungrounded_fraction(grounded, grounded), [0, 0])


def test_half_precision_tables_are_computed_in_single_precision():
    half = np.float16([[0.6, 0.8]])
    single = half.astype(np.float32)
    for equation in (global_similarity, global_misalignment):
        assert equation(half, half[:, ::-1]).dtype == np.float32
        np.testing.assert_array_equal(
            equation(half, half[:, ::-1]), equation(single, single[:, ::-1])
        )


# Laws.


@given(generators, sizes, sizes)
def test_identical_embeddings_are_perfectly_aligned(rng, images, dimensions):
    same = unit(rng, images, dimensions)
    np.testing.assert_allclose(global_similarity(same, same), 1, atol=1e-6)
    np.testing.assert_array_equal(global_misalignment(same, same), 0)


@given(generators, sizes, sizes, sizes)
def test_identical_objects_are_perfectly_aligned(rng, images, objects, dimensions):
    same = unit(rng, images, objects, dimensions)
    grounded = rng.random((images, objects)) < 0.5
    np.testing.assert_allclose(local_similarities(same, same), 1, atol=1e-6)
    np.testing.assert_array_equal(local_misalignment(same, same, grounded), 0)


@given(generators, sizes, sizes)
def test_square_of_global_misalignment_is_two_minus_twice_the_similarity(rng, images, dimensions):
    v, u = unit(rng, images, dimensions), unit(rng, images, dimensions)
    square = np.square(global_misalignment(v, u)).sum(axis=1)
    np.testing.assert_allclose(square, 2 - 2 * global_similarity(v, u), atol=1e-5)


@given(generators, sizes, sizes, sizes)
def test_object_order_changes_nothing(rng, images, objects, dimensions):
    crops, phrases, named, grounded = padded_objects(rng, images, objects, dimensions)
    order = rng.permutation(objects)
    np.testing.assert_allclose(
        local_misalignment(crops[:, order], phrases[:, order], grounded[:, order]),
        local_misalignment(crops, phrases, grounded),
        atol=1e-6,
    )
    similarities = local_similarities(crops, phrases)
    np.testing.assert_allclose(
        pooled_columns(similarities[:, order], grounded[:, order]),
        pooled_columns(similarities, grounded),
        atol=1e-6,
    )
    np.testing.assert_array_equal(
        ungrounded_fraction(named[:, order], grounded[:, order]),
        ungrounded_fraction(named, grounded),
    )


@given(generators, sizes, sizes)
def test_what_is_unexplained_of_an_image_needs_no_other_image(rng, images, dimensions):
    pictures, captions = unit(rng, images, dimensions), unit(rng, images, dimensions)
    regression = fit_regression(pictures, captions)
    together = unexplained(pictures, captions, regression)
    alone = [unexplained(pictures[[n]], captions[[n]], regression)[0] for n in range(images)]
    np.testing.assert_array_equal(together, np.array(alone))


@given(generators, sizes, sizes, sizes)
def test_each_image_is_computed_by_itself(rng, images, objects, dimensions):
    v, u = unit(rng, images, dimensions), unit(rng, images, dimensions)
    crops, phrases, named, grounded = padded_objects(rng, images, objects, dimensions)
    similarities = rng.random((images, objects))
    order = rng.permutation(images)
    for equation, arrays in [
        (global_similarity, (v, u)),
        (global_misalignment, (v, u)),
        (local_similarities, (crops, phrases)),
        (image_similarities, (v, phrases)),
        (local_misalignment, (crops, phrases, grounded)),
        (pooled_columns, (similarities, grounded)),
        (ungrounded_fraction, (named, grounded)),
    ]:
        permuted = equation(*(array[order] for array in arrays))
        np.testing.assert_allclose(permuted, equation(*arrays)[order], atol=1e-6)


@given(generators, sizes, sizes, sizes, sizes)
def test_more_padding_changes_nothing(rng, images, objects, dimensions, more):
    crops, phrases, named, grounded = padded_objects(rng, images, objects, dimensions)
    wider = [(0, 0), (0, more)]
    mask = np.pad(grounded, wider)
    wide_crops = np.pad(crops, [*wider, (0, 0)], constant_values=np.nan)
    wide_phrases = np.pad(phrases, [*wider, (0, 0)], constant_values=7)
    np.testing.assert_allclose(
        local_misalignment(wide_crops, wide_phrases, mask),
        local_misalignment(crops, phrases, grounded),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        pooled_columns(local_similarities(wide_crops, wide_phrases), mask),
        pooled_columns(local_similarities(crops, phrases), grounded),
        atol=1e-6,
    )
    np.testing.assert_array_equal(
        ungrounded_fraction(np.pad(named, wider), mask), ungrounded_fraction(named, grounded)
    )


@given(generators, sizes, sizes, sizes)
def test_everything_stays_within_its_bounds(rng, images, objects, dimensions):
    crops, phrases, named, grounded = padded_objects(rng, images, objects, dimensions)
    pooled = pooled_similarities(local_similarities(crops, phrases), grounded)
    assert np.all(pooled.min <= pooled.mean) and np.all(pooled.mean <= pooled.max)
    assert np.all(np.abs([pooled.min, pooled.max]) <= 1 + 1e-6)
    assert np.all(pooled.std >= 0) and np.all(pooled.std <= 1 + 1e-6)
    lengths = np.linalg.norm(local_misalignment(crops, phrases, grounded), axis=1)
    assert np.all(lengths <= 2 + 1e-6)
    fraction = ungrounded_fraction(named, grounded)
    assert np.all(fraction >= 0) and np.all(fraction <= 1)


@given(generators, sizes, st.integers(2, 6))
def test_centred_embeddings_are_unit_rows(rng, images, dimensions):
    centred = centre(unit(rng, images, dimensions), 0.5 * unit(rng, dimensions))
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), 1, atol=1e-5)
