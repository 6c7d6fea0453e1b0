"""A features table to train on."""

from __future__ import annotations

import pytest

from tests.item.heads.examples import features_table
from tests.support.feature_tables import write_features


@pytest.fixture(scope="package")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_features(tmp_path_factory.mktemp("night"), features_table(500), row_group_size=100)
