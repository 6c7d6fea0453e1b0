"""Figures as SVG: safe beside others on a page, readable on any ground, with words of their own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from pipelines.pages.svg_plots import (
    INK,
    LONGEST_LABEL,
    Plot,
    add_legend,
    as_plot,
    new_figure,
    short_label,
)

SVG = "{http://www.w3.org/2000/svg}"


def drawn(name: str, label: str = "both") -> Plot:
    """Two panels with a line each, of one label."""
    with new_figure(4, 2) as figure:
        panels = figure.subplots(1, 2)
        for axes in panels:
            axes.plot([0, 1], [0, 1], color=INK, label=label, marker="o")
        add_legend(figure, *panels)
    return as_plot(name, "A line", "It rises.", figure)


def texts(plot: Plot) -> list[str]:
    return [element.text or "" for element in ET.fromstring(plot.svg).iter(f"{SVG}text")]


def test_a_drawing_has_its_title_and_description() -> None:
    root = ET.fromstring(drawn("one").svg)
    spoken = {e.get("id"): e.text for e in root if e.tag in (f"{SVG}title", f"{SVG}desc")}
    assert spoken == {"one-title": "A line", "one-desc": "It rises."}
    assert str(root.get("aria-labelledby")).split() == list(spoken)


def test_ids_of_two_plots_on_one_page_differ() -> None:
    ids = [set(re.findall(r' id="([^"]+)"', drawn(name).svg)) for name in ("first", "second")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_references_lead_to_ids_of_the_same_plot() -> None:
    svg = drawn("one").svg
    references = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    assert references
    assert {a or b for a, b in references} <= set(re.findall(r' id="([^"]+)"', svg))


def test_frame_takes_the_colour_of_the_text_and_a_file_is_white() -> None:
    plot = drawn("one")
    assert "currentColor" in plot.svg
    assert "#fff" not in plot.svg and INK not in plot.svg
    assert ET.fromstring(plot.as_file()).get("style") == "background:#fff;color:#000"


def test_a_label_of_two_panels_is_in_the_legend_once() -> None:
    assert texts(drawn("one")).count("both") == 1


def test_same_figure_gives_the_same_bytes() -> None:
    assert drawn("one").svg == drawn("one").svg


@pytest.mark.parametrize("name", ["short", "x" * LONGEST_LABEL, "x" * 500])
def test_a_label_is_cut_where_there_is_no_room(name: str) -> None:
    shown = short_label(name)
    assert len(shown) <= LONGEST_LABEL
    assert shown == name or (shown.endswith("…") and name.startswith(shown[:-1]))


def test_a_label_that_begins_with_an_underscore_is_shown() -> None:
    assert any(text.endswith("_hidden") for text in texts(drawn("one", short_label("_hidden"))))
