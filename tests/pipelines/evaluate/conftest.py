"""One evaluation that several files of tests look at."""

from __future__ import annotations

import pandas as pd
import pytest

from pipelines.evaluate.methods import OURS
from pipelines.evaluate.plan import EvaluationPlan, plan_evaluation
from pipelines.evaluate.tabulate import tabulate
from tests.pipelines.evaluate.examples import (
    configuration,
    outcomes_of,
    table,
)
from tests.support.feature_tables import write_features


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_features(tmp_path_factory.mktemp("features"), table())


@pytest.fixture(scope="module")
def plan(features: str, tmp_path_factory: pytest.TempPathFactory) -> EvaluationPlan:
    return plan_evaluation(configuration(features, tmp_path_factory.mktemp("evaluation")))


@pytest.fixture(scope="module")
def tables(plan: EvaluationPlan) -> dict[str, pd.DataFrame]:
    names = (OURS, "caption only", "similarity")
    return tabulate(outcomes_of(plan, *names), plan.methods, OURS)
