"""From a ``features`` table and a head to a ``scores`` table, file by file, row by row.

A file of scores has the name and the row order of the file of features that it was made of,
and says which head and which state of the features made it. What is unchanged is not scored
again.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import posixpath
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import ActorPoolStrategy

from item.errors import MachineError, UsageError
from item.explanation.sentences import explanations, weakest_objects
from item.heads.columns import COLUMNS as HEAD_COLUMNS
from item.heads.head import Head
from item.tables import LAYERS, SCHEMA_VERSION, SCORES, decoded, encoded, typed
from item.version import __version__
from pipelines.runtime.memory import PeakMemory
from pipelines.runtime.progress import Progress, Tally, tell_retries
from pipelines.runtime.start import start_ray
from pipelines.score.configuration import ScoreConfiguration
from pipelines.score.heads import load_head
from pipelines.storage.access import check_readable, check_writable, filesystem
from pipelines.storage.retries import take_retries
from pipelines.storage.urls import join, redact
from pipelines.tables.columns import check_distinct
from pipelines.tables.features import FeatureTable
from pipelines.tables.identity import FEATURES, feature_set_in, table_kind
from pipelines.tables.lease import lease_on
from pipelines.tables.provenance import versions
from pipelines.tables.published import STAGING, PublishedTable, date_of, row_groups, write_part

COPIED = ("image_id", "uri", "source", "status", "error_code", "global_similarity")
COLUMNS = tuple(dict.fromkeys([*COPIED, "caption", "objects", *HEAD_COLUMNS]))
"""Columns of the features that scoring reads; ``digital_source_type`` too, where it is there."""


@dataclass(frozen=True)
class Piece:
    """Row groups of a features file that one task scores."""

    path: str
    """Of the features file, below the root."""
    first_row: int
    groups: tuple[int, ...]
    staged_as: str
    """Path of the part below the root of the scores."""
    rows: int


@dataclass(frozen=True)
class FileToScore:
    """A features file whose scores are missing or out of date."""

    path: str
    state: str
    """Changes whenever the features change."""
    rows: int
    work: str
    """Names the staging folder."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, eq=False)
class ScoringPlan:
    """A checked piece of work."""

    configuration: ScoreConfiguration
    features: FeatureTable
    scores: PublishedTable
    head: Head
    files: tuple[FileToScore, ...]
    rows_done_before: int

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        return {
            "features": redact(self.configuration.input),
            "feature set": self.head.description.feature_set_id,
            "head": self.head.head_id,
            "output": redact(self.configuration.output),
            "nights": [date_of(file.path) for file in self.files],
            "rows": sum(file.rows for file in self.files),
            "rows done before": self.rows_done_before,
        }


def plan_scoring(configuration: ScoreConfiguration) -> ScoringPlan:
    """Check everything before any work, and list what has no scores of this head yet.

    Raises
    ------
    UsageError
        Missing head or table, another feature set, an unwritable output, or scores of
        another head in the way.
    """
    storage = configuration.storage
    head = load_head(configuration.head, storage)
    check_readable(configuration.input, storage)
    check_writable(configuration.output, storage)
    features = FeatureTable(configuration.input, storage)
    scores = PublishedTable(configuration.output, storage)
    paths = features.published(configuration.dates)
    if not paths and configuration.dates is None:
        raise UsageError(
            f"There is no features table at {redact(configuration.input)}: make one with "
            "jobs/featurize.py."
        )
    there = set(scores.published(configuration.dates))
    files, done = [], 0
    for path in paths:
        file = _to_score(features, path, head, configuration)
        made_of = scores.facts(scores.path, path) if path in there else {}
        other = made_of.get("head_id", head.head_id)
        if other != head.head_id and configuration.overwrite != "all":
            raise UsageError(
                f"The output holds scores of {date_of(path)} by the head {other}, this one is "
                f"{head.head_id}: choose another output, or replace them with --overwrite."
            )
        if (other, made_of.get("features_state")) == (head.head_id, file.state):
            done += file.rows
        else:
            files.append(file)
    return ScoringPlan(configuration, features, scores, head, tuple(files), done)


def run_scoring(job: ScoringPlan) -> dict[str, Any]:
    """Score what is left, publish each night in one step, and return the manifest.

    Raises
    ------
    LeaseHeldError
        Another run scores the same night into this table.
    """
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{job.head.head_id[:8]}"
    totals = {"statuses": Counter[str](), "verdicts": Counter[str]()}
    written, timing = [], {}
    if job.files:
        started = time.monotonic()
        start_ray(job.configuration.object_store_gb)
        timing = _score(job, run_id)
        for file in job.files:
            path, facts = _publish(job, file, run_id)
            written.append(asdict(job.scores.part(path)))
            for name, total in totals.items():
                total.update(facts[name])
        timing["seconds"] = round(time.monotonic() - started, 3)
    manifest = {
        "run_id": run_id,
        "outcome": "published" if written else "nothing_to_do",
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "head_id": job.head.head_id,
        "feature_set_id": job.head.description.feature_set_id,
        "features": redact(job.configuration.input),
        "versions": versions(),
        "rows": {
            "done_before": job.rows_done_before,
            "total": totals["statuses"].total(),
            "by_status": dict(totals["statuses"]),
            "by_verdict": dict(totals["verdicts"]),
        },
        **timing,
        "files": written,
    }
    if written:
        text = job.configuration.model_dump_json(indent=2)
        manifest["manifest"] = job.scores.write_run(run_id, manifest, text)
    return manifest


def _to_score(
    features: FeatureTable, path: str, head: Head, configuration: ScoreConfiguration
) -> FileToScore:
    """How a features file would be cut and staged; UsageError if the head cannot score it."""
    place = posixpath.join(features.path, path)
    where = redact(join(features.root, path))
    with features.fs.open(place, "rb") as file:
        try:
            parquet = pq.ParquetFile(file)
            schema, metadata = parquet.schema_arrow, parquet.metadata
            if table_kind(schema) != FEATURES:
                raise UsageError(f"{where} is not of a features table: take it out of there.")
            check_distinct(schema.names, (*COLUMNS, LAYERS), where)
            if missing := sorted(set(COLUMNS) - set(schema.names)):
                raise UsageError(f"{where} lacks the column '{missing[0]}' of a features table.")
            head.check_feature_set(feature_set_in(parquet))
            facts = decoded(metadata.metadata)
        except (pa.ArrowInvalid, ValueError):
            raise UsageError(f"{where} is not readable as Parquet.") from None
    # A file that another program saved has no id, and changes with its place in the storage.
    state = str(facts.get("file_id") or features.fs.ukey(place))
    what = [head.head_id, path, state, str(configuration.rows_per_task)]
    work = f"{date_of(path)}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}"
    pieces = [
        Piece(
            path,
            first,
            tuple(groups),
            f"{STAGING}/{work}/date={date_of(path)}/part-{first:012d}.parquet",
            rows,
        )
        for first, groups, rows in _cuts(metadata, configuration.rows_per_task)
    ]
    return FileToScore(path, state, metadata.num_rows, work, tuple(pieces))


def _cuts(metadata: pq.FileMetaData, rows_per_task: int) -> Iterator[tuple[int, list[int], int]]:
    """First row, row groups and number of rows of each task."""
    first, groups, rows = 0, [], 0
    for number in range(metadata.num_row_groups):
        groups.append(number)
        rows += metadata.row_group(number).num_rows
        if rows >= rows_per_task:
            yield first, groups, rows
            first, groups, rows = first + rows, [], 0
    if rows:
        yield first, groups, rows


def _score(job: ScoringPlan, run_id: str) -> dict[str, Any]:
    """Stage the scores of all pieces that are not staged yet; returns times."""
    staged = {f"{STAGING}/{f.work}/{path}" for f in job.files for path in job.scores.staged(f.work)}
    pieces = [piece for file in job.files for piece in file.pieces if piece.staged_as not in staged]
    if not pieces:
        return {}
    cpus = ray.cluster_resources().get("CPU", 1.0)
    number = min(job.configuration.workers or max(int(cpus), 1), len(pieces))
    tally = Tally.remote()  # type: ignore[attr-defined]
    tasks = ray.data.from_items(
        [{"piece": pickle.dumps(piece)} for piece in pieces],
        override_num_blocks=min(len(pieces), 1000),
    )
    parts = tasks.map_batches(
        Score,
        fn_constructor_args=(job.configuration, job.head.files(), run_id, tally),
        compute=ActorPoolStrategy(size=number),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=min(1.0, cpus / (number + 1)),
    )
    with PeakMemory() as memory, Progress(tally, sum(piece.rows for piece in pieces)) as progress:
        for _ in parts.iter_rows():
            pass
    return {
        "rows_scored": progress.rows,
        "start_up_seconds": round(progress.start_up_seconds, 3),
        "rows_per_second": round(progress.images_per_second, 1),
        "peak_memory_bytes": memory.peak_bytes,
        "storage_retries": progress.counts.retries + take_retries(),
    }


def _publish(job: ScoringPlan, file: FileToScore, run_id: str) -> tuple[str, dict[str, Any]]:
    """Put the staged scores of a features file into their place, in its order."""
    configuration, night = job.configuration, date_of(file.path)
    schema = SCORES.with_metadata(
        encoded(
            {
                "table": "scores",
                "schema_version": SCHEMA_VERSION,
                "head_id": job.head.head_id,
                "feature_set_id": job.head.description.feature_set_id,
                "features_state": file.state,
                "code_version": __version__,
                "run_id": run_id,
            }
        )
    )
    facts: dict[str, Any] = {}
    with lease_on(job.scores.root, night, configuration) as lease:
        if not job.scores.staged(file.work):
            raise MachineError(
                f"Another run has published the scores of {night}: start the same command again."
            )
        lease.check()
        name = posixpath.basename(file.path)
        path = job.scores.replace(night, _counted(_staged(job, file), facts), schema, facts, name)
        for work in job.scores.works():
            if work.startswith(f"{night}-"):
                job.scores.drop_staging(work)
    return path, facts


def _staged(job: ScoringPlan, file: FileToScore) -> Iterator[pa.Table]:
    for piece in file.pieces:
        with job.scores.fs.open(posixpath.join(job.scores.path, piece.staged_as), "rb") as part:
            yield from row_groups(pq.ParquetFile(part))


def _counted(rows: Iterable[pa.Table], facts: dict[str, Any]) -> Iterator[pa.Table]:
    """Pass the rows on; when they are through, ``facts`` holds their counts."""
    totals = {"statuses": Counter[str](), "verdicts": Counter[str]()}
    for table in rows:
        for name, column in (("statuses", "status"), ("verdicts", "verdict")):
            counts = pc.value_counts(table[column]).to_pylist()
            totals[name].update({one["values"]: one["counts"] for one in counts})
        facts |= {name: dict(total) for name, total in totals.items()}
        yield table


class Score:
    """An actor with a head: reads a piece of the features, scores it, writes a part."""

    def __init__(
        self,
        configuration: ScoreConfiguration,
        head: Mapping[str, bytes],
        run_id: str,
        tally: Any,
    ) -> None:
        self.configuration = configuration
        self.head = Head.read(head.__getitem__, configuration.head)
        self.run_id = run_id
        self.tally = tally
        tally.ready.remote()

    def __call__(self, batch: pa.Table) -> pa.Table:
        parts = [self._score(pickle.loads(one)) for one in batch["piece"].to_pylist()]
        tell_retries(self.tally)
        return pa.Table.from_pylist([asdict(part) for part in parts])

    def _score(self, piece: Piece) -> Any:
        storage = self.configuration.storage
        fs, folder = filesystem(self.configuration.input, storage)
        with fs.open(posixpath.join(folder, piece.path), "rb") as file:
            parquet = pq.ParquetFile(file)
            there = parquet.schema_arrow.names
            own = [name for name in ("digital_source_type", LAYERS) if name in there]
            rows = parquet.iter_batches(
                self.configuration.rows_per_batch, list(piece.groups), [*COLUMNS, *own]
            )
            found = pa.concat_tables(self._scored(pa.Table.from_batches([one])) for one in rows)
        return write_part(self.configuration.output, storage, piece.staged_as, found)

    def _scored(self, rows: pa.Table) -> pa.Table:
        table = scores(rows, self.head, self.run_id)
        self.tally.add.remote(len(table), {})
        return table


def scores(rows: pa.Table, head: Head, run_id: str = "") -> pa.Table:
    """Rows of a features table to rows of a scores table, in the same order.

    Parameters
    ----------
    rows : with ``COLUMNS``
    head : of their feature set
    run_id : as it is to stand in the rows
    """
    rows = typed(rows)
    said = head.score(rows)
    weakest = weakest_objects(rows["objects"])
    verdict = [str(one) for one in said.verdict]
    abstention = [None if one is None else str(one) for one in said.abstention]
    sentences = explanations(
        verdict=verdict,
        abstention=abstention,
        score=said.score,
        global_logit=said.global_logit,
        logit=said.logit,
        weakest=weakest,
        error_code=rows["error_code"].combine_chunks(),
    )
    length = len(rows)
    columns = {
        **{name: rows[name] for name in COPIED},
        "global_logit": _numbers(said.global_logit),
        "logit": _numbers(said.logit),
        "score": _numbers(said.score),
        "verdict": pa.array(verdict, pa.string()),
        "abstention": pa.array(abstention, pa.string()),
        "family": pa.array(said.family, pa.string()),
        "family_probability": _numbers(said.family_probability),
        "weakest_phrase": weakest.phrase,
        "weakest_box": weakest.box,
        "weakest_similarity": weakest.similarity,
        "digital_source_type": rows["digital_source_type"]
        if "digital_source_type" in rows.column_names
        else pa.nulls(length, pa.string()),
        "explanation": sentences,
        "head_id": pa.repeat(head.head_id, length),
        "feature_set_id": pa.repeat(head.description.feature_set_id, length),
        "run_id": pa.repeat(run_id, length),
        "scored_at": pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("ms", "UTC")), length),
    }
    return pa.table([columns[field.name] for field in SCORES], schema=SCORES)


def _numbers(values: Any) -> pa.Array:
    """Numbers of a column, null where there is none."""
    return pa.array(np.asarray(values, np.float32), from_pandas=True)
