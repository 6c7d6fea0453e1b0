"""Which rows a training will use for what: checked before it begins."""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from item.errors import UsageError
from item.heads.head import DESCRIPTION
from item.statistics.calibration import fit_thresholds
from item.statistics.source_thresholds import enough_sources
from pipelines.storage.access import check_writable, filesystem
from pipelines.storage.urls import redact
from pipelines.train.configuration import TrainConfiguration
from pipelines.train.rows import Indices, LabelledRows, counted, read_labelled
from pipelines.train.split import Split, split
from pipelines.train.unseen_sources import families

CHECKPOINTS = "_training"
"""Folder in the output where the workers keep their state until the head is there."""


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """A checked training: which rows will be used for what."""

    configuration: TrainConfiguration
    rows: LabelledRows
    split: Split

    def remarks(self) -> list[str]:
        """What its owner should know before the work begins."""
        return [*self.rows.remarks(), *self.split.notes]

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        return {
            "feature set": self.rows.feature_set_id,
            "rows": {name: counted(self.rows, part) for name, part in self.parts().items()},
            "remarks": self.remarks(),
            "score and thresholds": "from heads that leave sources out"
            if self.leaves_sources_out()
            else "from the calibration rows, whose sources the head knows",
            "output": self.configuration.output,
            "head": self.configuration.head.model_dump(mode="json"),
        }

    @cached_property
    def families(self) -> NDArray[np.object_]:
        """(n,) which rows are left out together, where sources are left out."""
        return families(self.rows.labels, self.rows.generators, self.rows.sources)

    def leaves_sources_out(self) -> bool:
        """Whether there are sources enough to set score and thresholds on unseen ones."""
        configuration, chosen = self.configuration, self.judged()
        return configuration.source_folds >= 2 and enough_sources(
            self.rows.labels[chosen], self.families[chosen], configuration.operating_points
        )

    def judged(self) -> Indices:
        """Rows on which score and thresholds are set where sources are left out."""
        parts = (self.split.training, self.split.calibration)
        return np.concatenate([self.in_memory(part) for part in parts])

    def in_memory(self, rows: Indices) -> Indices:
        """As many of the rows as are kept in memory at once, in order."""
        limit = self.configuration.rows_in_memory
        if len(rows) <= limit:
            return rows
        rng = np.random.default_rng(self.configuration.head.seed)
        return np.sort(rng.choice(rows, limit, replace=False))

    def parts(self) -> dict[str, Indices]:
        """Rows by what they are for."""
        return {
            "training": self.split.training,
            "calibration": self.split.calibration,
            "validation": self.split.validation,
        }

    def name(self) -> str:
        """The same for every try at the same work."""
        configuration = self.configuration.model_dump_json(exclude={"overwrite", "max_failures"})
        lines = [configuration, self.rows.feature_set_id]
        lines += [f"{part.url} {part.row_group} {part.rows}" for part in self.rows.fragments]
        lines.append(hashlib.sha256(self.rows.labels.tobytes()).hexdigest())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def plan_training(configuration: TrainConfiguration) -> TrainingPlan:
    """Check everything that can be checked before training; reads every row once.

    Raises
    ------
    UsageError
        Output that exists, tables that cannot be trained on, or too few rows for the
        operating points.
    """
    _check_output(configuration)
    rows = read_labelled(
        configuration.features,
        configuration.storage,
        configuration.metadata,
        configuration.group_column,
        configuration.labels,
    ).without(configuration.leave_out)
    rows.check_groups(configuration.head.groups)
    parts = split(
        rows,
        configuration.head.seed,
        configuration.calibration_share,
        configuration.validation_share,
        configuration.validation_generator,
    )
    labels = rows.labels[parts.calibration]
    # Says before training whether there are rows enough, whatever their scores will be.
    fit_thresholds(np.zeros(len(labels)), labels, configuration.operating_points)
    return TrainingPlan(configuration, rows, parts)


def _check_output(configuration: TrainConfiguration) -> None:
    check_writable(configuration.output, configuration.storage)
    fs, path = filesystem(configuration.output, configuration.storage)
    fs.invalidate_cache()
    if configuration.overwrite or not fs.exists(path):
        return
    names = {posixpath.relpath(file, path).split("/")[0] for file in fs.find(path)}
    if names - {CHECKPOINTS}:
        what = "a head" if DESCRIPTION in names else "other files"
        raise UsageError(
            f"{redact(configuration.output)} holds {what} already: choose another output, or "
            "replace it with --overwrite."
        )
