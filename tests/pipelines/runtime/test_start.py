"""Ray, where a machine or its user makes it hard: one sentence, or it simply runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
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


@pytest.mark.ray
def test_user_without_a_name_or_a_home_can_run_where_a_dead_cluster_was(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    as_user: list[str] = []
    if os.geteuid() == 0 and shutil.which("setpriv"):
        as_user = ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups"]
        as_user += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    short = Path(tempfile.mkdtemp(prefix="item"))
    short.chmod(0o777)
    (short / "ray").mkdir()
    (short / "ray").chmod(0o777)
    (short / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    (short / "ray" / "ray_current_cluster").chmod(0o666)
    try:
        ended = started(
            Path("/"),
            *as_user,
            HOME=None,
            RAY_ADDRESS="",
            RAY_AUTH_MODE=None,
            USER=None,
            RAY_TMPDIR=str(short),
        )
    finally:
        shutil.rmtree(short, ignore_errors=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_dead_address_ends_a_job_in_a_sentence(tmp_path: Path) -> None:
    ended = started(tmp_path, RAY_ADDRESS="127.0.0.1:1")
    assert ended.returncode == 6, ended.stderr[-2000:]
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "No Ray cluster answers at RAY_ADDRESS=127.0.0.1:1" in line
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs to mount a disk of its own"
)
@pytest.mark.ray
def test_memory_disk_without_room_does_not_keep_ray_from_working(tmp_path: Path) -> None:
    tiny = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", tiny, "sh"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a disk")
    ended = started(tmp_path, *alone, RAY_ADDRESS=None, RAY_AUTH_MODE=None)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "worked" in ended.stdout
