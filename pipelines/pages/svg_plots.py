"""Matplotlib figures as SVG text that stands inside a page and is the same for the same numbers.

Lines and letters of the frame take the colour of the text around the plot, so one plot
serves a light and a dark page.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LONGEST_LABEL = 36
"""Letters of a name in a plot; the tables show names in full."""

INK = "#0f1e2d"
"""Stands for the colour of the text around a plot; no method has it."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "item",
    "text.parse_math": False,  # a name may hold dollar signs
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Plot:
    """A drawing and what it says in words, for those who do not see it."""

    name: str
    """Letters, digits and dashes; unique on a page."""
    title: str
    description: str
    svg: str
    """An ``<svg>`` element, with no XML declaration, script or outside reference."""

    def as_file(self) -> str:
        """The drawing alone: black on white, whatever stands around it."""
        start = f'<svg xmlns="{_SVG}"'
        return self.svg.replace(start, start + ' style="background:#fff;color:#000"', 1) + "\n"


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` by `height` inches, drawn in the house style."""
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def add_legend(figure: Figure, *panels: Axes) -> None:
    """One legend under the whole figure, each method once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        labels, handles = list(entries), list(entries.values())
        figure.legend(handles, labels, loc="outside lower center", ncols=2)


def short_label(name: str) -> str:
    """A label that fits; Matplotlib leaves labels out that begin with an underscore."""
    cut = name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"
    return "\N{ZERO WIDTH SPACE}" + cut if cut.startswith("_") else cut


def as_plot(name: str, title: str, description: str, figure: Figure) -> Plot:
    """Save `figure` as SVG and make it fit to stand inside a page among others."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The reader's browser sets the letters, so a font here need not have them.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    root = ET.fromstring(buffer.getvalue())
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, _own(name, key, value))
    _describe(root, name, title, description)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return Plot(name, title, description, ET.tostring(root, encoding="unicode"))


def _own(name: str, key: str, value: str) -> str:
    """Make an id this plot's own, wherever it stands, and ink the colour of the text; a path is
    drawn to a hundredth of a point."""
    if key == "d":
        return re.sub(r"(\.\d\d)\d+", r"\1", value)
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{_XLINK}}}href":
        return value.replace("#", f"#{name}-", 1)
    return re.sub(r"url\(#", f"url(#{name}-", value).replace(INK, "currentColor")


def _describe(root: ET.Element, name: str, title: str, description: str) -> None:
    """Title and description that a screen reader speaks instead of the drawing's parts."""
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (kind, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{_SVG}}}{kind}", {"id": f"{name}-{kind}"})
        element.text = text
        root.insert(place, element)
