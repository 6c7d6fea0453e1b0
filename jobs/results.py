"""An evaluation folder in, its results as pages and tables out.

python jobs/results.py --evaluation DIR --markdown results.md --tables csv/ --page results.html
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
    markdown: Annotated[
        str | None, typer.Option(help="Short Markdown page; its plots go in a folder beside it.")
    ] = None,
    page: Annotated[
        str | None, typer.Option(help="Long HTML page with every plot and table.")
    ] = None,
    tables: Annotated[str | None, typer.Option(help="Folder for the full tables as CSV.")] = None,
) -> None:
    """Show the tables of an evaluation as a short page, a long page and CSV. The same tables
    give the same bytes.

    Example: python jobs/results.py --evaluation evaluation/ --markdown results.md
    """
    with refusals():
        if page is None and markdown is None and tables is None:
            raise UsageError(
                "Say what to write: --markdown FILE.md, --page FILE.html or --tables FOLDER."
            )
        figures = read_evaluation(evaluation, robustness or [])
        *_, last = written = write(figures, page, markdown, tables)
    say = console().print
    say(f"{len(written):,} files written.")
    say(f"Open it:  {last}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    app()
