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

from item.errors import UsageError
from pipelines.featurize.error_rate import ErrorRateError
from pipelines.tables.lease import LeaseHeldError, LeaseLostError

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
Force = Annotated[
    bool | None, typer.Option("--force", help="Compute anew and replace what is published.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]

EXIT_REFUSED = 2
"""The user has something to change; nothing was done."""
EXIT_TOO_MANY_ERRORS = 3
"""The input is worse than the configuration allows; nothing was published."""
EXIT_HELD = 4
"""Another run holds what this one was to publish; try again later."""


def application() -> typer.Typer:
    """A job's command line: one command, plain tracebacks, ``--help`` on one screen."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def console() -> Console:
    """Standard output, where a job's result goes; progress goes to standard error."""
    return Console(highlight=False)


@contextmanager
def refusals() -> Iterator[None]:
    """Print a user's mistake as one sentence, without a traceback, and exit with 2.

    The same for an input with too many errors, with 3, and for work that another run holds,
    with 4.
    """
    _quieten()
    try:
        yield
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_REFUSED) from None
    except ErrorRateError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_TOO_MANY_ERRORS) from None
    except (LeaseHeldError, LeaseLostError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_HELD) from None


def _quieten() -> None:
    """Libraries' notices about themselves, which no user of a job can act on."""
    warnings.filterwarnings("ignore", module=r"ray\.")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
