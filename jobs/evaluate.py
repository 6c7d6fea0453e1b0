"""How far can a detector be trusted on generators and photographs that it never saw?

python jobs/evaluate.py --features features/ --output evaluation/
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import pandas as pd
import typer
from rich.pretty import pprint
from rich.table import Table

from jobs.command_line import ConfigFile, DryRun, Set, application, console, refusals
from pipelines.configuration import parse_settings
from pipelines.evaluate.configuration import resolve
from pipelines.evaluate.job import run_evaluation
from pipelines.evaluate.plan import plan_evaluation
from pipelines.train.progress import Trainings

app = application()


@app.command()
def evaluate(
    features: Annotated[
        list[str] | None, typer.Option(help="Features table with labels; may be repeated.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder for the tables of figures.")] = None,
    head: Annotated[
        str | None, typer.Option(help="Measure this trained head, and train nothing.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Parquet or CSV with label, and uri or image_id.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="Parquet or CSV with uri and the columns named below.")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Rows equal in it stay together, such as prompt.")
    ] = None,
    subset_column: Annotated[
        str | None, typer.Option(help="Measure the rows where it is null apart, such as style.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="one_to_all, leave_one_out, …; may be repeated.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Trainings of each kind.")] = None,
    config: ConfigFile = None,
    set: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Measure the recommended head beside baselines, controls and ablations.

    Example: python jobs/evaluate.py --features features/ --output evaluation/
    """
    with refusals():
        options: dict[str, Any] = {
            "features": features or None,
            "output": output,
            "trained": head,
            "labels": labels,
            "metadata": metadata,
            "group_column": group_column,
            "subset_column": subset_column,
            "protocols": protocol or None,
            "seeds": seeds,
        }
        configuration = resolve(config, options, parse_settings(set or []))
        plan = plan_evaluation(configuration)
        if dry_run:
            pprint(plan.describe(), console=console(), expand_all=True)
            return
        for note in plan.notes:
            print(note, file=sys.stderr)
        with Trainings() as progress:
            tables = run_evaluation(plan, progress.show)
    console().print(summary(tables["metrics"]))
    print(f"Figures: {configuration.output}; python jobs/results.py shows them as a page.")


def summary(metrics: pd.DataFrame) -> Table:
    """Mean AUROC over generators with its interval, by method and what it was tested on.

    Where there is a mean over the sources of photographs it stands for all of them.
    """
    chosen = metrics[(metrics["metric"] == "auroc") & (metrics["generator"] == "mean")]
    chosen = chosen[chosen["subset"] == "all"]
    over_sources = chosen["real_source"] == "mean"
    summed_up = chosen["protocol"].isin(chosen.loc[over_sources, "protocol"])
    chosen = chosen[over_sources | ~summed_up]
    settings = chosen[["protocol", "real_source"]].drop_duplicates().to_dict("records")
    table = Table(title="AUROC, mean over generators (95% interval)")
    table.add_column("method")
    for setting in settings:
        table.add_column(f"{setting['protocol']}\n{setting['real_source']}", justify="right")
    for method in chosen["method"].drop_duplicates():
        cells = []
        for setting in settings:
            rows = chosen[
                (chosen["method"] == method)
                & (chosen["protocol"] == setting["protocol"])
                & (chosen["real_source"] == setting["real_source"])
            ]
            cells += [
                f"{row.value:.3f} ({row.low:.3f}–{row.high:.3f})" for row in rows.itertuples()
            ] or ["–"]
        table.add_row(method, *cells)
    return table


if __name__ == "__main__":
    app()
