"""Boosted trees: two models, stopped in time, written as text without a machine's name."""

from __future__ import annotations

import lightgbm
import numpy as np

from item.heads.boosting import BoostingModel, fit_boosting, grow
from item.heads.settings import Boosting, HeadSettings

RNG = np.random.default_rng(0)
COLUMNS = RNG.normal(size=(600, 5)).astype(np.float32)
LABELS = (COLUMNS[:, 0] + COLUMNS[:, 3] + RNG.normal(size=600) > 0).astype(int)
ROWS = (COLUMNS[:400], LABELS[:400], np.ones(400))
HELD_OUT = (COLUMNS[400:], LABELS[400:], np.ones(200))
LOCAL = np.arange(5) >= 3
SETTINGS = HeadSettings(kind="lightgbm", boosting=Boosting(rounds=60, patience=5))


def trees(text: str) -> int:
    return lightgbm.Booster(model_str=text).num_trees()


def test_global_model_sees_global_columns_alone() -> None:
    model = fit_boosting(ROWS, SETTINGS, LOCAL, HELD_OUT)
    changed = COLUMNS + LOCAL * 3
    assert np.array_equal(model.logits(COLUMNS)[0], model.logits(changed)[0])
    assert not np.array_equal(model.logits(COLUMNS)[1], model.logits(changed)[1])


def test_no_global_columns_give_no_global_logit() -> None:
    model = fit_boosting(ROWS, SETTINGS, np.ones(5, bool), None)
    assert list(model.texts()) == ["model.txt"]
    assert np.isnan(model.logits(COLUMNS)[0]).all()


def test_growth_stops_when_the_validation_stops_rising() -> None:
    assert trees(grow(ROWS, SETTINGS)) == 60
    assert 0 < trees(grow(ROWS, SETTINGS, HELD_OUT)) < 60


def test_growth_goes_on_from_a_model() -> None:
    short = SETTINGS.model_copy(update={"boosting": Boosting(rounds=10)})
    grown = grow(ROWS, SETTINGS, grown=grow(ROWS, short))
    assert trees(grown) == 60


def test_text_round_trip_without_parameters() -> None:
    model = fit_boosting(ROWS, SETTINGS, LOCAL, None)
    texts = model.texts()
    again = BoostingModel(texts["model.txt"], texts["global_model.txt"], LOCAL)
    assert np.array_equal(model.logits(COLUMNS), again.logits(COLUMNS))
    assert not any("machines" in text for text in texts.values())
