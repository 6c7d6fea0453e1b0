"""Numbers and strangers' texts as the report writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from item.explanation.printable import printable_line
from item.statistics.prevalence import percent

LONGEST_TEXT = 600
"""Characters of a stranger's text on a card."""


def finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def one_line(text: str | None) -> str:
    """A stranger's text on one line, not too long."""
    line = printable_line(text or "")
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def share_of(number: int, scored: int) -> str:
    return f"{percent(number / scored)} of those scored" if scored else ""


def with_interval(row: Mapping[str, Any], value: str, low: str, high: str) -> str:
    if pd.isna(row[value]):
        return "–"
    return f"{percent(row[value])} ({percent(row[low])} to {percent(row[high])})"


def number_as(value: float, form: str) -> str:
    return "–" if pd.isna(value) else f"{value:{form}}"


def p_value_as(value: float) -> str:
    return "below 0.0001" if value < 0.0001 else number_as(value, ".2g")
