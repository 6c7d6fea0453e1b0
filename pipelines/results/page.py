"""The results page: an evaluation folder in, one HTML and one Markdown file out.

Both show the same sections. Whatever comes from a table is text: Jinja escapes it for HTML,
`markdown_text` for Markdown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from item.errors import UsageError
from pipelines.pages.svg_plots import Plot
from pipelines.results.sections import Figures, Section, sections
from pipelines.results.tables import Evaluation


def as_html(evaluation: Evaluation, parts: Sequence[Section]) -> str:
    """The page as one HTML file that needs nothing from the network."""
    templates = Environment(
        loader=PackageLoader("pipelines.results"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("results.html.j2")
    return page.render(
        about=evaluation.description, sections=parts, svg=lambda plot: Markup(plot.svg)
    )


def as_markdown(evaluation: Evaluation, parts: Sequence[Section], plots: str) -> str:
    """The page as Markdown; `plots` is the folder of the plots, relative to the page."""
    templates = Environment(
        loader=PackageLoader("pipelines.results"),
        autoescape=False,  # of HTML; `finalize` escapes for Markdown
        finalize=lambda value: value if isinstance(value, Markup) else markdown_text(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("results.md.j2")
    return page.render(
        about=evaluation.description, sections=parts, as_it_is=Markup, folder=Markup(quote(plots))
    )


def markdown_text(value: object) -> str:
    """One line of text that Markdown shows letter by letter, in a table or outside.

    HTML is written as entities, Markdown's signs have a backslash (the CommonMark
    specification, "Backslash escapes"; ``\\|`` is that of GitHub's tables), and an address
    does not turn into a link.
    """
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]|~$#!])", r"\\\1", text)
    return re.sub(r"://|www\.|@", lambda sign: f"&#{ord(sign[0][0])};{sign[0][1:]}", text)


def plots_of(parts: Sequence[Section]) -> list[Plot]:
    """All plots of a page, in their order."""
    blocks = [block for part in parts for block in part.blocks]
    return [plot for block in blocks if isinstance(block, Figures) for plot in block.plots]


def write(evaluation: Evaluation, page: str | None, markdown: str | None) -> list[str]:
    """Write the page in one or both forms and return the paths, plots first.

    The plots of the Markdown page stand in a folder beside it that has its name: those of
    ``docs/results.md`` are ``docs/results/*.svg``.

    Raises
    ------
    UsageError
        A file cannot be written.
    """
    folder = os.path.splitext(markdown or "")[0]
    if markdown is not None and folder == markdown:
        raise UsageError(f"Give the Markdown page {markdown} an ending, such as .md.")
    parts = sections(evaluation)
    files: dict[str, str] = {}
    if markdown is not None:
        for plot in plots_of(parts):
            files[os.path.join(folder, f"{plot.name}.svg")] = plot.as_file()
        files[markdown] = as_markdown(evaluation, parts, os.path.basename(folder))
    if page is not None:
        files[page] = as_html(evaluation, parts)
    for path, text in files.items():
        _replace(path, text)
    return list(files)


def _replace(path: str, text: str) -> None:
    """Write aside, then rename, so that a reader never sees half a page."""
    aside = f"{path}.partial"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(aside, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            os.remove(aside)
        raise UsageError(f"The file {path} cannot be written: {error.strerror}.") from None
