"""What a run of a featurize job says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from item.tables import Status
from pipelines.featurize.configuration import FeaturizeConfiguration
from pipelines.featurize.plan import FeaturizingPlan
from pipelines.featurize.steps import stages
from pipelines.runtime.stages import groups, workers
from pipelines.storage.urls import redact
from pipelines.tables.parts import summed
from pipelines.tables.provenance import versions


@dataclass(frozen=True)
class Staged:
    """Work that is done and not published."""

    job: FeaturizingPlan
    run_id: str
    left: int | None
    """Rows that this run had to compute; None if unknown."""
    gone: int
    """Published rows whose files are not there any more, and which are taken out."""
    parts: tuple[dict[str, Any], ...]
    """What each staged part says of itself."""
    dates: tuple[str, ...]
    """The date of each part."""
    timing: dict[str, Any]


def manifest_of(staged: Staged, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
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
            "places": [redact(place) for place in plan.places],
            "kinds": list(plan.kinds),
            "fingerprint": plan.fingerprint(),
            "rows": plan.rows,
            "dates": list(plan.dates),
            "default_date": plan.default_date,
            "left_out": dict(plan.ignored),
            "notes": list(plan.notes),
        },
        "rows": {"done_before": done_before, **_counts(facts), "taken_out": staged.gone},
        "reuse": reuse(facts),
        **timing,
        "stages": _stage_speeds(facts, job.configuration, timing),
    }


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
