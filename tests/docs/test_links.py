"""What the documents point at is there: links, paths and commands."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import typer.main

from jobs import console
from tests.conftest import REPOSITORY

PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").glob("*.md"),
        *(REPOSITORY / "item").rglob("MODEL_CARD.md"),
    ]
)
FOLDERS = ("item", "pipelines", "jobs", "tests", "benchmarks", "docs")


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@cache
def anchors(page: Path) -> frozenset[str]:
    """What can be linked to in a page, as GitHub names headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return frozenset(
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
    )


def commands(text: str) -> list[list[str]]:
    """The words of each line of a page's shell blocks, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s#.*", "", line).split() for line in lines if line.strip()]


def options(command: str) -> set[str]:
    """The options of one of our commands."""
    found = console.main.get_command(console.main.make_context("item-audit", ["x"]), command)
    assert found is not None, command
    module = __import__(f"jobs.{command.replace('-', '_')}", fromlist=["app"])
    return {name for one in typer.main.get_command(module.app).params for name in one.opts}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# A changelog names files that are gone.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_paths_of_the_repository_exist(page: Path) -> None:
    places = "|".join(FOLDERS)
    text = page.read_text()
    for path in re.findall(
        rf"(?<![\w/.-])((?:{places})/[\w/.-]*\.(?:py|md|yaml|png|css|j2))\b", text
    ):
        assert (REPOSITORY / path).exists() or (page.parent / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_have_the_options_that_are_shown(page: Path) -> None:
    for words in commands(page.read_text()):
        if words[0] != "item-audit" or words[1].startswith("-"):
            continue
        shown = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        assert words[1] in console.COMMANDS
        assert shown <= options(words[1]) | {"--help"}, " ".join(words)


def test_make_knows_the_targets_of_the_readme() -> None:
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    shown = [
        words[1] for words in commands((REPOSITORY / "README.md").read_text()) if words[0] == "make"
    ]
    assert {"demo", "test"} <= set(shown) <= set(targets)


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 170


def test_picture_of_the_report_is_small() -> None:
    assert (REPOSITORY / "docs" / "report.png").stat().st_size < 300_000
