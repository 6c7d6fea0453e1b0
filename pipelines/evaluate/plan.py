"""What an evaluation will train and test, on which rows: checked before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from item.errors import UsageError
from item.heads.columns import FeatureArrays
from item.heads.head import Head
from item.statistics.calibration import fit_thresholds
from pipelines.evaluate.configuration import EvaluateConfiguration
from pipelines.evaluate.methods import Method, Purpose, methods
from pipelines.evaluate.protocols import (
    ALL,
    LEAVE_ONE_OUT,
    LEAVE_SOURCES_OUT,
    Design,
    Trial,
    most_frequent,
    trained_head_trial,
)
from pipelines.evaluate.tabulate import AGGREGATES, MEAN
from pipelines.score.heads import load_head
from pipelines.storage.access import check_writable
from pipelines.train.metadata import metadata_column
from pipelines.train.rows import LabelledRows, read_labelled


@dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """A checked evaluation: what will be trained and tested, on what."""

    configuration: EvaluateConfiguration
    rows: LabelledRows
    trials: tuple[Trial, ...]
    methods: tuple[Method, ...]
    arrays: dict[str | None, FeatureArrays]
    """Of the main table under None, and of each variant."""
    head: Head | None
    """The trained head to measure; None where each method is trained."""
    notes: tuple[str, ...] = ()

    def tasks(self) -> list[tuple[Trial, Method]]:
        """What is measured; leaving out each in its turn is too much for most ablations."""
        return [
            (trial, method)
            for trial in self.trials
            for method in self.methods
            if trial.protocol not in (LEAVE_ONE_OUT, LEAVE_SOURCES_OUT)
            or method.purpose != Purpose.ABLATION
            or method.always
        ]

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        return {
            "feature set": self.rows.feature_set_id,
            "rows": self.rows.describe(),
            "trainings": len(self.tasks()) if self.head is None else 0,
            "methods": [method.name for method in self.methods],
            "notes": list(self.notes),
            "output": self.configuration.output,
        }


def plan_evaluation(configuration: EvaluateConfiguration) -> EvaluationPlan:
    """Check everything that can be checked before any training.

    Raises
    ------
    UsageError
        Tables that cannot be measured on, a protocol whose rows they lack, a head of another
        feature set, an output that cannot be written.
    """
    storage = configuration.storage
    check_writable(configuration.output, storage)
    rows = read_labelled(
        configuration.features,
        storage,
        configuration.metadata,
        configuration.group_column,
        configuration.labels,
    )
    _check_names(rows)
    subsets, notes = _subsets(configuration, rows)
    notes = [*rows.remarks(), *notes]
    if configuration.trained is not None:
        return _plan_for_head(configuration, configuration.trained, rows, subsets, notes)
    rows.check_groups(configuration.head.groups)
    arrays: dict[str | None, FeatureArrays] = {None: rows.arrays(np.arange(len(rows)))}
    for name, path in configuration.variants.items():
        arrays[name] = _variant(rows, name, path, configuration)
    design = _design(configuration, rows, subsets)
    trials = tuple(
        trial
        for protocol in configuration.protocols
        for trial in design.trials(protocol, configuration.seeds)
    )
    for trial in trials:
        labels = rows.labels[trial.calibration]
        # Says before training whether there are rows enough, whatever their scores will be.
        fit_thresholds(np.zeros(len(labels)), labels, configuration.operating_points)
    compared = tuple(methods(configuration.head, tuple(configuration.variants), rows.layers > 0))
    if set(configuration.protocols) != {LEAVE_SOURCES_OUT}:
        notes.append(
            f"Trained on photographs of {design.training_source}; other photographs were never "
            "trained on."
        )
    return EvaluationPlan(configuration, rows, trials, compared, arrays, None, tuple(notes))


def _plan_for_head(
    configuration: EvaluateConfiguration,
    folder: str,
    rows: LabelledRows,
    subsets: dict[str, NDArray[np.bool_]],
    notes: list[str],
) -> EvaluationPlan:
    """The plan for a head that is trained already."""
    head = load_head(folder, configuration.storage)
    head.check_feature_set(rows.feature_set_id)
    method = Method(
        f"head {head.head_id}",
        Purpose.OURS,
        f"The trained head {folder}, as it is.",
        head.description.settings,
    )
    return EvaluationPlan(
        configuration,
        rows,
        (trained_head_trial(rows, subsets),),
        (method,),
        {None: rows.arrays(np.arange(len(rows)))},
        head,
        (*notes, *_seen_in_training(head, rows)),
    )


def _check_names(rows: LabelledRows) -> None:
    """UsageError if a generator or source is called as the tables call what is made of all."""
    if taken := sorted(set(rows.generators[rows.labels == 1]) & set(AGGREGATES)):
        raise UsageError(
            f"A generator is called '{taken[0]}', as the tables call what is made of all "
            "generators: rename it, for instance in a table for --labels."
        )
    if MEAN in set(rows.sources[rows.labels == 0]):
        raise UsageError(
            f"A source of photographs is called '{MEAN}', as the tables call what is made of all "
            "sources: rename it, for instance in a table for --labels."
        )


def _subsets(
    configuration: EvaluateConfiguration, rows: LabelledRows
) -> tuple[dict[str, NDArray[np.bool_]], list[str]]:
    """Rows of each subset by its name, and a note on how they were chosen."""
    subsets = {ALL: np.ones(len(rows), bool)}
    if configuration.subset_column is None:
        return subsets, []
    values = metadata_column(
        rows.uris, str(configuration.metadata), configuration.subset_column, configuration.storage
    ).to_pylist()
    subsets[configuration.subset_name] = np.array(
        [value in configuration.subset_values for value in values]
    )
    wanted = ", ".join("null" if value is None else value for value in configuration.subset_values)
    return subsets, [
        f"The subset {configuration.subset_name}: {configuration.subset_column} is {wanted}."
    ]


def _design(
    configuration: EvaluateConfiguration,
    rows: LabelledRows,
    subsets: dict[str, NDArray[np.bool_]],
) -> Design:
    real = rows.labels == 0
    source = configuration.training_source or most_frequent(list(rows.sources[real]))
    generator = configuration.training_generator or most_frequent(list(rows.generators[~real]))
    if source is None or generator is None:
        raise UsageError("An evaluation needs the columns source and generator to be filled.")
    learnable = np.ones(len(rows), bool)
    if configuration.train_on_subset and configuration.subset_name in subsets:
        learnable = real | subsets[configuration.subset_name]
    return Design(rows, source, generator, subsets, learnable)


def _seen_in_training(head: Head, rows: LabelledRows) -> list[str]:
    """A note on the generators and sources that the head was trained on."""
    origins = head.description.training_sources
    trained = {origin.generator if origin.label else origin.source for origin in origins}
    tested = {*rows.generators, *rows.sources[rows.labels == 0]}
    if known := sorted(name for name in tested & trained if name):
        names = ", ".join(known)
        return [f"The head was trained on rows of {names}: figures on those are not held out."]
    return []


def _variant(
    rows: LabelledRows, name: str, path: str, configuration: EvaluateConfiguration
) -> FeatureArrays:
    """The same images from another table, in the order of the main one."""
    other = read_labelled([path], configuration.storage, labels=configuration.labels)
    places = pd.Series(np.arange(len(other)), index=other.uris)
    chosen = places.reindex(rows.uris)
    if chosen.isna().any():
        raise UsageError(
            f"The table '{name}' at {path} lacks {int(chosen.isna().sum())} of the images, "
            f"the first of them {rows.uris[int(np.flatnonzero(chosen.isna())[0])]!r}."
        )
    return other.arrays(chosen.to_numpy(np.int64))
