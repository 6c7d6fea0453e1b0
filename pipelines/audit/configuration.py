"""What an audit is asked to do."""

from __future__ import annotations

import datetime

from pydantic import Field, model_validator

from pipelines.audit.numbers import AuditOptions
from pipelines.configuration import JobConfiguration
from pipelines.storage.places import Place

ENDING = ".html"


class AuditConfiguration(AuditOptions, JobConfiguration):
    """Everything that ``jobs/audit.py`` does, and nothing else."""

    input: Place = Field(min_length=1)
    """Root that ``jobs/nightly.py`` wrote."""
    output: Place = Field(min_length=1, pattern=r"[^/]\.html$")
    """The report; its numbers go into the folder of its name without ``.html``."""
    date: datetime.date | None = None
    """The night; the last one if neither it nor a range is given."""
    first: datetime.date | None = None
    """The nights from this one on."""
    last: datetime.date | None = None
    """The nights up to this one."""
    head: Place | None = None
    """Folder of the head that scored the nights, for its error rates and thresholds."""

    @model_validator(mode="after")
    def _names_nights_in_one_way(self) -> AuditConfiguration:
        if self.date and (self.first or self.last):
            raise ValueError("date names one night, first and last a range: give one or the other")
        if self.first and self.last and self.first > self.last:
            raise ValueError("first lies after last")
        return self
