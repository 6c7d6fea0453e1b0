"""What an evaluation is asked to do: one frozen object, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from item.heads.settings import HeadSettings
from item.statistics.calibration import OperatingPoints
from pipelines.configuration import RayJobConfiguration, resolved
from pipelines.evaluate.protocols import (
    ALL,
    LEAVE_ONE_OUT,
    LEAVE_SOURCES_OUT,
    ONE_TO_ALL,
    PAIRS,
)
from pipelines.storage.places import Place, Places


class EvaluateConfiguration(RayJobConfiguration):
    """Everything that ``jobs/evaluate.py`` does, and nothing else."""

    features: Places = Field(min_length=1)
    """Features tables with labels, generators and sources."""
    output: Place = Field(min_length=1)
    """Folder or ``s3://`` prefix of the tables."""
    trained: Place | None = None
    """A head to measure as it is; nothing is trained then."""
    labels: Place | None = None
    """Parquet or CSV with ``label``, and ``uri`` or ``image_id``; perhaps ``generator`` and
    ``source``. They take the place of what the features say."""
    metadata: Place | None = None
    """Parquet or CSV with ``uri``, ``group_column`` and ``subset_column``."""
    group_column: str | None = None
    """Rows that are equal in it, such as in their prompt, stay together."""
    subset_column: str | None = None
    """Column of the metadata by which a subset of the generated rows is measured apart."""
    subset_values: tuple[str | None, ...] = (None,)
    """What ``subset_column`` holds in the rows of the subset; null is a value too."""
    subset_name: str = Field(default="realistic", pattern=r"^[a-z][a-z_]*$")
    """What the tables call the subset."""
    train_on_subset: bool = True
    """Whether generated rows outside the subset are not trained on."""
    protocols: tuple[str, ...] = (ONE_TO_ALL, LEAVE_ONE_OUT)
    """What to train on and what to test on: ``one_to_all``, ``leave_one_out``,
    ``leave_sources_out``, ``progan_to_universalfakedetect`` or ``sd14_to_genimage``."""
    training_generator: str | None = None
    """Generator that the protocol ``one_to_all`` trains on; the most frequent if unset."""
    training_source: str | None = None
    """Source of the real rows to train on; the most frequent if unset."""
    variants: dict[str, Place] = Field(default_factory=dict)
    """Further features tables of the same images by name, for ablations."""
    head: HeadSettings = HeadSettings()
    """The head that is compared with the baselines."""
    operating_points: OperatingPoints = OperatingPoints()
    """Error rates that the two thresholds of a verdict are set for."""
    seeds: int = Field(default=5, ge=1)
    """Trainings of each method in each protocol, each with another split."""
    resamples: int = Field(default=1000, ge=20)
    """Bootstrap resamples behind each interval."""
    object_store_gb: float = Field(default=1.0, gt=0)
    """Memory for rows that tasks share, in GB."""

    @model_validator(mode="after")
    def _fits_together(self) -> EvaluateConfiguration:
        known = (ONE_TO_ALL, LEAVE_ONE_OUT, LEAVE_SOURCES_OUT, *PAIRS)
        if set(self.protocols) - set(known) or not self.protocols:
            raise ValueError(f"protocols must be among {', '.join(known)}")
        if self.subset_name == ALL:
            raise ValueError(f"subset_name must not be {ALL}, which is what all rows are called")
        if self.subset_column is not None and self.metadata is None:
            raise ValueError("subset_column needs metadata, the table that has it")
        return self


def resolve(
    file: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> EvaluateConfiguration:
    """Defaults, then the YAML file, then command-line options, then ``--set`` keys."""
    return resolved(EvaluateConfiguration, file, options, settings)
