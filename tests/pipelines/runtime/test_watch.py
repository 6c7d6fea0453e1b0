"""A cluster that dies under a job: one sentence, the lease given back, within a minute."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.runtime.watch import _Watch, cluster_watched
from tests.conftest import REPOSITORY

JOB = """
import sys, time
import ray, typer
from jobs.command_line import refusals
from pipelines.runtime import watch
from pipelines.runtime.start import start_ray
from pipelines.storage.configuration import Storage
from pipelines.tables.lease import Lease

watch.PATIENCE = 4.0
if sys.argv[2] == "deaf":
    watch.SECONDS_TO_END = 4.0

try:
    with refusals(), Lease(sys.argv[1], "2026-01-31", Storage()):
        start_ray(0.1)
        work = ray.remote(lambda: time.sleep(600)).remote()
        print("at work", flush=True)
        while sys.argv[2] == "deaf":
            try:
                time.sleep(600)
            except KeyboardInterrupt:
                pass
        ray.get(work)
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


@pytest.fixture
def short() -> Iterator[str]:
    """A folder for a cluster of a job's own."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.mark.ray
@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("victim", "job", "words"),
    [
        ("raylet", "waits", "Ray's process on this machine (raylet) has ended"),
        ("gcs_server", "deaf", "The head of the Ray cluster, at "),
    ],
)
def test_dead_cluster_is_a_sentence_and_the_lease_is_given_back(
    victim: str, job: str, words: str, tmp_path: Path, short: str
) -> None:
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_TMPDIR": short}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        variables.pop(name, None)
    # As in the background of a shell, which ignores this signal.
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, str(tmp_path), job],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, ignored)
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "at work\n", process.stderr.read()[-2000:]
        [found] = [one for one in of_the_cluster(short) if one.name() == victim]
        found.kill()
        killed = time.monotonic()
        _, printed = process.communicate(timeout=100)
        assert time.monotonic() - killed < 60
    try:
        assert process.returncode == 6, printed[-2000:]
        [line] = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert words in line and "it goes on where it was" in line
        assert "Traceback" not in printed
        [lease] = (tmp_path / "_leases" / "2026-01-31").glob("*.json")
        assert json.loads(lease.read_text())["released"] is (job == "waits")
    finally:
        for left in of_the_cluster(short):
            left.kill()


def of_the_cluster(folder: str) -> list[psutil.Process]:
    """Processes that a cluster in a folder has started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_interrupt_of_a_person_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), cluster_watched():
        raise KeyboardInterrupt


def test_other_threads_and_what_was_set_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    done = []

    def work() -> None:
        with cluster_watched():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with cluster_watched():
        assert signal.getsignal(signal.SIGUSR2) is not before
    assert done and signal.getsignal(signal.SIGUSR2) is before


def test_job_that_is_over_is_left_alone() -> None:
    watch = _Watch()
    watch.block_ends()
    watch._give_up("The cluster is gone")
    assert watch.lost is None
