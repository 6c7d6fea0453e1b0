"""Which model profiles there are: their models, licences, sizes and memory needs.

python jobs/models.py
"""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from item.profiles import Profile, load_profile, profile_names
from jobs.command_line import application, console, refusals

COMMIT_DIGITS = 12

app = application()


@app.command()
def models() -> None:
    """List the profiles that come with the package: the models that each names, their
    licences, what is downloaded, and the memory that their weights take.

    Example: python jobs/models.py
    """
    with refusals():
        tables = [table(load_profile(name)) for name in profile_names()]
    say = console().print
    for one in tables:
        say(one)
        say()
    say("Use one:   --profile NAME", markup=False)
    say("Fetch it:  python jobs/fetch_models.py --profile NAME --to DIR", markup=False)


def table(profile: Profile) -> Table:
    """What a person wants to know of a profile's models, 80 columns wide."""
    # The least of margins: with more, names of models are broken at 80 columns.
    found = Table(
        title=profile.name, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False
    )
    found.add_column("member", no_wrap=True)
    found.add_column("model", overflow="fold")
    found.add_column("licence", overflow="fold")
    found.add_column("download", justify="right", no_wrap=True)
    found.add_column("memory", justify="right", no_wrap=True)
    files = profile.model_files()
    for member in dict.fromkeys((*files, *profile.about)):
        about = profile.about.get(member)
        found.add_row(
            member,
            source(files[member].source, files[member].revision) if member in files else "packaged",
            about.licence if about else "",
            f"{about.gigabytes:,.1f} GB" if about else "",
            f"{about.memory_gigabytes:,.1f} GB" if about else "",
        )
    if not files and not profile.about:
        found.add_row("all", "packaged: nothing is downloaded", "", "", "")
    if len(profile.about) > 1:
        size = sum(about.gigabytes for about in profile.about.values())
        memory = sum(about.memory_gigabytes for about in profile.about.values())
        found.add_section()
        found.add_row("together", "", "", f"{size:,.1f} GB", f"{memory:,.1f} GB")
    return found


def source(name: str, revision: str | None) -> str:
    """A source, and its revision below it."""
    if revision is None:
        return name
    commit = len(revision) == 40
    return f"{name}\n@{revision[:COMMIT_DIGITS] if commit else revision}"


if __name__ == "__main__":
    app()
