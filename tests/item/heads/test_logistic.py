"""Logistic heads agree with scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from item.heads.logistic import fit_logistic
from item.heads.settings import HeadSettings

RNG = np.random.default_rng(0)
COLUMNS = RNG.normal(size=(200, 6)).astype(np.float32)
LABELS = (COLUMNS[:, 0] + COLUMNS[:, 4] + RNG.normal(size=200) > 0).astype(int)
WEIGHTS = RNG.uniform(0.5, 2, size=200)
LOCAL = np.arange(6) >= 3
SETTINGS = HeadSettings(kind="logistic", logistic_c=0.5)


def test_logits_are_those_of_two_regressions() -> None:
    of_image, whole = fit_logistic(COLUMNS, LABELS, WEIGHTS, SETTINGS, LOCAL).logits(COLUMNS)
    for found, columns in ((of_image, COLUMNS[:, ~LOCAL]), (whole, COLUMNS)):
        model = LogisticRegression(C=0.5, max_iter=2000).fit(columns, LABELS, WEIGHTS)
        assert np.allclose(found, model.decision_function(columns), atol=1e-5)


def test_no_global_columns_give_no_global_logit() -> None:
    model = fit_logistic(COLUMNS, LABELS, WEIGHTS, SETTINGS, np.ones(6, bool))
    of_image, whole = model.logits(COLUMNS)
    assert np.isnan(of_image).all()
    assert np.isfinite(whole).all()
