"""The page: self-contained, safe to open whatever it shows, usable in a real browser."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipelines.audit.cards import card
from pipelines.audit.configuration import AuditConfiguration
from pipelines.audit.format import LONGEST_TEXT
from pipelines.audit.job import plan_audit, write_report
from pipelines.audit.lines import MOST_LINES
from tests.support.audit_root import (
    ERROR_RATES,
    HEAD,
    HOSTILE,
    IMAGE,
    SCRIPT,
    Row,
    broken,
    many,
    picture,
    strange,
    thumbnail,
    write_night,
)

NIGHT, BEFORE = "2026-01-09", "2026-01-08"
THRESHOLDS = {"likely_real": 0.2, "likely_generated": 0.9}
MANIFEST = {
    "head": {"head_id": HEAD, "error_rates": ERROR_RATES, "thresholds": THRESHOLDS},
    "models": {"captioner": "a captioner", "clip": "an encoder"},
    "started_at": "2026-01-10T02:00:00+00:00",
    "seconds": 3600,
    "images_per_second": 12.5,
    "reuse": {"rate": 0.25},
    "cpus": 4.0,
    "gpus": 1.0,
}

BROWSER = os.environ.get("ITEM_CHROMIUM", "/usr/bin/chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
QUIET += ("--disable-background-networking", "--disable-component-update")


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def report(root: Path, rows: list[Row], *dates: str, **given: Any) -> Path:
    """The page of a night of these rows."""
    evidence = given.pop("evidence", True)
    write_night(root, NIGHT, rows, manifest=given.pop("manifest", MANIFEST), evidence=evidence)
    output = root / "report.html"
    first, last = (dates or (NIGHT,))[0], NIGHT
    configuration = {"input": str(root), "output": str(output), "first": first, "last": last}
    write_report(plan_audit(AuditConfiguration.model_validate(configuration | given)))
    return output


def hostile_rows() -> list[Row]:
    """Every text that a stranger can write is an attack."""
    rows = []
    for number, text in enumerate(HOSTILE):
        thing = {"phrase": text, "grounded": True, "similarity": 0.1, "image_similarity": 0.1}
        thing |= {"box": {"x0": 1.0, "y0": 1.0, "x1": 9.0, "y1": 9.0}, "grounding_score": 1.0}
        columns: Row = {"caption": text, "source": text, "explanation": text, "objects": [thing]}
        columns |= {"weakest_phrase": text, "digital_source_type": text, "format": text}
        columns |= {"weakest_box": thing["box"]}
        rows.append(picture(f"{text}{number}", 0.99, **columns))
        rows.append(picture(f"{text}{number}b", 0.5, **columns))
        rows.append(broken(f"{text}{number}c", source=text))
    return rows


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a night among three, of which the one before was another."""
    root = tmp_path_factory.mktemp("root")
    write_night(root, BEFORE, many(BEFORE, 200, seed=1))
    rows = [row | {"width": 2000} for row in many(NIGHT, 200, seed=2)]
    rows += [
        strange("odd", 0.97),
        broken("gone"),
        picture("signed", 0.999, digital_source_type="trainedAlgorithmicMedia"),
    ]
    return report(root, rows, price_per_hour={"cpu": 0.1, "gpu": 2}, currency="EUR")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    write_night(root, BEFORE, many(BEFORE, 60, seed=1))
    manifest = MANIFEST | {"models": {SCRIPT: IMAGE}, "started_at": SCRIPT}
    return report(root, hostile_rows() + many(NIGHT, 60), BEFORE, manifest=manifest)


# The file


def test_page_says_what_it_must(page: Path) -> None:
    text = Page(page.read_text()).text
    for expected in (
        "Audit of the pictures of 9 January 2026",
        "1 alarm: these pictures differ from those of the nights before",
        "The number of pixels is unlike the nights before",
        "203 rows came in from 3 sources.",
        "of 100 flagged pictures are generated",
        "What this report does not know",
        "1,000 photographs and 500 generated pictures",
        "Fits its words least: black cat (similarity 0.21)",
        "small spoon, not found in the picture",
        "The file says of itself: trainedAlgorithmicMedia. Not checked, not part of the score.",
        "The image ends before all of its pixels were read.",
        "captioner: a captioner",
        "Cost 2.40 EUR",
        "Pictures a second 12.5",
        "Pictures known from before 25.0%",
        "What the words mean",
    ):
        assert expected in text


def test_page_needs_nothing_from_outside(page: Path, hostile: Path) -> None:
    for path in (page, hostile):
        found = Page(path.read_text())
        assert not {"link", "iframe", "object", "embed", "base", "audio", "video"} & set(found.tags)
        loading = [value for name, value in found.attributes if name in ("src", "srcset", "href")]
        for value in loading:
            assert re.match(r"#|data:image/jpeg;base64,|report/\w+\.(csv|parquet)$", value or "")
        assert not re.search(r"url\((?!#)|@import", path.read_text())


def test_policy_lets_only_the_pages_own_script_run(hostile: Path) -> None:
    text = hostile.read_text()
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_hostile_text_makes_no_element_or_attribute(page: Path, hostile: Path) -> None:
    ours, theirs = Page(page.read_text()), Page(hostile.read_text())
    assert set(theirs.tags) <= set(ours.tags) | {"section"}
    assert theirs.tags.count("script") == 1
    assert not [name for name, _ in theirs.attributes if name.startswith("on")]
    assert not [value for _, value in theirs.attributes if (value or "").startswith("javascript")]
    assert SCRIPT in theirs.text
    assert "{{ 7 * 7 }}" in theirs.text


def test_direction_marks_cannot_reorder_the_page(hostile: Path) -> None:
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in hostile.read_text()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "Nothing came in."),
        ([broken("a"), broken("b")], "none of them has a score, so nothing can be said of them."),
    ],
    ids=["empty", "all rejected"],
)
def test_night_without_pictures_has_a_page(tmp_path: Path, rows: list[Row], sentence: str) -> None:
    text = Page(report(tmp_path, rows).read_text()).text
    assert sentence in text
    assert "No picture has a score." in text
    assert "The tool left no picture open." in text
    assert "There is no night before 9 January 2026" in text


def test_without_manifest_nothing_is_made_up(tmp_path: Path) -> None:
    text = Page(report(tmp_path, many(NIGHT, 20), manifest=None).read_text()).text
    assert "nobody has counted that for this head" in text
    assert "Started at not known" in text
    assert "Dashed lines" not in text
    assert "Cost" not in text


def test_missing_pictures_are_said_to_be_missing(tmp_path: Path) -> None:
    text = report(tmp_path, [picture("a", 0.99)], evidence=False).read_text()
    assert "Picture not kept" in text
    assert "The look of 1 picture below, of which no copy was kept." in text
    assert "data:image" not in text


def test_long_tables_are_cut_and_say_where_the_rest_is(tmp_path: Path) -> None:
    rows = [picture(f"{n}", 0.5, source=f"site{n:03}") for n in range(MOST_LINES + 9)]
    text = Page(report(tmp_path, rows).read_text()).text
    assert "10 more lines are in verdicts.csv." in text
    assert "10 more lines are in prevalence.csv." in text


# A card


def shown(**columns: Any) -> Any:
    row = {"date": NIGHT, "source": None, "abstention": None, "digital_source_type": None}
    row |= picture("a", 0.5) | {"verdict": "uncertain"} | columns
    return card(row, {(NIGHT, "a"): thumbnail()}, [])


def boxed(**box: float) -> Any:
    thing = {"phrase": "x", "grounded": True, "similarity": 0.1, "box": box}
    return shown(objects=[thing], weakest_phrase="x", weakest_box=box)


def test_boxes_are_those_of_the_objects_found_and_the_weakest_is_marked() -> None:
    boxes = shown().boxes
    assert [(box.number, box.weakest) for box in boxes] == [(1, True), (2, False)]
    assert (boxes[0].x, boxes[0].y, boxes[0].width, boxes[0].height) == (20, 30, 100, 120)
    assert (boxes[0].left, boxes[0].top) == (6.25, 12.5)


def test_box_beyond_the_picture_is_cut_to_it() -> None:
    [box] = boxed(x0=-50.0, y0=10.0, x1=1e9, y1=20.0).boxes
    assert (box.x, box.width) == (0, 320)


@pytest.mark.parametrize(
    "box",
    [
        {"x0": float("nan"), "y0": 0.0, "x1": 1.0, "y1": 1.0},
        {"x0": 5.0, "y0": 0.0, "x1": 5.0, "y1": 1.0},
        {"x0": 900.0, "y0": 0.0, "x1": 990.0, "y1": 1.0},
    ],
    ids=["not a number", "no width", "outside"],
)
def test_box_that_cannot_be_drawn_is_left_out(box: dict[str, float]) -> None:
    assert boxed(**box).boxes == ()


def test_card_of_a_row_that_lacks_what_may_lack() -> None:
    lacking = dict.fromkeys(("caption", "objects", "weakest_phrase", "weakest_box", "explanation"))
    one = shown(**lacking, width=None, height=None, weakest_similarity=None)
    assert (one.caption, one.objects, one.boxes, one.weakest) == ("", (), (), "")
    assert one.alt == "A picture without a caption"
    assert (one.width, one.height) == (1, 1)


def test_thumbnail_that_is_no_jpeg_is_not_shown() -> None:
    row = {"date": NIGHT, "abstention": None, "digital_source_type": None} | picture("a", 0.5)
    assert card(row, {(NIGHT, "a"): b"<svg onload=alert(1)>"}, []).picture == ""


def test_text_without_end_is_cut() -> None:
    assert len(shown(caption="x" * 100_000).caption) == LONGEST_TEXT


# In a browser


@dataclass
class Visit:
    """A page in Chromium, and all that it did."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def visible(self, selector: str) -> int:
        """How many elements that match can be seen."""
        return sum(one.is_visible() for one in self.page.query_selector_all(selector))

    def open(self, path: Path) -> Visit:
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        self.page.goto(path.as_uri())
        return self


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Headless Chromium; without it these tests are skipped, or fail where it is required."""
    if not os.access(BROWSER, os.X_OK):
        reason = f"there is no Chromium at {BROWSER}; ITEM_CHROMIUM says where it is"
        (pytest.fail if os.environ.get("ITEM_REQUIRE_CHROMIUM") == "1" else pytest.skip)(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visit]:
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    yield Visit(context.new_page())
    context.close()


def test_browser_draws_the_charts(visit: Visit, page: Path) -> None:
    visit.open(page)
    charts = visit.page.query_selector_all("figure svg")
    assert len(charts) == 3
    for chart in charts:
        box = chart.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100
        assert len(chart.query_selector_all("path")) > 5


def test_browser_loads_nothing_and_has_nothing_to_complain_of(visit: Visit, page: Path) -> None:
    visit.open(page)
    outside = [url for url in visit.requests if not url.startswith("data:image/jpeg;base64,")]
    assert outside == [page.as_uri()]
    assert visit.complaints == []


def test_browser_shows_the_pictures_with_their_boxes(visit: Visit, page: Path) -> None:
    first = visit.open(page).page.query_selector("#gallery .card")
    image = first.query_selector("img")
    assert image.evaluate("one => one.complete && one.naturalWidth") == 160
    drawn, around = image.bounding_box(), first.query_selector("rect.weakest").bounding_box()
    # The box runs from 20 to 120 of 320 pixels; its stroke is 3 pixels wide.
    assert around["x"] - drawn["x"] == pytest.approx(drawn["width"] * 20 / 320, abs=4)
    assert around["width"] == pytest.approx(drawn["width"] * 100 / 320, abs=8)


def test_filters_leave_the_cards_that_fit(visit: Visit, page: Path) -> None:
    visit.open(page)
    cards = "#gallery .card"
    assert visit.visible(cards) == 60
    source, verdict = visit.page.query_selector_all("#filters select")
    source.select_option(label="art.example")
    of_source = visit.visible(cards)
    sources = visit.page.eval_on_selector_all(
        f"{cards}:not([hidden]) .source", "all => all.map(one => one.textContent)"
    )
    assert 0 < of_source < 60
    assert set(sources) == {"art.example"}
    verdict.select_option(label="likely generated")
    of_both = visit.visible(cards)
    assert 0 < of_both < of_source
    assert visit.visible(f"{cards}[data-verdict=likely_generated]") == of_both
    assert visit.page.inner_text("#count") == f"{of_both} of 60 pictures shown"
    source.select_option(label="all sources")
    verdict.select_option(label="all verdicts")
    assert visit.visible(cards) == 60


def test_filters_can_be_used_from_the_keyboard(visit: Visit, page: Path) -> None:
    visit.open(page).page.focus("#filters select")
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("Enter")
    assert 0 < visit.visible("#gallery .card") < 60


def test_without_scripts_all_pictures_are_there(chromium: Any, page: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    visit = Visit(context.new_page()).open(page)
    assert visit.visible("#gallery .card") == 60
    assert visit.visible("#filters") == 0
    context.close()


def test_hostile_captions_are_shown_letter_by_letter(visit: Visit, hostile: Path) -> None:
    visit.open(hostile)
    captions = visit.page.eval_on_selector_all(
        "#gallery .caption", "all => all.map(one => one.textContent)"
    )
    assert {text for text in HOSTILE if text.isprintable()} <= set(captions)
    assert visit.page.evaluate("window.pwned") is None
    assert visit.complaints == []
    assert [url for url in visit.requests if not url.startswith("data:")] == [hostile.as_uri()]


def test_hostile_sources_can_be_chosen(visit: Visit, hostile: Path) -> None:
    visit.open(hostile)
    visit.page.query_selector("#filters select").select_option(label=SCRIPT)
    assert visit.visible("#gallery .card") > 0
    assert visit.page.evaluate("window.pwned") is None


@pytest.mark.parametrize("width", [360, 768])
def test_narrow_screens_need_no_sideways_scrolling(
    visit: Visit, page: Path, hostile: Path, width: int
) -> None:
    visit.page.set_viewport_size({"width": width, "height": 740})
    for path in (page, hostile):
        visit.open(path)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit: Visit, page: Path, scheme: str) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    visit.open(page)
    for selector in ("#summary p", ".facts dt", ".alarms h2", ".verdict", ".fine", "nav a"):
        assert visit.page.eval_on_selector(selector, CONTRAST) >= 4.5, selector


CONTRAST = """element => {
  const light = (written) => {
    const [r, g, b] = written.match(/[0-9.]+/g).map(Number).map((part) =>
      part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const colour = (one) => getComputedStyle(one).backgroundColor;
  let ground = element;
  while (colour(ground) === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
  const pair = [getComputedStyle(element).color, colour(ground)].map(light);
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""
"""Contrast of an element's letters, as WCAG 2.2 defines it; 4.5 is its level AA."""
