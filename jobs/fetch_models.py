"""A profile's models in, a mirror of them out, for machines that reach no model hub.

python jobs/fetch_models.py --profile base --to /mnt/models
python jobs/fetch_models.py --profile base --to s3://bucket/models
"""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from item.models.mirror import mirror
from item.profiles import load_profile
from jobs.command_line import Set, application, console, refusals
from pipelines.configuration import parse_settings
from pipelines.storage.access import Storage, check_writable

app = application()


@app.command()
def fetch_models(
    profile: Annotated[str, typer.Option(help="Name or YAML file of a model profile.")],
    to: Annotated[str, typer.Option(help="Folder or s3:// prefix for the mirror.")],
    set: Set = None,
) -> None:
    """Copy every model that a profile names to a folder or s3:// prefix, with checksums.
    Run again, it fetches only what is missing or damaged. Keys of --set are the profile's,
    such as captioner.files.revision.

    Example: python jobs/fetch_models.py --profile base --to /mnt/models
    """
    with refusals():
        settings = {
            key.removeprefix("profile."): value for key, value in parse_settings(set or []).items()
        }
        files = load_profile(profile, settings).model_files()
        say = console().print
        if not files:
            say(f"The models of the profile '{profile}' come with the package.", markup=False)
            return
        check_writable(to, Storage())
        with _Bars() as shown:
            copies = mirror(files, to, shown)
    for member, copy in copies.items():
        size = f"{copy.size / 1e9:,.2f} GB"
        text = f"{member}: {copy.revision}, {size}, files fetched: {len(copy.fetched)}"
        say(text, markup=False, soft_wrap=True)
    options = [
        f"--set {shlex.quote(f'profile.{member}.files.source={copy.files.source}')}"
        for member, copy in copies.items()
    ]
    lines = " \\\n  ".join([f"--profile {shlex.quote(profile)}", *options])
    say(f"Use it:  {lines}", markup=False, soft_wrap=True)


class _Bars:
    """One line a model on standard error."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def __call__(self, member: str, doing: str, done: int, total: int) -> None:
        task = self._tasks.get((member, doing))
        if task is None:
            task = self._progress.add_task(f"{doing} {member}", total=total)
            self._tasks[member, doing] = task
        self._progress.update(task, completed=done, total=total)


if __name__ == "__main__":
    app()
