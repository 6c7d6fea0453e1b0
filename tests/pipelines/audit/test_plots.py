"""Charts show the numbers they are given, and name hostile sources as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from item.statistics.calibration import Thresholds
from pipelines.audit.plots import (
    MOST_BARS,
    drift_bars,
    family_bars,
    night_points,
    score_bars,
    source_bars,
)
from pipelines.pages.svg_plots import Plot
from tests.support.audit_root import HOSTILE


def verdicts(*rows: tuple[str, str | None, int]) -> pd.DataFrame:
    """Scope, name and a third of the rows for each of three verdicts."""
    return pd.DataFrame(
        [
            {"scope": scope, "name": name, "rows": 3 * third, "likely_generated": third}
            | {"uncertain": third, "likely_real": third, "not_scored": 0}
            | {"flagged_share": 1 / 3, "low": 0.2, "high": 0.5}
            for scope, name, third in rows
        ]
    )


def texts(plot: Plot) -> list[str]:
    """What stands in the drawing, which must be well-formed XML."""
    root = ET.fromstring(plot.svg)
    return ["".join(one.itertext()) for one in root.iter() if one.tag.endswith("}text")]


def test_sources_stand_with_their_counts_the_largest_first() -> None:
    plot = source_bars(verdicts(("all", None, 30), ("source", "a", 10), ("source", None, 20)))
    said = [text for text in texts(plot) if "/" in text or text in ("all", "a", "(no source)")]
    assert said == ["all", "30/30/30/0", "(no source)", "20/20/20/0", "a", "10/10/10/0"]
    assert "30 likely generated, 30 uncertain, 30 likely real" in plot.description


def test_many_sources_are_cut_and_the_rest_counted() -> None:
    sources = [("source", f"s{n}", 100 - n) for n in range(MOST_BARS + 7)]
    plot = source_bars(verdicts(("all", None, 1), *sources))
    assert "7 smaller sources are in the table only." in plot.description
    assert sum("/" in text for text in texts(plot)) == MOST_BARS + 1


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_family_is_text(name: str) -> None:
    plot = family_bars(pd.DataFrame({"family": [name, "unknown"], "rows": [2, 1]}))
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(plot.svg).iter()}
    assert not tags & {"script", "img"}
    assert "Of the 3 flagged pictures: " in plot.description
    assert "no proof" in plot.description and "unknown 1" in plot.description


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_source_is_text(name: str) -> None:
    plot = source_bars(verdicts(("all", None, 1), ("source", name, 1)))
    assert not re.search(r"<(script|img|style[^>]*>.*onload)", plot.svg)
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(plot.svg).iter()}
    assert tags <= {
        *("svg", "g", "path", "text", "defs", "style", "title", "desc", "use", "rect"),
        "clipPath",
    }
    letters = re.sub(r"\W", "", "".join(texts(plot)))
    assert re.sub(r"\W", "", name)[:8] in letters


def test_scores_show_both_thresholds() -> None:
    edges = np.linspace(0, 1, 5)
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "rows": [4, 0, 1, 2]})
    table = table.assign(
        likely_generated=[0, 0, 0, 2], uncertain=[0, 0, 1, 0], likely_real=[4, 0, 0, 0]
    )
    plot = score_bars(table, Thresholds(0.2, 0.9))
    assert {"0.20", "0.90"} <= set(texts(plot))
    assert "7 scored pictures" in plot.description
    assert "Dashed" not in score_bars(table, None).description


def test_drift_names_the_quantities_and_the_alarms() -> None:
    table = pd.DataFrame(
        {"quantity": ["score", "format", "pixels"], "psi": [0.4, 0.1, np.nan]}
        | {"psi_by_chance": [0.02, 0.2, np.nan], "alarm": [True, False, False]}
    )
    plot = drift_bars(table, 0.25)
    assert {"score", "file format"} <= set(texts(plot))
    assert "number of pixels" not in texts(plot)
    assert plot.description.endswith("Alarms: score.")


def test_nights_are_drawn_in_order() -> None:
    plot = night_points(verdicts(("night", "2026-01-02", 1), ("night", "2026-01-01", 1)))
    assert [text for text in texts(plot) if text.startswith("01-")] == ["01-01", "01-02"]
    assert "2026-01-01 33.3%, 2026-01-02 33.3%" in plot.description
