"""The nightly job over S3 that fails for a share of all requests, on a dump with known fates.

    python benchmarks/planted_nights.py make --data detection/ --output planted/
    python -m benchmarks.failing_storage planted/ --share 0.05

The dump of ``planted_nights.py make`` is put into a bucket of moto's server. Everything that the
job reads or writes then passes a proxy that answers with 503, closes the connection without an
answer, or does what was asked and then closes it. Tables are compared with what was planted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.killed_nights import s3_server
from benchmarks.planted_nights import DUMP, PLAN, differences, read_manifest
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from tests.support.flaky_s3 import FlakyS3


def main(
    folder: Annotated[Path, typer.Argument(help="What planted_nights.py make wrote.")],
    share: Annotated[float, typer.Option(help="Of requests that fail.", min=0, max=1)] = 0.05,
    seed: int = 0,
    retries: Annotated[int, typer.Option(help="storage.retries of the job.")] = 5,
) -> None:
    """Run the nightly job; exit code 1 on any difference to what was planted."""
    plan = json.loads((folder / PLAN).read_text())
    with s3_server() as root:
        direct = os.environ["AWS_ENDPOINT_URL"]
        fs, bucket = filesystem(root, Storage(endpoint_url=direct))
        fs.put(str(folder / DUMP), f"{bucket}/dump", recursive=True)
        command = ["jobs/nightly.py", "--input", f"{root}/dump", "--output", f"{root}/audit"]
        started = time.monotonic()
        with FlakyS3(direct, share, seed, hold=0.5) as flaky:
            settings = {
                "storage.endpoint_url": flaky.endpoint,
                "storage.retries": retries,
            }
            pairs = [f"--set={key}={value}" for key, value in settings.items()]
            done = subprocess.run(
                [sys.executable, *command, *pairs], stdout=subprocess.PIPE, text=True
            )
        seconds = time.monotonic() - started
        print(f"Exit code {done.returncode} after {seconds:.0f} s.")
        if done.returncode:
            raise typer.Exit(1)
        requests, faults = flaky.counts.requests.total(), flaky.counts.faults.total()
        print(f"{requests:,} requests, {faults:,} of them failed ({faults / requests:.1%}):")
        for name in ("slow_downs", "time_outs", "lost_answers"):
            print(f"  {name}: {dict(getattr(flaky.counts, name))}")
        manifests = [read_manifest(f"{root}/audit", night["date"]) for night in plan["nights"]]
        print(f"Repeated by the job: {[one['storage_retries'] for one in manifests]} by night.")
        found = differences(plan, f"{root}/audit")
    for sentence in found:
        print(f"DIFFERENCE {sentence}")
    print(f"{len(found)} differences" if found else "Everything is as it was planted.")
    if found:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
