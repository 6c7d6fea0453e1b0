"""The results page: an evaluation folder in, a short Markdown page and a long HTML page out.

Whatever comes from a table is text: Jinja escapes it for HTML,
`markdown_text` for Markdown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import quote

from fsspec.implementations.local import LocalFileSystem
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from item.errors import UsageError
from pipelines.pages.svg_plots import Plot
from pipelines.results.blocks import Figures, Section
from pipelines.results.sections import sections
from pipelines.results.summary import summary
from pipelines.results.tables import TABLES, Evaluation
from pipelines.storage.atomic import write_atomically


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
        about=evaluation.description,
        sections=parts,
        as_it_is=Markup,
        fenced=fenced,
        folder=Markup(quote(plots)),
    )


def fenced(line: str) -> Markup:
    """One line as a code block of Markdown, which no text in it can end."""
    longest = max(map(len, re.findall(r"`+", line)), default=0)
    fence = "`" * max(longest + 1, 3)
    return Markup(f"{fence}\n{line}\n{fence}")


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


def write(
    evaluation: Evaluation,
    page: str | None = None,
    markdown: str | None = None,
    tables: str | None = None,
) -> list[str]:
    """Write what is asked for and return the paths, the pages last.

    Parameters
    ----------
    page : HTML file of everything, with every plot and table
    markdown : short page of what decides something. Its plots stand in a folder beside it that
        has its name: those of ``docs/results.md`` are ``docs/results/*.svg``.
    tables : folder of the full tables as CSV

    Raises
    ------
    UsageError
        A file cannot be written.
    """
    folder = os.path.splitext(markdown or "")[0]
    if markdown is not None and folder == markdown:
        raise UsageError(f"Give the Markdown page {markdown} an ending, such as .md.")
    files: dict[str, str] = {}
    for name in TABLES if tables is not None else ():
        table = getattr(evaluation, name)
        if table is not None:
            text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
            files[os.path.join(tables or "", f"{name}.csv")] = text
    if markdown is not None:
        parts = summary(evaluation)
        for plot in plots_of(parts):
            files[os.path.join(folder, f"{plot.name}.svg")] = plot.as_file()
        files[markdown] = as_markdown(evaluation, parts, os.path.basename(folder))
    if page is not None:
        files[page] = as_html(evaluation, sections(evaluation))
    for path, text in files.items():
        _write_file(path, text)
    return list(files)


def _write_file(path: str, text: str) -> None:
    try:
        write_atomically(LocalFileSystem(), path, text.encode())
    except OSError as error:
        raise UsageError(f"The file {path} cannot be written: {error.strerror}.") from None
