"""What runs every night: find the nights to do, featurize, score, audit, publish each.

::

    ROOT/features/  ROOT/scores/  ROOT/rejects/  ROOT/evidence/   tables, date=… partitions
    ROOT/reports/2026-11-23.html                                  for people
    ROOT/_nights/2026-11-23.json                                  written last: the night is done
"""

from __future__ import annotations

import datetime
import json
import posixpath
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from item.errors import UsageError
from item.heads.head import Head
from item.mini import HEAD
from item.profiles import Profile
from item.settings import validated
from item.tables import REJECTS, SCHEMA_VERSION, ErrorCode, Status
from pipelines.audit import job as audit
from pipelines.audit import thumbnails as evidence
from pipelines.audit.numbers import AuditOptions
from pipelines.featurize.configuration import FeaturizeConfiguration
from pipelines.featurize.error_rate import ErrorRateError, check_error_rates
from pipelines.featurize.manifest import reuse
from pipelines.featurize.plan import FeaturizingPlan, plan_featurizing
from pipelines.featurize.run import is_done, leases, nothing_to_do, publish, stage
from pipelines.input.plan import InputOptions
from pipelines.score import job as scoring
from pipelines.score.heads import load_head
from pipelines.storage.access import (
    Storage,
    check_readable,
    check_writable,
    filesystem,
    take_retries,
)
from pipelines.storage.atomic import write_atomically
from pipelines.storage.urls import join, normalise, redact
from pipelines.tables.features import FeatureTable
from pipelines.tables.lease import Lease, LeaseHeldError, lease_on
from pipelines.tables.provenance import encoded
from pipelines.tables.published import PublishedTable, date_of, nights_between

NIGHTS = "_nights"
EXAMPLES = 5
"""URIs that the rejects view names for each reason and source."""

Outcome = Literal["published", "done_before", "too_many_errors", "held", "refused"]


class NightlyConfiguration(BaseModel):
    """Everything that ``jobs/nightly.py`` does, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: tuple[str, ...] = Field(min_length=1)
    """Dump roots with ``date=YYYY-MM-DD`` folders, or prefixes that are such a folder."""
    output: str = Field(min_length=1)
    """Root of the tables and reports."""
    head: str = str(HEAD)
    """Folder or ``s3://`` prefix of a head; by default the one that ships with ``mini``."""
    date: datetime.date | None = None
    """One night, whether it is done or not."""
    first: datetime.date | None = Field(default=None, alias="from")
    """The nights from this one on, whether they are done or not."""
    last: datetime.date | None = Field(default=None, alias="to")
    """The nights up to this one; those that are done stay as they are, unless ``from`` is
    given too."""
    again: Literal["nothing", "failed", "all"] = "nothing"
    """Rows of done nights that are computed anew: those that failed for a passing reason, or
    all, with a new report for each night."""
    profile: Profile
    reading: InputOptions = InputOptions()
    storage: Storage = Storage()
    max_error_rate: float = Field(default=0.25, ge=0, le=1)
    """As in ``jobs/featurize.py``, by night; lasting and passing reasons count apart."""
    rows_per_part: int = Field(default=1024, ge=1)
    object_store_gb: float = Field(default=2.0, gt=0)
    wait_for_gpus: bool = False
    reuse: bool = True
    reuse_nights: int = Field(default=30, ge=0)
    lease_seconds: float = Field(default=120.0, ge=1)
    exclusive_lease: bool = True
    nights_at_once: int = Field(default=7, ge=1)
    """Nights that are featurized together, so that models are loaded once for them; they are
    published one by one."""
    audit: AuditOptions = AuditOptions()
    """Of the report of each night."""

    @model_validator(mode="after")
    def _names_nights_in_one_way(self) -> NightlyConfiguration:
        if self.date and (self.first or self.last):
            raise ValueError("date names one night, from and to a range: give one or the other")
        if self.first and self.last and self.first > self.last:
            raise ValueError("from lies after to")
        return self

    def featurizing(self, prefix: str) -> FeaturizeConfiguration:
        """The configuration of a night's features."""
        shared = FeaturizeConfiguration.model_fields.keys() & type(self).model_fields.keys()
        values = {name: getattr(self, name) for name in shared}
        values |= {"input": prefix, "output": join(self.output, "features")}
        return validated(FeaturizeConfiguration, values, "configuration")

    def scoring(self, nights: Sequence[str]) -> scoring.ScoreConfiguration:
        """The configuration of some nights' scores."""
        return scoring.ScoreConfiguration(
            input=join(self.output, "features"),
            output=join(self.output, "scores"),
            head=self.head,
            dates=tuple(nights),
            replace=self.again == "all",
            storage=self.storage,
            object_store_gb=self.object_store_gb,
            lease_seconds=self.lease_seconds,
            exclusive_lease=self.exclusive_lease,
        )


@dataclass(frozen=True)
class Night:
    """A night of the dump."""

    date: str
    prefixes: tuple[str, ...]
    done: bool


@dataclass(frozen=True, eq=False)
class NightlyJob:
    """A checked piece of work."""

    configuration: NightlyConfiguration
    head: Head
    nights: tuple[Night, ...]
    """Those that are to be done, oldest first."""
    done_before: tuple[str, ...]
    """Dates of nights that are left alone, because they are done."""

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
            "computed anew": self.configuration.again,
        }


@dataclass
class Told:
    """What became of a night, for the summary and its manifest."""

    date: str
    outcome: Outcome
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


def prepare(configuration: NightlyConfiguration) -> NightlyJob:
    """Check what can be checked before any work, and find the nights to do.

    Raises
    ------
    UsageError
        Missing input, head or models, an unwritable output, a head of other features, or
        no such night.
    """
    pinned = {"profile": configuration.profile.pinned()}
    configuration = configuration.model_copy(update=pinned)
    storage = configuration.storage
    head = load_head(configuration.head, storage)
    head.check_feature_set(configuration.profile.feature_set_id())
    for one in configuration.input:
        check_readable(one, storage)
    check_writable(configuration.output, storage)
    found = nights_of(configuration.input, storage)
    chosen = _chosen(configuration, sorted(found))
    manifests = {one: _manifest(configuration, one) for one in chosen}
    done = {one for one, told in manifests.items() if told.get("outcome") == "published"}
    left = [
        Night(one, tuple(found[one]), one in done)
        for one in chosen
        if one not in done or _again(configuration, one, manifests[one], head)
    ]
    if configuration.again == "failed":
        left = [one for one in left if one.done]
    rest = sorted(set(chosen) - {one.date for one in left})
    return NightlyJob(configuration, head, tuple(left), tuple(rest))


def _again(
    configuration: NightlyConfiguration, night: str, manifest: Mapping[str, Any], head: Head
) -> bool:
    """Whether a done night is looked at again; one that another head scored stays as it is."""
    if configuration.again == "all":
        return True
    scored_by = manifest["head"]["head_id"]
    if configuration.again == "failed" and scored_by != head.head_id:
        raise UsageError(
            f"The night {night} was scored by the head {scored_by}, this one is {head.head_id}: "
            "give that head, or compute the night anew with --force."
        )
    named = configuration.again == "failed" or configuration.date or configuration.first
    return bool(named) and scored_by == head.head_id


def nights_of(inputs: Sequence[str], storage: Storage) -> dict[str, list[str]]:
    """Prefixes by date, of dump roots and of prefixes that are nights themselves."""
    found: dict[str, list[str]] = {}
    for one in inputs:
        own = _date_of(one)
        if own:
            found.setdefault(own, []).append(one)
            continue
        fs, path = filesystem(one, storage)
        names = [posixpath.basename(entry["name"].rstrip("/")) for entry in fs.ls(path, True)]
        dates = {date: name for name in names if (date := _date_of(name))}
        if not dates:
            raise UsageError(
                f"There is no night at {redact(one)}: nights are folders such as date=2026-11-23."
            )
        for night, name in sorted(dates.items()):
            found.setdefault(night, []).append(join(one, name))
    return found


def run(job: NightlyJob) -> Iterator[Told]:
    """Do the nights, some at once; what is wrong with one does not stop the others."""
    number = job.configuration.nights_at_once
    for first in range(0, len(job.nights), number):
        yield from _do(job, job.nights[first : first + number])


@dataclass(frozen=True, eq=False)
class _Held:
    """A night that is ours to publish."""

    night: Night
    lease: Lease
    jobs: tuple[FeaturizingPlan, ...]


def _do(job: NightlyJob, nights: Sequence[Night]) -> Iterator[Told]:
    """Lease nights, featurize those that are left together, and publish each."""
    configuration = job.configuration
    with ExitStack() as stack:
        held = []
        for night in nights:
            try:
                held.append(_hold(configuration, night, stack))
            except LeaseHeldError as error:
                yield Told(night.date, "held", {"reason": str(error)})
            except UsageError as error:
                yield Told(night.date, "refused", {"reason": str(error)})
        done = [one for one in held if all(map(is_done, one.jobs))]
        left = [one for one in held if one not in done]
        began = datetime.datetime.now(datetime.UTC)
        started = time.monotonic()
        staged = stage([each for one in left for each in one.jobs]) if left else []
        featurized = {one.night.date: [nothing_to_do(each) for each in one.jobs] for one in done}
        for one in left:
            mine = [each for each in staged if each.job in one.jobs]
            try:
                check_error_rates(mine)
            except ErrorRateError as error:
                yield Told(one.night.date, "too_many_errors", {"reason": str(error)})
                continue
            one.lease.check()
            featurized[one.night.date] = publish(mine)
        there = [one for one in held if one.night.date in featurized]
        scored = _scored(job, [one.night.date for one in there])
        seconds = time.monotonic() - started
        for one in there:
            found = featurized[one.night.date]
            yield _publish(job, one, found, scored, began, seconds / len(there))


def _hold(configuration: NightlyConfiguration, night: Night, stack: ExitStack) -> _Held:
    """Lease a night until the stack unwinds, and list its input."""
    lease = stack.enter_context(lease_on(configuration.output, night.date, configuration))
    jobs = tuple(plan_featurizing(configuration.featurizing(one)) for one in night.prefixes)
    stack.enter_context(leases(jobs))
    return _Held(night, lease, jobs)


def _scored(job: NightlyJob, nights: Sequence[str]) -> dict[str, Any]:
    """Score nights whose features are published; returns the manifest."""
    if not nights:
        return {}
    return scoring.run(scoring.prepare(job.configuration.scoring(nights)))


def _publish(
    job: NightlyJob,
    held: _Held,
    featurized: Sequence[Mapping[str, Any]],
    scored: Mapping[str, Any],
    began: datetime.datetime,
    seconds: float,
) -> Told:
    """The last steps of a night that has features and scores; none where nothing changed."""
    configuration, night = job.configuration, held.night
    started = time.monotonic()
    changed = {file["path"] for file in scored["files"]}
    unchanged = all(one["outcome"] == "nothing_to_do" for one in featurized) and not any(
        date_of(path) == night.date for path in changed
    )
    if night.done and unchanged and configuration.again == "nothing":
        return Told(night.date, "done_before")
    write_rejects(configuration.output, night.date, configuration.storage)
    facts = _facts(job, night, featurized, scored)
    facts["started_at"] = began.isoformat(timespec="seconds")
    facts["seconds"] = round(seconds, 3)
    # The report reads the run's facts; only the last write says that the night is done.
    _write_manifest(configuration, night.date, {**facts, "outcome": "scored"})
    report = _audit(job, night, held.jobs)
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
    return Told(night.date, "published", {name: facts[name] for name in told})


def _audit(job: NightlyJob, night: Night, featurizing: Sequence[FeaturizingPlan]) -> str:
    """Keep the pictures that the night's report shows, and write it."""
    configuration = job.configuration
    auditing = audit.AuditConfiguration(
        input=configuration.output,
        output=join(configuration.output, "reports", f"{night.date}.html"),
        date=datetime.date.fromisoformat(night.date),
        storage=configuration.storage,
        **dict(configuration.audit),
    )
    prepared = audit.prepare(auditing)
    shown = audit.shown(prepared)
    evidence.keep(
        join(configuration.output, "evidence"),
        night.date,
        shown["uri"].tolist(),
        [one.plan for one in featurizing],
        configuration.storage,
        configuration.profile.decoding,
    )
    return audit.write(prepared)


def _facts(
    job: NightlyJob,
    night: Night,
    featurized: Sequence[Mapping[str, Any]],
    scored: Mapping[str, Any],
) -> dict[str, Any]:
    """What the night's manifest says: counts from the published files, times from this run."""
    configuration = job.configuration
    features = FeatureTable(join(configuration.output, "features"), configuration.storage)
    [path] = features.published([night.date])
    about = features.facts(features.path, path)
    scores = PublishedTable(join(configuration.output, "scores"), configuration.storage)
    total = sum(about["statuses"].values())
    first = featurized[0]
    computed = [one for one in featurized if one.get("rows_computed")]
    return {
        "date": night.date,
        "input": [redact(one) for one in night.prefixes],
        "rows": {
            "total": total,
            "by_status": about["statuses"],
            "by_error_code": about["error_codes"],
            "by_note": about["notes"],
        },
        "verdicts": scores.facts(scores.path, path)["verdicts"],
        "reuse": reuse(about),
        "head": {
            "head_id": job.head.head_id,
            "error_rates": job.head.description.model_dump(mode="json")["error_rates"],
            "thresholds": job.head.description.model_dump(mode="json")["thresholds"],
        },
        "feature_set_id": first["feature_set_id"],
        "models": first["models"],
        "versions": first["versions"],
        "images_per_second": computed[0]["images_per_second"] if computed else None,
        "start_up_seconds": sum(one["start_up_seconds"] for one in computed),
        "peak_memory_bytes": max((one["peak_memory_bytes"] for one in computed), default=None),
        "cpus": computed[0]["cpus"] if computed else None,
        "gpus": computed[0]["gpus"] if computed else None,
        "stages": first["stages"],
        "scoring": {name: scored[name] for name in ("rows_per_second",) if name in scored},
        "storage_retries": take_retries()
        + sum(one.get("storage_retries", 0) for one in [*featurized, scored]),
        "runs": [one["manifest"] for one in [*featurized, scored] if "manifest" in one],
    }


def write_rejects(root: str, night: str, storage: Storage) -> pa.Table:
    """Make the rejects view of a published night; returns it."""
    features = FeatureTable(join(root, "features"), storage)
    rows = []
    for path in features.published([night]):
        with features.fs.open(posixpath.join(features.path, path), "rb") as file:
            columns = ["uri", "source", "status", "error_code"]
            rows.append(pq.ParquetFile(file).read(columns=columns).replace_schema_metadata(None))
    view = rejects(pa.concat_tables(rows))
    schema = REJECTS.with_metadata(encoded({"table": "rejects", "schema_version": SCHEMA_VERSION}))
    table = PublishedTable(join(root, "rejects"), storage)
    table.replace(night, [view], schema, {}, "rejects.parquet")
    return view


def rejects(rows: pa.Table) -> pa.Table:
    """Rows without features by reason and source, most frequent first.

    Parameters
    ----------
    rows : with ``uri``, ``source``, ``status`` and ``error_code``, of a whole night

    Returns
    -------
    Table of the schema ``REJECTS``.
    """
    sizes = {one["values"]: one["counts"] for one in pc.value_counts(rows["source"]).to_pylist()}
    without = rows.filter(pc.not_equal(rows["status"], Status.OK)).sort_by("uri")
    groups = without.group_by(["error_code", "status", "source"], use_threads=False).aggregate(
        [("uri", "count"), ("uri", "list")]
    )
    view = [
        {
            "error_code": one["error_code"],
            "status": one["status"],
            "source": one["source"],
            "rows": one["uri_count"],
            "share": one["uri_count"] / sizes[one["source"]],
            "reason": ErrorCode(one["error_code"]).sentence,
            "examples": one["uri_list"][:EXAMPLES],
        }
        for one in groups.to_pylist()
    ]
    view.sort(key=lambda one: (-one["rows"], one["error_code"], one["source"] or ""))
    return pa.Table.from_pylist(view, schema=REJECTS)


def _chosen(configuration: NightlyConfiguration, there: Sequence[str]) -> list[str]:
    """The nights of the dump that were asked for; UsageError if one that was named is missing."""
    chosen = nights_between(
        there, configuration.date or configuration.first, configuration.date or configuration.last
    )
    if not chosen:
        raise UsageError(
            f"The dump has no night that was asked for: its nights are {there[0]} to {there[-1]}."
        )
    return chosen


def _date_of(prefix: str) -> str | None:
    """The date that a folder's name says, if it is one."""
    name = posixpath.basename(normalise(prefix) if "/" in prefix else prefix)
    match = re.fullmatch(r"date=(\d{4}-\d{2}-\d{2})", name)
    try:
        return datetime.date.fromisoformat(match[1]).isoformat() if match else None
    except ValueError:
        return None


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
