"""What a page is made of: paragraphs, lists, tables and plots, as plain values.

How they are written is the affair of :mod:`pipelines.results.page`; nothing here is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipelines.pages.svg_plots import Plot


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Bullets:
    """Pairs of a name, which may be empty, and what is said of it."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """One line to be typed."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Cell:
    """What stands in a table; `best` is shown in bold."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under columns, in groups that may have a heading."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Sequence[Cell]]]]
    folded: bool = False


@dataclass(frozen=True)
class Figures:
    """Plots that stand side by side where there is room."""

    kind: ClassVar[str] = "figures"
    plots: Sequence[Plot]


Block = Paragraph | Bullets | Code | Table | Figures


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    id: str
    title: str
    blocks: Sequence[Block]
