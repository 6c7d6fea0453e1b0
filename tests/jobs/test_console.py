"""The console command: every job behind one name, quick to answer, the same as the scripts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from jobs.console import COMMANDS, main
from tests.conftest import REPOSITORY

NOT_COMMANDS = {"__init__", "command_line", "console"}
CALL = "import sys; sys.argv[0] = 'item-audit'; from jobs.console import main; main()"


def called(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CALL, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_job_is_a_command() -> None:
    jobs = {path.stem for path in (REPOSITORY / "jobs").glob("*.py")} - NOT_COMMANDS
    assert {name.replace("-", "_") for name in COMMANDS} == jobs


def test_help_names_every_command_and_fits_a_screen() -> None:
    ended = called("--help")
    assert ended.returncode == 0
    assert all(f"\n  {name}  " in ended.stdout for name in [*COMMANDS, "completion"])
    assert "Example: item-audit nightly" in ended.stdout
    assert len(ended.stdout.splitlines()) <= 30


def test_help_imports_no_job_and_no_model() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom jobs.console import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "print({'ray', 'torch', 'pyarrow', 'pandas'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert ended.stdout == "set()\n", ended.stderr


def test_version_is_that_of_the_package() -> None:
    from item.version import __version__

    assert called("--version").stdout == f"item-audit, version {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_help_of_its_script(name: str) -> None:
    ended = CliRunner().invoke(main, [name, "--help"])
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith(f"Usage: item-audit {name} ")
    assert "Example: " in ended.stdout


def test_a_refusal_is_a_sentence_with_its_exit_code() -> None:
    ended = called("models-of-mine")
    assert ended.returncode == 2 and "No such command 'models-of-mine'" in ended.stderr
    ended = called("featurize", "--input", "no-such-folder", "--output", "out")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: There is no file or folder")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str) -> None:
    ended = called("completion", shell)
    assert ended.returncode == 0 and "_ITEM_AUDIT_COMPLETE" in ended.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("item-audit feat", "featurize"), ("item-audit score --over", "--overwrite")],
)
def test_commands_and_options_are_completed(typed: str, offered: str) -> None:
    place = str(len(typed.split()) - 1)
    asked = {"_ITEM_AUDIT_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": place}
    assert f"plain,{offered}" in called(**asked).stdout.split()
