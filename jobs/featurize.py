"""Images in, a table of misalignment features out, one row for each input row.

python jobs/featurize.py --input photos/ --output features/
ray job submit --working-dir . -- python jobs/featurize.py --input s3://… --output s3://…
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.pretty import pprint

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
from pipelines.featurize.configuration import resolve
from pipelines.featurize.plan import plan_featurizing
from pipelines.featurize.run import run_featurizing

Perturb = Annotated[
    str | None,
    typer.Option("--perturb", metavar="NAME", help="Change images first, as in jpeg-75."),
]

app = application()


@app.command()
def featurize(
    input: Input = None,
    output: Output = None,
    profile: ProfileName = None,
    perturb: Perturb = None,
    config: ConfigFile = None,
    set: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Caption each image, ground the caption's objects, measure in CLIP space how badly
    they fit, and write the features table: one row for each input row.

    Example: python jobs/featurize.py --input photos/ --output features/
    """
    with refusals():
        options = {
            "input": input,
            "output": output,
            "profile": profile,
            "perturbation": perturb,
        }
        configuration = resolve(config, options, parse_settings(set or []))
        job = plan_featurizing(configuration)
        if dry_run:
            pprint(job.describe(), console=console(), expand_all=True)
            return
        for remark in job.remarks():
            print(remark, file=sys.stderr)
        manifest = run_featurizing(job)
    say = console().print
    rows = manifest["rows"]
    say(f"{rows['total']:,} rows published, {rows['done_before'] or 0:,} done before.")
    for code, number in sorted(rows["by_error_code"].items()):
        say(f"  without features: {number:,} {code}")
    if "manifest" in manifest:
        say(f"Manifest: {manifest['manifest']}", markup=False, soft_wrap=True)
    say(f'Open it:  pd.read_parquet("{configuration.output}")', markup=False, soft_wrap=True)


if __name__ == "__main__":
    app()
