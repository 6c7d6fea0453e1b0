"""How fast a features table is scored, beside a bare read and a bare forward of the same rows.

    python -m benchmarks.scoring_speed --output scoring_speed.json

The rows are synthetic but of the true schema, in a temporary folder. The read is pandas' of
the columns that scoring needs; the forward is the arithmetic of the head that ships, written
in torch on arrays that are in memory already. Scoring does both, and finds words, sentences
and the weakest object, and writes the scores: its time is compared with the sum of the two.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer

from benchmarks.training_speed import synthetic
from item.heads.columns import Group
from item.heads.head import Head
from item.heads.settings import Kind
from item.mini import HEAD
from item.tables import LAYERS, OBJECT, SCHEMA_VERSION, encoded
from pipelines.runtime.start import start_ray
from pipelines.score.configuration import ScoreConfiguration
from pipelines.score.job import COLUMNS, plan_scoring, run_scoring

ROWS_IN_GROUP = 1024
"""Of a features file, as featurizing leaves it."""
ROWS_IN_BATCH = 4096
NIGHT = "date=2026-01-31/night.parquet"
PHRASES = np.array(
    ["a black cat", "the red sofa", "two people", "a wooden table", "the window", "a street sign"]
)


def main(
    rows: Annotated[int, typer.Option(help="Rows of the table.")] = 200_000,
    repeats: Annotated[int, typer.Option(help="Times that all three are measured.")] = 3,
    cores: Annotated[int, typer.Option(help="Threads of read and forward, CPUs of Ray.")] = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure rows a second of scoring, of a bare read and of a bare forward."""
    pa.set_cpu_count(cores)
    torch.set_num_threads(cores)
    head = Head.load(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        features = Path(folder, "features")
        write_features(features, rows, head)
        runs = [measure(features, Path(folder, f"scores-{i}"), head, cores) for i in range(repeats)]
    found = {
        "machine": {"cores": os.cpu_count(), "torch": torch.__version__},
        "rows": rows,
        "head": head.head_id,
        "runs": runs,
    }
    for run in runs:
        speeds = {name: rows / run[f"{name}_seconds"] for name in ("read", "forward", "scoring")}
        told = ", ".join(f"{name} {speed:,.0f} rows/s" for name, speed in speeds.items())
        print(f"{told}: (read + forward) / scoring = {run['ratio']:.3f}")
    found["ratio"] = float(np.median([run["ratio"] for run in runs]))
    print(f"median ratio {found['ratio']:.3f}")
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


def measure(features: Path, scores: Path, head: Head, cores: int) -> dict[str, Any]:
    """Read, forward and scoring of the same rows, one after the other."""
    started = time.perf_counter()
    pd.read_parquet(features, columns=[*COLUMNS, LAYERS])
    read_seconds = time.perf_counter() - started
    forward_seconds = _forward_seconds(features, head)
    start_ray(ScoreConfiguration.model_fields["object_store_gb"].default)
    configuration = ScoreConfiguration(input=str(features), output=str(scores), workers=cores)
    manifest = run_scoring(plan_scoring(configuration))
    scoring_seconds = manifest["seconds"] - manifest["start_up_seconds"]
    return {
        "read_seconds": round(read_seconds, 3),
        "forward_seconds": round(forward_seconds, 3),
        "scoring_seconds": round(scoring_seconds, 3),
        "start_up_seconds": manifest["start_up_seconds"],
        "peak_memory_bytes": manifest["peak_memory_bytes"],
        "ratio": round((read_seconds + forward_seconds) / scoring_seconds, 4),
    }


def forward(head: Head, arrays: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (n,) and whether a picture is unfamiliar (n,), as the head that ships finds them.

    Parameters
    ----------
    head : of the kind ``kernel``, on layers
    arrays : ``image_embedding`` (n, d) and ``layers`` (n, layers), float32
    """
    settings, statistics = head.description.settings, head.fitted.statistics
    if (settings.kind, settings.groups) != (Kind.KERNEL, (Group.LAYERS,)):
        raise ValueError("the forward is written for the head that ships with mini")
    model = {name: torch.from_numpy(x).double() for name, x in head.fitted.model.tensors().items()}
    mean, scale = torch.from_numpy(statistics.mean), torch.from_numpy(statistics.scale)
    space = {name: torch.from_numpy(x).double() for name, x in head.familiarity.tensors().items()}
    calibration = head.description.calibration
    scores, unfamiliar = [], []
    for first in range(0, len(arrays["layers"]), ROWS_IN_BATCH):
        image, layers = (
            arrays[name][first : first + ROWS_IN_BATCH] for name in ("image_embedding", "layers")
        )
        distances = torch.cdist(((layers - mean) / scale).double(), model["landmarks"])
        similar = torch.exp(-model["gammas"][0] * distances.square())
        logits = similar @ model["weights"][0, :-1] + model["weights"][0, -1]
        scores.append(torch.sigmoid(calibration.slope * logits + calibration.intercept))
        away = (image.double() - space["mean"]) @ space["whitening"]
        unfamiliar.append(away.norm(dim=1) > space["limit"])
    return torch.cat(scores), torch.cat(unfamiliar)


def write_features(root: Path, rows: int, head: Head) -> None:
    """A features table of one night, with captions and objects, that the head accepts."""
    (root / NIGHT).parent.mkdir(parents=True)
    facts = {
        "feature_set_id": head.description.feature_set_id,
        "schema_version": SCHEMA_VERSION,
        "file_id": "synthetic",
    }
    dimensions, layers = head.description.dimensions, head.description.layers
    writer = None
    for number, first in enumerate(range(0, rows, ROWS_IN_GROUP)):
        table = with_objects(
            synthetic(min(ROWS_IN_GROUP, rows - first), dimensions, number, layers), number
        )
        table = table.replace_schema_metadata(encoded(facts))
        writer = writer or pq.ParquetWriter(root / NIGHT, table.schema, compression="zstd")
        writer.write_table(table)
    if writer:
        writer.close()


def with_objects(table: pa.Table, seed: int) -> pa.Table:
    """The rows with up to five objects each, and captions that name them."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, len(table))
    offsets = np.concatenate([[0], counts.cumsum()])
    total = int(offsets[-1])
    phrases = rng.choice(PHRASES, total)
    corners = np.sort(rng.uniform(0, 512, (total, 2, 2)), axis=1).astype(np.float32)
    box = OBJECT.field("box").type
    values = {
        "phrase": pa.array(phrases, pa.string()),
        "box": pa.StructArray.from_arrays(list(corners.reshape(total, 4).T), fields=list(box)),
        "grounded": pa.array(rng.random(total) < 0.9),
    }
    for name in ("grounding_score", "similarity", "image_similarity"):
        values[name] = pa.array(rng.uniform(0.1, 0.4, total).astype(np.float32))
    objects = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.StructArray.from_arrays([values[field.name] for field in OBJECT], fields=list(OBJECT)),
    )
    captions = [
        " and ".join(phrases[start:stop]) or "a view" for start, stop in itertools.pairwise(offsets)
    ]
    for name, column in (
        ("objects", objects),
        ("caption", pa.array(captions)),
        ("object_count", pa.array(counts, pa.int32())),
    ):
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(place), column)
    return table


def _arrays(features: Path) -> dict[str, torch.Tensor]:
    names = ["image_embedding", "layers"]
    table = pq.read_table(features, columns=names)
    return {
        name: torch.from_numpy(
            table[name].combine_chunks().flatten().to_numpy().astype(np.float32)
        ).reshape(len(table), -1)
        for name in names
    }


def _forward_seconds(features: Path, head: Head) -> float:
    arrays = _arrays(features)
    started = time.perf_counter()
    forward(head, arrays)
    return time.perf_counter() - started


if __name__ == "__main__":
    typer.run(main)
