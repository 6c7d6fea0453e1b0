"""Ray, where a machine or its user makes it hard: one sentence, or it simply runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.timeout(150)]

START = "from pipelines.runtime.start import start_ray; start_ray(0.1); import ray; "
WORK = "print('worked', ray.get(ray.remote(lambda: __import__('jobs').__file__).remote()))"


def started(folder: Path, *prefix: str, **environment: str | None) -> subprocess.CompletedProcess:
    """Start Ray in a process of its own, in a folder, as a job does."""
    code = (
        "from jobs.command_line import refusals\nimport typer, sys\n"
        f"try:\n    with refusals():\n        {START}{WORK}\n"
        "except typer.Exit as end:\n    sys.exit(end.exit_code)\n"
    )
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run(
        [*prefix, sys.executable, "-c", code],
        env=variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def refused(ended: subprocess.CompletedProcess, code: int) -> str:
    """The one sentence of a job that was refused."""
    assert ended.returncode == code, ended.stderr[-2000:]
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in ended.stderr
    return line


def test_dead_address_is_told_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    sentence = refused(started(tmp_path, RAY_ADDRESS=address), 5)
    assert f"Nobody answers at RAY_ADDRESS={address}" in sentence


def test_server_that_is_no_cluster_is_told_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        threading.Thread(target=lambda: [deaf.accept() for _ in range(9)], daemon=True).start()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        sentence = refused(started(tmp_path, RAY_ADDRESS=address), 5)
    assert f"Nobody answers at RAY_ADDRESS={address}" in sentence


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://127.0.0.1:10001", "ray job submit"),
        ("127.0.0.1", "write host:port"),
        ("http://127.0.0.1:8265", "Nobody answers|write host:port"),
    ],
)
def test_address_that_jobs_cannot_use_is_refused(address: str, words: str, tmp_path: Path) -> None:
    ended = started(tmp_path, RAY_ADDRESS=address)
    sentence = refused(ended, ended.returncode if ended.returncode in (2, 5) else 2)
    assert any(word in sentence for word in words.split("|"))


@pytest.mark.ray
def test_ray_needs_nothing_of_the_home_folder_and_no_modules_of_the_user(tmp_path: Path) -> None:
    for name in ("jobs", "pipelines", "item"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('of the user')")
    ended = started(
        tmp_path,
        HOME="/dev/null",
        RAY_ADDRESS=None,
        RAY_AUTH_MODE=None,
        RAY_TMPDIR=None,
        TMPDIR=str(tmp_path / ("long" * 20)),
        PYTHONSAFEPATH="1",
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert str(REPOSITORY) in ended.stdout


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs to become another user"
)
@pytest.mark.ray
def test_user_without_a_name_and_without_a_home_can_run(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    as_user = ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups"]
    as_user += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    short = Path("/tmp", f"itemtest{os.getpid()}")
    short.mkdir(mode=0o777)
    short.chmod(0o777)
    try:
        ended = started(
            Path("/"),
            *as_user,
            HOME=None,
            RAY_ADDRESS=None,
            RAY_AUTH_MODE=None,
            USER=None,
            RAY_TMPDIR=str(short),
        )
    finally:
        shutil.rmtree(short, ignore_errors=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_temporary_folder_without_room_is_told(tmp_path: Path, monkeypatch) -> None:
    from item.errors import MachineError
    from pipelines.runtime import start

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path)[:30] or "/tmp")
    monkeypatch.setattr(start, "LEAST_ROOM", 1 << 60)
    with pytest.raises(MachineError, match=r"Set RAY_TMPDIR to a folder .* of room"):
        start._temporary_folder()
