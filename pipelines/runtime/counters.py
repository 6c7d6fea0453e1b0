"""What Prometheus sees of the work: images by status, rejects by reason, seconds by stage.

Every process counts for itself and Ray's agent on its node adds up and exports, so a worker
that ends takes nothing with it. A batch that Ray computes twice, after a machine was lost, is
counted twice: the manifest of a run is exact, these numbers show how it goes.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from ray.util.metrics import Counter

from pipelines.runtime.stages import PENDING, SECONDS

IMAGES = "item_images_total"
REJECTS = "item_rejects_total"
STAGE_SECONDS = "item_stage_seconds_total"

# Not "job", which is the name of a label that Prometheus sets itself.
PIPELINE = "pipeline"
REUSED = "reused"
"""Status under which rows count that take the features of an equal picture."""

TAGS = {
    IMAGES: (PIPELINE, "status"),
    REJECTS: (PIPELINE, "code"),
    STAGE_SECONDS: (PIPELINE, "stage"),
}
"""The metrics and their tags; Prometheus has them under ``ray_`` and these names."""

_DESCRIPTIONS = {
    IMAGES: "Rows that are done, by status; reused ones took the features of an equal picture.",
    REJECTS: "Rows without features, by error code.",
    STAGE_SECONDS: "Seconds that workers spent in a stage, waiting not counted.",
}


class Counters:
    """The program's own metrics; may be sent to workers, which go on counting.

    Parameters
    ----------
    pipeline : what the rows go through, such as ``featurize``; a tag of every metric
    """

    def __init__(self, pipeline: str) -> None:
        self.pipeline = pipeline
        self._counters = {
            name: Counter(name, _DESCRIPTIONS[name], tags) for name, tags in TAGS.items()
        }

    def add(self, batch: pa.Table) -> None:
        """Count a batch of rows that left the last stage.

        Parameters
        ----------
        batch : with ``status`` and ``error_code``, and a column ``seconds_STAGE`` for each
            stage that took time
        """
        for status, rows in _counts(batch["status"]).items():
            self._count(IMAGES, rows, REUSED if status == PENDING else status)
        for code, rows in _counts(batch["error_code"]).items():
            self._count(REJECTS, rows, code)
        for name in batch.column_names:
            if name.startswith(SECONDS):
                seconds = pc.sum(batch[name]).as_py() or 0.0
                self._count(STAGE_SECONDS, seconds, name.removeprefix(SECONDS))

    def _count(self, name: str, amount: float, value: str) -> None:
        if amount > 0:  # Ray's counters refuse 0
            tags = dict(zip(TAGS[name], (self.pipeline, value), strict=True))
            self._counters[name].inc(amount, tags)


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs, nulls aside."""
    found = pc.value_counts(column.drop_null())
    return {one["values"]: one["counts"] for one in found.to_pylist()}
