"""The pipeline beside a plain loop over the same models, on the same images.

    python benchmarks/throughput.py --data detection/ --images 1000
    python benchmarks/throughput.py --data detection/ --images 4000 --no-loop

The loop is what a person writes without Ray: one process, batches, all cores for each
model in turn. Both sides run the same stages on the same machine, one after the other;
start-up (imports, models, workers) is reported apart.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from item.profiles import load_profile
from item.tables import IMAGES, as_features
from pipelines.featurize.steps import stages
from pipelines.runtime.stages import run_stage

BATCH = 32


def main(
    data: Annotated[Path, typer.Option(help="Folder of Parquet with uri and bytes.")],
    images: Annotated[int, typer.Option(help="How many images, drawn with a fixed seed.")] = 1000,
    loop: Annotated[bool, typer.Option(help="Run the plain loop too.")] = True,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure images a second and peak memory of the pipeline and of a plain loop."""
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder, "images.parquet")
        pq.write_table(_drawn(data, images), sample)
        found: dict[str, Any] = {"machine": machine(), "images": images}
        if loop:
            found["loop"] = _in_another_process(sample)
        found["pipeline"] = _pipeline(sample, Path(folder, "features"))
    if loop:
        speeds = [found[side]["images_per_second"] for side in ("pipeline", "loop")]
        found["ratio"] = round(speeds[0] / speeds[1], 3)
    _show(found)
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


def plain_loop(sample: Path) -> dict[str, Any]:
    """The same stages in one process, batch after batch; torch takes all cores."""
    started = time.perf_counter()
    torch.set_num_threads(os.cpu_count() or 1)
    steps = stages(load_profile("mini"))
    for step in steps:
        step.set_up()
    ready = time.perf_counter()
    rows = _as_images(pq.read_table(sample))
    seconds: dict[str, float] = {}
    done = []
    for start in range(0, len(rows), BATCH):
        batch = rows.slice(start, BATCH)
        for step in steps:
            begun = time.perf_counter()
            batch = run_stage(step, batch)
            seconds[step.name] = seconds.get(step.name, 0.0) + time.perf_counter() - begun
        done.append(as_features(batch, load_profile("mini").dimensions))
    pq.write_table(pa.concat_tables(done), sample.with_name("loop.parquet"), compression="zstd")
    total = time.perf_counter() - ready
    return {
        "images_per_second": round(len(rows) / total, 3),
        "start_up_seconds": round(ready - started, 3),
        "seconds": round(total, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "stages": {name: round(len(rows) / spent, 2) for name, spent in seconds.items()},
    }


def _in_another_process(sample: Path) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(plain_loop, (sample,))


def _pipeline(sample: Path, output: Path) -> dict[str, Any]:
    command = [sys.executable, "jobs/featurize.py", "--input", str(sample), "--output", str(output)]
    subprocess.run(command, check=True)
    (manifest,) = output.glob("_runs/*.json")
    found = json.loads(manifest.read_text())
    names = ("images_per_second", "start_up_seconds", "seconds", "peak_memory_bytes")
    speeds = {one["stage"]: one["images_per_second"] for one in found["stages"]}
    return {
        **{name: found[name] for name in names},
        "rows": found["rows"],
        "stages": speeds,
        "workers": {one["stage"]: one["workers"] for one in found["stages"]},
    }


def _drawn(data: Path, images: int) -> pa.Table:
    table = pa.concat_tables(
        pq.read_table(file, columns=["uri", "bytes"]) for file in sorted(data.glob("*.parquet"))
    )
    order = np.random.default_rng(0).permutation(len(table))[:images]
    return table.take(order)


def _as_images(table: pa.Table) -> pa.Table:
    rows = [{**row, "occurrence": 0, "date": "-", "status": "ok"} for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=IMAGES)


def _show(found: dict[str, Any]) -> None:
    sides = [side for side in ("loop", "pipeline") if side in found]
    table = Table("", *sides, title=f"{found['images']} images, {found['machine']}")
    rows = {
        "images/s": lambda side: f"{side['images_per_second']:.2f}",
        "start-up, s": lambda side: f"{side['start_up_seconds']:.1f}",
        "peak memory, GB": lambda side: f"{side['peak_memory_bytes'] / 1e9:.2f}",
    }
    for name in found[sides[0]]["stages"]:
        rows[f"{name}, images/s a worker"] = lambda side, n=name: f"{side['stages'][n]:.1f}"
    for title, cell in rows.items():
        table.add_row(title, *(cell(found[side]) for side in sides))
    Console(width=120).print(table)
    if "ratio" in found:
        print(f"pipeline / loop = {found['ratio']}")


if __name__ == "__main__":
    typer.run(main)
