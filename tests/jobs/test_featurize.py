"""The featurize job as users meet it: a command that is refused, killed, resumed, submitted."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.featurize import app
from pipelines.featurize.error_rate import ErrorRateError
from pipelines.featurize.plan import FeaturizingPlan
from tests.conftest import REPOSITORY
from tests.support.dumps import make
from tests.support.photographs import photographs

NIGHT = "2026-01-31"
DUMP = photographs(22) | {"empty.jpg": b"", "page.jpg": b"<html>404</html>"}

pytestmark = pytest.mark.timeout(600)

# Every stage in small batches, so that a run has many moments at which to be killed.
SMALL = [f"profile.resources.{stage}.batch_size=4" for stage in ("caption", "objects", "embed")]
SMALL += ["profile.resources.decode.batch_size=4", "profile.resources.misalign.batch_size=4"]
SMALL += ["reading.rows_per_task=4", "rows_per_part=4", f"reading.date={NIGHT}"]
# One worker a model starts sooner than two on two cores.
SMALL += ["profile.resources.caption.workers_per_cpu=0.5"]


@contextmanager
def apart() -> Iterator[dict[str, str]]:
    """The environment of commands whose Ray is apart from any other on this machine.

    Whatever still runs in the end is ended.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = [str(Path(sys.executable).parent), kept.get("PATH", "")]
    # Sockets lie below; their paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield kept | {
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": folder,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        for process in started_below(folder):
            process.kill()


@pytest.fixture(scope="module")
def own_ray() -> Iterator[dict[str, str]]:
    """The environment of commands that start their own Ray."""
    with apart() as variables:
        yield variables


def started_below(folder: str) -> list[psutil.Process]:
    """Processes of the Ray whose files lie in ``folder``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == folder and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("night") / "dump", DUMP)


def command(dump: Path, output: Path, *settings: str) -> list[str]:
    options = ["--input", str(dump), "--output", str(output)]
    return ["jobs/featurize.py", *options, *(f"--set={one}" for one in (*SMALL, *settings))]


def started(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def assert_same(output: Path, expected: Path) -> None:
    """The same rows with the same features, in any order."""
    found, wanted = (
        pd.read_parquet(folder).sort_values("uri", ignore_index=True)
        for folder in (output, expected)
    )
    assert found["uri"].tolist() == wanted["uri"].tolist()
    assert [Path(uri).name for uri in found["uri"]] == sorted(DUMP)
    exact = ["image_id", "date", "status", "error_code", "caption", "object_count", "width"]
    pd.testing.assert_frame_equal(found[exact], wanted[exact])
    close = [name for name in found.columns if "similarity" in name]
    pd.testing.assert_frame_equal(found[close], wanted[close], atol=1e-4, rtol=0)


# Plans and refusals


def test_dry_run_prints_the_plan_and_does_nothing(dump: Path, tmp_path: Path) -> None:
    result = started(
        os.environ | {"PYTHONPATH": str(REPOSITORY)},
        *command(dump, tmp_path / "features"),
        "--dry-run",
    )
    assert result.returncode == 0, result.stderr
    for words in ("'rows': 24", NIGHT, "'captioner': 'mini@", "'stage': 'findobjects'"):
        assert words in result.stdout
    assert result.stderr == ""
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "profile.captioner.beam=2"], "did you mean 'beams'?"),
        (["--set", "rows_per_prat=2"], "did you mean 'rows_per_part'?"),
        (["--set", "max_error_rate=2"], "max_error_rate"),
        (["--set", "rows_per_part"], "key=value"),
        (["--profile", "maxi"], "There is no profile 'maxi'"),
        (["--perturb", "jpeg-74"], "no perturbation step 'jpeg-74'"),
        (["--input", "nowhere"], "nowhere"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_mistake_is_one_sentence_and_exit_code_2(
    dump: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    output = tmp_path / "features"
    result = CliRunner().invoke(app, [*command(dump, output)[1:], *arguments])
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and says in line and line.endswith(".")
    assert result.stdout == ""
    assert not output.exists()


def test_help_fits_a_screen_and_gives_an_example() -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "Example: python jobs/featurize.py" in result.stdout
    assert len(result.stdout.splitlines()) <= 30


def test_too_many_errors_end_with_code_3_and_a_sentence(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_job: FeaturizingPlan) -> None:
        raise ErrorRateError("100.0% of the rows are without features.")

    monkeypatch.setattr("jobs.featurize.run_featurizing", stop)
    result = CliRunner().invoke(app, command(dump, tmp_path / "features")[1:])
    assert result.exit_code == 3
    assert result.stderr == "error: 100.0% of the rows are without features.\n"


# On a cluster


@contextmanager
def cluster(environment: dict[str, str]) -> Iterator[str]:
    """The address at which a Ray of this machine takes jobs."""
    ports = free_ports(4)
    options = [
        f"--dashboard-port={ports[0]}",
        f"--dashboard-agent-listen-port={ports[1]}",
        f"--ray-client-server-port={ports[2]}",
        f"--port={ports[3]}",
        f"--temp-dir={environment['RAY_TMPDIR']}/head",
        *("--num-cpus=2", "--object-store-memory=200000000", "--block"),
    ]
    # Ray keeps these ports for its workers unless told otherwise.
    options += ["--min-worker-port=0", "--max-worker-port=0"]
    process = subprocess.Popen(
        ["ray", "start", "--head", *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{ports[0]}"
    wait_for(f"{address}/api/version", process)
    yield address
    # Asked politely, Ray takes half a minute.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        assert process.poll() is None, "Ray did not start"
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{url} did not answer")


@pytest.fixture(scope="module")
def undisturbed(
    own_ray: dict[str, str], dump: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of a submitted job that nothing happened to.

    As the README says it: what git ignores, such as the environment, is not sent.
    """
    output = tmp_path_factory.mktemp("undisturbed") / "features"
    with apart() as environment, cluster(environment) as address:
        submit = ["ray", "job", "submit", "--address", address, "--working-dir", "."]
        result = subprocess.run(
            [*submit, "--", "python", *command(dump, output)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=280,
        )
    assert result.returncode == 0, result.stdout
    assert "succeeded" in result.stdout and "Open it:" in result.stdout
    return output


def test_submitted_job_has_each_row_once_with_its_outcome(undisturbed: Path) -> None:
    table = pd.read_parquet(undisturbed)
    table.index = [Path(uri).name for uri in table["uri"]]
    assert sorted(table.index) == sorted(DUMP)
    assert (table.loc["empty.jpg", "error_code"], table.loc["page.jpg", "error_code"]) == (
        "empty_file",
        "not_an_image",
    )
    good = table.drop(["empty.jpg", "page.jpg"])
    assert (good["status"] == "ok").all() and good["caption"].str.len().gt(0).all()


# Killed


class Reader(threading.Thread):
    """An analyst who reads the table all the time, from when it is there."""

    def __init__(self, output: Path) -> None:
        super().__init__(daemon=True)
        self.output = output
        self.done = threading.Event()
        self.reads = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.done.is_set():
            if not list(self.output.glob("date=*")):
                time.sleep(0.01)
                continue
            try:
                frame = pd.read_parquet(self.output)
            except Exception as error:  # whatever an analyst would see
                self.wrong.append(repr(error))
            else:
                self.reads += 1
                if not frame["uri"].is_unique or len(frame) != len(DUMP):
                    self.wrong.append(f"{len(frame)} rows, {frame['uri'].nunique()} URIs")


def staged(output: Path) -> dict[Path, str]:
    """Checksums of finished parts that wait to be published."""
    found = {}
    for path in output.glob("_staging/*/date=*/part-*.parquet"):
        found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_killed_run_resumes_and_gives_the_table_of_the_submitted_job(
    own_ray: dict[str, str], dump: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "features"
    reader = Reader(output)
    reader.start()
    process = subprocess.Popen(
        [sys.executable, *command(dump, output)],
        cwd=REPOSITORY,
        env=own_ray,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not staged(output):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(output.glob("date=*")), "the run was published before it could be killed"
    kept = sum(pq.read_metadata(path).num_rows for path in staged(output))

    result = started(own_ray, *command(dump, output))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("Open it:")
    reader.done.set()
    reader.join()
    assert not reader.wrong and reader.reads
    assert_same(output, undisturbed)
    [manifest] = output.glob("_runs/*.json")
    done_before = json.loads(manifest.read_text())["rows"]["done_before"]
    assert 0 < kept <= done_before < len(DUMP), "finished parts were computed again"
    assert not staged(output)
    assert f"{len(DUMP)} rows published" in result.stdout
