"""How fast a head trains on many rows: one worker, then two, on the same rows.

    python benchmarks/training_speed.py --output training_speed.json

The rows are synthetic but of the true schema, in a temporary folder: 2.3 KB each at 384
dimensions. The first epoch of each stage, in which workers warm up, is not counted.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from numpy.typing import NDArray

from item.heads.columns import Group, fit_statistics
from item.heads.fitting import validation_rows
from item.heads.settings import HeadSettings, Kind, balanced_weights
from item.tables import FEATURES, LAYERS, SCHEMA_VERSION, STORED_EMBEDDING
from pipelines.runtime.start import start_ray
from pipelines.storage.configuration import Storage
from pipelines.train.progress import Bulletin, TrainingProgress
from pipelines.train.rows import read_labelled
from pipelines.train.split import split
from pipelines.train.workers import Workers, train, training_dataset

ROWS_IN_FILE = 10_000
ROWS_IN_MEMORY = 20_000


def main(
    rows: Annotated[int, typer.Option(help="Rows of the table.")] = 1_000_000,
    dimensions: Annotated[int, typer.Option(help="Length of an embedding.")] = 384,
    epochs: Annotated[int, typer.Option(help="Of each stage.", min=2)] = 3,
    batch_size: Annotated[int, typer.Option(help="Rows of a step, of all workers.")] = 4096,
    workers: Annotated[str, typer.Option(help="Numbers of workers, one after the other.")] = "1,2",
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure rows a second of one worker and of two, and their ratio."""
    numbers = [int(number) for number in workers.split(",")]
    settings = HeadSettings(
        kind=Kind.MLP,
        groups=(Group.GLOBAL_RESIDUAL, Group.LOCAL_RESIDUAL),
        epochs=epochs,
        patience=epochs,
        batch_size=batch_size,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), rows, dimensions, settings, numbers)
    first = found["runs"][0]["rows_per_second"]
    for run in found["runs"]:
        run["ratio_to_first"] = round(run["rows_per_second"] / first, 3)
        print(
            f"{run['workers']} workers: {run['rows_per_second']:,.0f} rows/s, "
            f"{run['ratio_to_first']} of the first, AUROC {run['auroc']:.4f}"
        )
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


def measure(
    folder: Path, rows: int, dimensions: int, settings: HeadSettings, numbers: list[int]
) -> dict[str, Any]:
    """Write rows, prepare them once, and train with each number of workers."""
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        seconds[name] = round(time.perf_counter() - clock, 2)
        clock = time.perf_counter()

    for number, start in enumerate(range(0, rows, ROWS_IN_FILE)):
        table = synthetic(min(ROWS_IN_FILE, rows - start), dimensions, number)
        pq.write_table(table, folder / f"part-{number:05}.parquet", compression="zstd")
    lap("writing")
    labelled = read_labelled([str(folder)], Storage())
    lap("checking")
    parts = split(labelled, settings.seed)
    sample = parts.training[:: max(1, len(parts.training) // ROWS_IN_MEMORY)]
    held_out = parts.validation[:ROWS_IN_MEMORY]
    labels = labelled.labels
    statistics = fit_statistics(
        labelled.arrays(sample),
        labels[sample],
        settings.groups,
        settings.centred,
        settings.whitened,
    )
    validation = validation_rows(labelled.arrays(held_out), labels[held_out], settings, statistics)
    weights = balanced_weights(
        labels[parts.training], labelled.origins()[parts.training], settings.balance
    )
    lap("statistics")
    start_ray(object_store_gb=4.0, preserve_order=True)
    lap("starting Ray")
    data = training_dataset(labelled, parts.training, weights, settings, statistics)
    lap("standardising and shuffling")
    runs = []
    for number in numbers:
        team = Workers(number, 0.5, False, 0, f"{number}", str(folder / "_runs"), Storage())
        bulletin = Bulletin.remote()  # type: ignore[attr-defined]
        with TrainingProgress(bulletin):
            trained = train(data, validation, settings, dimensions, team, bulletin)
        counted = [
            speed
            for speed, epoch in zip(trained.rows_per_second, trained.history, strict=True)
            if epoch.number > 1
        ]
        best = max(epoch.measure.auroc for epoch in trained.history if epoch.measure)
        runs.append(
            {
                "workers": number,
                # Every epoch has as many rows: the mean speed is the harmonic one.
                "rows_per_second": round(len(counted) / sum(1 / one for one in counted), 1),
                "by_epoch": [round(one, 1) for one in trained.rows_per_second],
                "auroc": best,
            }
        )
        lap(f"training with {number}")
    return {
        "machine": {"cores": os.cpu_count(), "torch": torch.__version__},
        "rows": rows,
        "training_rows": len(parts.training),
        "dimensions": dimensions,
        "settings": settings.model_dump(mode="json"),
        "seconds": seconds,
        "runs": runs,
    }


def synthetic(rows: int, dimensions: int, seed: int, layers: int = 0) -> pa.Table:
    """Rows of the true schema; a generated one fits its caption and objects a little worse.

    Parameters
    ----------
    layers : length of the column ``layers``; 0 leaves it null
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, rows)
    image = _units(rng, rows, dimensions)
    columns: dict[str, Any] = {
        "label": label,
        "generator": [f"generator-{rng.integers(4)}" if one else None for one in label],
        "uri": [f"{seed}/{row}.jpg" for row in range(rows)],
        "image_id": [f"{seed}-{row}" for row in range(rows)],
        "status": ["ok"] * rows,
        "caption": ["a picture of a thing"] * rows,
        "format": ["jpeg"] * rows,
        "width": np.full(rows, 512),
        "height": np.full(rows, 512),
        "byte_count": np.full(rows, 40_000),
    }
    for name in ("global", "local"):
        difference = image - _units(rng, rows, dimensions)
        difference[:, :8] += 0.02 * label[:, np.newaxis]
        columns[f"{name}_misalignment"] = difference
        columns[f"{name}_similarity"] = 1 - (difference**2).sum(axis=1) / 2
    arrays = []
    for field in FEATURES:
        values = columns.get(field.name)
        if field.name == LAYERS:
            seen = rng.standard_normal((rows, layers), np.float32).astype(np.float16)
            values = list(seen) if layers else [None] * rows
            arrays.append(pa.array(values, field.type))
        elif field.type == STORED_EMBEDDING:
            flat = pa.array((image if values is None else values).astype(np.float16).ravel())
            ends = pa.array(np.arange(rows + 1) * dimensions, pa.int32())
            arrays.append(pa.ListArray.from_arrays(ends, flat))
        elif values is None and pa.types.is_floating(field.type) and field.name != "jpeg_quality":
            arrays.append(pa.array(rng.normal(size=rows), field.type))
        elif values is None and field.name == "object_count":
            arrays.append(pa.array(rng.integers(0, 6, rows), field.type))
        else:
            arrays.append(pa.array([None] * rows if values is None else values, field.type))
    facts = {"item.feature_set_id": '"synthetic"', "item.schema_version": str(SCHEMA_VERSION)}
    return pa.Table.from_arrays(arrays, schema=FEATURES.with_metadata(facts))


def _units(rng: np.random.Generator, rows: int, dimensions: int) -> NDArray[np.float32]:
    found = rng.standard_normal((rows, dimensions), np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


if __name__ == "__main__":
    typer.run(main)
