"""Fitted pictures have their size, and are left alone when they come again."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.images.fit import Squash, is_fitted
from item.layers import CentreCrop
from item.models.open_clip.preprocessing import OpenClipFit, Preprocessing
from item.models.processor_fit import ProcessorFit

FITS = [
    Squash(16),
    CentreCrop(16),
    ProcessorFit(16, 24, "bicubic"),
    ProcessorFit(16, 24, "bilinear"),
    *(
        OpenClipFit(Preprocessing(resize_mode=mode), *size)
        for mode in ("shortest", "longest", "squash")
        for size in ((16, 16), (16, 24))
    ),
]
PICTURES = st.builds(
    lambda height, width, seed: np.random.default_rng(seed).integers(
        0, 256, (height, width, 3), np.uint8
    ),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 99),
)


@pytest.mark.parametrize("fit", FITS, ids=repr)
@settings(max_examples=25, deadline=None)
@given(PICTURES)
def test_a_picture_is_fitted_once_and_then_stays(fit, picture):
    once = fit(picture)
    assert once.shape == (fit.height, fit.width, 3) and once.dtype == np.uint8
    assert is_fitted(fit, once)
    np.testing.assert_array_equal(fit(once), once)


@pytest.mark.parametrize("fit", FITS, ids=repr)
def test_fits_are_values_that_travel(fit):
    again = pickle.loads(pickle.dumps(fit))
    assert again == fit and hash(again) == hash(fit)
    assert len({fit, again}) == 1
