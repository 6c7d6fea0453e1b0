"""Whether too many rows of a night are without features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from item.errors import JobError
from item.tables import ErrorCode, Status
from pipelines.featurize.manifest import Staged, manifest_of
from pipelines.featurize.plan import FeaturizingPlan
from pipelines.tables.features import IsGone
from pipelines.tables.published import date_of


class ErrorRateError(JobError):
    """More rows than the configuration allows are without features; nothing is published."""

    exit_code = 3


def check_error_rates(work: Sequence[Staged]) -> None:
    """ErrorRateError if a night would have too many rows without features.

    Counted is the night as it would be published, with the rows that it has already.
    """
    table, configuration = work[0].job.table, work[0].job.configuration
    gone = is_gone([one.job for one in work])
    for night in sorted({night for one in work for night in one.dates}):
        parts = [
            (table.staging(one.job.work), path)
            for one in work
            for path in table.parts(one.job.work)
            if date_of(path) == night
        ]
        facts = table.night_counts(night, parts, gone)
        too_many = too_many_errors(night, facts, configuration.max_error_rate)
        if too_many:
            for one in work:
                one.job.table.write_run(
                    one.run_id, manifest_of(one, one.parts), one.job.configuration.as_yaml()
                )
            raise ErrorRateError(too_many)


def is_gone(jobs: Sequence[FeaturizingPlan]) -> IsGone:
    """Whether published rows leave the table for any of some jobs."""

    def gone(files: Sequence[str], versions: Sequence[str]) -> NDArray[np.bool_]:
        return np.logical_or.reduce([job.is_gone(files, versions) for job in jobs])

    return gone


def too_many_errors(night: str, facts: dict[str, Any], limit: float) -> str | None:
    """A sentence if more rows than allowed are without features, for one kind of reason."""
    codes = {
        code: number
        for code, number in facts["error_codes"].items()
        if code != ErrorCode.DUPLICATE_URI
    }
    repeated = facts["error_codes"].get(ErrorCode.DUPLICATE_URI, 0)
    rows = sum(facts["statuses"].values()) - repeated
    for status, kind in ((Status.REJECTED, "lasting"), (Status.FAILED, "passing")):
        mine = Counter({c: n for c, n in codes.items() if ErrorCode(c).status is status})
        if rows and mine.total() / rows > limit:
            code, number = mine.most_common(1)[0]
            return (
                f"Of the rows of {night}, {mine.total() / rows:.1%} are without features for "
                f"{kind} reasons, more than the {limit:.1%} that max_error_rate allows, most "
                f"often ({number} rows) because: {ErrorCode(code).sentence} Nothing was published."
            )
    return None
