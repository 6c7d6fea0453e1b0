"""Labelled images and trained heads in, how both stand changes of the images out.

python jobs/robustness.py --input images/ --head head/ --output robustness/ --images 1000
ray job submit --working-dir . -- python jobs/robustness.py --input s3://… --head s3://… …
"""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import pandas as pd
import typer
from rich.box import SIMPLE_HEAD
from rich.pretty import pprint
from rich.table import Table

from jobs.command_line import (
    ConfigFile,
    DryRun,
    Input,
    Output,
    ProfileName,
    Set,
    application,
    console,
    refusals,
)
from pipelines.configuration import parse_settings
from pipelines.evaluate.robustness.configuration import resolve
from pipelines.evaluate.robustness.job import REPORT, plan_robustness, run_robustness
from pipelines.storage.urls import join, redact

app = application()


@app.command()
def robustness(
    input: Input = None,
    head: Annotated[
        list[str] | None, typer.Option(help="Folder of a trained head; may be repeated.")
    ] = None,
    output: Output = None,
    perturbation: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="One such as jpeg-75; repeatable; all if none."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Draw so many, half real; all of the input if unset.")
    ] = None,
    generator: Annotated[
        list[str] | None, typer.Option(help="Draw generated images of it; may be repeated.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Draw real images of it; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the sample and intervals.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Parquet or CSV with label, and uri or image_id.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="Parquet or CSV with uri and the column to group by.")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Images equal in it are alike, as in their prompt.")
    ] = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    set: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Change labelled images as the web changes them, featurize and score them again, and
    report AUROC and changed verdicts for each perturbation and head.

    Example: python jobs/robustness.py --input images/ --head head/ --output robustness/
    """
    with refusals():
        options = {
            "input": input,
            "heads": head or None,
            "output": output,
            "perturbations": perturbation or None,
            "images": images,
            "generators": generator or None,
            "sources": source or None,
            "seed": seed,
            "labels": labels,
            "metadata": metadata,
            "group_column": group_column,
            "profile": profile,
        }
        configuration = resolve(config, options, parse_settings(set or []))
        plan = plan_robustness(configuration)
        if dry_run:
            pprint(plan.describe(), console=console(), expand_all=True)
            return
        for remark in plan.remarks():
            print(remark, file=sys.stderr)
        command = shlex.join(["python", "jobs/robustness.py", *map(redact, sys.argv[1:])])
        rows = run_robustness(plan, command)
    say = console().print
    say(as_table(rows))
    path = join(configuration.output, f"{REPORT}.parquet")
    say(f'Open it:  pd.read_parquet("{path}")', soft_wrap=True)


def as_table(rows: pd.DataFrame) -> Table:
    """The report for people: a value and its 95% interval where there is one."""
    table = Table(
        title="Heads on changed images, 95% intervals in brackets",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("perturbation", "head"):
        table.add_column(name, no_wrap=True)
    for name in ("AUROC", "verdicts\nchanged", "uncertain", "images"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows.to_dict("records"):
        table.add_row(
            row["perturbation"],
            row["method"],
            f"{row['auroc']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            f"{row['flip_rate']:.0%} [{100 * row['flip_low']:.0f}, {100 * row['flip_high']:.0f}]",
            f"{row['uncertain_share']:.1%}",
            f"{row['rows']:,}",
        )
    return table


if __name__ == "__main__":
    app()
