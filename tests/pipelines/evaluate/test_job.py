"""The evaluation job writes what the results page reads."""

from __future__ import annotations

import json

import pytest

from pipelines.evaluate.job import run_evaluation
from pipelines.evaluate.plan import plan_evaluation
from pipelines.evaluate.protocols import LEAVE_ONE_OUT
from pipelines.results.tables import read_evaluation
from tests.pipelines.evaluate.examples import (
    COUNT,
    configuration,
)


@pytest.mark.usefixtures("ray_cluster")
def test_job_writes_a_folder_that_the_results_page_reads(features, tmp_path):
    plan = plan_evaluation(
        configuration(features, tmp_path, seeds=1, resamples=20, protocols=(LEAVE_ONE_OUT,))
    )
    calls: list[tuple[int, int]] = []
    run_evaluation(plan, lambda done, total, _: calls.append((done, total)))
    read = read_evaluation(str(tmp_path))
    assert calls[-1] == (len(plan.tasks()), len(plan.tasks()))
    always = {method.name for method in plan.methods if method.always}
    compared = {method.name for method in read.methods("ours", "baseline", "control")}
    assert compared | always == set(read.metrics["method"]) and always
    assert set(read.metrics["generator"]) == {"a", "b", "c", "mean", "worst", "spread"}
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert sum(origin["rows"] for origin in facts["data"]) == COUNT
