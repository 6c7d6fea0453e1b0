"""The page as HTML and as Markdown: complete, self-contained, and safe to open."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from item.errors import UsageError
from item.explanation.printable import printable_line
from pipelines.results.page import markdown_text, write
from pipelines.results.tables import TABLES, read_evaluation
from tests.support.evaluation_folder import (
    METHODS,
    OURS,
    PROTOCOL,
    SOURCES,
    description,
    tables,
    without_plots,
    write_folder,
)

TITLES = (
    "What was measured, and on what",
    "Mean AUROC over generators",
    "Is it ahead of the baselines?",
    "Each generator",
    "ROC: images caught against photographs blamed",
    "Do scores mean what they say?",
    "When a threshold moves to another source",
    "Controls: could it be something else?",
    "Ablations: which parts matter?",
    "Robustness: what the web does to pictures",
    "Every number",
)

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a | b `c` *d* [e](https://example.org) $f$ {{ 7 * 7 }}",
)


class Page(HTMLParser):
    """Tags, attributes and text of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def built(folder: Path, into: Path) -> tuple[str, str]:
    """The HTML and the Markdown page of an evaluation folder."""
    paths = str(into / "results.html"), str(into / "results.md")
    write(read_evaluation(str(folder)), *paths)
    return Path(paths[0]).read_text(), Path(paths[1]).read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("evaluation"), description(), tables())


@pytest.fixture(scope="module")
def place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both pages of `folder` are."""
    place = tmp_path_factory.mktemp("docs")
    built(folder, place)
    return place


@pytest.fixture(scope="module")
def pages(place: Path) -> tuple[str, str]:
    return (place / "results.html").read_text(), (place / "results.md").read_text()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The pages of an evaluation whose generators and notes are an attacker's."""
    place = tmp_path_factory.mktemp("hostile")
    about = description(HOSTILE, notes=list(HOSTILE), machine=HOSTILE[0], command=HOSTILE[1])
    return built(write_folder(place / "evaluation", about, tables(HOSTILE)), place)


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(markdown)


SHORT_TITLES = (
    "In short",
    "What was measured",
    "How well generated images and photographs are told apart",
    "Could it be something else?",
    "When a threshold meets new photographs",
    "Where the shipped method is weakest",
    "What the web does to pictures",
    "Every figure",
)


def test_sections_stand_in_order(pages: tuple[str, str]) -> None:
    assert tuple(map(html.unescape, re.findall(r"<h2[^>]*>(.*?)</h2>", pages[0]))) == TITLES
    assert tuple(re.findall(r"^## (.*)$", pages[1], re.MULTILINE)) == SHORT_TITLES


def test_the_markdown_page_is_short_and_has_four_plots(pages: tuple[str, str]) -> None:
    assert len(pages[1].splitlines()) <= 200
    assert pages[1].count("![") == 4


def test_the_full_tables_are_written_as_csv(folder: Path, tmp_path: Path) -> None:
    evaluation = read_evaluation(str(folder))
    written = write(evaluation, tables=str(tmp_path / "csv"))
    assert {Path(path).stem for path in written} == set(TABLES)
    read = pd.read_csv(tmp_path / "csv" / "metrics.csv")
    pd.testing.assert_frame_equal(read, evaluation.metrics, check_dtype=False, rtol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        *(method for method in METHODS if method != "random crops"),
        *SOURCES,
        PROTOCOL,
        "Trained on SD1.5, tested on all others.",
        "2 CPU cores, 8 GB",
        "3,600 generated images of 3 generators",
        "6,800 photographs of 2 sources",
        "0.870 (0.858 to 0.882)",
        "2.0% (1.6% to 2.4%)",
        "Made-up numbers.",
        "resize-0.5+jpeg-75",
    ],
)
def test_both_pages_say(pages: tuple[str, str], text: str) -> None:
    assert text in Page(pages[0]).text
    assert text in Page(rendered(pages[1])).text


@pytest.mark.parametrize("text", ["random crops", "+0.010 (-0.005 to +0.025)", "TPR at 1% FPR"])
def test_the_long_page_says_everything(pages: tuple[str, str], text: str) -> None:
    assert text in Page(pages[0]).text


def test_page_needs_nothing_from_the_network(pages: tuple[str, str]) -> None:
    page = Page(pages[0])
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    links = [str(value) for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "@import" not in pages[0]
    assert set(re.findall(r"url\((.)", pages[0])) == {"#"}


def test_page_fits_a_phone_and_the_dark(pages: tuple[str, str]) -> None:
    assert 'name="viewport" content="width=device-width' in pages[0]
    assert "prefers-color-scheme: dark" in pages[0]
    assert pages[0].count('<div class="wide"') == pages[0].count("<table>") + pages[0].count("<svg")


def test_no_id_comes_twice(pages: tuple[str, str]) -> None:
    ids = [value for name, value in Page(pages[0]).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > len(TITLES)


def test_every_svg_is_valid_xml_with_a_text_alternative(pages: tuple[str, str]) -> None:
    drawings = re.findall(r"<svg .*?</svg>", pages[0], re.DOTALL)
    assert len(drawings) == 11
    for drawing in drawings:
        names = [element.tag.rpartition("}")[2] for element in ET.fromstring(drawing)]
        assert names[:2] == ["title", "desc"]


def test_markdown_links_every_plot_beside_it(place: Path, pages: tuple[str, str]) -> None:
    linked = re.findall(r'<img src="([^"]+)" alt="[^"]{40,}"', rendered(pages[1]))
    assert sorted(linked) == sorted(f"results/{p.name}" for p in (place / "results").iterdir())
    for link in linked:
        ET.fromstring((place / link).read_text())


def test_hostile_names_stay_text_in_html(hostile: tuple[str, str]) -> None:
    page = Page(hostile[0])
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(name in page.text for name in HOSTILE)
    assert "49" not in re.findall(r"<li>(.*?)</li>", hostile[0])


def test_hostile_names_stay_text_in_markdown(hostile: tuple[str, str]) -> None:
    page = Page(rendered(hostile[1]))
    assert "script" not in page.tags
    assert all(name in page.text for name in HOSTILE)
    links = [str(value) for name, value in page.attributes if name in ("src", "href")]
    assert links
    assert all(link.startswith("results/") for link in links)


def test_hostile_names_do_not_break_a_markdown_table(
    pages: tuple[str, str], hostile: tuple[str, str]
) -> None:
    def cells(page: str) -> list[int]:
        return [row.count("<t") for row in re.findall(r"<tr>.*?</tr>", rendered(page), re.DOTALL)]

    assert cells(hostile[1]) == cells(pages[1])
    # Every metric's table came through as a table: nothing of one is left as text.
    assert "--:" not in rendered(hostile[1])
    assert len(cells(pages[1])) > 10


@settings(deadline=None)
@given(st.text().map(printable_line))
def test_markdown_shows_any_text_letter_by_letter(text: str) -> None:
    table = rendered(f"| x |\n| --- |\n| {markdown_text(text)} |\n")
    assert Page(table).tags == ["table", "thead", "tr", "th", "tbody", "tr", "td"]
    assert "".join(Page(table).text.split()) == "x" + "".join(text.split())


@pytest.mark.parametrize("text", ["https://example.org", "www.example.org", "a@example.org"])
def test_markdown_does_not_turn_text_into_a_link(text: str) -> None:
    written = markdown_text(text)
    assert not re.search(r"://|www\.|@", written)
    assert html.unescape(written) == text


def test_same_tables_give_the_same_bytes(
    folder: Path, pages: tuple[str, str], tmp_path: Path
) -> None:
    assert built(folder, tmp_path) == pages


def test_robustness_that_was_not_measured_is_said_or_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "evaluation", description(), without_plots(tables()))
    long, short = built(folder, tmp_path)
    assert "Robustness was not measured." in long and "robustness-" not in long
    assert "What the web does" not in short and "robustness.svg" not in short


def test_building_again_replaces_the_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "evaluation", description(), without_plots(tables()))
    page = tmp_path / "results.html"
    page.write_text("old")
    write(read_evaluation(str(folder)), str(page), None)
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert set(tmp_path.iterdir()) == {folder, page}


def test_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "evaluation", description(), without_plots(tables()))
    page = tmp_path / "page.html"
    page.mkdir()
    with pytest.raises(UsageError, match=r"page\.html cannot be written: Is a directory"):
        write(read_evaluation(str(folder)), str(page), None)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation", "page.html"}


def test_markdown_page_without_an_ending_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ending, such as \.md"):
        write(read_evaluation(str(folder)), None, str(tmp_path / "page"))


def test_shipped_method_is_the_title(pages: tuple[str, str]) -> None:
    assert f"<title>Results of {OURS}</title>" in pages[0]
