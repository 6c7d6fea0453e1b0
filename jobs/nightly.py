"""Every night: featurize, score, audit and publish the nights of a dump that are not done.

python jobs/nightly.py --input dump/ --output audit/
ray job submit --working-dir . -- python jobs/nightly.py --input s3://… --output s3://…

Exit codes: 0 all done, 2 refused, all of it or a night, 3 too many errors in a night, 4 another
run holds a night, 6 a machine, a cluster or a disk failed.
The last line of standard output is a summary in JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer
from rich.pretty import pprint

from item.errors import MachineError, UsageError
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
from pipelines.configuration import parse_settings, resolved_with_profile
from pipelines.featurize.error_rate import ErrorRateError
from pipelines.nightly.configuration import NightlyConfiguration
from pipelines.nightly.job import NightlyPlan, NightOutcome, plan_nights, run_nights
from pipelines.tables.lease import LeaseHeldError

app = application()


@app.command()
def nightly(
    input: Annotated[
        list[str] | None,
        typer.Option(help="Dump root with date=… folders, or one such folder; may be repeated."),
    ] = None,
    head: HeadFolder = None,
    output: Output = None,
    date: Annotated[str | None, typer.Option(help="One night, done before or not.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="First night.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last night.")] = None,
    profile: ProfileName = None,
    config: ConfigFile = None,
    set: Set = None,
    overwrite: Overwrite = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Look at done nights too, for failed rows.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Featurize, score and audit each night of a dump that is not done, and publish it.

    Example: python jobs/nightly.py --input dump/ --output audit/
    """
    started = time.monotonic()
    told: list[NightOutcome] = []

    def tell(job: NightlyPlan, outcome: str) -> None:
        summary = {
            "outcome": outcome,
            "exit_code": _CODES.get(outcome, 0),
            "nights": [night.line() for night in told],
            "done_before": len(job.done_before),
            "no_nights": list(job.others),
            "seconds": round(time.monotonic() - started, 1),
        }
        print(json.dumps(summary), flush=True)

    with refusals():
        if overwrite and retry_failed:
            raise UsageError("Give --overwrite or --retry-failed, not both.")
        options = {
            "input": input or None,
            "head": head,
            "output": output,
            "date": date,
            "from": first,
            "to": last,
            "profile": profile,
            "overwrite": "all" if overwrite else None,
            "retry_failed": retry_failed or None,
        }
        configuration = resolved_with_profile(
            NightlyConfiguration, config, options, parse_settings(set or [])
        )
        job = plan_nights(configuration)
        if dry_run:
            pprint(job.describe(), console=console(), expand_all=True)
            return
        for remark in job.remarks():
            print(remark, file=sys.stderr)
    try:
        with refusals():
            for night in run_nights(job):
                told.append(night)
                print(night.sentence(), file=sys.stderr, flush=True)
    except typer.Exit as end:
        if end.exit_code == MachineError.exit_code:
            tell(job, "machine_failed")
        raise
    outcome = _outcome(told)
    tell(job, outcome)
    raise typer.Exit(_CODES.get(outcome, 0))


_CODES = {
    "machine_failed": MachineError.exit_code,
    "too_many_errors": ErrorRateError.exit_code,
    "held": LeaseHeldError.exit_code,
    "refused": UsageError.exit_code,
    "done": 0,
}
"""The gravest outcome of any night comes first."""


def _outcome(told: list[NightOutcome]) -> str:
    outcomes = {night.outcome for night in told}
    return next((one for one in _CODES if one in outcomes), "done") if told else "nothing_to_do"


if __name__ == "__main__":
    app()
