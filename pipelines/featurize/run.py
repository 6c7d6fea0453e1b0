"""A run: plan, resume, process, publish, and say what happened."""

from __future__ import annotations

import hashlib
import json
import posixpath
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

import ray

from item.tables import ErrorCode, Status
from pipelines.featurize.configuration import FeaturizeConfiguration
from pipelines.featurize.reuse import ImageIndex, Register, copied, seen_before
from pipelines.featurize.steps import check_gpus, stages
from pipelines.input import plan as inputs
from pipelines.input import reading
from pipelines.input.plan import InputPlan
from pipelines.input.reading import Reading
from pipelines.runtime.counters import Counters
from pipelines.runtime.memory import PeakMemory
from pipelines.runtime.progress import Progress, Tally
from pipelines.runtime.stages import groups, through, workers
from pipelines.runtime.start import start_ray
from pipelines.storage.access import check_readable, check_writable, take_retries
from pipelines.storage.atomic import write_atomically
from pipelines.storage.urls import join, normalise, redact
from pipelines.tables.features import REPEAT, FeatureTable, PartWriter, WorkWriter, summed
from pipelines.tables.lease import Lease, lease_on
from pipelines.tables.provenance import provenance, versions
from pipelines.tables.published import STAGING, date_of
from pipelines.tables.row_keys import RowKeys


class ErrorRateError(Exception):
    """More rows than the configuration allows are without features; nothing is published."""


@dataclass(frozen=True)
class Featurizing:
    """A checked piece of work: what will be read, by what, to where."""

    configuration: FeaturizeConfiguration
    plan: InputPlan
    table: FeatureTable
    feature_set_id: str
    origin: str
    """Stands for input, feature set and how the input is read."""
    work: str
    """Names the staging folder; the same for every try at the same work."""

    @property
    def again(self) -> str:
        """Published rows that are computed anew."""
        return self.configuration.again

    def finished(self) -> RowKeys:
        """Keys of rows that need no reading any more."""
        return self.table.finished(self.work, self.plan.dates, self.again)

    def remarks(self) -> list[str]:
        """What its owner should know of the input before the work begins."""
        left_out = [f"{number:,} {kind}" for kind, number in sorted(self.plan.ignored.items())]
        return [*self.plan.notes, *([f"Not read: {', '.join(left_out)}."] if left_out else [])]

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        profile = self.configuration.profile
        return {
            "input": f"{self.plan.root} ({self.plan.kind})",
            "rows": self.plan.rows,
            "dates": list(self.plan.dates),
            "left out": dict(self.plan.ignored),
            "output": self.configuration.output,
            "feature set": self.feature_set_id,
            "perturbation": self.configuration.perturbation,
            "models": profile.revisions(),
            "stages": [
                {
                    "stage": stage.name,
                    "reads": list(stage.inputs),
                    "adds": list(stage.outputs),
                    **stage.resources.model_dump(exclude_none=True),
                }
                for stage in stages(profile, self.configuration.perturbation)
            ],
        }


def prepare(configuration: FeaturizeConfiguration) -> Featurizing:
    """Check everything that can be checked before any work, and list the input.

    Raises
    ------
    UsageError
        Missing or unreadable input, unwritable output, missing model, or an output that
        holds another feature set or perturbation.
    """
    configuration = configuration.with_pinned_models()
    profile, storage = configuration.profile, configuration.storage
    feature_set_id = profile.feature_set_id()
    check_readable(configuration.input, storage)
    check_writable(configuration.output, storage)
    table = FeatureTable(configuration.output, storage)
    table.check_feature_set(feature_set_id, configuration.perturbation)
    what = [
        feature_set_id,
        configuration.perturbation,
        normalise(configuration.input),
        configuration.reading.model_dump_json(),
    ]
    origin = _digest(what)
    again = configuration.again
    work = origin if again == "nothing" else _digest([origin, again])
    plan = inputs.plan(configuration.input, configuration.reading, storage, _today(table, origin))
    return Featurizing(configuration, plan, table, feature_set_id, origin, work)


@dataclass(frozen=True)
class Staged:
    """Work that is done and not published."""

    job: Featurizing
    run_id: str
    left: int | None
    """Rows that this run had to compute; None if unknown."""
    parts: tuple[dict[str, Any], ...]
    """What each staged part says of itself."""
    dates: tuple[str, ...]
    """The date of each part."""
    timing: dict[str, Any]


def run(job: Featurizing) -> dict[str, Any]:
    """Do the work that is left, publish it, and return the manifest; see :func:`run_together`."""
    return run_together([job])[0]


def run_together(jobs: Sequence[Featurizing]) -> list[dict[str, Any]]:
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
def leases(jobs: Sequence[Featurizing]) -> Iterator[list[Lease]]:
    """The right to publish the nights of some jobs, until the block ends."""
    configuration = jobs[0].configuration
    nights = sorted({night for job in jobs for night in job.plan.dates})
    with ExitStack() as stack:
        yield [
            stack.enter_context(lease_on(jobs[0].table.root, night, configuration))
            for night in nights
        ]


def stage(jobs: Sequence[Featurizing]) -> list[Staged]:
    """Do the work that is left of jobs for one table, all at once, and leave its rows aside.

    Raises
    ------
    RuntimeError
        If rows are missing then; what is done is kept for the next run.
    """
    to_do = [_to_do(job) for job in jobs]
    timing = _compute([one for one in to_do if not one.is_done])
    return [_staged(one, timing if not one.is_done else {}) for one in to_do]


def nothing_to_do(job: Featurizing) -> dict[str, Any]:
    """The manifest of a job that has nothing left to do."""
    return _manifest(Staged(job, "", 0, (), (), {}), []) | {"outcome": "nothing_to_do"}


def check_error_rates(work: Sequence[Staged]) -> None:
    """ErrorRateError if a night of some pieces of work has too many rows without features.

    Rows that are tried again were published before and may only get better.
    """
    configuration = work[0].job.configuration
    if configuration.again == "failed":
        return
    nights = sorted({night for one in work for night in one.dates})
    for night in nights:
        mine = [
            part
            for one in work
            for part, date in zip(one.parts, one.dates, strict=True)
            if date == night
        ]
        too_many = _too_many(night, summed(mine), configuration.max_error_rate)
        if too_many:
            for one in work:
                one.job.table.write_run(
                    one.run_id, _manifest(one, one.parts), one.job.configuration.as_yaml()
                )
            raise ErrorRateError(too_many)


def publish(work: Sequence[Staged]) -> list[dict[str, Any]]:
    """Publish what was staged, one step a night, and return the manifests.

    Of a run that was killed between its last publication and its manifest, the next one
    writes the manifest.
    """
    table, again = work[0].job.table, work[0].job.again
    run_id = work[0].run_id
    landed = [_landed(one.job) for one in work]
    written = table.publish([one.job.work for one in work], run_id, keep=again != "all")
    files = [asdict(table.part(path)) for path in written]
    manifests = []
    for one, before in zip(work, landed, strict=True):
        parts = [*one.parts, *(facts for _, facts in before)]
        manifest = _manifest(one, parts)
        if not parts:
            manifests.append(manifest | {"outcome": "nothing_to_do"})
            continue
        own = files + [asdict(table.part(path)) for path, _ in before if path not in written]
        manifest |= {"outcome": "published", "files": own}
        manifest["runs"] = sorted({facts["run_id"] for facts in parts} | {run_id})
        configuration = one.job.configuration.as_yaml()
        manifest["manifest"] = table.write_run(one.run_id, manifest, configuration)
        manifests.append(manifest)
    return manifests


def is_done(job: Featurizing) -> bool:
    """Whether every row is published and every publication has its manifest."""
    if job.again == "all" or job.table.staged(job.work) or _landed(job):
        return False
    return reading.count_left(job.plan, job.finished(), job.configuration.storage) == 0


def _landed(job: Featurizing) -> list[tuple[str, dict[str, Any]]]:
    """Published nights that no manifest names, with what their run brought.

    Their run was killed just then.
    """
    suffix = _suffix(job.origin)
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


def _digest(what: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]


def _suffix(origin: str) -> str:
    """How the ids of a work's runs end."""
    return origin[:8]


@dataclass(frozen=True, eq=False)
class _ToDo:
    """What is left of a job."""

    job: Featurizing
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


def _to_do(job: Featurizing) -> _ToDo:
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{_suffix(job.origin)}"
    finished = job.finished()
    left = reading.count_left(job.plan, finished, job.configuration.storage)
    return _ToDo(job, run_id, finished, left, bool(job.table.staged(job.work, REPEAT)))


def _compute(work: Sequence[_ToDo]) -> dict[str, Any]:
    """Featurize what is left into staged parts; returns times and memory."""
    if not work:
        return {}
    started = time.monotonic()
    configuration, table = work[0].job.configuration, work[0].job.table
    known = {
        one.job.work: [*table.staged(one.job.work), *table.staged(one.job.work, REPEAT)]
        for one in work
    }
    for one in work:
        _remember_date(one.job)
    start_ray(configuration.object_store_gb)
    if not configuration.wait_for_gpus:
        check_gpus(configuration.profile, ray.cluster_resources())
    tally = Tally.remote()  # type: ignore[attr-defined]
    left = [one.left for one in work]
    rows = None if None in left else sum(one or 0 for one in left)
    with PeakMemory() as memory, Progress(tally, rows) as progress:
        if rows != 0:
            for part in _process([one for one in work if one.left != 0], tally):
                known[part["work"]].append(part["path"])
    for name, paths in known.items():
        table.drop_strays(name, paths)
    _copy(work)
    return {
        "rows_computed": progress.rows,
        "seconds": round(time.monotonic() - started, 3),
        "start_up_seconds": round(progress.start_up_seconds, 3),
        "images_per_second": round(progress.images_per_second, 3),
        "peak_memory_bytes": memory.peak_bytes,
        "storage_retries": progress.counts.retries + take_retries(),
        "batches_halved": dict(progress.counts.halvings),
        "cpus": ray.cluster_resources().get("CPU", 0.0),
        "gpus": ray.cluster_resources().get("GPU", 0.0),
    }


def _process(work: Sequence[_ToDo], tally: Any) -> Iterable[dict[str, Any]]:
    """Run the stages on what is left; yields each part as it is finished."""
    configuration, profile = work[0].job.configuration, work[0].job.configuration.profile
    images = reading.read(
        [Reading(one.job.plan, one.finished, one.job.work) for one in work],
        configuration.storage,
        max_bytes=profile.decoding.max_bytes,
        # As a decoding task: Ray then reads and decodes in one, without a copy between.
        num_cpus=profile.resources.decode.cpus,
        tally=tally,
    )
    register = None
    # The same picture may come with another caption.
    if configuration.reuse and not profile.captions_given:
        known = _seen_before([one.job for one in work])
        register = Register.remote(known.halves)  # type: ignore[attr-defined]
    steps = stages(profile, configuration.perturbation, register)
    parts = through(images, steps, tally, Counters("featurize")).map_batches(
        WorkWriter({one.job.work: one.writer(tally) for one in work}),
        batch_size=configuration.rows_per_part,
        batch_format="pyarrow",
        num_cpus=0.1,
    )
    yield from parts.iter_rows()


def _copy(work: Sequence[_ToDo]) -> None:
    """Give rows whose picture another row has the features of that row."""
    waiting = [one for one in work if one.job.table.staged(one.job.work, REPEAT)]
    if not waiting:
        return
    index = _seen_before([one.job for one in work])
    for one in waiting:
        job = one.job
        done = job.table.done(job.work, job.plan.dates, job.again)
        rows = job.configuration.rows_per_part
        for _ in copied(job.table, job.work, index, one.writer(), done, rows):
            pass
        job.table.drop_repeats(job.work)


def _seen_before(jobs: Sequence[Featurizing]) -> ImageIndex:
    anew = [night for job in jobs if job.again == "all" for night in job.plan.dates]
    nights = jobs[0].configuration.reuse_nights
    return seen_before(jobs[0].table, [job.work for job in jobs], nights, anew)


def _staged(work: _ToDo, timing: dict[str, Any]) -> Staged:
    """What a job has staged, once every row of its input is there."""
    job = work.job
    _check_all_there(job)
    paths = job.table.staged(job.work)
    facts = tuple(job.table.facts(job.table.staging(job.work), path) for path in paths)
    if timing and work.left is not None:
        timing = timing | {"rows_computed": work.left}
    return Staged(job, work.run_id, work.left, facts, tuple(map(date_of, paths)), timing)


def _manifest(staged: Staged, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a run says of itself; ``rows`` are those that it publishes."""
    job, left, timing = staged.job, staged.left, staged.timing
    plan, profile = job.plan, job.configuration.profile
    done_before = None if plan.rows is None or left is None else plan.rows - left
    facts = summed(parts)
    return {
        "run_id": staged.run_id,
        "outcome": "too_many_errors",
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "feature_set_id": job.feature_set_id,
        "perturbation": job.configuration.perturbation,
        "models": profile.revisions(),
        "versions": versions(),
        "input": {
            "root": redact(plan.root),
            "kind": plan.kind,
            "fingerprint": plan.fingerprint(),
            "rows": plan.rows,
            "dates": list(plan.dates),
            "default_date": plan.default_date,
            "left_out": dict(plan.ignored),
            "notes": list(plan.notes),
        },
        "rows": {"done_before": done_before, **_counts(facts)},
        "reuse": reuse(facts),
        **timing,
        "stages": _stage_speeds(facts, job.configuration, timing),
    }


def _today(table: FeatureTable, origin: str) -> date:
    """The date for input that has none: that of the first try at this work, else today.

    So a job that is started again on another day neither mixes dates nor begins anew.
    """
    path = posixpath.join(table.staging(origin), "date.json")
    if table.fs.exists(path):
        return date.fromisoformat(json.loads(table.fs.cat_file(path)))
    for manifest in table.manifests(_suffix(origin)):
        return date.fromisoformat(manifest["input"]["default_date"])
    return datetime.now(UTC).date()


def _remember_date(job: Featurizing) -> None:
    path = posixpath.join(job.table.staging(job.origin), "date.json")
    write_atomically(job.table.fs, path, json.dumps(job.plan.default_date).encode())


def _counts(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "total": sum(facts["statuses"].values()),
        "by_status": facts["statuses"],
        "by_error_code": facts["error_codes"],
        "by_note": facts["notes"],
    }


def reuse(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How many of the rows with features took those of another row of the same picture."""
    images = facts["statuses"].get(Status.OK, 0)
    rate = facts["reused"] / images if images else 0.0
    return {"images": images, "reused": facts["reused"], "rate": round(rate, 6)}


def _stage_speeds(
    facts: dict[str, Any], configuration: FeaturizeConfiguration, timing: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """How fast each stage is: what one worker does in a second, and how many there are."""
    seconds = facts["stage_seconds"]
    rows = sum(facts["statuses"].values()) - facts["reused"]
    cluster = {"CPU": timing.get("cpus", 0.0), "GPU": timing.get("gpus", 0.0)}
    return [
        {
            "stage": stage.name,
            "workers": workers(group[0].resources, cluster),
            "worker_seconds": round(seconds.get(stage.name, 0.0), 3),
            "images_per_second": round(rows / max(seconds.get(stage.name, 0.0), 1e-9), 3),
        }
        for group in groups(stages(configuration.profile, configuration.perturbation))
        for stage in group
        if rows
    ]


def _too_many(night: str, facts: dict[str, Any], limit: float) -> str | None:
    """A sentence if more rows than allowed are without features, for one kind of reason."""
    codes = {
        code: number
        for code, number in facts["error_codes"].items()
        if code != ErrorCode.DUPLICATE_URI
    }
    repeated = facts["error_codes"].get(ErrorCode.DUPLICATE_URI, 0)
    rows = sum(facts["statuses"].values()) - repeated
    for status, kind in ((Status.REJECTED, "lasting"), (Status.FAILED, "passing")):
        mine = Counter({c: n for c, n in codes.items() if ErrorCode(c).status is status})
        if rows and mine.total() / rows > limit:
            code, number = mine.most_common(1)[0]
            return (
                f"Of the rows of {night}, {mine.total() / rows:.1%} are without features for "
                f"{kind} reasons, more than the {limit:.1%} that max_error_rate allows, most "
                f"often ({number} rows) because: {ErrorCode(code).sentence} Nothing was published."
            )
    return None


def _check_all_there(job: Featurizing) -> None:
    """The first promise, checked on every run: each input row once in the output."""
    finished = job.table.done(job.work, job.plan.dates, job.again)
    missing = reading.count_left(job.plan, finished, job.configuration.storage)
    if missing:
        raise RuntimeError(
            f"{missing} of {job.plan.rows} rows were not written, so nothing is published; "
            "start the job again to compute them"
        )
