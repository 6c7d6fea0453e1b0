"""Stages: fit rows are processed, the others go around, none is lost and none moves."""

import sys
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from item.errors import JobError, UsageError
from item.profiles import Resources
from item.tables import ErrorCode
from pipelines.runtime.failures import machine_failures
from pipelines.runtime.progress import Tally
from pipelines.runtime.stages import ERRORS, SECONDS, RowError, Stage, run_stage, through, workers
from pipelines.runtime.start import start_ray


class Halve(Stage):
    """Halves even numbers; odd ones are errors."""

    inputs: ClassVar = ("number",)
    outputs: ClassVar = {"half": pa.int32()}
    resources = Resources(cpus=0.5, batch_size=3)

    def process(self, columns):
        numbers = columns["number"]
        return {
            "half": [None if number % 2 else number // 2 for number in numbers],
            ERRORS: [
                RowError(ErrorCode.URI_UNREADABLE, f"{number} is odd.") if number % 2 else None
                for number in numbers
            ],
        }


class Double(Stage):
    """Doubles numbers with a model; gives numpy arrays back, in place of the numbers."""

    inputs: ClassVar = ("number",)
    outputs: ClassVar = {"number": pa.float32(), "row": pa.list_(pa.float32())}
    drops: ClassVar = ("note", "not there")
    resources = Resources(cpus=0.5, workers_per_cpu=0.5, batch_size=3)

    def set_up(self):
        self.factor = 2

    def process(self, columns):
        numbers = np.array(columns["number"], np.float32) * self.factor
        return {"number": numbers, "row": list(np.stack([numbers, numbers], axis=1))}


class Gone(Double):
    """Has lost its model."""

    def set_up(self):
        raise UsageError("The model is gone: fetch it again.")


class Count(Stage):
    """Counts the rows it sees; has too many values for them if told so."""

    inputs: ClassVar = ("number",)
    outputs: ClassVar = {"seen": pa.bool_()}
    resources = Resources(cpus=0.5, batch_size=3)

    def __init__(self, surplus=0):
        self.surplus = surplus
        self.rows = []

    def process(self, columns):
        self.rows += columns["number"]
        return {"seen": [True] * (len(columns["number"]) + self.surplus)}


class Forget(Count):
    """Leaves its output out."""

    def process(self, _columns):
        return {}


def table(numbers, statuses=None):
    statuses = statuses or ["ok"] * len(numbers)
    codes = [None if status == "ok" else "truncated" for status in statuses]
    return pa.table(
        {
            "number": pa.array(numbers, pa.int32()),
            "note": pa.array(["n"] * len(numbers), pa.string()),
            "status": pa.array(statuses, pa.string()),
            "error_code": pa.array(codes, pa.string()),
            "error_message": pa.array(codes, pa.string()),
        }
    )


def ready(stage):
    stage.set_up()
    return stage


# One batch


def test_rejected_rows_pass_untouched():
    given_rows = table([2, 4, 6], ["rejected", "ok", "failed"])
    found = run_stage(Halve(), given_rows)
    assert found["half"].to_pylist() == [None, 2, None]
    assert found.select(given_rows.column_names) == given_rows


def test_rows_with_errors_get_status_code_and_message():
    found = run_stage(Halve(), table([2, 3, 4, 5], ["ok", "ok", "rejected", "ok"]))
    assert found["status"].to_pylist() == ["ok", "failed", "rejected", "failed"]
    assert found["error_code"].to_pylist() == [
        None,
        "uri_unreadable",
        "truncated",
        "uri_unreadable",
    ]
    assert found["error_message"].to_pylist() == [None, "3 is odd.", "truncated", "5 is odd."]
    assert found["half"].to_pylist() == [1, None, None, None]


def test_a_row_with_an_error_is_not_seen_by_the_next_stage():
    count = Count()
    run_stage(count, run_stage(Halve(), table([2, 3, 4])))
    assert count.rows == [2, 4]


def test_an_output_that_exists_is_replaced_in_its_place_for_processed_rows():
    found = run_stage(ready(Double()), table([1, 0, 3], ["ok", "rejected", "ok"]))
    assert found.column_names[0] == "number"
    assert found["number"].to_pylist() == [2, 0, 6]
    assert found["number"].type == pa.float32()


def test_arrays_are_good_outputs():
    for numbers in ([0], [1, 2], [0, 0, 5]):
        found = run_stage(ready(Double()), table(numbers))
        assert found["number"].to_pylist() == [2 * number for number in numbers]
        assert found["row"].to_pylist() == [[2 * number] * 2 for number in numbers]


def test_dropped_columns_are_gone():
    assert "note" not in run_stage(ready(Double()), table([1])).column_names


@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_wrong_number_of_values_is_a_programming_error(surplus):
    with pytest.raises(RuntimeError, match=f"count returned {2 + surplus} values of 'seen' for 2"):
        run_stage(Count(surplus), table([1, 2]))


def test_an_output_left_out_is_a_programming_error():
    with pytest.raises(KeyError):
        run_stage(Forget(), table([1]))


@pytest.mark.parametrize("statuses", [[], ["rejected", "failed"], [None]])
def test_a_batch_with_nothing_to_do_has_all_columns_and_needs_no_model(statuses):
    numbers = list(range(len(statuses)))
    count = Count()
    found = run_stage(count, table(numbers, statuses))
    assert count.rows == []
    assert found["seen"].type == pa.bool_()
    assert found["number"].to_pylist() == numbers
    assert SECONDS + "count" in found.column_names


def test_each_row_carries_its_share_of_the_time():
    found = run_stage(Halve(), table([2, 4, 6], ["ok", "rejected", "ok"]))
    shares = found[SECONDS + "halve"].to_pylist()
    assert found.schema.field(SECONDS + "halve").type == pa.float32()
    assert len(set(shares)) == 1
    assert 0 < sum(shares) < 5


@given(
    st.lists(
        st.tuples(
            st.integers(-1000, 1000), st.sampled_from(["ok", "ok", "rejected", "failed", None])
        )
    )
)
def test_any_mix_of_rows_keeps_its_order_and_only_fit_rows_are_processed(rows):
    numbers, statuses = [number for number, _ in rows], [status for _, status in rows]
    count = Count()
    found = run_stage(count, table(numbers, statuses))
    assert found["number"].to_pylist() == numbers
    assert found["status"].to_pylist() == statuses
    assert found["seen"].to_pylist() == [True if status == "ok" else None for status in statuses]
    assert count.rows == [number for number, status in rows if status == "ok"]


# Many batches


@pytest.mark.parametrize(
    ("workers_per_cpu", "cpus", "number"),
    [(None, 64, None), (0.5, 1, 1), (0.5, 2, 1), (0.5, 8, 4), (1.0, 2, 2), (0.01, 2, 1)],
)
def test_workers_follow_the_cluster_and_are_one_at_least(workers_per_cpu, cpus, number):
    resources = Resources(cpus=0.1, batch_size=1, workers_per_cpu=workers_per_cpu)
    assert workers(resources, {"CPU": cpus}) == number


@pytest.mark.parametrize(
    ("cluster", "most", "number"),
    [({"GPU": 4.0}, None, 8), ({"GPU": 4.0}, 5, 5), ({"CPU": 64.0}, None, 1)],
)
def test_workers_follow_the_gpus(cluster, most, number):
    resources = Resources(
        cpus=1, gpus=0.5, workers_per_gpu=2, workers_per_cpu=1, most_workers=most, batch_size=1
    )
    assert workers(resources, cluster) == number


def test_without_a_gpu_of_its_own_a_stage_follows_the_cpus():
    resources = Resources(cpus=1, gpus=0, workers_per_gpu=2, workers_per_cpu=0.5, batch_size=1)
    assert workers(resources, {"CPU": 8.0, "GPU": 4.0}) == 4


@pytest.mark.usefixtures("ray_cluster")
def test_a_dataset_goes_through_tasks_and_actors():
    import ray

    # Workers cannot import the stages of a test file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    numbers = list(range(20))
    statuses = ["rejected" if number % 5 == 0 else "ok" for number in numbers]
    images = ray.data.from_arrow(
        [table(numbers[:13], statuses[:13]), table(numbers[13:], statuses[13:])]
    )
    tally = Tally.remote()
    dataset = through(images, [Halve(), Double()], tally)
    assert "MapBatches(Halve)" in repr(dataset)
    found = dataset.to_pandas().sort_values("number")
    doubled = {n: 2 * n if n % 5 and n % 2 == 0 else n for n in numbers}
    assert found["number"].tolist() == sorted(doubled.values())
    assert (found["status"] == "ok").sum() == 8
    assert "note" not in found.columns
    counts = ray.get(tally.read.remote())
    assert (counts.rows, counts.errors) == (20, {"truncated": 4, "uri_unreadable": 8})
    assert 0 < counts.ready < counts.last


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_cannot_start_says_why_in_its_own_words():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    start_ray(0.1)
    numbers = ray.data.from_arrow(table([1, 2, 3]))
    with pytest.raises(JobError, match=r"The model is gone: fetch it again\.$"), machine_failures():
        through(numbers, [Gone()]).materialize()
