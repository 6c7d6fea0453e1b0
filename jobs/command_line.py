"""What every job shares: option names, refusals in one sentence, exit codes."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from item.errors import JobError
from pipelines.runtime.failures import machine_failures
from pipelines.runtime.watch import cluster_watched

Input = Annotated[
    str | None,
    typer.Option(help="Folder, s3:// prefix, Parquet (bytes or uri) or WebDataset tar."),
]
Output = Annotated[str | None, typer.Option(help="Folder or s3:// prefix for the result.")]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="Name or YAML file of a model profile.")
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", help="YAML file with any of the configuration's keys.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key; may be repeated."),
]
HeadFolder = Annotated[
    str | None, typer.Option("--head", help="Folder or s3:// prefix of a head [the mini head].")
]
Overwrite = Annotated[
    bool | None, typer.Option("--overwrite", help="Compute anew and replace what is there.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]


def application() -> typer.Typer:
    """A job's command line: one command, plain tracebacks, ``--help`` on one screen."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def console() -> Console:
    """Standard output, where a job's result goes; progress goes to standard error."""
    return Console(highlight=False)


@contextmanager
def refusals() -> Iterator[None]:
    """Print what ends a job as one sentence, without a traceback, and exit with its code."""
    _quieten()
    try:
        with machine_failures(), cluster_watched():
            yield
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


def _quieten() -> None:
    """Libraries' notices about themselves, and errors that they log and raise as well."""
    warnings.filterwarnings("ignore", module=r"ray\.")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
