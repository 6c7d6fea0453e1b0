"""Labelled rows divided into training, calibration and validation, by group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from item.errors import UsageError
from pipelines.train.rows import Indices, LabelledRows


@dataclass(frozen=True, eq=False)
class Split:
    """Rows by what they are for; no group is in two of them."""

    training: Indices
    calibration: Indices
    validation: Indices
    held_out_generator: str | None
    """Generator of the generated validation rows; None where they are a share of all."""
    notes: tuple[str, ...]


def split(
    rows: LabelledRows,
    seed: int,
    calibration_share: float = 0.2,
    validation_share: float = 0.2,
    validation_generator: str | None = None,
) -> Split:
    """Divide rows into training, calibration and validation, by group.

    Validation rows say when training stops. Their generated ones are of a generator that
    training does not see, so that it stops before it knows its generators by heart: the one
    named, else the rarest of three or more. Groups of that generator alone are all
    validation; of those that it shares with others, and of real ones, it is a share.

    Raises
    ------
    UsageError
        If a part is left without a class, or there is no such generator.
    """
    held_out = _held_out(rows, validation_generator)
    generated = rows.labels == 1
    held = generated & (rows.generators == held_out) if held_out else np.zeros(len(rows), bool)
    count = int(rows.groups.max()) + 1

    def among(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which groups have such a row."""
        return np.bincount(rows.groups[chosen], minlength=count) > 0

    has_held, has_other, has_real = among(held), among(generated & ~held), among(~generated)
    rng = np.random.default_rng(seed)
    validating = has_held & ~has_other
    strata = [has_held & has_other, has_other & ~has_held & (held_out is None)]
    strata.append(has_real & ~has_held & ~has_other)
    for stratum in strata:
        validating |= _share_of(stratum, validation_share, rng)
    calibrating = np.zeros(count, bool)
    for stratum in (has_other & ~validating, ~has_other & ~validating):
        calibrating |= _share_of(stratum, calibration_share, rng)
    validation = validating[rows.groups] & (held | ~generated | (held_out is None))
    calibration = calibrating[rows.groups] & ~held
    training = ~(validating | calibrating)[rows.groups] & ~held
    parts = [np.flatnonzero(rows_of) for rows_of in (training, calibration, validation)]
    for part, purpose in zip(parts, ("train on", "calibrate on", "validate on"), strict=True):
        for label, name in enumerate(("real", "generated")):
            if not (rows.labels[part] == label).any():
                raise UsageError(
                    f"The split leaves no {name} rows to {purpose}: give more labelled rows, "
                    "or smaller groups."
                )
    notes = [
        f"Training stops by the held-out generator '{held_out}'."
        if held_out
        else f"Training stops by {validation_share:.0%} of the groups: no generator is held out."
    ]
    if unused := len(rows) - sum(map(len, parts)):
        notes.append(
            f"{unused:,} rows are not used: their group is on the other side of the split."
        )
    return Split(parts[0], parts[1], parts[2], held_out, tuple(notes))


def _held_out(rows: LabelledRows, named: str | None) -> str | None:
    names = [name for name in rows.generators[rows.labels == 1] if name]
    numbers = pd.Series(names, dtype=object).value_counts()
    known = sorted(numbers.index)
    if named is not None:
        if named not in known:
            raise UsageError(
                f"There are no generated rows of the validation generator '{named}': choose one "
                f"of {', '.join(known) or 'those that the tables name, which are none'}."
            )
        if len(known) == 1 and len(names) == (rows.labels == 1).sum():
            raise UsageError(
                f"All generated rows are of the validation generator '{named}', which leaves none "
                "to train on."
            )
        return named
    return min(known, key=lambda name: (numbers[name], name)) if len(known) >= 3 else None


def _share_of(
    groups: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """A share of the marked groups, drawn at random."""
    marked = rng.permutation(np.flatnonzero(groups))
    chosen = np.zeros_like(groups)
    chosen[marked[: round(share * len(marked))]] = True
    return chosen
