"""Families are told apart, probabilities mean what they say, and strangers are called unknown."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from item.heads.attribution import UNKNOWN, Attribution, fit_attribution

COLUMNS = 6
CENTRES = {"a": 0, "b": 1, "c": 2, "d": 3}


def pictures(rows: int, seed: int, *names: str) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
    """Rows around a centre of each family."""
    rng = np.random.default_rng(seed)
    families = np.array([names[row % len(names)] for row in range(rows)], object)
    columns = rng.normal(size=(rows, COLUMNS)).astype(np.float32)
    for row, name in enumerate(families):
        columns[row, CENTRES[name]] += 3
    return columns, families


def fitted(*names: str, rejected: float = 0.1) -> Attribution:
    found = fit_attribution(*pictures(600, 0, *names), pictures(400, 1, *names), rejected)
    assert found is not None
    return found


def test_families_are_told_apart_with_probabilities_that_hold() -> None:
    columns, families = pictures(2000, 2, "a", "b", "c")
    names, probabilities = fitted("a", "b", "c", rejected=0.0).of(columns)
    right = names == families
    assert right.mean() > 0.8
    sure = probabilities > np.median(probabilities)
    for part in (sure, ~sure):
        assert right[part].mean() == pytest.approx(probabilities[part].mean(), abs=0.06)


@pytest.mark.parametrize("rejected", [0.0, 0.1, 0.5])
def test_the_asked_share_of_known_families_is_called_unknown(rejected: float) -> None:
    attribution = fitted("a", "b", "c", rejected=rejected)
    assert attribution.known.rejected == pytest.approx(rejected, abs=0.02)
    names, _ = attribution.of(pictures(2000, 3, "a", "b", "c")[0])
    assert (names == UNKNOWN).mean() == pytest.approx(rejected, abs=0.06)


def test_a_stranger_is_called_unknown_more_often() -> None:
    attribution = fitted("a", "b", "c")
    known, _ = attribution.of(pictures(500, 4, "a", "b", "c")[0])
    strange, _ = attribution.of(pictures(500, 4, "d")[0])
    assert (strange == UNKNOWN).mean() > 2 * (known == UNKNOWN).mean()
    assert set(attribution.known.open_set_auroc) == {"a", "b", "c"}
    assert min(attribution.known.open_set_auroc.values()) > 0.6


def test_two_families_are_told_apart_too() -> None:
    columns, families = pictures(500, 5, "a", "b")
    names, _ = fitted("a", "b", rejected=0.0).of(columns)
    assert (names == families).mean() > 0.9
    assert fitted("a", "b").known.open_set_auroc == {}


def test_families_with_few_pictures_are_not_learned() -> None:
    columns, families = pictures(600, 0, "a", "b")
    families[:20] = "rare"
    found = fit_attribution(columns, families, pictures(400, 1, "a", "b"), 0.1)
    assert found is not None and found.known.families == ("a", "b")
    assert fit_attribution(*pictures(600, 0, "a"), pictures(400, 1, "a"), 0.1) is None
    assert fit_attribution(*pictures(600, 0, "a", "b"), pictures(20, 1, "a", "b"), 0.1) is None


def test_rows_beside_a_row_change_nothing_and_no_rows_are_none() -> None:
    attribution = fitted("a", "b", "c")
    columns, _ = pictures(40, 6, "a", "b", "c", "d")
    together = attribution.of(columns)
    alone = [attribution.of(columns[[row]]) for row in range(len(columns))]
    assert together[0].tolist() == [names[0] for names, _ in alone]
    np.testing.assert_allclose(together[1], [values[0] for _, values in alone], rtol=1e-9)
    assert attribution.of(columns[:0])[0].shape == (0,)


def test_progress_hears_of_every_training() -> None:
    said: list[tuple[int, int]] = []
    sides = pictures(600, 0, "a", "b", "c"), pictures(400, 1, "a", "b", "c")
    fit_attribution(*sides[0], sides[1], 0.1, lambda done, total: said.append((done, total)))
    assert said == [(1, 4), (2, 4), (3, 4), (4, 4)]
