"""What a featurize job will do: checked, and its input listed, before any work."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from item.tables import KEYS_VERSION
from pipelines.featurize.configuration import FeaturizeConfiguration
from pipelines.featurize.steps import stages
from pipelines.input import plan as inputs
from pipelines.input.plan import InputPlan
from pipelines.storage.access import check_writable
from pipelines.storage.atomic import write_atomically
from pipelines.storage.urls import normalise, redact
from pipelines.tables.features import FeatureTable
from pipelines.tables.row_keys import RowKeys


@dataclass(frozen=True)
class FeaturizingPlan:
    """A checked piece of work: what will be read, by what, to where."""

    configuration: FeaturizeConfiguration
    plan: InputPlan
    table: FeatureTable
    feature_set_id: str
    origin: str
    """Stands for input, feature set and how the input is read."""
    work: str
    """Names the staging folder; the same for every try at the same work."""

    @property
    def overwrite(self) -> str:
        """Published rows that are computed anew."""
        return self.configuration.overwrite

    def finished(self) -> RowKeys:
        """Keys of rows that need no reading any more."""
        return self.table.finished(self.work, self.plan.dates, self.overwrite)

    def is_gone(self, files: Sequence[str], versions: Sequence[str]) -> NDArray[np.bool_]:
        """Whether published rows leave the table, by the files that they came from.

        A night that is computed anew is that of the folders given now.
        """
        if self.overwrite == "all" and self.plan.night:
            return np.ones(len(files), bool)
        return self.plan.is_gone(files, versions)

    def remarks(self) -> list[str]:
        """What its owner should know of the input before the work begins."""
        return self.plan.remarks()

    def describe(self) -> dict[str, Any]:
        """The plan as ``--dry-run`` prints it."""
        profile = self.configuration.profile
        return {
            "input": {
                redact(place): kind
                for place, kind in zip(self.plan.places, self.plan.kinds, strict=True)
            },
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


def plan_featurizing(
    configuration: FeaturizeConfiguration, night: str | None = None
) -> FeaturizingPlan:
    """Check everything that can be checked before any work, and list the input.

    Parameters
    ----------
    configuration : what to do
    night : the date of all rows, if the input is the folders of one night

    Raises
    ------
    UsageError
        Missing or unreadable input, unwritable output, missing model, or an output that
        holds another feature set or perturbation, or a night that another program saved.
    """
    configuration = configuration.with_pinned_models()
    profile, storage = configuration.profile, configuration.storage
    feature_set_id = profile.feature_set_id()
    check_writable(configuration.output, storage)
    table = FeatureTable(configuration.output, storage)
    table.check_feature_set(feature_set_id, configuration.perturbation)
    what = [
        feature_set_id,
        configuration.perturbation,
        str(KEYS_VERSION),
        night or "",
        *map(normalise, configuration.input),
        configuration.reading.model_dump_json(),
    ]
    origin = _digest(what)
    overwrite = configuration.overwrite
    work = origin if overwrite == "nothing" else _digest([origin, overwrite])
    plan = inputs.plan(
        configuration.input,
        configuration.reading,
        storage,
        _today(table, origin),
        night=night,
        leave_out=[configuration.output],
    )
    table.check_own(plan.dates)
    return FeaturizingPlan(configuration, plan, table, feature_set_id, origin, work)


def _digest(what: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]


def run_suffix(origin: str) -> str:
    """How the ids of a work's runs end."""
    return origin[:8]


def _today(table: FeatureTable, origin: str) -> date:
    """The date for input that has none: that of the first try at this work, else today.

    So a job that is started again on another day neither mixes dates nor begins anew.
    """
    path = posixpath.join(table.staging(origin), "date.json")
    if table.fs.exists(path):
        return date.fromisoformat(json.loads(table.fs.cat_file(path)))
    for manifest in table.manifests(run_suffix(origin)):
        return date.fromisoformat(manifest["input"]["default_date"])
    return datetime.now(UTC).date()


def remember_date(job: FeaturizingPlan) -> None:
    path = posixpath.join(job.table.staging(job.origin), "date.json")
    write_atomically(job.table.fs, path, json.dumps(job.plan.default_date).encode())
