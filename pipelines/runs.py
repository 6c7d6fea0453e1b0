"""A run: plan, resume, process, publish, and say what happened."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import ray
from ray.data import DataContext

from item.profiles import Profile
from item.tables import ErrorCode, Status
from pipelines import inputs
from pipelines.configuration import FeaturizeConfiguration
from pipelines.feature_table import STAGING, FeatureTable, PartWriter
from pipelines.featurize import stages
from pipelines.inputs import InputPlan, RowKeys
from pipelines.memory import PeakMemory
from pipelines.progress import Progress, Tally
from pipelines.provenance import provenance, versions
from pipelines.stages import through
from pipelines.storage import check_readable, check_writable, join, normalise, write_atomically


class ErrorRateError(Exception):
    """More rows than the configuration allows are without features; nothing is published."""


@dataclass(frozen=True)
class Featurizing:
    """A checked piece of work: what will be read, by what, to where."""

    configuration: FeaturizeConfiguration
    plan: InputPlan
    table: FeatureTable
    feature_set_id: str
    work: str
    """Names the staging folder; the same for every try at the same work."""

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
            "models": profile.revisions(),
            "stages": [
                {
                    "stage": stage.name,
                    "reads": list(stage.inputs),
                    "adds": list(stage.outputs),
                    **stage.resources.model_dump(exclude_none=True),
                }
                for stage in stages(profile)
            ],
        }


def prepare(configuration: FeaturizeConfiguration) -> Featurizing:
    """Check everything that can be checked before any work, and list the input.

    Raises
    ------
    UsageError
        Missing or unreadable input, unwritable output, missing model, or an output that
        holds another feature set.
    """
    profile, storage = configuration.profile, configuration.storage
    profile.check_models()
    feature_set_id = profile.feature_set_id()
    check_readable(configuration.input, storage)
    check_writable(configuration.output, storage)
    table = FeatureTable(configuration.output, storage)
    table.check_feature_set(feature_set_id)
    what = [
        feature_set_id,
        normalise(configuration.input),
        configuration.reading.model_dump_json(),
    ]
    work = hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]
    plan = inputs.plan(configuration.input, configuration.reading, storage, _today(table, work))
    return Featurizing(configuration, plan, table, feature_set_id, work)


def run(job: Featurizing) -> dict[str, Any]:
    """Do the work that is left, publish it, and return the manifest.

    Ray is started if it is not running. A run that was killed goes on where it was; one
    that is done already does nothing.

    Raises
    ------
    ErrorRateError
        The manifest is written, nothing is published, finished rows are kept aside.
    """
    configuration, profile, table = job.configuration, job.configuration.profile, job.table
    started, clock = datetime.now(UTC), time.monotonic()
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    finished = table.finished(job.work, job.plan.dates)
    done_before = len(finished)
    known = table.staged(job.work)
    left = None if job.plan.rows is None else job.plan.rows - done_before
    computed, peak = 0, 0
    start_up = 0.0
    if left != 0:
        _remember_date(job)
        with PeakMemory() as memory:
            _start_ray(configuration)
            start_up = time.monotonic() - clock
            tally = Tally.remote()  # type: ignore[attr-defined]
            with Progress(tally, job.plan.rows, done_before):
                for part in _process(job, run_id, finished, tally):
                    known.append(part["path"])
                    computed += part["rows"]
        peak = memory.peak_bytes
    seconds = time.monotonic() - clock
    table.drop_strays(job.work, known)
    staging = table.staging(job.work)
    facts = [table.facts(staging, path) for path in known]
    facts += [table.facts(table.path, path) for path in table.published(job.plan.dates)]
    rows = _counts(facts)
    manifest: dict[str, Any] = {
        "run_id": run_id,
        "outcome": "published" if known else "nothing_to_do",
        "started_at": started.isoformat(timespec="seconds"),
        "feature_set_id": job.feature_set_id,
        "models": profile.revisions(),
        "versions": versions(),
        "input": {
            "root": job.plan.root,
            "kind": job.plan.kind,
            "fingerprint": job.plan.fingerprint(),
            "dates": list(job.plan.dates),
            "left_out": dict(job.plan.ignored),
            "notes": list(job.plan.notes),
        },
        "rows": rows | {"done_before": done_before, "computed": computed},
        "seconds": round(seconds, 3),
        "start_up_seconds": round(start_up, 3),
        "images_per_second": round(computed / (seconds - start_up), 3) if computed else None,
        "peak_memory_bytes": peak,
    }
    _check_all_there(job, facts)
    if _error_rate(rows) > configuration.max_error_rate:
        manifest["outcome"] = "too_many_errors"
        table.write_run(run_id, manifest, configuration.as_yaml())
        raise ErrorRateError(_too_many(rows, configuration.max_error_rate))
    manifest["stages"] = _stage_speeds(facts, profile)
    table.publish(job.work)
    parts = [table.part(path) for path in table.published(job.plan.dates)]
    manifest["files"] = [vars(part) for part in parts]
    manifest["manifest"] = table.write_run(run_id, manifest, configuration.as_yaml())
    return manifest


def _process(
    job: Featurizing, run_id: str, finished: RowKeys, tally: Any
) -> Iterable[dict[str, Any]]:
    """Run the stages on what is left; yields each part as it is finished."""
    configuration, profile = job.configuration, job.configuration.profile
    images = inputs.read(
        job.plan, finished, configuration.storage, max_bytes=profile.decoding.max_bytes
    )
    features = through(images, stages(profile), tally)
    writer = PartWriter(
        join(configuration.output, STAGING, job.work),
        configuration.storage,
        profile.dimensions,
        provenance(profile, run_id),
    )
    parts = features.map_batches(
        writer, batch_size=configuration.rows_per_part, batch_format="pyarrow", num_cpus=0.1
    )
    yield from parts.iter_rows()


def _start_ray(configuration: FeaturizeConfiguration) -> None:
    if not ray.is_initialized():
        # A submitted job finds its cluster in RAY_ADDRESS; without one, Ray runs here.
        local = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
        ray.init(log_to_driver=False, **local)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_options.resource_limits.object_store_memory = (
        configuration.object_store_gb * 1e9
    )


def _today(table: FeatureTable, work: str) -> date:
    """The date for input that has none: that of the first try at this work, else today."""
    path = posixpath.join(table.staging(work), "date.json")
    if table.fs.exists(path):
        return date.fromisoformat(json.loads(table.fs.cat_file(path)))
    return datetime.now(UTC).date()


def _remember_date(job: Featurizing) -> None:
    path = posixpath.join(job.table.staging(job.work), "date.json")
    write_atomically(job.table.fs, path, json.dumps(job.plan.default_date).encode())


def _counts(facts: list[dict[str, Any]]) -> dict[str, Any]:
    totals = {
        name: sum((Counter(fact[name]) for fact in facts), Counter())
        for name in ("statuses", "error_codes", "notes")
    }
    return {
        "total": totals["statuses"].total(),
        "by_status": dict(totals["statuses"]),
        "by_error_code": dict(totals["error_codes"]),
        "by_note": dict(totals["notes"]),
    }


def _stage_speeds(facts: list[dict[str, Any]], profile: Profile) -> list[dict[str, Any]]:
    """Worker seconds of each stage over all rows of these dates, and what one worker does."""
    seconds = sum((Counter(fact["stage_seconds"]) for fact in facts), Counter())
    rows = sum(sum(fact["statuses"].values()) for fact in facts)
    return [
        {
            "stage": stage.name,
            "worker_seconds": round(seconds[stage.name], 3),
            "images_per_worker_second": round(rows / seconds[stage.name], 3)
            if seconds[stage.name]
            else None,
        }
        for stage in stages(profile)
    ]


def _error_rate(rows: dict[str, Any]) -> float:
    repeated = rows["by_error_code"].get(ErrorCode.DUPLICATE_URI, 0)
    counted = rows["total"] - repeated
    return (counted - rows["by_status"].get(Status.OK, 0)) / counted if counted else 0.0


def _limit(job: Featurizing) -> int | None:
    """Errors that put the run over its limit whatever the rest holds."""
    if job.plan.rows is None:
        return None
    return int(job.configuration.max_error_rate * job.plan.rows)


def _too_many(rows: dict[str, Any], limit: float) -> str:
    reasons = Counter(rows["by_error_code"])
    reasons.pop(ErrorCode.DUPLICATE_URI, None)
    code, number = reasons.most_common(1)[0]
    return (
        f"{_error_rate(rows):.1%} of the rows are without features, more than the "
        f"{limit:.1%} that max_error_rate allows, most often ({number} rows) because: "
        f"{ErrorCode(code).sentence} Nothing was published."
    )


def _check_all_there(job: Featurizing, facts: list[dict[str, Any]]) -> None:
    """The first promise, checked on every run: each input row once in the output."""
    found = sum(sum(fact["statuses"].values()) for fact in facts)
    if job.plan.rows is not None and found < job.plan.rows:
        raise RuntimeError(
            f"{job.plan.rows} rows were planned but {found} were written; nothing is published"
        )
