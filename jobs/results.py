"""An evaluation folder in, the results page out.

python jobs/results.py --evaluation DIR --page docs/results.html --markdown docs/results.md
"""

from __future__ import annotations

from typing import Annotated

import typer

from item.errors import UsageError
from jobs.command_line import application, console, refusals
from pipelines.results.page import write
from pipelines.results.tables import read_evaluation

app = application()


@app.command()
def results(
    evaluation: Annotated[str, typer.Option(help="Folder that jobs/evaluate.py wrote.")],
    robustness: Annotated[
        list[str] | None,
        typer.Option(help="Folder with another robustness.parquet; may be repeated."),
    ] = None,
    page: Annotated[str | None, typer.Option(help="HTML file to write.")] = None,
    markdown: Annotated[
        str | None, typer.Option(help="Markdown file to write, its plots in a folder beside it.")
    ] = None,
) -> None:
    """Build the results page from the tables of an evaluation, as one HTML file, as
    Markdown, or both. The same tables give the same bytes.

    Example: python jobs/results.py --evaluation evaluation/ --page docs/results.html
    """
    with refusals():
        if page is None and markdown is None:
            raise UsageError("Say where the page goes: --page FILE.html, --markdown FILE.md.")
        *_, last = written = write(read_evaluation(evaluation, robustness or []), page, markdown)
    say = console().print
    say(f"{len(written):,} files written.")
    say(f"Open it:  {last}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    app()
