"""How a run behaves as its dump grows, and as its cluster does.

    python -m benchmarks.scale rows --rows 1000 --rows 10000 --rows 100000
    python -m benchmarks.scale nodes --nodes 1 --nodes 2 --nodes 4

``rows`` sends small generated JPEGs, no two alike, through ``jobs/featurize.py`` with members that
cost next to nothing (benchmarks/cheap_members.py): what is measured is reading, decoding, the
phrases, the tables and Ray. ``nodes`` is a **simulation** on one machine: Ray's local `Cluster`,
whose nodes have two CPUs and a GPU each on paper, and a captioner that waits instead of computing,
as one on a GPU leaves the CPU idle. It shows where workers go and whether nodes add up, not how
fast real ones are.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
import yaml
from PIL import Image
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from benchmarks.cheap_members import PooledEncoder
from benchmarks.machine import machine
from item.profiles import load_profile

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS_IN_FILE = 10_000
SMALL, USUAL = (96, 72), (384, 288)
"""Width and height of the pictures of ``rows`` and of ``nodes``."""
SECONDS_A_PICTURE = 0.05
"""Waited by the captioner of ``nodes``: at most 20 images a second and worker."""
FACTS = ("images_per_second", "start_up_seconds", "seconds", "peak_memory_bytes")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def rows(
    rows: Annotated[list[int], typer.Option(help="Sizes of the dump.")] = [1000, 10_000, 100_000],  # noqa: B006
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Time and peak memory as the dump grows."""
    found: dict[str, Any] = {"machine": machine(), "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        profile = cheap_profile(Path(folder, "cheap.yaml"))
        for number in rows:
            dump = write_dump(Path(folder, f"dump-{number}"), number, SMALL)
            run = {"rows": number} | featurize(dump, Path(folder, f"out-{number}"), profile)
            found["runs"].append(run)
    found |= summary(found["runs"])
    table = Table("rows", "images/s", "start-up, s", "whole run, s", "peak memory, GB")
    for run in found["runs"]:
        table.add_row(
            f"{run['rows']:,}",
            f"{run['images_per_second']:.0f}",
            f"{run['start_up_seconds']:.1f}",
            f"{run['seconds']:.0f}",
            f"{run['peak_memory_bytes'] / 1e9:.2f}",
        )
    _tell(found, table, output)
    print(f"Images a second: largest deviation from the mean {found['deviation']:.1%}.")
    print(f"Peak memory of the largest run, of the smallest: {found['memory_growth']:.2f} times.")


@app.command()
def nodes(
    nodes: Annotated[list[int], typer.Option(help="Sizes of the cluster.")] = [1, 2, 4],  # noqa: B006
    images: Annotated[int, typer.Option(help="Pictures for each node.")] = 1600,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Where the workers go, and images a second, as a simulated cluster and its dump grow."""
    found: dict[str, Any] = {"machine": machine(), "simulated": True, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in nodes:
            dump = write_dump(Path(folder, f"dump-{number}"), images * number, USUAL)
            record = Path(folder, f"workers-{number}")
            record.mkdir()
            profile = cheap_profile(
                Path(folder, f"waiting-{number}.yaml"), gpus=1.0, record=str(record)
            )
            with simulated(number) as address:
                run = featurize(dump, Path(folder, f"out-{number}"), profile, address)
            pictures = by_node(record)
            found["runs"].append({"nodes": number, "pictures_by_node": pictures} | run)
    first = found["runs"][0]["images_per_second"]
    table = Table("nodes", "images/s", "ratio", "nodes with a captioner", "pictures by node")
    for run in found["runs"]:
        run["ratio"] = round(run["images_per_second"] / first, 2)
        table.add_row(
            str(run["nodes"]),
            f"{run['images_per_second']:.1f}",
            f"{run['ratio']:.2f}",
            str(len(run["pictures_by_node"])),
            ", ".join(map(str, run["pictures_by_node"])),
        )
    _tell(found, table, output)
    print("Simulated on one machine: nodes, CPUs and GPUs exist on paper, the captioner waits.")


def cheap_profile(path: Path, gpus: float = 0.0, record: str | None = None) -> Path:
    """Write a profile of cheap members.

    Parameters
    ----------
    path : of the YAML file
    gpus : of a captioner's worker; above 0 there is one to a GPU, and it waits
    record : folder where captioners write how many pictures they had
    """
    load = "benchmarks.cheap_members:"
    values = load_profile("mini").model_dump(mode="json")
    values |= {
        "name": "cheap",
        "captioner": {
            "model": "custom",
            "load": f"{load}ColourCaptioner",
            "revision": "1",
            "options": {"seconds": SECONDS_A_PICTURE if gpus else 0.0, "record": record},
        },
        "grounder": {"scales": [0.67], "overlap": 0.5, "threshold": 0.25},
        "clip": {
            "model": "custom",
            "load": f"{load}PooledEncoder",
            "revision": "1",
            "dimensions": PooledEncoder.dimensions,
        },
    }
    if gpus:
        # Phrases, crops and embedding are in the captioner's worker.
        own = {"cpus": 0.5, "gpus": gpus, "workers_per_cpu": None, "workers_per_gpu": 1.0}
        for stage in ("caption", "objects", "embed"):
            values["resources"][stage] |= own
    path.write_text(yaml.safe_dump(values))
    return path


class simulated:  # noqa: N801 - used as a context manager
    """Ray's local cluster of so many nodes; entering gives its address."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> str:
        node = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 300 << 20}
        # Ray hides GPUs that a worker was not given; here there is none to hide.
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        self.cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            for _ in range(self.number - 1):
                self.cluster.add_node(**node)
            self.cluster.wait_for_nodes()
        except BaseException:
            self.cluster.shutdown()
            raise
        return str(self.cluster.address)

    def __exit__(self, *_: object) -> None:
        self.cluster.shutdown()


def featurize(
    dump: Path, output: Path, profile: Path, address: str | None = None
) -> dict[str, Any]:
    """Run the job in a process of its own; what its manifest says."""
    command = [sys.executable, "jobs/featurize.py", "--profile", str(profile)]
    command += ["--input", str(dump), "--output", str(output)]
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    if address:
        environment |= {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    subprocess.run(command, check=True, cwd=REPOSITORY, env=environment)
    [file] = output.glob("_runs/*.json")
    manifest = json.loads(file.read_text())
    stages = {one["stage"]: one["images_per_second"] for one in manifest["stages"]}
    workers = {one["stage"]: one["workers"] for one in manifest["stages"]}
    facts = {name: manifest[name] for name in FACTS}
    return facts | {"stages": stages, "workers": workers}


def write_dump(folder: Path, number: int, size: tuple[int, int]) -> Path:
    """Parquet files of JPEGs, no two alike; `size` is width and height."""
    folder.mkdir()
    for start in range(0, number, ROWS_IN_FILE):
        numbers = range(start, min(start + ROWS_IN_FILE, number))
        uris = [f"generated/{one:07}.jpg" for one in numbers]
        files = [generated(one, size) for one in numbers]
        table = pa.table({"uri": uris, "bytes": pa.array(files, pa.binary())})
        pq.write_table(table, folder / f"{start:07}.parquet", row_group_size=500)
    return folder


def generated(seed: int, size: tuple[int, int]) -> bytes:
    """A JPEG of smooth colours; `size` is width and height."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(file, "JPEG", quality=90)
    return file.getvalue()


def by_node(record: Path) -> list[int]:
    """Pictures that the captioners of each node had, most first."""
    pictures: Counter[str] = Counter()
    for file in record.iterdir():
        pictures[file.name.partition("-")[0]] += int(file.read_text())
    return sorted(pictures.values(), reverse=True)


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Largest deviation of the speeds from their mean, and how far memory grows."""
    speeds = np.array([run["images_per_second"] for run in runs])
    ordered = sorted(runs, key=lambda run: run["rows"])
    memory = [run["peak_memory_bytes"] for run in ordered]
    deviation = float(np.abs(speeds / speeds.mean() - 1).max())
    return {"deviation": round(deviation, 4), "memory_growth": round(memory[-1] / memory[0], 3)}


def _tell(found: dict[str, Any], table: Table, output: Path | None) -> None:
    table.title = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    Console(width=120).print(table)
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app()
