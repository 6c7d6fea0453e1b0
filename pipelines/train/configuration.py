"""What training is asked to do: one frozen object, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from item.heads.settings import HeadSettings
from item.statistics.calibration import OperatingPoints
from pipelines.configuration import RayJobConfiguration, resolved
from pipelines.storage.places import Place, Places


class TrainConfiguration(RayJobConfiguration):
    """Everything that ``jobs/train.py`` does, and nothing else."""

    features: Places = Field(min_length=1)
    """Features tables: folders, ``s3://`` prefixes or Parquet files."""
    output: Place = Field(min_length=1)
    """Folder or ``s3://`` prefix of the head; with several machines one that all reach."""
    overwrite: bool = False
    """Whether a head that is there may be replaced."""
    labels: Place | None = None
    """Parquet or CSV with ``label``, and ``uri`` or ``image_id``; perhaps ``generator`` and
    ``source``. They take the place of what the features say."""
    metadata: Place | None = None
    """Parquet or CSV with ``uri`` and ``group_column``."""
    group_column: str | None = None
    """Rows that are equal in it, such as in their prompt, stay on one side of the split."""
    leave_out: tuple[str, ...] = ()
    """Generators and real sources to keep unseen, for testing the head on them."""
    head: HeadSettings = HeadSettings()
    """Model of the head, its columns, and how it is trained."""
    validation_generator: str | None = None
    """Generator whose rows say when training stops; the rarest of three or more if unset."""
    calibration_share: float = Field(default=0.2, gt=0, lt=0.5)
    """Share of the groups to calibrate on."""
    validation_share: float = Field(default=0.2, gt=0, lt=0.5)
    """Share of the groups, of real rows at least, that say when training stops."""
    operating_points: OperatingPoints = OperatingPoints()
    """Error rates that the two thresholds of a verdict are set for."""
    source_folds: int = Field(default=20, ge=0)
    """Most trainings that leave out sources, so that score and thresholds hold on unseen ones; 0
    sets them on the calibration rows. Three sources of each label are needed, with rows enough."""
    source_confidence: float = Field(default=0.9, gt=0, lt=1)
    """Asked probability that the operating points hold on a source that was never seen."""
    families: dict[str, str] = Field(default_factory=dict)
    """What a generator, or a source of generated pictures, is called where pictures are
    attributed to families; by its own name if it is not here."""
    attribution_rejected: float = Field(default=0.1, ge=0, lt=1)
    """Share of generated pictures of known families that may be called ``unknown``."""
    unfamiliar_share: float = Field(default=0.005, gt=0, lt=0.5)
    """Share of pictures like the training ones that may be called unfamiliar."""
    rows_in_memory: int = Field(default=50_000, ge=1000)
    """Most rows to fit statistics on, to calibrate on, and to validate on, each; and to train
    a logistic or kernel head on. All training rows train the others."""
    workers: int = Field(default=1, ge=1)
    """Processes that train an MLP together."""
    cpus_per_worker: float = Field(default=0.5, gt=0)
    """CPUs that Ray sets aside for a worker; less than one leaves room for reading."""
    gpu: bool = False
    """Whether each worker has a GPU."""
    max_failures: int = Field(default=3, ge=0)
    """Workers that may be lost; training continues after the last epoch."""

    @model_validator(mode="after")
    def _metadata_has_a_use(self) -> TrainConfiguration:
        if self.metadata is not None and self.group_column is None:
            raise ValueError("metadata needs group_column, the column of groups in it")
        return self


def resolve(
    file: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> TrainConfiguration:
    """Defaults, then the YAML file, then command-line options, then ``--set`` keys.

    Parameters
    ----------
    file : path of a YAML file whose keys are those of the configuration
    options : by dotted key, such as ``head.kind``; None where not given
    settings : by dotted key

    Raises
    ------
    UsageError
        One sentence a mistake, with the key and what is allowed.
    """
    return resolved(TrainConfiguration, file, options, settings)
