"""Features or images and a head in, a table of scores and verdicts out.

python jobs/score.py --input features/ --head head/ --output scores/
ray job submit --working-dir . -- python jobs/score.py --input s3://… --output s3://…
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.pretty import pprint

from jobs.command_line import (
    ConfigFile,
    DryRun,
    HeadFolder,
    Output,
    Overwrite,
    ProfileName,
    Set,
    application,
    console,
    refusals,
)
from pipelines.configuration import parse_settings
from pipelines.score.configuration import resolve
from pipelines.score.images import plan_image_scoring, run_image_scoring

app = application()


@app.command()
def score(
    input: Annotated[
        str | None, typer.Option(help="Features table, or images as featurize.py takes them.")
    ] = None,
    head: HeadFolder = None,
    output: Output = None,
    features: Annotated[
        str | None, typer.Option(help="Where the features of images go [OUTPUT-features].")
    ] = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    set: Set = None,
    overwrite: Overwrite = None,
    dry_run: DryRun = False,
) -> None:
    """Score every row: a probability of being generated, a verdict, and a sentence.

    Example: python jobs/score.py --input photos/ --output scores/
    """
    with refusals():
        options = {
            "input": input,
            "head": head,
            "output": output,
            "features": features,
            "profile": profile,
            "overwrite": "all" if overwrite else None,
        }
        configuration = resolve(config, options, parse_settings(set or []))
        job = plan_image_scoring(configuration)
        if dry_run:
            pprint(job.describe(), console=console(), expand_all=True)
            return
        manifest = run_image_scoring(job)
    say = console().print
    rows = manifest["rows"]
    say(f"{rows['total']:,} rows scored, {rows['done_before']:,} done before.")
    for verdict, number in sorted(rows["by_verdict"].items()):
        say(f"  {verdict}: {number:,}")
    if job.features_are_made:
        say(f'Features:  pd.read_parquet("{configuration.features}")', soft_wrap=True)
    say(f'Open it:  pd.read_parquet("{configuration.output}")', soft_wrap=True)


if __name__ == "__main__":
    app()
