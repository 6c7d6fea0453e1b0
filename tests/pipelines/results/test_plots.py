"""The plots: valid SVG that carries its own words and is the same for the same numbers."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from pipelines.pages.svg_plots import Plot
from pipelines.results.plots import COLOURS, generator_bars, looks, roc_curves
from tests.support.evaluation_folder import GENERATORS, OURS, PROBE, tables

SVG = "{http://www.w3.org/2000/svg}"


def bars(name: str = "bars", **changes: object) -> Plot:
    metrics = tables()["metrics"]
    auroc = metrics.query("metric == 'auroc' and subset == 'all' and real_source == 'COCO'")
    return generator_bars(name, "AUROC", auroc.assign(**changes), looks([OURS, PROBE]))


def texts(plot: Plot) -> list[str]:
    return [element.text or "" for element in ET.fromstring(plot.svg).iter(f"{SVG}text")]


def test_plot_says_in_words_what_it_shows() -> None:
    root = ET.fromstring(bars().svg)
    assert root.get("role") == "img"
    spoken = {e.get("id"): e.text for e in root if e.tag in (f"{SVG}title", f"{SVG}desc")}
    assert list(spoken) == str(root.get("aria-labelledby")).split()
    assert "staged MLP 0.830, image probe 0.820" in str(list(spoken.values())[1])


def test_methods_are_named_and_those_without_a_look_left_out() -> None:
    shown = texts(bars())
    assert {OURS, PROBE, *GENERATORS, "mean over generators"} <= set(shown)
    assert "DE-FAKE" not in shown


def test_roc_reads_the_shares_caught_off_the_curves() -> None:
    rates = [0.0, 0.01, 0.05, 1.0]
    curve = pd.DataFrame({"generator": "G", "method": OURS, "fpr": rates})
    plot = roc_curves("roc", "ROC", curve.assign(tpr=[0, 0.3, 0.6, 1]), looks([OURS, PROBE]))
    assert f"{OURS} 30% and 60%." in plot.description
    assert {"1%", "5%", "G"} <= set(texts(plot))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "$\\frac$ & co", "_x", "画", "]]>"])
def test_odd_names_are_drawn_as_text(name: str) -> None:
    plot = bars(generator=np.where(bars_generators() == "SDXL", name, bars_generators()))
    assert name in [text.lstrip("\N{ZERO WIDTH SPACE}") for text in texts(plot)]
    assert not list(ET.fromstring(plot.svg).iter(f"{SVG}script"))


def bars_generators() -> np.ndarray:
    metrics = tables()["metrics"]
    rows = metrics.query("metric == 'auroc' and subset == 'all' and real_source == 'COCO'")
    return rows["generator"].to_numpy()


def test_long_names_are_cut_in_the_plot() -> None:
    plot = bars(method=OURS, generator=["x" * 200 + str(i) for i in range(len(bars_generators()))])
    assert max(map(len, texts(plot))) < 50


def test_values_without_interval_are_drawn() -> None:
    assert ET.fromstring(bars(low=np.nan, high=np.nan).svg).tag == f"{SVG}svg"


def test_same_numbers_give_the_same_bytes() -> None:
    assert bars().svg == bars().svg


def test_methods_look_different() -> None:
    assert len(set(looks([str(i) for i in range(140)]).values())) == 140
    assert len(set(COLOURS)) == len(COLOURS)
