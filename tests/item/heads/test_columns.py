"""What a head looks at: each group by its formula, and statistics of training rows alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from item.errors import UsageError
from item.heads.columns import (
    EMBEDDINGS,
    FeatureArrays,
    Group,
    Level,
    Statistics,
    columns_of,
    features,
    fit_statistics,
    local_columns,
    raw_features,
    widths,
)
from item.misalignment import centre
from tests.item.heads.examples import DIMENSIONS, LAYERS, features_table, labelled

EVERY = tuple(Group)


def plain(arrays: FeatureArrays, *groups: Group) -> np.ndarray:
    labels = np.arange(len(arrays)) % 2
    return raw_features(arrays, groups, fit_statistics(arrays, labels, groups, False))


def test_groups_are_what_they_are_called() -> None:
    arrays, _ = labelled(50)
    v, u, p = arrays.image, arrays.caption, arrays.parts
    np.testing.assert_array_equal(plain(arrays, Group.IMAGE), v)
    np.testing.assert_array_equal(plain(arrays, Group.CAPTION, Group.PARTS), np.hstack([u, p]))
    np.testing.assert_array_equal(plain(arrays, Group.GLOBAL_MISALIGNMENT), v - u)
    np.testing.assert_array_equal(plain(arrays, Group.GLOBAL_PRODUCT), v * u)
    assert plain(arrays, Group.GLOBAL_SIMILARITY).shape == (50, 1)


def test_caption_is_taken_from_image_and_misalignment() -> None:
    table = features_table(20)
    arrays = FeatureArrays.of(table)
    difference = np.array(table["global_misalignment"].to_pylist(), np.float32)
    np.testing.assert_allclose(arrays.image - arrays.caption, difference, atol=1e-6)


def test_layers_keep_their_proportions() -> None:
    arrays, labels = labelled(50)
    np.testing.assert_array_equal(plain(arrays, Group.LAYERS), arrays.layers)
    stretched = replace(arrays, layers=arrays.layers * np.array([4, 2, 1], np.float32))
    for whitened in (False, True):
        statistics = fit_statistics(stretched, labels, (Group.LAYERS,), False, whitened)
        columns = features(stretched, (Group.LAYERS,), statistics)
        ratio = columns.std(axis=0) / stretched.layers.std(axis=0)
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
        assert np.square(columns).mean() == pytest.approx(1, rel=1e-3)


def test_tables_from_before_there_were_layers_are_read() -> None:
    table = features_table(20).drop_columns(["layers"])
    arrays = FeatureArrays.of(table)
    assert arrays.layers.shape == (20, 0) and arrays.complete().all()
    assert columns_of(table.column_names) == columns_of(features_table(1).column_names)[:-1]


def test_rows_without_the_layers_that_the_others_have_are_not_complete() -> None:
    layers = [[0.0, 1.0, 2.0]] * 3 + [None]
    assert FeatureArrays.of(features_table(4, layers=layers)).complete().tolist() == [True] * 3 + [
        False
    ]
    nothing = FeatureArrays.of(features_table(4, layers=[None] * 4), layers=3)
    assert not nothing.complete().any()


def test_pictures_without_a_grounded_object_say_so() -> None:
    arrays, _ = labelled(30)
    some = plain(arrays, Group.LOCAL_SIMILARITIES)[:, -1]
    assert some.tolist() == [float(row % 3 > 0) for row in range(30)]


def test_shortcut_sees_the_file_alone() -> None:
    arrays = FeatureArrays.of(features_table(4, format=["jpeg", "png", "webp", None]))
    columns = plain(arrays, Group.SHORTCUT)
    assert columns.shape == (4, 9)
    np.testing.assert_array_equal(
        columns[:, 5:8], np.eye(3, dtype=np.float32)[[0, 1, 2, 0]] * [[1], [1], [1], [0]]
    )
    assert columns[0, 0] == pytest.approx(np.log(64))
    assert columns[0, 3] == pytest.approx(np.log(1000 / 64 / 48))


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_columns_stand_as_widths_say(centred: bool, whitened: bool) -> None:
    arrays, labels = labelled(60)
    statistics = fit_statistics(arrays, labels, EVERY, centred, whitened)
    columns = features(arrays, EVERY, statistics)
    assert columns.shape == (60, sum(widths(EVERY, DIMENSIONS, LAYERS)))
    assert np.isfinite(columns).all() and columns.dtype == np.float32
    again = Statistics.from_tensors(statistics.tensors())
    np.testing.assert_array_equal(features(arrays, EVERY, again), columns)


def test_local_columns_are_those_of_parts_and_objects() -> None:
    groups = (Group.LOCAL_SIMILARITIES, Group.IMAGE, Group.PARTS)
    local = local_columns(groups, 4, 3)
    assert local.tolist() == [True] * 7 + [False] * 4 + [True] * 4
    assert {group for group in Group if group.level == Level.LOCAL} == {
        *(Group.PARTS, Group.LOCAL_RESIDUAL, Group.LOCAL_MISALIGNMENT, Group.LOCAL_SIMILARITIES)
    }


def test_standardised_columns_have_mean_zero_and_deviation_one() -> None:
    arrays, labels = labelled(200)
    groups = (Group.IMAGE, Group.GLOBAL_SIMILARITY)
    columns = features(arrays, groups, fit_statistics(arrays, labels, groups, False))
    np.testing.assert_allclose(columns.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(columns.std(axis=0), 1, atol=1e-4)


def test_whitening_evens_out_what_photographs_differ_in() -> None:
    arrays, labels = labelled(2000)
    stretched = FeatureArrays(**{**vars(arrays), "image": arrays.image * np.linspace(1, 5, 8)})
    groups = (Group.IMAGE,)
    columns = features(stretched, groups, fit_statistics(stretched, labels, groups, False, True))
    variance = np.linalg.eigvalsh(np.cov(columns[labels == 0].T))
    before = np.linalg.eigvalsh(np.cov(stretched.image[labels == 0].T))
    assert before.max() / before.min() > 10
    assert variance.max() < 1 and variance.max() / variance.min() < before.max() / before.min() / 2


def test_residuals_are_regressed_on_real_rows_alone() -> None:
    arrays, labels = labelled(100)
    groups = (Group.GLOBAL_RESIDUAL, Group.LOCAL_RESIDUAL)
    statistics = fit_statistics(arrays, labels, groups, False)
    changed = arrays.caption.copy()
    changed[labels == 1] += 1
    other = fit_statistics(
        FeatureArrays(**{**vars(arrays), "caption": changed}), labels, groups, False
    )
    np.testing.assert_array_equal(other.global_regression, statistics.global_regression)
    np.testing.assert_array_equal(other.local_regression, statistics.local_regression)
    real = raw_features(arrays, groups, statistics)[labels == 0]
    np.testing.assert_allclose(real.mean(axis=0), 0, atol=1e-5)


def test_centring_uses_the_means_of_the_training_rows() -> None:
    arrays, labels = labelled(100)
    groups = (Group.GLOBAL_MISALIGNMENT,)
    statistics = fit_statistics(arrays, labels, groups, centred=True)
    expected = centre(arrays.image, arrays.image.mean(0)) - centre(
        arrays.caption, arrays.caption.mean(0)
    )
    np.testing.assert_allclose(raw_features(arrays, groups, statistics), expected, atol=1e-6)


def test_rows_with_numbers_that_are_not_finite_are_found() -> None:
    parts = np.array(features_table(4)["parts_embedding"].to_pylist())
    parts[2, 3] = np.nan
    arrays = FeatureArrays.of(features_table(4, parts_embedding=parts))
    assert arrays.complete().tolist() == [True, True, False, True]


def test_take_and_concat_undo_each_other() -> None:
    arrays, _ = labelled(30)
    rows = np.arange(30)
    both = FeatureArrays.concat([arrays.take(rows < 10), arrays.take(rows[10:])])
    for name, array in vars(arrays).items():
        np.testing.assert_array_equal(getattr(both, name), array)


def test_features_of_a_row_do_not_depend_on_the_rows_beside_it() -> None:
    arrays, labels = labelled(90)
    statistics = fit_statistics(arrays, labels, EVERY, True, True)
    together = features(arrays, EVERY, statistics)
    for row in (0, 41, 89):
        alone = features(arrays.take(np.array([row])), EVERY, statistics)
        np.testing.assert_allclose(alone[0], together[row], rtol=0, atol=1e-6)


LISTS = {
    "lists of float16": pa.list_(pa.float16()),
    "fixed-size lists, as they were once written": pa.list_(pa.float16(), DIMENSIONS),
    "large lists of float32, as polars writes them": pa.large_list(pa.float32()),
    "lists of float64": pa.list_(pa.float64()),
}


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("missing", [[], [1], [0, 1, 3], [0, 1, 2, 3]])
def test_embeddings_are_read_from_lists_of_any_kind(kind: pa.DataType, missing: list[int]) -> None:
    table = features_table(4)
    expected = FeatureArrays.of(table)
    values = [None if row in missing else one for row, one in enumerate(embeddings(table))]
    place = table.column_names.index("image_embedding")
    column = pa.chunked_array([pa.array(values[:2], kind), pa.array(values[2:], kind)])
    arrays = FeatureArrays.of(table.set_column(place, "image_embedding", column))
    kept = np.setdiff1d(np.arange(4), missing)
    np.testing.assert_array_equal(arrays.image[kept], expected.image[kept])
    assert np.isnan(arrays.image[missing]).all()
    assert arrays.complete().nonzero()[0].tolist() == kept.tolist()


@pytest.mark.parametrize("row", [0, 2])
def test_an_embedding_of_other_dimensions_is_refused(row: int) -> None:
    table = features_table(4)
    values = embeddings(table)
    values[row] = [0.5] * 3
    place = table.column_names.index("parts_embedding")
    column = pa.array(values, pa.list_(pa.float16()))
    table = table.set_column(place, "parts_embedding", column)
    with pytest.raises(UsageError, match=r"a vector of 3 dimensions among .* 8 dimensions"):
        FeatureArrays.of(table)
    with pytest.raises(UsageError, match=r"a vector of 8 dimensions among .* 4 dimensions"):
        FeatureArrays.of(features_table(4), dimensions=4)


def test_rows_without_any_embedding_have_the_dimensions_that_are_asked_for() -> None:
    nothing = dict.fromkeys(EMBEDDINGS, [None] * 3)
    table = features_table(3, **nothing)
    assert FeatureArrays.of(table, 5).image.shape == (3, 5)
    assert FeatureArrays.of(table).image.shape == (3, 0)
    assert not FeatureArrays.of(table, 5).complete().any()


def embeddings(table: pa.Table) -> list[list[float]]:
    """The image embeddings of a table as numbers of Python."""
    return [list(map(float, one)) for one in table["image_embedding"].to_pylist()]
