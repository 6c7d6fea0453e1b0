"""Which version of the program this is, known also where its source was copied, not installed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__version__ = "0.1.0"
"""The only place that says it: ``pyproject.toml`` reads it from here."""

SOURCE = Path(__file__).resolve().parents[1]
"""The folder that holds ``item``, ``pipelines`` and ``jobs``."""


@cache
def source_commit() -> str | None:
    """The git commit that is checked out here, in hexadecimal; None outside a git folder.

    Changes that are not committed do not show. Read from git's files, as a cluster's machines
    seldom have git itself.
    """
    try:
        return _checked_out(SOURCE)
    except OSError:
        return None


def _checked_out(folder: Path) -> str | None:
    git = folder / ".git"
    if git.is_file():  # of a further work tree
        git = folder / git.read_text().partition("gitdir:")[2].strip()
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head or None
    branch = head.removeprefix("ref:").strip()
    pointer = git / "commondir"
    common = git / pointer.read_text().strip() if pointer.is_file() else git
    if (common / branch).is_file():
        return (common / branch).read_text().strip() or None
    packed = (line.split() for line in (common / "packed-refs").read_text().splitlines())
    return next((words[0] for words in packed if words[1:] == [branch]), None)
