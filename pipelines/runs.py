"""A run: plan, resume, process, publish, and say what happened."""

from __future__ import annotations

import hashlib
import json
import posixpath
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

import ray

from item.tables import ErrorCode, Status
from pipelines import inputs, reading
from pipelines.configuration import FeaturizeConfiguration
from pipelines.feature_table import STAGING, FeatureTable, PartWriter
from pipelines.featurize import stages
from pipelines.inputs import InputPlan
from pipelines.memory import PeakMemory
from pipelines.progress import Progress, Tally
from pipelines.provenance import provenance, versions
from pipelines.ray_start import start_ray
from pipelines.row_keys import RowKeys
from pipelines.stages import through, workers
from pipelines.storage import (
    check_readable,
    check_writable,
    join,
    normalise,
    redact,
    write_atomically,
)


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
    profile, storage = configuration.profile, configuration.storage
    profile.check_models()
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
    table, storage = job.table, job.configuration.storage
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{_suffix(job.work)}"
    finished = table.finished(job.work, job.plan.dates)
    left = reading.count_left(job.plan, finished, storage)
    timing = _compute(job, run_id, finished, left) if left != 0 else {}
    _check_all_there(job)
    staged = table.staged(job.work)
    landed = _landed(job, staged)
    facts = [table.facts(table.staging(job.work), path) for path in staged]
    facts += [table.facts(table.path, path) for path in landed]
    manifest = _manifest(job, run_id, facts, left, timing)
    if not facts:
        return manifest | {"outcome": "nothing_to_do"}
    if _error_rate(manifest["rows"]) > job.configuration.max_error_rate:
        table.write_run(run_id, manifest, job.configuration.as_yaml())
        raise ErrorRateError(_too_many(manifest["rows"], job.configuration.max_error_rate))
    table.publish(job.work)
    parts = [asdict(table.part(path)) for path in sorted({*staged, *landed})]
    manifest |= {"outcome": "published", "files": parts}
    manifest["manifest"] = table.write_run(run_id, manifest, job.configuration.as_yaml())
    return manifest


def _landed(job: Featurizing, staged: Iterable[str]) -> list[str]:
    """Published parts of this work that no manifest names: their run was killed just then."""
    suffix = _suffix(job.work)
    reported = {
        file["path"] for manifest in job.table.manifests(suffix) for file in manifest["files"]
    }
    known = reported.union(staged)
    return [
        path
        for path in job.table.published(job.plan.dates)
        if path not in known and job.table.facts(job.table.path, path)["run_id"].endswith(suffix)
    ]


def _suffix(work: str) -> str:
    """How the ids of a work's runs end."""
    return work[:8]


def _compute(job: Featurizing, run_id: str, finished: RowKeys, left: int | None) -> dict[str, Any]:
    """Featurize what is left into staged parts; returns times and memory."""
    started = time.monotonic()
    known = job.table.staged(job.work)
    _remember_date(job)
    start_ray(job.configuration.object_store_gb)
    tally = Tally.remote()  # type: ignore[attr-defined]
    with PeakMemory() as memory, Progress(tally, left) as progress:
        known += [part["path"] for part in _process(job, run_id, finished, tally)]
    job.table.drop_strays(job.work, known)
    return {
        "rows_computed": progress.rows,
        "seconds": round(time.monotonic() - started, 3),
        "start_up_seconds": round(progress.start_up_seconds, 3),
        "images_per_second": round(progress.images_per_second, 3),
        "peak_memory_bytes": memory.peak_bytes,
        "cpus": ray.cluster_resources().get("CPU", 0.0),
        "gpus": ray.cluster_resources().get("GPU", 0.0),
    }


def _manifest(
    job: Featurizing,
    run_id: str,
    facts: list[dict[str, Any]],
    left: int | None,
    timing: dict[str, Any],
) -> dict[str, Any]:
    """What a run says of itself; ``rows`` are those that it publishes."""
    plan, profile = job.plan, job.configuration.profile
    done_before = None if plan.rows is None or left is None else plan.rows - left
    return {
        "run_id": run_id,
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
        **timing,
        "stages": _stage_speeds(facts, job.configuration, timing.get("cpus", 0.0)),
    }


def _process(
    job: Featurizing, run_id: str, finished: RowKeys, tally: Any
) -> Iterable[dict[str, Any]]:
    """Run the stages on what is left; yields each part as it is finished."""
    configuration, profile = job.configuration, job.configuration.profile
    images = reading.read(
        job.plan,
        finished,
        configuration.storage,
        max_bytes=profile.decoding.max_bytes,
        # As a decoding task: Ray then reads and decodes in one, without a copy between.
        num_cpus=profile.resources.decode.cpus,
    )
    features = through(images, stages(profile, configuration.perturbation), tally)
    writer = PartWriter(
        join(configuration.output, STAGING, job.work),
        configuration.storage,
        profile.dimensions,
        provenance(profile, run_id, configuration.perturbation),
    )
    parts = features.map_batches(
        writer, batch_size=configuration.rows_per_part, batch_format="pyarrow", num_cpus=0.1
    )
    yield from parts.iter_rows()


def _today(table: FeatureTable, work: str) -> date:
    """The date for input that has none: that of the first try at this work, else today.

    So a job that is started again on another day neither mixes dates nor begins anew.
    """
    path = posixpath.join(table.staging(work), "date.json")
    if table.fs.exists(path):
        return date.fromisoformat(json.loads(table.fs.cat_file(path)))
    for manifest in table.manifests(_suffix(work)):
        return date.fromisoformat(manifest["input"]["default_date"])
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


def _stage_speeds(
    facts: list[dict[str, Any]], configuration: FeaturizeConfiguration, cpus: float
) -> list[dict[str, Any]]:
    """How fast each stage is: what one worker does in a second, and how many there are."""
    seconds = sum((Counter(fact["stage_seconds"]) for fact in facts), Counter())
    rows = sum(sum(fact["statuses"].values()) for fact in facts)
    return [
        {
            "stage": stage.name,
            "workers": workers(stage.resources, cpus),
            "worker_seconds": round(seconds[stage.name], 3),
            "images_per_second": round(rows / max(seconds[stage.name], 1e-9), 3),
        }
        for stage in stages(configuration.profile, configuration.perturbation)
        if rows
    ]


def _error_rate(rows: dict[str, Any]) -> float:
    repeated = rows["by_error_code"].get(ErrorCode.DUPLICATE_URI, 0)
    counted = rows["total"] - repeated
    return (counted - rows["by_status"].get(Status.OK, 0)) / counted if counted else 0.0


def _too_many(rows: dict[str, Any], limit: float) -> str:
    reasons = Counter(rows["by_error_code"])
    reasons.pop(ErrorCode.DUPLICATE_URI, None)
    code, number = reasons.most_common(1)[0]
    return (
        f"{_error_rate(rows):.1%} of the rows are without features, more than the "
        f"{limit:.1%} that max_error_rate allows, most often ({number} rows) because: "
        f"{ErrorCode(code).sentence} Nothing was published."
    )


def _check_all_there(job: Featurizing) -> None:
    """The first promise, checked on every run: each input row once in the output."""
    finished = job.table.finished(job.work, job.plan.dates)
    missing = reading.count_left(job.plan, finished, job.configuration.storage)
    if missing:
        raise RuntimeError(
            f"{missing} of {job.plan.rows} rows were not written, so nothing is published; "
            "start the job again to compute them"
        )
