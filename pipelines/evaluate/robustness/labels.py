"""Whether images can have labels, known before any of them is featurized."""

from __future__ import annotations

from item.errors import UsageError
from pipelines.evaluate.robustness.configuration import RobustnessConfiguration
from pipelines.input.columns import labels_of
from pipelines.input.files import uri_of
from pipelines.input.pieces import Archive, ImageFiles, TableRows
from pipelines.input.plan import InputPlan
from pipelines.input.rows import as_label
from pipelines.input.table_files import open_table
from pipelines.storage.urls import redact
from pipelines.train.labels import Labels

ROWS_AT_ONCE = 8192
_NAMES = {0: "real (0)", 1: "generated (1)"}


def check_labels(
    plan: InputPlan, configuration: RobustnessConfiguration, labels: Labels | None
) -> None:
    """UsageError if it is sure that the images will not have both labels.

    What stands in archives is not known before they are read.
    """
    if labels is not None:
        found = set(labels.rows["label"].dropna())
        where = f"The labels table {redact(labels.where)}"
        if found == {0, 1}:
            _check_names(plan, labels, where)
    elif any(isinstance(piece, Archive) for piece in plan.pieces):
        return
    else:
        found = _labels_of_tables(plan, configuration)
        where = f"The input {', '.join(map(redact, configuration.input))}"
    if missing := [_NAMES[label] for label in (0, 1) if label not in found]:
        raise UsageError(
            f"{where} has no label {' and none '.join(missing)}, and robustness is measured on "
            "both: give a table of labels with --labels, or a column label in the input."
        )


def _labels_of_tables(plan: InputPlan, configuration: RobustnessConfiguration) -> set[int | None]:
    """Labels of the tables of an input, read until both are found; files have none."""
    tables = [(piece.root, piece.name) for piece in plan.pieces if isinstance(piece, TableRows)]
    found: set[int | None] = set()
    for root, name in dict.fromkeys(tables):
        with open_table(root, name, configuration.storage, plan.columns, plan.uri_roots) as table:
            if "label" not in table.columns:
                continue
            for batch in table.batches(range(len(table.groups)), ["label"], ROWS_AT_ONCE):
                found |= {as_label(value) for value in set(labels_of(batch["label"]))}
                if {0, 1} <= found:
                    return found
    return found


def _check_names(plan: InputPlan, labels: Labels, where: str) -> None:
    """UsageError if none of the labels is of a file that was listed."""
    files = [piece for piece in plan.pieces if isinstance(piece, ImageFiles)]
    if len(files) < len(plan.pieces) or len(labels.by_image) or not files:
        return
    uris = [uri_of(piece.root, name) for piece in files for name in piece.names]
    if (labels.by_uri.places(uris) < 0).all():
        raise UsageError(
            f"{where} names none of the {len(uris):,} images, the first of which is "
            f"{redact(uris[0])!r}."
        )
