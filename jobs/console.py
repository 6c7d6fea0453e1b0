"""``item-audit``: every job as a command, imported only when it is called.

item-audit featurize --input photos/ --output features/
item-audit completion bash >> ~/.bashrc
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import click
import typer
from click.shell_completion import get_completion_class

from item.version import __version__

NAME = "item-audit"

COMMANDS = {
    "featurize": "Images to a features table.",
    "score": "Features or images to a scores table.",
    "nightly": "Featurize, score and audit each new night of a dump.",
    "audit": "A report of published nights.",
    "explain": "One image: verdict, reasons and a picture of its objects.",
    "train": "Labelled features to a head.",
    "evaluate": "Measure methods on labelled features.",
    "robustness": "Measure heads on changed images.",
    "results": "An evaluation as pages and tables.",
    "models": "List profiles and their models; fetch them; train those of mini.",
    "demo": "A tour of a few minutes on this machine.",
}
"""Each is the module of ``jobs`` with that name."""

SHELLS = ("bash", "zsh", "fish")


class Jobs(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Names, in the order in which a newcomer meets them."""
        return [*COMMANDS, *self.commands]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of a job's module."""
        if name not in COMMANDS:
            return super().get_command(context, name)
        module: Any = importlib.import_module(f"jobs.{name.replace('-', '_')}")
        if context.resilient_parsing:  # a shell asks what could come next
            return cast(click.Command, typer.main.get_command(module.app))
        return _passing_on(name, module.app)

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in ``--help``, for which no job is imported."""
        own = {name: command.get_short_help_str() for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(list({**COMMANDS, **own}.items()))


def _passing_on(name: str, app: typer.Typer) -> click.Command:
    """A command that hands everything to a job's own command line, ``--help`` too."""

    def run(arguments: tuple[str, ...]) -> None:
        app(list(arguments), prog_name=f"{NAME} {name}")

    return click.Command(
        name,
        callback=run,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )


@click.group(NAME, cls=Jobs)
@click.version_option(__version__, prog_name=NAME)
def main() -> None:
    """Audit image dumps for AI-generated images.

    Example: item-audit nightly --input dump/ --output audit/

    Each command has its own --help. As `python jobs/COMMAND.py` they are the same.
    """


@main.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script that makes a shell complete."""
    kind = get_completion_class(shell)
    assert kind is not None
    variable = f"_{NAME.replace('-', '_').upper()}_COMPLETE"
    click.echo(kind(main, {}, NAME, variable).source())


if __name__ == "__main__":
    main()
