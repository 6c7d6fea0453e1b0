"""Published nights in, a report for people and the numbers behind it out.

python jobs/audit.py --input nightly/ --date 2026-11-23 --output 2026-11-23.html
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from item.explanation.printable import printable
from jobs.command_line import ConfigFile, Set, application, console, refusals
from pipelines.audit.configuration import AuditConfiguration
from pipelines.audit.job import plan_audit, write_report
from pipelines.audit.page import alarms
from pipelines.audit.words import summary
from pipelines.configuration import parse_settings, resolved

EXIT_DRIFT = 5
"""The report is written, and it has alarms; only with ``--fail-on-drift``."""

app = application()


@app.command()
def audit(
    input: Annotated[
        str | None, typer.Option(help="Folder or s3:// prefix that jobs/nightly.py wrote.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Report.html; the numbers go into the folder Report.")
    ] = None,
    date: Annotated[str | None, typer.Option(help="The night; the last one if not given.")] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="The nights from this one on.")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="DATE", help="The nights up to this one.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Head that scored them, if the manifests do not say.")
    ] = None,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="Exit with 5 if there are alarms.")
    ] = False,
    config: ConfigFile = None,
    set: Set = None,
) -> None:
    """Say in one HTML file what published nights hold: verdicts, how many pictures are
    probably generated, what changed, and which pictures to look at.

    Example: python jobs/audit.py --input nightly/ --output report.html
    """
    with refusals():
        options: dict[str, Any] = {
            "input": input,
            "output": output,
            "date": date,
            "first": first,
            "last": last,
            "head": head,
        }
        kind = AuditConfiguration
        job = plan_audit(resolved(kind, config, options, parse_settings(set or [])))
        report = write_report(job)
    say = console().print
    for sentence in summary(job.audit, job.known):
        say(sentence, markup=False, soft_wrap=True)
    found = alarms(job.audit.drift)
    for sentence in found:
        say(f"Alarm: {printable(sentence)}", markup=False, soft_wrap=True)
    say(f"Open it:  {report}", markup=False, soft_wrap=True)
    if found and fail_on_drift:
        raise typer.Exit(EXIT_DRIFT)


if __name__ == "__main__":
    app()
