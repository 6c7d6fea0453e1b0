"""A night whose objects change while it is read, over a storage that fails, with kills.

    python -m benchmarks.changing_night --rounds 30

In each round objects of a night in S3 are replaced, cut, completed, removed and added, before the
job starts and while it runs; one request in twenty fails; and SIGKILL meets the driver at a random
moment. In the end one run goes through undisturbed over what is there, and its table is compared
with that of a single quiet run into an empty place: the same rows with the same values. Members
that cost next to nothing stand for the models.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import boto3
import numpy as np
import pandas as pd
import typer
from rich.console import Console

from benchmarks.killed_nights import REPOSITORY, environment, ray_cluster, s3_server
from benchmarks.scale import cheap_profile, generated
from tests.support.flaky_s3 import Fault, FlakyS3

BUCKET = "audits"
NIGHT = "dump/date=2026-01-31"
OBJECTS = 60
CHANGES = 6
LIMIT = 240.0
"""Seconds after which a run hangs."""
DIFFERS = ("error_message",)
"""Columns that may name what is different in the two outputs."""


class Night:
    """The objects of the night, which change at random."""

    def __init__(self, client: Any, seed: int) -> None:
        self.client = client
        self.random = np.random.default_rng(seed)
        self.whole: dict[str, bytes] = {}
        self.next = 0
        self.changes: Counter[str] = Counter()
        for _ in range(OBJECTS):
            self._add()

    def change(self) -> None:
        """Replace, cut, complete, remove or add an object."""
        names = sorted(self.whole)
        kind = str(self.random.choice(["replace", "cut", "complete", "remove", "add", "add"]))
        self.changes[kind] += 1
        if kind == "add" or not names:
            self._add()
            return
        name = str(self.random.choice(names))
        if kind == "replace":
            self.whole[name] = self._picture()
        if kind == "remove":
            del self.whole[name]
            self.client.delete_object(Bucket=BUCKET, Key=name)
            return
        content = self.whole[name]
        self._put(name, content[: len(content) // 2] if kind == "cut" else content)

    def _add(self) -> None:
        folder = str(self.random.choice(["", "a/", "a//", "b b/"]))
        name = f"{NIGHT}/{folder}{self.next:05}.jpg"
        self.next += 1
        self.whole[name] = self._picture()
        self._put(name, self.whole[name])

    def _picture(self) -> bytes:
        return generated(int(self.random.integers(0, 40)), (96, 64))

    def _put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=content)


def command(profile: Path, output: str) -> list[str]:
    """The job under test."""
    options = ["--input", f"s3://{BUCKET}/dump", "--output", output, "--profile", str(profile)]
    settings = ["rows_per_part=4", "reading.rows_per_task=4", "max_error_rate=1"]
    settings += ["object_store_gb=0.3", "storage.retries=8", "lease_seconds=8"]
    return [
        *(sys.executable, "jobs/featurize.py", *options),
        *(f"--set={one}" for one in settings),
    ]


def run(
    arguments: list[str], env: dict[str, str], night: Night | None, kill_after: float | None
) -> int | None:
    """Run the job, with changes of the night and a kill if asked for; returns its exit code."""
    process = subprocess.Popen(
        arguments,
        cwd=REPOSITORY,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = time.monotonic()
    while process.poll() is None:
        seconds = time.monotonic() - started
        if (kill_after is not None and seconds > kill_after) or seconds > LIMIT:
            os.killpg(process.pid, signal.SIGKILL)
            break
        if night is not None and night.random.random() < 0.1:
            night.change()
        time.sleep(0.2)
    _, said = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        print(said[-800:], file=sys.stderr)
    return process.returncode


def table(output: str) -> pd.DataFrame:
    """What an analyst sees, in an order that does not matter."""
    frame = pd.read_parquet(output).sort_values("uri", ignore_index=True)
    return frame.drop(columns=[name for name in DIFFERS if name in frame])


def differences(found: pd.DataFrame, expected: pd.DataFrame) -> list[str]:
    """In which rows and columns two tables are not the same."""
    told = []
    for which, one, other in (("missing", expected, found), ("too many", found, expected)):
        if names := sorted(set(one["uri"]) - set(other["uri"])):
            told.append(f"{which}: {names[:3]} and {len(names)} in all")
    if found["uri"].duplicated().any():
        told.append("a URI comes twice")
    if told:
        return told
    for column in expected.columns:
        one, other = (frame[column].map(_plain).tolist() for frame in (found, expected))
        wrong = [
            number for number, pair in enumerate(zip(one, other, strict=True)) if _other(*pair)
        ]
        if wrong:
            told.append(f"{column} of {len(wrong)} rows, as of {found['uri'][wrong[0]]}")
    return told


def _plain(value: Any) -> Any:
    return json.dumps(value, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v))


def _other(one: str, other: str) -> bool:
    if one == other:
        return False
    try:
        pair = [np.asarray(json.loads(text), float) for text in (one, other)]
    except (ValueError, TypeError):
        return True
    return pair[0].shape != pair[1].shape or not np.allclose(*pair, atol=2e-3, equal_nan=True)


def main(
    rounds: Annotated[int, typer.Option(help="Runs that are killed.")] = 30,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    share: Annotated[float, typer.Option(help="Of the requests that fail.")] = 0.05,
) -> None:
    """Kill a job again and again while its night changes, and compare the table in the end."""
    random = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, s3_server(), ray_cluster() as (place, address):
        profile = cheap_profile(Path(folder, "cheap.yaml"))
        server = os.environ["AWS_ENDPOINT_URL"]
        night = Night(boto3.client("s3", endpoint_url=server), seed)
        faults = (Fault.SLOW_DOWN, Fault.LOST_ANSWER, Fault.TIME_OUT)
        with FlakyS3(server, share=share, seed=seed, hold=0.1, faults=faults) as flaky:
            env = environment(place, address) | {"AWS_ENDPOINT_URL": flaky.endpoint}
            arguments = command(profile, f"s3://{BUCKET}/out")
            for _ in range(rounds):
                for _ in range(CHANGES):
                    night.change()
                code = run(arguments, env, night, float(random.uniform(1, 14)))
                outcomes["killed" if code == -signal.SIGKILL else f"exit {code}"] += 1
            last = [run(arguments, env, None, None) for _ in range(2)]
        quiet = environment(place, address) | {"AWS_ENDPOINT_URL": server}
        alone = run(command(profile, f"s3://{BUCKET}/quiet"), quiet, None, None)
        found, expected = table(f"s3://{BUCKET}/out"), table(f"s3://{BUCKET}/quiet")
        told = differences(found, expected)
        requests = flaky.counts
    say = Console().print
    say(f"{rounds} rounds in {time.monotonic() - started:.0f} s: {dict(outcomes)}; then {last}")
    say(f"changes {dict(night.changes)}; requests {requests}")
    say(f"the quiet run: exit {alone}, {len(expected)} rows {Counter(expected['status'])}")
    say(f"differences: {told or 'none'}")
    raise typer.Exit(1 if told or set(last) | {alone} != {0} else 0)


if __name__ == "__main__":
    typer.run(main)
