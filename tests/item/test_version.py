"""The version and the commit, of an installed program and of a bare copy of its source."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import item
from item import version
from item.version import SOURCE, __version__, source_commit

GIT = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]


@pytest.fixture
def fresh() -> None:
    source_commit.cache_clear()


def git(folder: Path, *words: str) -> str:
    done = subprocess.run([*GIT, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_installed_package_has_the_version_of_the_source() -> None:
    assert importlib.metadata.version("item-audit") == __version__


def test_source_that_is_not_installed_knows_its_version(tmp_path: Path) -> None:
    """As on a cluster whose image holds only the dependencies."""
    copy, dependencies = tmp_path / "copy", tmp_path / "dependencies"
    for name in ("item", "pipelines"):
        shutil.copytree(SOURCE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    dependencies.mkdir()
    for path in Path(pytest.__file__).parents[1].iterdir():
        if "item_audit" not in path.name and path.suffix != ".pth":
            (dependencies / path.name).symlink_to(path)
    program = (
        f"import sys; sys.path[:0] = [{str(copy)!r}, {str(dependencies)!r}]\n"
        "import importlib.metadata\n"
        "from pipelines.tables.provenance import versions\n"
        "installed = {one.metadata['name'] for one in importlib.metadata.distributions()}\n"
        "assert 'ray' in installed and 'item-audit' not in installed\n"
        "print(versions()['item'], versions().get('commit'))\n"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == [__version__, "None"]


@pytest.mark.usefixtures("fresh")
def test_commit_is_that_of_the_checkout_and_of_further_work_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, further = tmp_path / "main", tmp_path / "further"
    main.mkdir()
    git(main, "init", "-q", "-b", "main")
    git(main, "commit", "-q", "--allow-empty", "-m", "first")
    git(main, "worktree", "add", "-q", "-b", "other", str(further))
    git(further, "commit", "-q", "--allow-empty", "-m", "second")
    for folder in (main, further):
        for prepare in ([], ["pack-refs", "--all"], ["checkout", "-q", "--detach"]):
            if prepare:
                git(folder, *prepare)
            source_commit.cache_clear()
            monkeypatch.setattr(version, "SOURCE", folder)
            assert source_commit() == git(folder, "rev-parse", "HEAD"), (folder, prepare)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("head", [None, "", "ref: refs/heads/none"])
def test_folder_without_a_commit_has_none(
    head: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if head is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "HEAD").write_text(head)
    monkeypatch.setattr(version, "SOURCE", tmp_path)
    assert source_commit() is None


def test_source_is_the_folder_of_the_packages() -> None:
    assert Path(item.__file__ or "").parent == SOURCE / "item"
