"""What every stage is, and how a dataset goes through a list of them.

A stage adds columns to the rows that are fit to be processed and takes the others
around it: one row in, one row out, whatever happened.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, Dataset

from item.profiles import Resources
from item.tables import ErrorCode, Status
from pipelines.runtime.columns import array, values

Columns = Mapping[str, Any]
"""Plain columns by name: sequences or arrays of equal length."""
SECONDS = "seconds_"
"""Prefix of the columns that carry each row's share of a stage's time to the manifest."""

PENDING = "pending"
"""Status, within a run, of a row whose picture another row has: it takes that row's features."""


@dataclass(frozen=True)
class RowError:
    """Why a stage could not process one row; returned in ``ERRORS``, never raised."""

    code: ErrorCode
    message: str


ERRORS = "errors"
"""Key under which :meth:`Stage.process` returns a RowError or None for each row."""


class Stage(ABC):
    """One step of the method.

    Attributes
    ----------
    inputs : columns that :meth:`process` is given, as :func:`pipelines.runtime.columns.values`
        has them
    outputs : columns that it adds, with their Arrow types; an output that exists already
        is replaced for the rows processed
    drops : columns that no later stage needs
    resources : what a worker takes
    several_threads : whether a worker may be at work on two batches at once, so that the next one
        is prepared while its device computes; the models then take turns by themselves
    """

    inputs: tuple[str, ...]
    outputs: Mapping[str, pa.DataType]
    drops: tuple[str, ...] = ()
    resources: Resources
    several_threads: bool = False

    @property
    def name(self) -> str:
        """The class name in lower case, as the manifest shows it."""
        return type(self).__name__.lower()

    def set_up(self) -> None:  # noqa: B027 - most stages that have no model need nothing
        """Load models; called once in each worker, before its first batch."""

    @property
    def halvings(self) -> int:
        """How often a batch did not fit into memory and was halved, in this worker."""
        return 0

    @abstractmethod
    def process(self, columns: Columns) -> Columns:
        """Outputs for a batch of rows that are all fit: same length, same order."""


def through(
    images: Dataset,
    stages: Sequence[Stage],
    tally: Any = None,
    counters: Any = None,
    *,
    grows: bool = False,
) -> Dataset:
    """Send a dataset through stages, one after the other, all at work at the same time.

    Parameters
    ----------
    images : of the schema ``item.tables.IMAGES``
    stages : in their order
    tally : handle of a :class:`pipelines.runtime.progress.Tally`, which hears of workers that are
        ready and of the rows that leave the last stage
    counters : :class:`pipelines.runtime.counters.Counters` that count these rows too
    grows : whether the cluster will have more GPUs than it has now
    """
    for group in groups(stages):
        images = _apply(images, group, tally, grows)
    if tally is None:
        return images
    # With the resources of the last stage, so that Ray runs both in one task.
    cpus = stages[-1].resources.cpus
    return images.map_batches(
        _count(tally, counters), batch_size=None, batch_format="pyarrow", num_cpus=cpus
    )


def groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages that share a worker, in order; see ``Resources.with_previous``."""
    found: list[list[Stage]] = []
    for stage in stages:
        if found and shares_workers(stage.resources, found[-1][0].resources):
            found[-1].append(stage)
        else:
            found.append([stage])
    return found


def shares_workers(resources: Resources, before: Resources) -> bool:
    """Whether a stage works in the workers before it, whose resources are ``before``."""
    return resources.with_previous and has_workers(before)


def has_workers(resources: Resources) -> bool:
    """Whether a stage has workers that keep a model, and not free tasks."""
    return bool(resources.workers_per_cpu or (resources.workers_per_gpu and resources.gpus))


def workers(resources: Resources, cluster: Mapping[str, float]) -> int | None:
    """Number of workers of a stage to begin with; None for a stage of free tasks.

    Parameters
    ----------
    resources : of the stage
    cluster : CPUs and GPUs that it has, as ``ray.cluster_resources()`` gives them
    """
    if resources.workers_per_gpu and resources.gpus:
        number = resources.workers_per_gpu * cluster.get("GPU", 0.0)
    elif resources.workers_per_cpu:
        number = resources.workers_per_cpu * cluster.get("CPU", 1.0)
    else:
        return None
    return min(max(1, round(number)), resources.most_workers or sys.maxsize)


class Worker:
    """Stages with models, as an actor: loads once, then works on batch after batch."""

    def __init__(self, stages: Sequence[Stage], tally: Any) -> None:
        self.stages = stages
        self.tally = tally
        self.halvings = [0] * len(stages)
        # From here an error would reach the driver as a text, from a call it comes whole.
        self.unfit: Exception | None = None
        try:
            for stage in stages:
                stage.set_up()
        except Exception as error:
            self.unfit = error
        if tally is not None:
            tally.ready.remote()

    def __call__(self, table: pa.Table) -> pa.Table:
        if self.unfit is not None:
            raise self.unfit
        for stage in self.stages:
            table = run_stage(stage, table, self.tally)
        if self.tally is not None:
            self._tell_halvings()
        return table

    def _tell_halvings(self) -> None:
        for place, stage in enumerate(self.stages):
            if more := stage.halvings - self.halvings[place]:
                self.halvings[place] += more
                self.tally.halved.remote(stage.name, more)


def run_stage(stage: Stage, table: pa.Table, tally: Any = None) -> pa.Table:
    """One batch through a stage that is set up: unfit rows aside, time kept, columns added."""
    if tally is not None:
        tally.passed.remote(stage.name, len(table), 0)
    started = time.perf_counter()
    fit = pc.equal(table["status"], Status.OK).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(fit)
    found: Columns = {}
    if len(rows):
        found = stage.process({name: values(table[name], rows) for name in stage.inputs})
        _check(stage, found, len(rows))
    table = _with_errors(table, rows, found.get(ERRORS))
    for name, kind in stage.outputs.items():
        table = _with_column(table, name, kind, rows, found.get(name))
    table = table.drop_columns([name for name in stage.drops if name in table.column_names])
    seconds = time.perf_counter() - started
    if tally is not None:
        tally.passed.remote(stage.name, 0, len(table))
    share = np.full(len(table), seconds / max(len(table), 1), dtype=np.float32)
    return table.append_column(SECONDS + stage.name, pa.array(share))


def _apply(images: Dataset, group: Sequence[Stage], tally: Any, grows: bool) -> Dataset:
    resources = group[0].resources
    number = workers(resources, ray.cluster_resources())
    common: dict[str, Any] = {
        "batch_size": resources.batch_size,
        "batch_format": "pyarrow",
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus or None,
    }
    if number is None:
        # A task carries the stage along, so it must be cheap to set up.
        return images.map_batches(_task(group[0], tally), **common)
    at_once = 2 if resources.gpus and all(stage.several_threads for stage in group) else None
    pool = ActorPoolStrategy(
        min_size=number,
        max_size=_most_workers(resources, number, grows),
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=at_once is not None,
    )
    # Ray shows an operator by its class's name.
    worker = type("".join(type(stage).__name__ for stage in group), (Worker,), {})
    return images.map_batches(worker, fn_constructor_args=(group, tally), compute=pool, **common)


def _most_workers(resources: Resources, number: int, grows: bool) -> int:
    """To how many workers a pool may grow: Ray asks for them whether or not a GPU has room."""
    if resources.gpus and not grows:
        return number
    return max(number, resources.most_workers or 0)


def _task(stage: Stage, tally: Any) -> Callable[[pa.Table], pa.Table]:
    """A stage without a model, as a function that Ray shows under the stage's name."""

    def run(table: pa.Table) -> pa.Table:
        return run_stage(stage, table, tally)

    run.__name__ = type(stage).__name__
    return run


def _count(tally: Any, counters: Any) -> Callable[[pa.Table], pa.Table]:
    """Tell the tally and the counters of each batch that passes."""

    def count(table: pa.Table) -> pa.Table:
        errors = Counter(filter(None, table["error_code"].to_pylist()))
        reused = pc.sum(pc.equal(table["status"], PENDING)).as_py() or 0
        tally.add.remote(len(table), dict(errors), reused)
        if counters is not None:
            counters.add(table)
        return table

    return count


def _check(stage: Stage, found: Columns, rows: int) -> None:
    for name in stage.outputs:
        if len(found[name]) != rows:
            raise RuntimeError(
                f"{stage.name} returned {len(found[name])} values of '{name}' for {rows} rows"
            )


def _with_column(
    table: pa.Table,
    name: str,
    kind: pa.DataType,
    rows: NDArray[np.intp],
    found: Sequence[Any] | None,
) -> pa.Table:
    """Add a column with what was found at ``rows``; elsewhere what was there, or null."""
    there = name in table.column_names
    if there and found is None:
        return table
    if there and len(rows) < len(table):
        every = np.arange(len(table))
        placed = values(table[name], every)
        for row, value in zip(rows, [] if found is None else found, strict=True):
            placed[row] = value
        rows, found = every, placed
    column = array([] if found is None else found, rows, len(table), kind)
    if there:
        return table.set_column(table.column_names.index(name), pa.field(name, kind), column)
    return table.append_column(pa.field(name, kind), column)


def _with_errors(table: pa.Table, rows: np.ndarray, errors: Sequence[Any] | None) -> pa.Table:
    failed = [(row, error) for row, error in zip(rows, errors or (), strict=bool(errors)) if error]
    if not failed:
        return table
    places = np.array([row for row, _ in failed])
    reasons = [error for _, error in failed]
    for name, texts in (
        ("status", [error.code.status for error in reasons]),
        ("error_code", [str(error.code) for error in reasons]),
        ("error_message", [error.message for error in reasons]),
    ):
        table = _with_column(table, name, pa.string(), places, texts)
    return table
