"""What the nightly job is asked to do."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from pydantic import Field, field_validator, model_validator

from item.mini import HEAD
from item.settings import validated
from pipelines.audit.numbers import AuditOptions
from pipelines.featurize.configuration import FeaturizeConfiguration, FeaturizingOptions
from pipelines.score.configuration import ScoreConfiguration
from pipelines.storage.places import Place, Places
from pipelines.storage.urls import join


class NightlyConfiguration(FeaturizingOptions):
    """Everything that ``jobs/nightly.py`` does, and nothing else.

    ``overwrite`` concerns done nights, each of which then gets a new report.
    """

    input: Places = Field(min_length=1)
    """Dump roots with a folder for each night, or prefixes that are such a folder."""
    night_folders: str = Field(default="date=%Y-%m-%d", min_length=1)
    """What folders of nights are called, as ``strftime`` writes it, such as ``dt=%Y-%m-%d`` or
    ``year=%Y/month=%m/day=%d``."""
    output: Place = Field(min_length=1)
    """Root of the tables and reports."""
    head: Place = str(HEAD)
    """Folder or ``s3://`` prefix of a head; by default the one that ships with ``mini``."""
    date: datetime.date | None = None
    """One night, whether it is done or not."""
    first: datetime.date | None = Field(default=None, alias="from")
    """The nights from this one on, whether they are done or not."""
    last: datetime.date | None = Field(default=None, alias="to")
    """The nights up to this one; those that are done stay as they are, unless ``from`` is
    given too."""
    retry_failed: bool = False
    """Whether done nights are looked at too, for rows that failed or whose files changed."""
    nights_at_once: int = Field(default=7, ge=1)
    """Nights that are featurized together, so that models are loaded once for them; they are
    published one by one."""
    audit: AuditOptions = AuditOptions()
    """What each night's report shows."""

    @model_validator(mode="after")
    def _names_nights_in_one_way(self) -> NightlyConfiguration:
        if self.date and (self.first or self.last):
            raise ValueError("date names one night, from and to a range: give one or the other")
        if self.first and self.last and self.first > self.last:
            raise ValueError("from lies after to")
        return self

    @field_validator("night_folders")
    @classmethod
    def _says_year_month_and_day(cls, layout: str) -> str:
        day = datetime.date(2026, 11, 23)
        try:
            said = datetime.datetime.strptime(day.strftime(layout), layout).date()
        except ValueError:
            said = None
        if said != day or layout.startswith("/") or layout.endswith("/"):
            raise ValueError("must say year, month and day, as in date=%Y-%m-%d")
        return layout

    def featurizing(self, prefixes: Sequence[str]) -> FeaturizeConfiguration:
        """The configuration of a night's features."""
        shared = FeaturizeConfiguration.model_fields.keys() & type(self).model_fields.keys()
        values = {name: getattr(self, name) for name in shared}
        values |= {"input": tuple(prefixes), "output": join(self.output, "features")}
        return validated(FeaturizeConfiguration, values, "configuration")

    def scoring(self, nights: Sequence[str]) -> ScoreConfiguration:
        """The configuration of some nights' scores."""
        return ScoreConfiguration(
            input=join(self.output, "features"),
            output=join(self.output, "scores"),
            head=self.head,
            dates=tuple(nights),
            overwrite=self.overwrite,
            storage=self.storage,
            object_store_gb=self.object_store_gb,
            lease_seconds=self.lease_seconds,
            exclusive_lease=self.exclusive_lease,
        )
