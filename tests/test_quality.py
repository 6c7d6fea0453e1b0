"""The repository itself: style, types, the direction of imports, and nothing private."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FORBIDDEN = {
    "item": {"pipelines", "jobs", "ray"},
    "pipelines": {"jobs"},
    "jobs": {"ray"},
}
"""What the modules of each package must not import: jobs -> pipelines -> item, and Ray
in pipelines alone."""

MOST_LINES = 450
MOST_FILES = 14
SEVERAL_SOURCES = {
    "jobs/test_another_profile.py",
    "item/test_init.py",
    "item/mini/test_training.py",
    "item/mini/test_shipped_models.py",
    "pipelines/featurize/test_public_models.py",
}
"""Tests of something that several modules make together."""

PRIVATE = {
    "machine path": re.compile(r"(?<![\w.])/(?:work|root|opt)/\w|/(?:home|Users)/(?!ubuntu\b)\w"),
    "registry host": re.compile(
        r"(?:pypi|pythonhosted|npmjs|debian|ubuntu|crates|anaconda)\.(?:org|com|io)\b"
    ),
    "key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{36}|\bhf_\w{30}"),
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY"),
}


@cache
def tracked() -> tuple[Path, ...]:
    """Files that git tracks or would, were everything added."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = (REPOSITORY / name for name in listed.stdout.split("\0") if name)
    return tuple(sorted(path for path in paths if path.is_file()))


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Top-level packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]


def private(text: str) -> list[str]:
    """What a text holds that belongs on one machine or to one person."""
    return [f"{kind}: {match}" for kind in PRIVATE for match in PRIVATE[kind].findall(text)]


@pytest.mark.parametrize(
    "command", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)], ids=" ".join
)
def test_tool_finds_nothing(command: tuple[str, ...]) -> None:
    pytest.importorskip(command[0])
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package: str) -> None:
    files = modules(package)
    assert files
    wrong = {
        str(file.relative_to(REPOSITORY)): bad
        for file in files
        if (bad := FORBIDDEN[package] & set(imported(file.read_text())))
    }
    assert not wrong


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b as c\nfrom d.e import f\nfrom . import g\ndef h():\n    import ray.data\n"
    assert set(imported(source)) == {"a", "d", "ray"}


def test_contracts_of_imports_hold() -> None:
    """The directions inside ``pipelines``, and no circle anywhere, as pyproject.toml has them."""
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout


def test_no_module_is_too_long_to_read() -> None:
    long = {str(path): len(path.read_text().splitlines()) for path in modules(*FORBIDDEN)}
    assert {path: lines for path, lines in long.items() if lines > MOST_LINES} == {}


def test_no_folder_holds_too_many_files() -> None:
    folders = Counter(path.parent for path in tracked() if path.is_relative_to(REPOSITORY))
    of_packages = {
        str(folder.relative_to(REPOSITORY)): number
        for folder, number in folders.items()
        if folder.relative_to(REPOSITORY).parts[:1]
        and folder.relative_to(REPOSITORY).parts[0] in FORBIDDEN
    }
    assert of_packages
    assert {name: n for name, n in of_packages.items() if n > MOST_FILES} == {}


def test_every_test_file_stands_where_its_source_does() -> None:
    """``test_X.py`` or ``test_X_ASPECT.py`` for ``X.py`` or the package ``X``."""
    tests = [
        path
        for folder in (*FORBIDDEN, "benchmarks")
        for path in (REPOSITORY / "tests" / folder).rglob("test_*.py")
    ]
    assert tests
    astray = []
    for test in tests:
        folder = REPOSITORY / test.parent.relative_to(REPOSITORY / "tests")
        sources = {path.stem for path in folder.glob("*.py")}
        sources |= {path.parent.name for path in folder.glob("*/__init__.py")}
        name = test.stem.removeprefix("test_")
        if not any(name == source or name.startswith(f"{source}_") for source in sources):
            astray.append(str(test.relative_to(REPOSITORY / "tests")))
    assert sorted(set(astray) - SEVERAL_SOURCES) == []


def test_every_module_has_a_docstring() -> None:
    files = modules("item", "pipelines", "jobs", "benchmarks")
    trees = {file: ast.parse(file.read_text()) for file in files}
    bare = [file for file, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    assert not [str(file.relative_to(REPOSITORY)) for file in bare]


def test_files_hold_nothing_private() -> None:
    texts = {path: path.read_bytes() for path in tracked()}
    found = {
        str(path.relative_to(REPOSITORY)): hits
        for path, content in texts.items()
        if b"\0" not in content and (hits := private(content.decode(errors="replace")))
    }
    assert texts
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "cd /work" + "/main",
        "ls /opt" + "/wheels",
        "C = '/home" + "/alice/data'",
        "https://pypi" + ".org/simple",
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "hf_" + "a" * 34,
        "-----BEGIN RSA " + "PRIVATE KEY-----",
    ],
)
def test_private_things_are_recognised(text: str) -> None:
    assert private(text)


def test_constraints_are_plain_pins() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.+!]+", pin)] == []
    names = [re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() for pin in pins]
    assert {"ray", "torch", "pyarrow", "pillow"} <= set(names)
    assert len(names) == len(set(names))
    assert "item-audit" not in names
