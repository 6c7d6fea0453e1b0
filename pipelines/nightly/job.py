"""What runs every night: find the nights to do, featurize, score, audit, publish each.

::

    ROOT/features/  ROOT/scores/  ROOT/rejects/  ROOT/evidence/   tables, date=… partitions
    ROOT/reports/2026-11-23.html                                  for people
    ROOT/_nights/2026-11-23.json                                  written last: the night is done
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from item.errors import UsageError
from item.heads.head import Head
from pipelines.audit.configuration import AuditConfiguration
from pipelines.audit.job import plan_audit, shown, write_report
from pipelines.audit.thumbnails import keep
from pipelines.featurize.error_rate import ErrorRateError, check_error_rates
from pipelines.featurize.manifest import reuse
from pipelines.featurize.plan import FeaturizingPlan, plan_featurizing
from pipelines.featurize.run import is_done, leases, nothing_to_do, publish, stage
from pipelines.nightly.configuration import NightlyConfiguration
from pipelines.nightly.nights import Night, chosen_nights, nights_of
from pipelines.nightly.rejects import write_rejects
from pipelines.score.heads import load_head
from pipelines.score.job import plan_scoring, run_scoring
from pipelines.storage.access import check_readable, check_writable, filesystem
from pipelines.storage.atomic import write_atomically
from pipelines.storage.retries import take_retries
from pipelines.storage.urls import join, redact
from pipelines.tables.features import FeatureTable
from pipelines.tables.lease import Lease, LeaseHeldError, lease_on
from pipelines.tables.published import PublishedTable, date_of

NIGHTS = "_nights"

Ending = Literal["published", "done_before", "too_many_errors", "held", "refused"]


@dataclass(frozen=True, eq=False)
class NightlyPlan:
    """A checked piece of work."""

    configuration: NightlyConfiguration
    head: Head
    nights: tuple[Night, ...]
    """Those that are to be done, oldest first."""
    done_before: tuple[str, ...]
    """Dates of nights that are left alone, because they are done."""
    others: tuple[str, ...]
    """Names in the dump roots that belong to no night."""
    notes: tuple[str, ...]
    """What the dump's owner should know before the work begins."""

    def remarks(self) -> list[str]:
        """Sentences for the screen."""
        return list(self.notes)

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        return {
            "input": [redact(one) for one in self.configuration.input],
            "output": redact(self.configuration.output),
            "head": self.head.head_id,
            "feature set": self.head.description.feature_set_id,
            "nights": {
                one.date: [redact(prefix) for prefix in one.prefixes] for one in self.nights
            },
            "done before": list(self.done_before),
            "no nights": list(self.others),
            "computed anew": self.configuration.overwrite,
        }


@dataclass
class NightOutcome:
    """What became of a night, for the summary and its manifest."""

    date: str
    outcome: Ending
    facts: dict[str, Any] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """As the summary has it."""
        return {"date": self.date, "outcome": self.outcome, **self.facts}

    def sentence(self) -> str:
        """For a person who watches."""
        if self.outcome == "done_before":
            return f"{self.date}: done before, nothing changed."
        if self.outcome != "published":
            return f"{self.date}: {self.outcome}. {self.facts['reason']}"
        verdicts = sorted(self.facts["verdicts"].items())
        told = ", ".join(f"{number:,} {verdict}" for verdict, number in verdicts)
        return (
            f"{self.date}: {self.facts['rows']['total']:,} rows published in "
            f"{self.facts['seconds']:.0f} s ({told}). Report: {self.facts['report']}"
        )


def plan_nights(configuration: NightlyConfiguration) -> NightlyPlan:
    """Check what can be checked before any work, and find the nights to do.

    Raises
    ------
    UsageError
        Missing input, head or models, an unwritable output, a head of other features, or
        no such night.
    """
    storage = configuration.storage
    pinned = {"profile": configuration.profile.pinned(storage.endpoint_url)}
    configuration = configuration.model_copy(update=pinned)
    head = load_head(configuration.head, storage)
    head.check_feature_set(configuration.profile.feature_set_id())
    for one in configuration.input:
        check_readable(one, storage)
    check_writable(configuration.output, storage)
    found = nights_of(
        configuration.input, storage, configuration.night_folders, configuration.output
    )
    chosen = chosen_nights(configuration, sorted(found.prefixes))
    manifests = {one: _manifest(configuration, one) for one in chosen}
    done = {one for one, told in manifests.items() if told.get("outcome") == "published"}
    left = [
        Night(one, tuple(found.prefixes[one]), one in done)
        for one in chosen
        if one not in done or _again(configuration, one, manifests[one], head)
    ]
    rest = sorted(set(chosen) - {one.date for one in left})
    notes = tuple(found.remarks())
    return NightlyPlan(configuration, head, tuple(left), tuple(rest), found.others, notes)


def _again(
    configuration: NightlyConfiguration, night: str, manifest: Mapping[str, Any], head: Head
) -> bool:
    """Whether a done night is looked at again; one that another head scored stays as it is."""
    if configuration.overwrite == "all":
        return True
    scored_by = manifest["head"]["head_id"]
    if configuration.retry_failed and scored_by != head.head_id:
        raise UsageError(
            f"The night {night} was scored by the head {scored_by}, this one is {head.head_id}: "
            "give that head, or compute the night anew with --overwrite."
        )
    named = configuration.retry_failed or configuration.date or configuration.first
    return bool(named) and scored_by == head.head_id


def run_nights(job: NightlyPlan) -> Iterator[NightOutcome]:
    """Do the nights, some at once; what is wrong with one does not stop the others."""
    number = job.configuration.nights_at_once
    for first in range(0, len(job.nights), number):
        yield from _do(job, job.nights[first : first + number])


@dataclass(frozen=True, eq=False)
class _Held:
    """A night that is ours to publish."""

    night: Night
    lease: Lease
    job: FeaturizingPlan


def _do(job: NightlyPlan, nights: Sequence[Night]) -> Iterator[NightOutcome]:
    """Lease nights, featurize those that are left together, and publish each."""
    configuration = job.configuration
    with ExitStack() as stack:
        held = []
        for night in nights:
            try:
                held.append(_hold(configuration, night, stack))
            except LeaseHeldError as error:
                yield NightOutcome(night.date, "held", {"reason": str(error)})
            except UsageError as error:
                yield NightOutcome(night.date, "refused", {"reason": str(error)})
        for one in held:
            for remark in one.job.remarks():
                print(f"{one.night.date}: {remark}", file=sys.stderr, flush=True)
        left = [one for one in held if not is_done(one.job)]
        began = datetime.datetime.now(datetime.UTC)
        started = time.monotonic()
        staged = stage([one.job for one in left]) if left else []
        featurized = {one.night.date: nothing_to_do(one.job) for one in held if one not in left}
        for one, work in zip(left, staged, strict=True):
            try:
                check_error_rates([work])
            except ErrorRateError as error:
                yield NightOutcome(one.night.date, "too_many_errors", {"reason": str(error)})
                continue
            one.lease.check()
            [featurized[one.night.date]] = publish([work])
        there = [one for one in held if one.night.date in featurized]
        scored = _scored(job, [one.night.date for one in there])
        seconds = time.monotonic() - started
        for one in there:
            found = featurized[one.night.date]
            yield _publish(job, one, found, scored, began, seconds / len(there))


def _hold(configuration: NightlyConfiguration, night: Night, stack: ExitStack) -> _Held:
    """Lease a night until the stack unwinds, and list its input."""
    lease = stack.enter_context(lease_on(configuration.output, night.date, configuration))
    job = plan_featurizing(configuration.featurizing(night.prefixes), night.date)
    stack.enter_context(leases([job]))
    return _Held(night, lease, job)


def _scored(job: NightlyPlan, nights: Sequence[str]) -> dict[str, Any]:
    """Score nights whose features are published; returns the manifest."""
    if not nights:
        return {}
    return run_scoring(plan_scoring(job.configuration.scoring(nights)))


def _publish(
    job: NightlyPlan,
    held: _Held,
    featurized: Mapping[str, Any],
    scored: Mapping[str, Any],
    began: datetime.datetime,
    seconds: float,
) -> NightOutcome:
    """The last steps of a night that has features and scores; none where nothing changed."""
    configuration, night = job.configuration, held.night
    started = time.monotonic()
    changed = {file["path"] for file in scored["files"]}
    unchanged = featurized["outcome"] == "nothing_to_do" and not any(
        date_of(path) == night.date for path in changed
    )
    if night.done and unchanged and configuration.overwrite == "nothing":
        return NightOutcome(night.date, "done_before")
    write_rejects(configuration.output, night.date, configuration.storage)
    facts = _facts(job, held, featurized, scored)
    facts["started_at"] = began.isoformat(timespec="seconds")
    facts["seconds"] = round(seconds, 3)
    # The report reads the run's facts; only the last write says that the night is done.
    _write_manifest(configuration, night.date, {**facts, "outcome": "scored"})
    report = _audit(job, night, held.job)
    held.lease.check()
    facts |= {
        "outcome": "published",
        "report": report,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds + time.monotonic() - started, 3),
        "storage_retries": facts["storage_retries"] + take_retries(),
    }
    _write_manifest(configuration, night.date, facts)
    told = ("rows", "verdicts", "reuse", "seconds", "storage_retries", "report")
    return NightOutcome(night.date, "published", {name: facts[name] for name in told})


def _audit(job: NightlyPlan, night: Night, featurizing: FeaturizingPlan) -> str:
    """Keep the pictures that the night's report shows, and write it."""
    configuration = job.configuration
    auditing = AuditConfiguration(
        input=configuration.output,
        output=join(configuration.output, "reports", f"{night.date}.html"),
        date=datetime.date.fromisoformat(night.date),
        storage=configuration.storage,
        **dict(configuration.audit),
    )
    prepared = plan_audit(auditing)
    pictures = shown(prepared)
    keep(
        join(configuration.output, "evidence"),
        night.date,
        pictures,
        featurizing.plan,
        configuration.storage,
        configuration.profile.decoding,
    )
    return write_report(prepared)


def _facts(
    job: NightlyPlan,
    held: _Held,
    featurized: Mapping[str, Any],
    scored: Mapping[str, Any],
) -> dict[str, Any]:
    """What the night's manifest says: counts from the published files, times from this run."""
    configuration, night, plan = job.configuration, held.night, held.job.plan
    features = FeatureTable(join(configuration.output, "features"), configuration.storage)
    [path] = features.published([night.date])
    about = features.facts(features.path, path)
    scores = PublishedTable(join(configuration.output, "scores"), configuration.storage)
    total = sum(about["statuses"].values())
    computed = featurized if featurized.get("rows_computed") else {}
    return {
        "date": night.date,
        "input": [redact(one) for one in night.prefixes],
        "left_out": dict(plan.ignored),
        "notes": [*plan.notes, *computed.get("notices", ())],
        "no_nights": list(job.others),
        "rows": {
            "total": total,
            "by_status": about["statuses"],
            "by_error_code": about["error_codes"],
            "by_note": about["notes"],
            "taken_out": featurized["rows"]["taken_out"],
        },
        "verdicts": scores.facts(scores.path, path)["verdicts"],
        "reuse": reuse(about),
        "head": {
            "head_id": job.head.head_id,
            "error_rates": job.head.description.model_dump(mode="json")["error_rates"],
            "thresholds": job.head.description.model_dump(mode="json")["thresholds"],
        },
        **{name: featurized[name] for name in ("feature_set_id", "models", "versions")},
        "images_per_second": computed.get("images_per_second"),
        "start_up_seconds": computed.get("start_up_seconds", 0),
        "peak_memory_bytes": computed.get("peak_memory_bytes"),
        "cpus": computed.get("cpus"),
        "gpus": computed.get("gpus"),
        "stages": featurized["stages"],
        "scoring": {name: scored[name] for name in ("rows_per_second",) if name in scored},
        "storage_retries": take_retries()
        + sum(one.get("storage_retries", 0) for one in (featurized, scored)),
        "runs": [one["manifest"] for one in (featurized, scored) if "manifest" in one],
    }


def _manifest_path(configuration: NightlyConfiguration, night: str) -> tuple[Any, str]:
    return filesystem(join(configuration.output, NIGHTS, f"{night}.json"), configuration.storage)


def _manifest(configuration: NightlyConfiguration, night: str) -> dict[str, Any]:
    """What a night's manifest says; nothing where there is none."""
    fs, path = _manifest_path(configuration, night)
    try:
        found: dict[str, Any] = json.loads(fs.cat_file(path))
    except FileNotFoundError:
        return {}
    return found


def _write_manifest(
    configuration: NightlyConfiguration, night: str, facts: Mapping[str, Any]
) -> None:
    fs, path = _manifest_path(configuration, night)
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    write_atomically(fs, path, text.encode())
