"""A robustness report: pictures changed as the web changes them, featurized and scored again.

::

    OUTPUT/sample/part-0.parquet        the images drawn, where a sample was asked for
    OUTPUT/features/<perturbation>/     a features table each; ``none`` has the images as they are
    OUTPUT/robustness.parquet           one row for each perturbation and head
    OUTPUT/robustness.json, .yaml       what was measured, and the resolved configuration

A row of a perturbed table is compared with the row of the same URI in the clean one.
"""

from __future__ import annotations

import io
import json
import posixpath
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator, model_validator

from item.errors import UsageError
from item.heads import columns as evidence
from item.heads.head import Head
from item.images.perturb import NONE, STANDARD, Perturbation
from item.settings import overridden, validated
from item.statistics.calibration import Verdict
from item.statistics.metrics import auroc, cluster_weights, interval, weighted_auroc
from pipelines.featurize import run as runs
from pipelines.featurize.configuration import FeaturizeConfiguration, read_settings
from pipelines.featurize.configuration import resolve as resolve_featurizing
from pipelines.input.sample import Sampling, drawn_rows, write_sample, written_sample
from pipelines.score.heads import load_head
from pipelines.storage.files import (
    check_readable,
    check_writable,
    filesystem,
    join,
    normalise,
    redact,
    write_atomically,
)
from pipelines.tables.features import FeatureTable
from pipelines.tables.provenance import decoded, versions
from pipelines.train.rows import counted_origins, joined

SAMPLE = "sample"
FEATURES = "features"
REPORT = "robustness"
ORIGIN = ["label", "generator", "source"]

SCHEMA = pa.schema(
    [
        ("perturbation", pa.string()),
        ("method", pa.string()),
        *((name, pa.float64()) for name in ("auroc", "low", "high")),
        *((name, pa.float64()) for name in ("flip_rate", "flip_low", "flip_high")),
        ("uncertain_share", pa.float64()),
        ("rows", pa.int64()),
    ]
)
"""``robustness.parquet``; a method is the name of a head's folder."""


class RobustnessConfiguration(FeaturizeConfiguration):
    """Everything that ``jobs/robustness.py`` does: what featurizing needs, and more."""

    heads: tuple[str, ...] = Field(min_length=1)
    """Folders or ``s3://`` prefixes of trained heads."""
    perturbations: tuple[str, ...] = STANDARD
    """Beside ``none``, which is always there."""
    images: int | None = Field(default=None, ge=4)
    """Size of a sample to draw; all of the input if unset."""
    seed: int = Field(default=0, ge=0)
    """Decides the sample and the resamples of the intervals."""
    generators: tuple[str, ...] = ()
    """Generators to draw generated images from."""
    sources: tuple[str, ...] = ()
    """Sources to draw real images from."""
    metadata: str | None = None
    """Parquet with ``uri`` and ``group_column``."""
    group_column: str | None = None
    """Images that are equal in it, such as in their prompt, are drawn together."""
    resamples: int = Field(default=1000, ge=100)
    """Of the bootstrap behind the intervals."""

    @field_validator("perturbation")
    @classmethod
    def _is_a_list(cls, name: str) -> str:
        if name != NONE:
            raise ValueError("name what to go through under perturbations")
        return name

    @field_validator("perturbations")
    @classmethod
    def _known_and_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            chains = [str(Perturbation.parse(name)) for name in names]
        except UsageError as error:
            raise ValueError(str(error)) from None
        return tuple(dict.fromkeys(name for name in chains if name != NONE))

    @field_validator("heads")
    @classmethod
    def _distinct_names(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        names = [method(head) for head in heads]
        if len(set(names)) < len(names):
            raise ValueError("heads are told apart by their folders' names, and two are the same")
        return heads

    @model_validator(mode="after")
    def _fits_together(self) -> RobustnessConfiguration:
        if (self.metadata is None) != (self.group_column is None):
            raise ValueError("metadata and group_column need each other")
        if self.images is None and (self.generators or self.sources):
            raise ValueError("generators and sources say what a sample holds, and need images")
        return self

    def sampling(self) -> Sampling | None:
        """How the sample is drawn; None where the whole input is used."""
        if self.images is None:
            return None
        return Sampling(
            input=normalise(self.input),
            images=self.images,
            seed=self.seed,
            generators=self.generators,
            sources=self.sources,
        )

    def of_table(self, perturbation: str) -> FeaturizeConfiguration:
        """The configuration of the table of one perturbation."""
        values = {name: getattr(self, name) for name in FeaturizeConfiguration.model_fields}
        values["output"] = join(self.output, FEATURES, perturbation)
        values["perturbation"] = perturbation
        if self.images is not None:
            values["input"] = join(self.output, SAMPLE)
            values["reading"] = self.reading.model_copy(update={"kind": "parquet"})
        return validated(FeaturizeConfiguration, values, "configuration")


def method(head: str) -> str:
    """The name of a head's folder."""
    return posixpath.basename(normalise(head))


def resolve(
    file: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> RobustnessConfiguration:
    """Defaults, then the YAML file, then command-line options, then ``--set`` keys.

    Parameters
    ----------
    file : path of a YAML file whose keys are those of the configuration
    options : by key; None where not given
    settings : dotted keys and values, such as ``profile.captioner.beams``

    Raises
    ------
    UsageError
        One sentence a mistake, with the key and what is allowed.
    """
    inner = FeaturizeConfiguration.model_fields
    given = {key: value for key, value in options.items() if value is not None}
    values = read_settings(file) | given
    own = {key: value for key, value in settings.items() if key.split(".")[0] not in inner}
    values = overridden(values, own)
    featurize = resolve_featurizing(
        None,
        {key: value for key, value in values.items() if key in inner},
        {key: value for key, value in settings.items() if key not in own},
    )
    values |= {name: getattr(featurize, name) for name in inner}
    return validated(RobustnessConfiguration, values, "configuration")


@dataclass(frozen=True, eq=False)
class RobustnessJob:
    """A checked piece of work."""

    configuration: RobustnessConfiguration
    heads: dict[str, Head]
    """By the name of their folder."""
    sample: pd.DataFrame | None
    """Label, generator and source of the images drawn; None where all of the input is used."""
    sample_is_written: bool
    notes: tuple[str, ...] = ()
    """What was noticed of the input where all of it is used."""

    @property
    def perturbations(self) -> tuple[str, ...]:
        """In the order of the report, the images as they are first."""
        return (NONE, *self.configuration.perturbations)

    def remarks(self) -> list[str]:
        """What its owner should know before the work begins."""
        seen = [] if self.sample is None else seen_in_training(self.heads, self.sample)
        return [*self.notes, *seen]

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        configuration = self.configuration
        return {
            "input": redact(configuration.input),
            "sample": "all of the input" if self.sample is None else counted_origins(self.sample),
            "perturbations": list(self.perturbations),
            "heads": {name: head.head_id for name, head in self.heads.items()},
            "output": redact(configuration.output),
            "remarks": self.remarks(),
        }

    def table(self, perturbation: str) -> FeatureTable:
        """The features table of a perturbation."""
        output = self.configuration.of_table(perturbation).output
        return FeatureTable(output, self.configuration.storage)


def prepare(configuration: RobustnessConfiguration) -> RobustnessJob:
    """Check everything that can be checked before any work, and draw the sample.

    Raises
    ------
    UsageError
        A head is missing or of another feature set, the sample cannot be drawn or another
        one is there, or a table cannot be made or continued.
    """
    configuration = configuration.with_pinned_models()
    storage = configuration.storage
    feature_set_id = configuration.profile.feature_set_id()
    heads = {method(url): load_head(url, storage) for url in configuration.heads}
    for head in heads.values():
        head.check_feature_set(feature_set_id)
    check_writable(configuration.output, storage)
    if configuration.metadata is not None:
        check_readable(configuration.metadata, storage)
    sampling = configuration.sampling()
    folder = join(configuration.output, SAMPLE)
    written = written_sample(sampling, folder, storage) if sampling else None
    sample = drawn_rows(sampling, storage) if sampling and written is None else written
    job = RobustnessJob(configuration, heads, sample, sample_is_written=written is not None)
    for name in job.perturbations:
        job.table(name).check_feature_set(feature_set_id, name)
    if sample is None:
        return replace(job, notes=tuple(runs.prepare(configuration.of_table(NONE)).remarks()))
    clusters(sample["uri"], configuration)  # refuses metadata that cannot be joined
    return job


def run(job: RobustnessJob, command: str = "") -> pd.DataFrame:
    """Make the tables that are not there yet, compare them, and write the report.

    Parameters
    ----------
    job : what :func:`prepare` returned
    command : what the user typed, for the report

    Returns
    -------
    The rows of ``robustness.parquet``.

    Raises
    ------
    ErrorRateError
        More images of a table are without features than the configuration allows.
    UsageError
        The input has too few labelled images to compare.
    """
    configuration = job.configuration
    _write(job, f"{REPORT}.yaml", configuration.as_yaml().encode())
    sampling = configuration.sampling()
    if sampling is not None and job.sample is not None and not job.sample_is_written:
        folder = join(configuration.output, SAMPLE)
        write_sample(job.sample, sampling, folder, configuration.storage)
    clean: dict[str, pd.DataFrame] = {}
    rows = []
    for perturbation in featurized(job):
        table = job.table(perturbation)
        changed = {name: scored(table, head) for name, head in job.heads.items()}
        clean = clean or {
            name: frame.assign(cluster=clusters(frame.index, configuration))
            for name, frame in changed.items()
        }
        for name, frame in changed.items():
            found = compare(clean[name], frame, configuration.resamples, configuration.seed)
            rows.append({"perturbation": perturbation, "method": name, **found})
    about = _about(job, next(iter(clean.values())), command)
    _write(job, f"{REPORT}.json", (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())
    report = pa.Table.from_pylist(rows, SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(report, buffer, compression="zstd")
    _write(job, f"{REPORT}.parquet", buffer.getvalue())
    return report.to_pandas()


def featurized(job: RobustnessJob) -> Iterator[str]:
    """Make one table after the other, ``none`` first; yields each perturbation when it is there.

    Says on standard error which of how many it is, and how long those left may take.
    """
    names = job.perturbations
    left = [name for name in names if not job.table(name).published()]
    seconds: list[float] = []
    for place, name in enumerate(names, 1):
        words = [f"[{place} of {len(names)}] {name}"]
        if name not in left:
            words.append("done before")
        elif seconds:
            ahead = len(left) - left.index(name)
            words.append(f"{timedelta(seconds=round(ahead * sum(seconds) / len(seconds)))} left")
        print(" · ".join(words), file=sys.stderr, flush=True)
        started = time.monotonic()
        runs.run(runs.prepare(job.configuration.of_table(name)))
        if name in left:
            seconds.append(time.monotonic() - started)
        yield name


def scored(table: FeatureTable, head: Head) -> pd.DataFrame:
    """Score the labelled rows of a features table.

    Returns
    -------
    DataFrame by ``uri``, in its order, with ``label``, ``generator``, ``source``, ``score``
    and ``verdict``. Rows without features are not in it, nor are those of a URI that came on
    several dates, which names no single picture.

    Raises
    ------
    UsageError
        If the table is of another feature set than the head.
    """
    columns = list(dict.fromkeys(["uri", "status", "caption", *ORIGIN, *evidence.COLUMNS]))
    frames = []
    for path in table.published():
        with table.fs.open(posixpath.join(table.path, path), "rb") as file:
            parquet = pq.ParquetFile(file)
            head.check_feature_set(decoded(parquet.schema_arrow.metadata).get("feature_set_id"))
            part = parquet.read(columns=columns)
        said = head.score(part)
        frame = part.select(["uri", *ORIGIN]).to_pandas()
        frames.append(frame.assign(score=said.score, verdict=list(map(str, said.verdict))))
    rows = pd.concat(frames)
    rows = rows[rows["label"].isin([0, 1]) & (rows["verdict"] != Verdict.NOT_SCORED)]
    return rows[~rows["uri"].duplicated(keep=False)].set_index("uri").sort_index()


def compare(
    clean: pd.DataFrame, changed: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """How well a head tells changed images apart, and how often it changes its mind.

    Intervals hold 95% of the resamples of whole clusters
    (:func:`item.statistics.metrics.cluster_weights`), the same resamples for every number.

    Parameters
    ----------
    clean, changed : what :func:`scored` returned; rows are paired by URI, and `clean` has a
        column ``cluster`` too
    resamples, seed : how many, and from which random numbers

    Returns
    -------
    The numbers of a row of ``robustness.parquet``; ``flip_rate`` is the share of verdicts
    that differ from those of the clean images, ``rows`` the images with features in both.

    Raises
    ------
    UsageError
        If there are too few pairs of a label to compare.
    """
    uris = clean.index.intersection(changed.index, sort=True)
    clean, changed = clean.loc[uris], changed.loc[uris]
    labels, scores = clean["label"].to_numpy(int), changed["score"].to_numpy()
    flips = (clean["verdict"] != changed["verdict"]).to_numpy(float)
    try:
        weights = cluster_weights(labels, clean["cluster"].to_numpy(str), resamples, seed)
    except ValueError as error:
        raise UsageError(f"These images cannot be compared. {error}") from None
    between = interval(weighted_auroc(labels, scores, weights))
    flipped = interval(weights @ flips / weights.sum(axis=1))
    return {
        "auroc": auroc(labels, scores),
        "low": between.low,
        "high": between.high,
        "flip_rate": float(flips.mean()),
        "flip_low": flipped.low,
        "flip_high": flipped.high,
        "uncertain_share": float((changed["verdict"] == Verdict.UNCERTAIN).mean()),
        "rows": len(uris),
    }


def clusters(uris: Collection[str], configuration: RobustnessConfiguration) -> list[str]:
    """The cluster of each image: its group by the metadata, else the image itself."""
    metadata, column = configuration.metadata, configuration.group_column
    if metadata is None or column is None or not len(uris):
        return list(uris)
    groups = joined(list(uris), metadata, column, configuration.storage).to_pylist()
    return [
        f"image {uri}" if group is None else f"group {group}"
        for uri, group in zip(uris, groups, strict=True)
    ]


def seen_in_training(heads: Mapping[str, Head], rows: pd.DataFrame) -> list[str]:
    """A sentence for each head that was trained on a generator or source of the rows."""
    here = _origins(rows)
    sentences = []
    for name, head in heads.items():
        sources = head.description.training_sources
        trained = pd.DataFrame([one.model_dump() for one in sources], columns=ORIGIN)
        if seen := here & _origins(trained):
            sentences.append(
                f"The head '{name}' was trained on {', '.join(sorted(o for _, o in seen))}: its "
                "figures are better here than on what it has not seen."
            )
    return sentences


def _origins(rows: pd.DataFrame) -> set[tuple[int, str]]:
    """Label and name of what rows come from: a generator, else a source."""
    generator, source = rows["generator"].fillna(""), rows["source"].fillna("")
    names = generator.where(generator != "", source)
    return {(int(label), name) for label, name in zip(rows["label"], names, strict=True) if name}


def _about(job: RobustnessJob, clean: pd.DataFrame, command: str) -> dict[str, Any]:
    """``robustness.json``."""
    configuration, sampling = job.configuration, job.configuration.sampling()
    sample = None
    if sampling is not None:
        sample = sampling.model_dump(mode="json") | {"input": redact(configuration.input)}
    return {
        "command": command,
        "feature_set_id": configuration.profile.feature_set_id(),
        "heads": [
            {"method": name, "head_id": head.head_id, "kind": str(head.description.settings.kind)}
            for name, head in job.heads.items()
        ],
        "perturbations": list(job.perturbations),
        "sample": sample,
        "images": counted_origins(clean),
        "clusters": configuration.group_column or "uri",
        "resamples": configuration.resamples,
        "seed": configuration.seed,
        "notes": seen_in_training(job.heads, clean),
        "versions": versions(),
    }


def _write(job: RobustnessJob, name: str, content: bytes) -> None:
    fs, path = filesystem(job.configuration.output, job.configuration.storage)
    write_atomically(fs, posixpath.join(path, name), content)
