"""The wheel: what is in it, and the console command among packages of somebody's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import REPOSITORY

PACKAGES = ("item", "pipelines", "jobs")
IN_THE_WHEEL = {
    "item/py.typed",
    "pipelines/py.typed",
    "item/profiles/mini.yaml",
    "pipelines/audit/templates/",
    "pipelines/results/templates/",
    "licenses/LICENSE",
    "licenses/NOTICE",
}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, source)
    for name in PACKAGES:
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    pip = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    made = run(sys.executable, *pip, "--wheel-dir", folder, source, cwd=folder)
    assert made.returncode == 0, made.stderr
    return next(folder.glob("item_audit-*.whl"))


@pytest.fixture(scope="module")
def programs(wheel: Path) -> Path:
    """The programs of an environment that has the wheel, and what it needs from this one."""
    home = wheel.parent / "environment"
    assert (
        run(sys.executable, "-m", "venv", "--without-pip", home, cwd=wheel.parent).returncode == 0
    )
    [site] = home.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = ["-m", "pip", "install", "--quiet", "--ignore-installed", "--no-deps", "--no-index"]
    installed = run(home / "bin/python", *pip, wheel, cwd=wheel.parent)
    assert installed.returncode == 0, installed.stderr
    return home / "bin"


@pytest.fixture
def somebodys(tmp_path: Path) -> Path:
    """A folder with packages named as ours are, and a picture."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('"""My own."""\n')
    (tmp_path / "photos").mkdir()
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "photos" / "one.png")
    return tmp_path


def test_the_wheel_holds_types_templates_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {part for part in IN_THE_WHEEL if not any(part in name for name in names)} == set()


def test_help_among_packages_of_the_same_names(programs: Path, somebodys: Path) -> None:
    ended = run(programs / "item-audit", "featurize", "--help", cwd=somebodys)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Usage: item-audit featurize ")


def test_a_picture_is_featurized_by_hand_among_packages_of_the_same_names(
    programs: Path, somebodys: Path
) -> None:
    (somebodys / "item").rename(somebodys / "item_of_mine")
    code = "import item; print(item.featurize(['photos/one.png'])['status'].to_pylist())"
    ended = run(programs / "python", "-c", code, cwd=somebodys)
    assert ended.stdout == "['ok']\n", ended.stderr
