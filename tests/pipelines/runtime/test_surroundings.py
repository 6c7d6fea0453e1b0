"""A folder that Ray can use, or a sentence."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from item.errors import MachineError
from pipelines.runtime import surroundings
from pipelines.runtime.surroundings import neutral_folder, temporary_folder

LONG = "long" * 20


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_tmpdir_is_obeyed_where_it_can_be(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert temporary_folder() == "/tmp"
    monkeypatch.setenv("TMPDIR", str(short))
    assert temporary_folder() == str(short)
    for unfit in (short / LONG, short / "missing", short / "file"):
        (short / "file").touch()
        monkeypatch.setenv("TMPDIR", str(unfit))
        assert temporary_folder() == "/tmp"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (LONG, "is too long"),
        ("missing", "cannot be written .No such file"),
        ("file", "cannot be written"),
    ],
)
def test_ray_tmpdir_is_obeyed_or_refused(
    name: str, words: str, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short / "file").touch()
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setenv("RAY_TMPDIR", str(short / name))
    with pytest.raises(MachineError, match=f"{words}.*Set RAY_TMPDIR to a folder"):
        temporary_folder()
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    assert temporary_folder() == str(short)


def test_folder_without_room_is_told(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    monkeypatch.setattr(surroundings, "LEAST_ROOM", 1 << 60)
    with pytest.raises(MachineError, match=r"has \d+ MB of room.*Set RAY_TMPDIR to a folder"):
        temporary_folder()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_of_another_user_is_told(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short.chmod(0o555)
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    with pytest.raises(MachineError, match="Permission denied"):
        temporary_folder()


def test_folder_is_the_programs_for_a_moment(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(short)
    with neutral_folder():
        assert Path("pipelines", "runtime").is_dir()
    assert Path.cwd() == short.resolve()
