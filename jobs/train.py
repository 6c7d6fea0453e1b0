"""Features tables with labels in, a calibrated head out.

python jobs/train.py --features features/ --output head/
ray job submit --working-dir . -- python jobs/train.py --features s3://… --output s3://…
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.pretty import pprint
from rich.table import Table

from item.heads.settings import Kind
from jobs.command_line import ConfigFile, DryRun, Set, application, console, refusals
from pipelines.configuration import parse_settings
from pipelines.train.configuration import resolve
from pipelines.train.job import train_head
from pipelines.train.plan import plan_training

app = application()


@app.command()
def train(
    features: Annotated[
        list[str] | None, typer.Option(help="Features table with labels; may be repeated.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder or s3:// prefix for the head.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Parquet or CSV with label, and uri or image_id.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="Parquet or CSV with uri and the column to group by.")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Rows equal in it stay together, such as prompt.")
    ] = None,
    validation_generator: Annotated[
        str | None, typer.Option(help="Generator that says when training stops.")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Generator or source to keep unseen; may be repeated.")
    ] = None,
    kind: Annotated[Kind | None, typer.Option(help="Model of the head.")] = None,
    workers: Annotated[int | None, typer.Option(help="Training workers.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the split and the training.")] = None,
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Replace a head that is there.")
    ] = None,
    config: ConfigFile = None,
    set: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Train a head on labelled features, calibrate it on rows set apart, and save it.

    Example: python jobs/train.py --features features/ --output head/
    """
    with refusals():
        options: dict[str, Any] = {
            "features": features or None,
            "output": output,
            "overwrite": overwrite,
            "labels": labels,
            "metadata": metadata,
            "group_column": group_column,
            "validation_generator": validation_generator,
            "leave_out": leave_out or None,
            "workers": workers,
            "head.kind": kind and str(kind),
            "head.seed": seed,
        }
        configuration = resolve(config, options, parse_settings(set or []))
        plan = plan_training(configuration)
        if dry_run:
            pprint(plan.describe(), console=console(), expand_all=True)
            return
        for remark in plan.remarks():
            print(remark, file=sys.stderr)
        manifest = train_head(plan)
    say = console().print
    say(summary(manifest["metrics"]))
    last = f'Head {manifest["head_id"]}: item.heads.head.Head.load("{configuration.output}")'
    say(last, markup=False, soft_wrap=True)


def summary(metrics: dict[str, dict[str, float]]) -> Table:
    """Metrics of the rows that were calibrated on, and of those that ended training."""
    table = Table("", *metrics, title="How good the head is on rows that it did not learn")
    for name in next(iter(metrics.values())):
        numbers = [of_part[name] for of_part in metrics.values()]
        shown = [f"{number:,}" if name == "rows" else f"{number:.3f}" for number in numbers]
        table.add_row(name.replace("_", " "), *shown)
    return table


if __name__ == "__main__":
    app()
