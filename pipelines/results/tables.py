"""The evaluation folder, read and checked: one JSON description and its tables.

``evaluation.json`` says what was measured on what; the Parquet files beside it hold the
numbers. A folder that does not fit is refused in one sentence before a page is drawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from item.errors import UsageError
from item.explanation.printable import printable_line
from item.settings import validated

Text = Annotated[str, AfterValidator(printable_line)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Data(_Part):
    """Rows of one origin; `generator` is None for photographs."""

    generator: Text | None
    source: Text
    label: Literal[0, 1]
    rows: int = Field(ge=0)


class Protocol(_Part):
    """What was trained on and what was tested on."""

    name: Text
    sentence: Text


class MethodDescription(_Part):
    """Something that gives each image a score."""

    name: Text
    kind: Literal["ours", "baseline", "control", "ablation"]
    sentence: Text


class Description(_Part):
    """``evaluation.json``."""

    command: Text
    machine: Text
    finished_at: Text
    code_version: Text
    feature_set_id: Text
    seeds: int
    resamples: int
    data: tuple[Data, ...]
    protocols: tuple[Protocol, ...] = Field(min_length=1)
    methods: tuple[MethodDescription, ...] = Field(min_length=1)
    notes: tuple[Text, ...]
    shipped: Text


OVER_GENERATORS = {
    "mean": "mean over generators",
    "worst": "worst generator",
    "spread": "spread over generators",
}
"""What stands in a column `generator` beside the names of generators, and its meaning."""


@dataclass(frozen=True)
class Columns:
    """The columns of one table; `key` names those that no two rows share."""

    text: tuple[str, ...]
    numbers: tuple[str, ...]
    key: tuple[str, ...] = ()


METRICS = Columns(
    ("protocol", "method", "subset", "real_source", "generator", "metric"),
    ("value", "low", "high", "generated", "real"),
    ("protocol", "method", "subset", "real_source", "generator", "metric"),
)
DIFFERENCES = Columns(
    ("protocol", "method", "baseline", "subset", "real_source", "metric"),
    ("difference", "low", "high"),
    ("protocol", "method", "baseline", "subset", "real_source", "metric"),
)
ROC = Columns(("protocol", "method", "real_source", "generator"), ("fpr", "tpr"))
RELIABILITY = Columns(
    ("protocol", "method", "real_source"),
    ("bin_low", "bin_high", "mean_score", "share_generated", "rows"),
    ("protocol", "method", "real_source", "bin_low"),
)
OPERATING_POINTS = Columns(
    ("protocol", "method", "real_source"),
    ("asked_fpr", "realised_fpr", "low", "high", "tpr", "uncertain_share", "abstained_share"),
    ("protocol", "method", "real_source", "asked_fpr"),
)
ROBUSTNESS = Columns(
    ("perturbation", "method"),
    ("auroc", "low", "high", "flip_rate", "flip_low", "flip_high", "rows"),
    ("perturbation", "method"),
)


TABLES = {
    "metrics": METRICS,
    "differences": DIFFERENCES,
    "roc": ROC,
    "reliability": RELIABILITY,
    "operating_points": OPERATING_POINTS,
    "robustness": ROBUSTNESS,
}
"""The tables of an evaluation folder, by the name of their file."""

MEANING_OF_TABLES = {
    "metrics": "each metric of each method on each generator and source of photographs",
    "differences": "a metric of one method less that of another, on the same images",
    "roc": "points of the ROC curve, one seed",
    "reliability": "scores in bins, all seeds, generated images and photographs weighing the same",
    "operating_points": "what a threshold does that was set on other photographs",
    "robustness": "the scores of images that were changed as the web changes them",
}

MEANING_OF_COLUMNS = {
    "protocol": "what the method was trained and tested on",
    "method": "the method measured",
    "baseline": "the method that it is compared with",
    "subset": "the images tested: all, or a part of them",
    "real_source": "where the photographs tested come from",
    "generator": "the generator tested, or mean, worst or spread over all of them",
    "metric": "what was measured, see below",
    "value": "the metric, a mean over seeds",
    "low": "lower end of the 95% interval",
    "high": "upper end of the 95% interval",
    "generated": "generated images tested, a mean over seeds",
    "real": "photographs tested, a mean over seeds",
    "difference": "metric of the method less that of the baseline, mean over generators",
    "fpr": "share of photographs that a threshold calls generated",
    "tpr": "share of generated images that a threshold calls generated",
    "bin_low": "lower end of the bin of scores",
    "bin_high": "upper end of the bin of scores",
    "mean_score": "mean score in the bin",
    "share_generated": "share of generated images in the bin",
    "rows": "images in the bin or in the test; empty where unknown",
    "asked_fpr": "the largest share of photographs that may be called generated",
    "realised_fpr": "the share of photographs that is called generated",
    "uncertain_share": "share of images whose verdict is uncertain",
    "abstained_share": "share of images that are unlike all that the method was trained on",
    "perturbation": "what was done to the images",
    "auroc": "chance that a generated image scores above a photograph",
    "flip_rate": "share of verdicts that differ from those of the unchanged images",
    "flip_low": "lower end of its 95% interval",
    "flip_high": "upper end of its 95% interval",
}


@dataclass(frozen=True)
class Evaluation:
    """An evaluation folder in memory; `robustness` is None where it was not measured."""

    folder: str
    """As it was given."""
    description: Description
    metrics: pd.DataFrame
    differences: pd.DataFrame
    roc: pd.DataFrame
    reliability: pd.DataFrame
    operating_points: pd.DataFrame
    robustness: pd.DataFrame | None

    def methods(self, *kinds: str) -> list[MethodDescription]:
        """The methods of these kinds, in the order of ``evaluation.json``."""
        return [method for method in self.description.methods if method.kind in kinds]


def read_evaluation(folder: str, robustness: Sequence[str] = ()) -> Evaluation:
    """Read and check the folder that ``jobs/evaluate.py`` wrote.

    Parameters
    ----------
    folder : local folder with ``evaluation.json`` and the tables
    robustness : further folders with a ``robustness.parquet``, or such files

    Raises
    ------
    UsageError
        A folder, file, column or key is missing, holds the wrong kind of value, names a
        method or protocol that ``evaluation.json`` does not, or gives a number twice.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"The evaluation folder {folder} does not exist: run jobs/evaluate.py.")
    description = _read_description(os.path.join(folder, "evaluation.json"))
    evaluation = Evaluation(
        printable_line(folder),
        description,
        metrics=_read_table(os.path.join(folder, "metrics.parquet"), METRICS),
        differences=_read_table(os.path.join(folder, "differences.parquet"), DIFFERENCES),
        roc=_read_table(os.path.join(folder, "roc.parquet"), ROC),
        reliability=_read_table(os.path.join(folder, "reliability.parquet"), RELIABILITY),
        operating_points=_read_table(
            os.path.join(folder, "operating_points.parquet"), OPERATING_POINTS
        ),
        robustness=_read_robustness(folder, robustness),
    )
    _check_names(evaluation)
    return evaluation


def _read_description(path: str) -> Description:
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except FileNotFoundError:
        raise UsageError(f"The file {path} is missing: run jobs/evaluate.py.") from None
    except OSError as error:
        raise UsageError(f"The file {path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise UsageError(f"The file {path} is not JSON.") from None
    description = validated(Description, values, f"file {path}")
    names = [method.name for method in description.methods]
    if len(set(names)) < len(names):
        raise UsageError(f"The file {path} describes a method twice.")
    if description.shipped not in names:
        raise UsageError(f"The shipped method '{description.shipped}' is not described in {path}.")
    return description


def _read_robustness(folder: str, others: Sequence[str]) -> pd.DataFrame | None:
    own = os.path.join(folder, "robustness.parquet")
    paths = [own] if os.path.exists(own) else []
    for other in others:
        path = os.path.join(other, "robustness.parquet") if os.path.isdir(other) else other
        if not any(os.path.exists(seen) and _same(path, seen) for seen in paths):
            paths.append(path)
    if not paths:
        return None
    table = pd.concat([_read_table(path, ROBUSTNESS) for path in paths], ignore_index=True)
    _check_unique(table, ROBUSTNESS, " and ".join(paths))
    return table


def _same(path: str, other: str) -> bool:
    return os.path.exists(path) and os.path.samefile(path, other)


def _read_table(path: str, columns: Columns) -> pd.DataFrame:
    """The columns asked for, text made printable and numbers as float64."""
    try:
        arrow = pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise UsageError(f"The table {path} is missing: run jobs/evaluate.py.") from None
    except (OSError, pa.ArrowException):
        raise UsageError(f"The table {path} is not a readable Parquet file.") from None
    missing = [name for name in columns.text + columns.numbers if name not in arrow.column_names]
    if missing:
        raise UsageError(f"The table {path} lacks the columns: {', '.join(missing)}.")
    table = pd.DataFrame(
        {name: _texts(arrow[name], name, path) for name in columns.text}
        | {name: _numbers(arrow[name], name, path) for name in columns.numbers}
    )
    _check_unique(table, columns, path)
    return table


def _texts(column: pa.ChunkedArray, name: str, path: str) -> pd.Series:
    values = column.to_pylist()
    if not all(isinstance(value, str) for value in values):
        raise UsageError(f"The column '{name}' of {path} holds something other than text.")
    return pd.Series([printable_line(value) for value in values], dtype=object)


def _numbers(column: pa.ChunkedArray, name: str, path: str) -> pd.Series:
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise UsageError(f"The column '{name}' of {path} holds something other than numbers.")
    values = column.cast(pa.float64()).to_pandas()
    if np.isinf(values).any():
        raise UsageError(f"The column '{name}' of {path} holds an infinite number.")
    return values


def _check_unique(table: pd.DataFrame, columns: Columns, where: str) -> None:
    if not columns.key:
        return
    repeated = table[table.duplicated(list(columns.key))]
    if len(repeated):
        row = ", ".join(str(repeated.iloc[0][name]) for name in columns.key)
        raise UsageError(f"The table {where} gives this row twice: {row}.")


def _check_names(evaluation: Evaluation) -> None:
    """Every method and protocol of a table must have its sentence."""
    methods = {method.name for method in evaluation.description.methods}
    protocols = {protocol.name for protocol in evaluation.description.protocols}
    allowed = {"method": methods, "baseline": methods, "protocol": protocols}
    for name in TABLES:
        table: Any = getattr(evaluation, name)
        for column in allowed if table is not None else ():
            unknown = set(table.get(column, ())) - allowed[column]
            if unknown:
                raise UsageError(
                    f"The {column} '{min(unknown)}' of the table {name} is not described in"
                    " evaluation.json."
                )
