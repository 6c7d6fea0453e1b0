"""Kill the nightly job at random moments, run it again, and compare with an undisturbed run.

    python -m benchmarks.killed_nights --data detection/ --runs 20
    python -m benchmarks.killed_nights --data detection/ --runs 10 --kind s3

In turn SIGKILL meets the driver, the process of one model stage, and every process of Ray.
Half of the moments are drawn from the seconds that an undisturbed run takes, half from the
changes that it makes below its output, most of which lie close together. While all this
happens, another process reads the tables with pandas, again and again.

Where the driver or a worker is killed, the job joins a cluster that runs; where Ray is, it
starts its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.planted_nights import DUMP, plant, read_manifest, read_pictures
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import is_s3, join

REPOSITORY = Path(__file__).resolve().parents[1]
NIGHTS = 2
TOLERANCE = 2e-3
"""Of numbers: a picture's batch differs from run to run, and its last bits with it."""
ENDS_BY_ITSELF = 45.0
"""Seconds that a driver without Ray is given before it is killed too."""
LIMIT = 400.0
"""Seconds after which a run hangs."""

# Small batches and parts, so that a run has many moments at which to be killed.
SETTINGS = [
    *(f"profile.resources.{stage}.batch_size=4" for stage in ("decode", "caption", "objects")),
    *(f"profile.resources.{stage}.batch_size=4" for stage in ("embed", "misalign")),
    "profile.resources.caption.workers_per_cpu=0.5",
    "reading.rows_per_task=4",
    "rows_per_part=4",
    "object_store_gb=0.3",
]
MODEL_STAGE = re.compile(r"^ray::.*(Caption|FindObjects|Embed|Score)")

# A night's traces below its output, in the order in which they appear.
TRACES = (
    ("features/_staging/", "rows staged"),
    ("features/date=", "features"),
    ("scores/_staging/", "scores staged"),
    ("scores/date=", "scores"),
    ("rejects/date=", "rejects"),
    ("_nights/", "facts"),
    ("evidence/date=", "evidence"),
    ("reports/", "report"),
)
UNLIKE = {"features": [], "scores": ["run_id", "scored_at"], "rejects": []}
"""Tables, and the columns of each that differ from run to run."""


class Victim(StrEnum):
    """What is killed."""

    DRIVER = "driver"
    WORKER = "worker"
    INSTANCE = "instance"


@dataclass(frozen=True)
class Moment:
    """When a run is killed: so many seconds after its start, or changes of its output."""

    seconds: float | None = None
    changes: int | None = None

    def has_come(self, seconds: float, output: Output) -> bool:
        """Whether it is there or past; a moment of neither never comes."""
        if self.seconds is not None:
            return seconds >= self.seconds
        return self.changes is not None and output.changes >= self.changes

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s" if self.seconds is not None else f"change {self.changes}"


# Processes


def environment(folder: str, address: str | None = None) -> dict[str, str]:
    """Of commands whose Ray keeps its files in ``folder``, apart from any other Ray here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = [str(Path(sys.executable).parent), kept.get("PATH", "")]
    return {
        **kept,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **({"RAY_ADDRESS": address} if address else {}),
    }


def processes(folder: str) -> list[psutil.Process]:
    """Those whose Ray keeps its files in ``folder``, drivers included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("RAY_TMPDIR") == folder:
                found.append(process)
    return found


def kill_all(folder: str, but: int | None = None) -> int:
    """SIGKILL to all processes of a Ray but perhaps its driver; returns how many there were."""
    killed = 0
    while left := [one for one in processes(folder) if one.pid != but and _runs(one)]:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
                killed += 1
        psutil.wait_procs(left, timeout=5)
    return killed


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def ray_cluster() -> Iterator[tuple[str, str]]:
    """A Ray of two CPUs; its folder and address."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        port = _free_port()
        command = f"ray start --head --num-cpus=2 --port={port} --include-dashboard=false"
        command += f" --ray-client-server-port={_free_port()} --object-store-memory={600 << 20}"
        try:
            subprocess.run(
                [*command.split(), "--disable-usage-stats"],
                env=environment(folder),
                cwd=REPOSITORY,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            yield folder, f"127.0.0.1:{port}"
        finally:
            kill_all(folder)


@contextmanager
def s3_server() -> Iterator[str]:
    """moto's server in a process of its own; a bucket's URL. Its address is in the environment."""
    import boto3

    port = _free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    try:
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        boto3.client("s3").create_bucket(Bucket="audits")
        yield "s3://audits"
    finally:
        server.kill()
        server.wait()


# One run


@dataclass
class Reading:
    """What a process saw that read the tables all the while."""

    polls: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass
class Run:
    """A killed run and the one after it."""

    victim: str
    moment: str
    reached: str = ""
    """The last trace that the killed run had left."""
    killed_after: float = 0.0
    exit_code: int | None = None
    """Of the run that was killed; 0 if it went on regardless, None if it had to be killed."""
    again: dict[str, Any] = field(default_factory=dict)
    """The summary of the run after it."""
    again_seconds: float = 0.0
    differences: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    """Staged or hidden files that are still there in the end."""
    reading: Reading = field(default_factory=Reading)


class Output:
    """The files below an output root, as polling sees them."""

    def __init__(self, root: str) -> None:
        self.fs, self.path = filesystem(root, Storage())
        self.pause = 0.1 if is_s3(root) else 0.01
        self.changes = 0
        self.last: frozenset[tuple[str, Any]] = frozenset()

    def look(self) -> None:
        """Count a change if there was one."""
        try:
            found = self.fs.find(self.path, detail=True)
        except FileNotFoundError:  # not there yet, or a file went while it was listed
            return
        now = frozenset(
            (path.removeprefix(self.path).lstrip("/"), about.get("ETag") or about.get("mtime"))
            for path, about in found.items()
        )
        self.changes += now != self.last
        self.last = now

    def names(self) -> list[str]:
        """Paths below the root, as of the last look."""
        return sorted(name for name, _ in self.last)

    def reached(self) -> str:
        """The last trace of the latest night."""
        told = "start-up"
        dates = sorted({date for name in self.names() for date in _dates(name)})
        for number, date in enumerate(dates, 1):
            mine = [name for name in self.names() if date in name]
            for prefix, trace in TRACES:
                if any(name.startswith(prefix) for name in mine):
                    told = f"night {number}: {trace}"
        return told

    def left_behind(self) -> list[str]:
        """What is neither a table's, nor a report, nor a record of runs and leases."""
        return [name for name in self.names() if "/_staging/" in name or "/." in f"/{name}"]


def _dates(name: str) -> list[str]:
    return re.findall(r"\d{4}-\d{2}-\d{2}", name)


@dataclass(frozen=True)
class Job:
    """The command under test."""

    dump: Path
    profile: str | None
    logs: Path

    def start(self, root: str, env: Mapping[str, str], name: str) -> subprocess.Popen[str]:
        """Start it; its output goes to a file of that name."""
        options = ["--input", str(self.dump), "--output", root]
        options += ["--profile", self.profile] if self.profile else []
        options += [f"--set={one}" for one in SETTINGS]
        with open(self.log(name), "w") as file:
            return subprocess.Popen(
                [sys.executable, "jobs/nightly.py", *options],
                cwd=REPOSITORY,
                env=dict(env),
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def run(self, root: str, env: Mapping[str, str], name: str) -> tuple[Output, float]:
        """Run it to its end, and count changes and seconds."""
        output, started = Output(root), time.monotonic()
        driver = self.start(root, env, name)
        watch(driver, output, Moment())
        _ended(driver, 0)
        output.look()
        return output, time.monotonic() - started

    def log(self, name: str) -> Path:
        """The file of what a run said."""
        return self.logs / f"{name}.log"

    def summary(self, name: str) -> dict[str, Any]:
        """The last line of a run that ended, or what it said instead."""
        lines = self.log(name).read_text().splitlines()
        with suppress(ValueError, IndexError):
            found = json.loads(lines[-1])
            if isinstance(found, dict):
                return found
        return {"outcome": "no summary", "said": lines[-15:]}


def watch(driver: subprocess.Popen[str], output: Output, moment: Moment) -> bool:
    """Watch a run; returns whether the moment came before its end."""
    started = time.monotonic()
    while driver.poll() is None and (seconds := time.monotonic() - started) < LIMIT:
        output.look()
        if moment.has_come(seconds, output):
            return True
        time.sleep(output.pause)
    return False


def _ended(driver: subprocess.Popen[str], patience: float) -> int | None:
    """The driver's exit code; None where it had to be killed."""
    try:
        return driver.wait(patience)
    except subprocess.TimeoutExpired:
        driver.kill()
        driver.wait()
        return None


def kill(
    victim: Victim, driver: subprocess.Popen[str], folder: str, rng: np.random.Generator
) -> None:
    """SIGKILL to the victim; what has not started yet is waited for."""
    if victim is Victim.DRIVER:
        driver.kill()
        return
    while driver.poll() is None:
        if victim is Victim.INSTANCE:
            if any("raylet" in _title(one) for one in processes(folder)):
                kill_all(folder, but=driver.pid)
                return
        elif found := [one for one in processes(folder) if MODEL_STAGE.match(_title(one))]:
            with suppress(psutil.Error):
                found[rng.integers(len(found))].kill()
                return
        time.sleep(0.05)


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error, IndexError):
        return str(process.cmdline()[0])
    return ""


# What readers see


def read_all_the_while(root: str, rows: Mapping[str, int], done: Event, told: Any) -> None:
    """Read features and scores until ``done``; the target of a process.

    Parameters
    ----------
    root : of the audit
    rows : by night, once it is published
    told : end of a pipe, which gets a `Reading`
    """
    reading = Reading()
    seen: dict[str, set[str]] = {"features": set(), "scores": set()}
    while not done.is_set():
        for name, nights in seen.items():
            try:
                table = pd.read_parquet(join(root, name))
            except Exception as error:  # whatever a reader meets is what is asked for
                if not (isinstance(error, FileNotFoundError) and not nights):
                    reading.failures.append(f"{name}: {type(error).__name__}: {error}"[:300])
                continue
            reading.polls += 1
            found = Counter(table["date"].astype(str)) if len(table) else Counter[str]()
            for night in nights - set(found):
                reading.failures.append(f"{name}: {night} is gone")
            for night, number in found.items():
                if number != rows[night]:
                    reading.failures.append(f"{name}: {night} has {number} of {rows[night]} rows")
            if len(table) and table.duplicated(["date", "uri", "error_code"]).any():
                reading.failures.append(f"{name}: a row is there twice")
            nights |= set(found)
        done.wait(0.5)
    told.send(reading)


@contextmanager
def reader(root: str, rows: Mapping[str, int], reading: Reading) -> Iterator[None]:
    """Reads in another process while the block runs; what it saw is added to ``reading``."""
    context = multiprocessing.get_context("spawn")
    done, (told, teller) = context.Event(), context.Pipe(duplex=False)
    process = context.Process(target=read_all_the_while, args=(root, rows, done, teller))
    process.start()
    try:
        yield
    finally:
        done.set()
        if told.poll(60):
            seen = told.recv()
            reading.polls, reading.failures = seen.polls, seen.failures
        else:
            reading.failures.append("the reader did not end")
        process.join(10)
        process.kill()


# Comparison


def tables(root: str) -> dict[str, pd.DataFrame]:
    """The tables of an audit, ordered, without what differs from run to run."""
    found = {}
    for name, unlike in UNLIKE.items():
        rows = pd.read_parquet(join(root, name)).drop(columns=unlike)
        rows["date"] = rows["date"].astype(str)
        order = [one for one in ("date", "uri", "error_code", "source") if one in rows]
        found[name] = rows.sort_values(order, ignore_index=True)
    return found


def differences(root: str, expected: Mapping[str, pd.DataFrame]) -> list[str]:
    """Sentences on what is not as in the undisturbed run."""
    found = []
    for name, rows in tables(root).items():
        wanted = expected[name]
        if list(rows.columns) != list(wanted.columns) or len(rows) != len(wanted):
            found.append(f"{name}: {rows.shape} instead of {wanted.shape}")
            continue
        for column in rows.columns:
            pairs = zip(rows[column], wanted[column], strict=True)
            if unequal := [row for row, (one, other) in enumerate(pairs) if not same(one, other)]:
                first = rows.iloc[unequal[0]].get("uri", "")
                found.append(f"{name}: {len(unequal)} rows differ in {column}, as {first}")
    for night, rows in expected["features"].groupby("date"):
        manifest = read_manifest(root, str(night))
        if (manifest["outcome"], manifest["rows"]["total"]) != ("published", len(rows)):
            found.append(f"manifest of {night}: {manifest['outcome']}, {manifest['rows']}")
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two cells are equal, numbers within the tolerance."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray | list) and isinstance(other, np.ndarray | list):
        if len(one) != len(other):
            return False
        if isinstance(one, np.ndarray) and np.issubdtype(one.dtype, np.floating):
            return bool(np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
        return all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, float | np.floating) and isinstance(other, float | np.floating):
        close = np.isclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        return bool(close)
    return bool(one == other) or bool(pd.isna(one) and pd.isna(other))


# All runs


@dataclass(frozen=True)
class Calm:
    """What undisturbed runs did."""

    tables: Mapping[str, pd.DataFrame]
    rows: Mapping[str, int]
    """By night."""
    changes: int
    """Of the output."""
    seconds: Mapping[Victim, float]
    """Of runs as those are in which the victim is killed."""
    differences: list[str]
    """Of one run from the other."""


def measure(
    job: Job, place: str, runs: int, seed: int, note: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """An undisturbed run with each kind of Ray, then the killed ones.

    Parameters
    ----------
    place : folder or ``s3://`` prefix for the outputs
    note : called with the figures after each run
    """
    rng = np.random.default_rng(seed)
    with ray_cluster() as (folder, address):
        joined = environment(folder, address)
        calm = undisturbed(job, place, joined)
        found: dict[str, Any] = {
            "rows": calm.rows,
            "undisturbed_seconds": {name: round(spent, 1) for name, spent in calm.seconds.items()},
            "undisturbed_changes": calm.changes,
            "undisturbed_differences": calm.differences,
            "runs": [],
        }
        for number in range(runs):
            victim = list(Victim)[number % len(Victim)]
            if number // len(Victim) % 2:
                moment = Moment(changes=int(rng.integers(1, calm.changes + 1)))
            else:
                moment = Moment(seconds=rng.uniform(0, calm.seconds[victim]))
            name = f"run-{number:02}"
            run = killed(job, join(place, name), name, victim, moment, calm, joined, rng)
            found["runs"].append(asdict(run))
            note(found)
            print(_line(number, run), flush=True)
            if not run.differences and not is_s3(place):
                shutil.rmtree(Path(place, name))
    return found


def undisturbed(job: Job, place: str, joined: Mapping[str, str]) -> Calm:
    """Two runs that nothing happens to: on the cluster that runs, and with a Ray of its own."""
    root, alone = join(place, "undisturbed"), join(place, "undisturbed-alone")
    output, seconds = job.run(root, joined, "undisturbed")
    if (told := job.summary("undisturbed"))["outcome"] != "done":
        raise SystemExit(f"The undisturbed run failed: {told}")
    with own_ray() as folder:
        _, seconds_alone = job.run(alone, environment(folder), "undisturbed-alone")
    expected = tables(root)
    return Calm(
        tables=expected,
        rows={str(night): len(some) for night, some in expected["features"].groupby("date")},
        changes=output.changes,
        seconds={
            Victim.DRIVER: seconds,
            Victim.WORKER: seconds,
            Victim.INSTANCE: seconds_alone,
        },
        differences=_compared(alone, expected),
    )


def killed(
    job: Job,
    root: str,
    name: str,
    victim: Victim,
    moment: Moment,
    calm: Calm,
    joined: Mapping[str, str],
    rng: np.random.Generator,
) -> Run:
    """Kill a run and run again to the end, while a reader reads; then compare."""
    run = Run(victim, str(moment))
    output = Output(root)
    with reader(root, calm.rows, run.reading), own_ray() as folder:
        env = environment(folder) if victim is Victim.INSTANCE else joined
        started = time.monotonic()
        driver = job.start(root, env, f"{name}-killed")
        if watch(driver, output, moment):
            kill(victim, driver, env["RAY_TMPDIR"], rng)
        run.killed_after = round(time.monotonic() - started, 2)
        output.look()
        run.reached = output.reached()
        run.exit_code = _ended(driver, ENDS_BY_ITSELF if victim is Victim.INSTANCE else LIMIT)
        if run.exit_code != 0:
            _, run.again_seconds = job.run(root, joined, f"{name}-again")
            run.again = job.summary(f"{name}-again")
        time.sleep(0.5)  # the reader sees the end
    output.look()
    run.left_behind = output.left_behind()
    run.differences = _compared(root, calm.tables)
    return run


@contextmanager
def own_ray() -> Iterator[str]:
    """A folder for a Ray that a job starts; whatever still runs in the end is killed."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        try:
            yield folder
        finally:
            kill_all(folder)


def _compared(root: str, expected: Mapping[str, pd.DataFrame]) -> list[str]:
    try:
        return differences(root, expected)
    except (OSError, KeyError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"[:300]]


def _line(number: int, run: Run) -> str:
    return (
        f"{number:2} {run.victim:8} at {run.moment:>10} ({run.reached}), exit {run.exit_code}; "
        f"again {run.again.get('outcome', '-')} in {run.again_seconds:.0f} s; "
        f"{len(run.differences)} differences; {run.reading.polls} polls, "
        f"{len(run.reading.failures)} failures"
    )


def _show(found: dict[str, Any]) -> None:
    runs = pd.DataFrame(found["runs"])
    table = Table("killed", "runs", "went on", "reached", "differences", "polls", "failures")
    for victim, some in runs.groupby("victim"):
        reached = Counter(some["reached"])
        table.add_row(
            str(victim),
            str(len(some)),
            str((some["exit_code"] == 0).sum()),
            ", ".join(f"{name} ({number})" for name, number in sorted(reached.items())),
            str(some["differences"].map(len).sum()),
            f"{some['reading'].map(lambda one: one['polls']).sum():,}",
            str(some["reading"].map(lambda one: len(one["failures"])).sum()),
        )
    Console(width=140).print(table)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Folder of Parquet with bytes.")],
    runs: Annotated[int, typer.Option(help="Kills, of driver, worker and instance in turn.")] = 20,
    kind: Annotated[Literal["local", "s3"], typer.Option(help="Where the outputs are.")] = "local",
    images: Annotated[int, typer.Option(help="Different pictures in the dump.", min=20)] = 24,
    profile: Annotated[str | None, typer.Option(help="As of jobs/nightly.py.")] = None,
    seed: int = 0,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    logs: Annotated[Path | None, typer.Option(help="Folder that keeps the jobs' output.")] = None,
) -> None:
    """Kill the nightly job at random moments; exit code 1 if that can be seen afterwards."""

    def note(found: dict[str, Any]) -> None:
        if output:
            output.write_text(json.dumps({"kind": kind, "seed": seed, **found}, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plant(read_pictures(data, images, seed), folder / DUMP, NIGHTS, seed)
        job = Job(folder / DUMP, profile, logs or folder)
        job.logs.mkdir(parents=True, exist_ok=True)
        with s3_server() if kind == "s3" else nullcontext(str(folder / "outputs")) as place:
            found = measure(job, place, runs, seed, note)
    _show(found)
    bad = [one for one in found["runs"] if one["differences"] or one["reading"]["failures"]]
    for one in bad:
        print(one["victim"], one["moment"], one["differences"], one["reading"]["failures"][:3])
    if bad or found["undisturbed_differences"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
