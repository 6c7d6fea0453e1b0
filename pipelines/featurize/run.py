"""A run of a featurize job: resume, process, publish, and say what happened."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import ray

from item.errors import MachineError
from pipelines.featurize.error_rate import check_error_rates, is_gone
from pipelines.featurize.manifest import Staged, manifest_of
from pipelines.featurize.plan import FeaturizingPlan, remember_date, run_suffix
from pipelines.featurize.reuse import ImageIndex, Register, all_found, copied, seen_before
from pipelines.featurize.shares import check_shares, with_room
from pipelines.featurize.steps import stages
from pipelines.input import reading
from pipelines.input.reading import Reading
from pipelines.runtime.counters import Counters
from pipelines.runtime.memory import PeakMemory
from pipelines.runtime.progress import Progress, Tally
from pipelines.runtime.stages import through
from pipelines.runtime.start import room_between_stages, start_ray
from pipelines.storage.retries import take_retries
from pipelines.storage.urls import join
from pipelines.tables.lease import Lease, lease_on
from pipelines.tables.parts import REPEAT, PartWriter, WorkWriter
from pipelines.tables.provenance import provenance
from pipelines.tables.published import STAGING, date_of
from pipelines.tables.row_keys import RowKeys


def run_featurizing(job: FeaturizingPlan) -> dict[str, Any]:
    """Do the work that is left, publish it, and return the manifest; see :func:`run_together`."""
    return run_together([job])[0]


def run_together(jobs: Sequence[FeaturizingPlan]) -> list[dict[str, Any]]:
    """Do the work that is left of jobs for one table, publish it at once, return manifests.

    Ray is started if it is not running. A run that was killed goes on where it was; one
    that is done already does nothing.

    Raises
    ------
    LeaseHeldError
        Another run works on a night of this table.
    LeaseLostError
        Another run took a night over; nothing is published.
    ErrorRateError
        Manifests are written, nothing is published, finished rows are kept aside.
    """
    if all(is_done(job) for job in jobs):
        return [nothing_to_do(job) for job in jobs]
    with leases(jobs) as held:
        staged = stage(jobs)
        check_error_rates(staged)
        for lease in held:
            lease.check()
        return publish(staged)


@contextmanager
def leases(jobs: Sequence[FeaturizingPlan]) -> Iterator[list[Lease]]:
    """The right to publish the nights of some jobs, until the block ends."""
    configuration = jobs[0].configuration
    nights = sorted({night for job in jobs for night in job.plan.dates})
    with ExitStack() as stack:
        yield [
            stack.enter_context(lease_on(jobs[0].table.root, night, configuration))
            for night in nights
        ]


def stage(jobs: Sequence[FeaturizingPlan]) -> list[Staged]:
    """Do the work that is left of jobs for one table, all at once, and leave its rows aside.

    Raises
    ------
    MachineError
        If rows are missing then; what is done is kept for the next run.
    """
    for job in jobs:
        job.table.prune(job.work, job.plan.is_gone)
    _drop_lost_repeats(jobs)
    to_do = [_to_do(job) for job in jobs]
    timing = _compute([one for one in to_do if not one.is_done], jobs)
    return [_staged(one, timing if not one.is_done else {}) for one in to_do]


def nothing_to_do(job: FeaturizingPlan) -> dict[str, Any]:
    """The manifest of a job that has nothing left to do."""
    return manifest_of(Staged(job, "", 0, 0, (), (), {}), []) | {"outcome": "nothing_to_do"}


def publish(work: Sequence[Staged]) -> list[dict[str, Any]]:
    """Publish what was staged, one step a night, and return the manifests.

    Of a run that was killed between its last publication and its manifest, the next one
    writes the manifest.
    """
    table = work[0].job.table
    run_id = work[0].run_id
    landed = [_landed(one.job) for one in work]
    written = table.publish(
        [one.job.work for one in work],
        run_id,
        dates=sorted({night for one in work for night in one.job.plan.dates}),
        is_gone=is_gone([one.job for one in work]),
    )
    files = [asdict(table.part(path)) for path in written]
    manifests = []
    for one, before in zip(work, landed, strict=True):
        parts = [*one.parts, *(facts for _, facts in before)]
        manifest = manifest_of(one, parts)
        if not parts and not one.gone:
            manifests.append(manifest | {"outcome": "nothing_to_do"})
            continue
        own = files + [asdict(table.part(path)) for path, _ in before if path not in written]
        manifest |= {"outcome": "published", "files": own}
        manifest["runs"] = sorted({facts["run_id"] for facts in parts} | {run_id})
        configuration = one.job.configuration.as_yaml()
        manifest["manifest"] = table.write_run(one.run_id, manifest, configuration)
        manifests.append(manifest)
    return manifests


def is_done(job: FeaturizingPlan) -> bool:
    """Whether every row is published and every publication has its manifest."""
    if job.overwrite == "all" or job.table.parts(job.work) or _landed(job):
        return False
    if reading.count_left(job.plan, job.finished(), job.configuration.storage) != 0:
        return False
    return not job.table.gone(job.plan.dates, job.is_gone)


def _landed(job: FeaturizingPlan) -> list[tuple[str, dict[str, Any]]]:
    """Published nights that no manifest names, with what their run brought.

    Their run was killed just then.
    """
    suffix = run_suffix(job.origin)
    told = {run for manifest in job.table.manifests(suffix) for run in manifest.get("runs", [])}
    files = {
        path: job.table.facts(job.table.path, path).get("run", {})
        for path in job.table.published(job.plan.dates)
    }
    return [
        (path, run)
        for path, run in files.items()
        if run.get("run_id", "").endswith(suffix) and run["run_id"] not in told
    ]


@dataclass(frozen=True, eq=False)
class _ToDo:
    """What is left of a job."""

    job: FeaturizingPlan
    run_id: str
    finished: RowKeys
    left: int | None
    """Rows to read; None if unknown."""
    waiting: bool
    """Whether rows that are read wait for the features of others."""

    @property
    def is_done(self) -> bool:
        return self.left == 0 and not self.waiting

    def writer(self, tally: Any = None) -> PartWriter:
        """What writes the job's parts."""
        configuration, profile = self.job.configuration, self.job.configuration.profile
        return PartWriter(
            join(configuration.output, STAGING, self.job.work),
            configuration.storage,
            profile.dimensions,
            provenance(profile, self.run_id, configuration.perturbation),
            tally,
        )


def _to_do(job: FeaturizingPlan) -> _ToDo:
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{run_suffix(job.origin)}"
    finished = job.finished()
    left = reading.count_left(job.plan, finished, job.configuration.storage)
    waiting = bool(job.table.staged(job.work, REPEAT))
    return _ToDo(job, run_id, finished, left, waiting)


def _compute(work: Sequence[_ToDo], jobs: Sequence[FeaturizingPlan]) -> dict[str, Any]:
    """Featurize what is left into staged parts; returns times and memory.

    Parameters
    ----------
    work : what is left
    jobs : all that run together, whose staged pictures need no second look
    """
    if not work:
        return {}
    started = time.monotonic()
    configuration, table = work[0].job.configuration, work[0].job.table
    known = {
        one.job.work: [*table.parts(one.job.work), *table.staged(one.job.work, REPEAT)]
        for one in work
    }
    for one in work:
        remember_date(one.job)
    start_ray(configuration.object_store_gb)
    if not configuration.wait_for_gpus:
        check_shares(configuration.profile, ray.cluster_resources())
    tally = Tally.remote()  # type: ignore[attr-defined]
    left = [one.left for one in work]
    rows = None if None in left else sum(one or 0 for one in left)
    with PeakMemory() as memory, Progress(tally, rows) as progress:
        if rows != 0:
            for part in _process([one for one in work if one.left != 0], jobs, tally):
                known[part["work"]].append(part["path"])
    for name, paths in known.items():
        table.drop_strays(name, paths)
    _copy(work, jobs)
    return {
        "rows_computed": progress.rows,
        "seconds": round(time.monotonic() - started, 3),
        "start_up_seconds": round(progress.start_up_seconds, 3),
        "images_per_second": round(progress.images_per_second, 3),
        "peak_memory_bytes": memory.peak_bytes,
        "storage_retries": progress.counts.retries + take_retries(),
        "notices": progress.remarks(),
        "batches_halved": dict(progress.counts.halvings),
        "cpus": ray.cluster_resources().get("CPU", 0.0),
        "gpus": ray.cluster_resources().get("GPU", 0.0),
    }


def _process(
    work: Sequence[_ToDo], jobs: Sequence[FeaturizingPlan], tally: Any
) -> Iterable[dict[str, Any]]:
    """Run the stages on what is left; yields each part as it is finished."""
    configuration, profile = work[0].job.configuration, work[0].job.configuration.profile
    images = reading.read(
        [Reading(one.job.plan, one.finished, work=one.job.work) for one in work],
        configuration.storage,
        max_bytes=profile.decoding.max_bytes,
        # As a decoding task: Ray then reads and decodes in one, without a copy between.
        num_cpus=profile.resources.decode.cpus,
        tally=tally,
    )
    register = None
    # The same picture may come with another caption.
    if configuration.reuse and not profile.captions_given:
        known = _seen_before(jobs)
        register = Register.remote(known.halves)  # type: ignore[attr-defined]
    profile = with_room(profile, ray.cluster_resources(), room_between_stages())
    steps = stages(profile, configuration.perturbation, register)
    counters = Counters("featurize")
    grows = configuration.wait_for_gpus
    parts = through(images, steps, tally, counters, grows=grows).map_batches(
        WorkWriter({one.job.work: one.writer(tally) for one in work}),
        batch_size=configuration.rows_per_part,
        batch_format="pyarrow",
        num_cpus=0.1,
    )
    yield from parts.iter_rows()


def _copy(work: Sequence[_ToDo], jobs: Sequence[FeaturizingPlan]) -> None:
    """Give rows whose picture another row has the features of that row."""
    waiting = [one for one in work if one.job.table.staged(one.job.work, REPEAT)]
    if not waiting:
        return
    index = _seen_before(jobs)
    for one in waiting:
        job = one.job
        rows = job.configuration.rows_per_part
        for _ in copied(job.table, job.work, index, one.writer(), _written(job), rows):
            pass
        job.table.drop_repeats(job.work)


def _drop_lost_repeats(jobs: Sequence[FeaturizingPlan]) -> None:
    """Let rows be read again that wait for a picture whose features nobody has any more.

    The file that had them may have gone since the run that was killed.
    """
    waiting = [job for job in jobs if job.table.staged(job.work, REPEAT)]
    if not waiting:
        return
    index = _seen_before(jobs)
    for job in waiting:
        if not all_found(job.table, job.work, index, _written(job)):
            job.table.drop_repeats(job.work)


def _written(job: FeaturizingPlan) -> RowKeys:
    return job.table.written(job.work, job.plan.dates, job.overwrite)


def _seen_before(jobs: Sequence[FeaturizingPlan]) -> ImageIndex:
    anew = [night for job in jobs if job.overwrite == "all" for night in job.plan.dates]
    nights = jobs[0].configuration.reuse_nights
    return seen_before(jobs[0].table, [job.work for job in jobs], nights, anew)


def _staged(work: _ToDo, timing: dict[str, Any]) -> Staged:
    """What a job has staged, once every row of its input is there."""
    job = work.job
    _check_all_there(job)
    paths = job.table.parts(job.work)
    facts = tuple(job.table.facts(job.table.staging(job.work), path) for path in paths)
    if timing and work.left is not None:
        timing = timing | {"rows_computed": work.left}
    gone = job.table.gone(job.plan.dates, job.is_gone, job.table.staged_names(job.work))
    dates = tuple(map(date_of, paths))
    return Staged(job, work.run_id, work.left, sum(gone.values()), facts, dates, timing)


def _check_all_there(job: FeaturizingPlan) -> None:
    """The first promise, checked on every run: each input row once in the output."""
    missing = reading.count_left(job.plan, _written(job), job.configuration.storage)
    if missing:
        raise MachineError(
            f"{missing} of {job.plan.rows} rows were not written, so nothing is published; "
            "start the same command again to compute them."
        )
