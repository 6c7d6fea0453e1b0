"""Embeddings alone, beside the script that one writes in an afternoon: open_clip and a DataLoader.

    python -m benchmarks.embedding_peers --images 2000

The same weights (random, made on the spot), the same JPEGs, float32 on a CPU and bfloat16 on a
GPU. The script has the files in memory, checks nothing, survives nothing, writes nothing. The job
reads Parquet, refuses what is no picture, hashes, fits, embeds and publishes. Both run in
processes of their own, one after the other.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import open_clip
import torch
import typer
import yaml
from PIL import Image
from rich.console import Console

from benchmarks.gpu_speed import photographs, write_dump
from benchmarks.machine import machine
from benchmarks.random_checkpoints import random_open_clip
from benchmarks.scale import featurize
from item.models.batching import device
from item.profiles import load_profile

BATCHES = (32, 128, 256)


def main(
    images: Annotated[int, typer.Option(help="Pictures.")] = 2000,
    architecture: Annotated[str, typer.Option(help="One of open_clip's.")] = "ViT-B-32",
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    script: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure images a second of the job and of a DataLoader script."""
    if script:
        print(json.dumps(loader(script, images)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        weights = random_open_clip(place / "clip", architecture)
        found: dict[str, Any] = {"machine": machine(), "images": images}
        found["script"] = _apart(weights, images)
        write_dump(place / "dump", images)
        profile = place / "profile.yaml"
        profile.write_text(yaml.safe_dump(embedding_profile(weights)))
        started = time.monotonic()
        found["job"] = featurize(place / "dump", place / "features", profile)
        found["job"]["images a second with start"] = round(images / (time.monotonic() - started), 2)
    Console().print(found)
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


def embedding_profile(weights: Path) -> dict[str, Any]:
    """A profile that embeds and does nothing else, on the device that there is."""
    config = json.loads((weights / "open_clip_config.json").read_text())
    values = load_profile("base").model_dump(mode="json")
    values |= {"name": "embeddings", "captioner": {"model": "none"}}
    values["clip"] |= {
        "files": {"source": str(weights)},
        "dimensions": config["model_cfg"]["embed_dim"],
        "layers": 0,
        "precision": "bfloat16" if device().type == "cuda" else "float32",
    }
    if device().type != "cuda":
        values["resources"]["decode"]["cpus"] = 0.25
        cpu = {"cpus": 0.5, "gpus": 0.0, "workers_per_cpu": 1.0, "workers_per_gpu": None}
        values["resources"]["embed"] |= cpu
    return values


def _apart(weights: Path, images: int) -> dict[str, Any]:
    """The script in a process of its own; with everything from its start to its end."""
    command = [sys.executable, "-m", "benchmarks.embedding_peers"]
    started = time.monotonic()
    done = subprocess.run(
        [*command, "--images", str(images), "--script", str(weights)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.monotonic() - started
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds of all batch sizes, with start": round(seconds, 1)}


def loader(weights: Path, images: int) -> dict[str, Any]:
    """The script: images a second after the first batch, and with the start of its workers."""
    files = photographs(images)
    model, _, fit = open_clip.create_model_and_transforms(f"local-dir:{weights}")
    kind = torch.bfloat16 if device().type == "cuda" else torch.float32
    model = model.eval().to(device(), dtype=kind)

    class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, place: int) -> torch.Tensor:
            picture: torch.Tensor = fit(Image.open(io.BytesIO(files[place])).convert("RGB"))
            return picture

    workers = max((os.cpu_count() or 2) - 1, 1)
    found = {}
    for size in BATCHES:
        batches = torch.utils.data.DataLoader(
            Pictures(),
            batch_size=size,
            num_workers=workers,
            pin_memory=device().type == "cuda",
        )
        started = time.perf_counter()
        first, of_first, done = 0.0, 0, 0
        with torch.inference_mode():
            for batch in batches:
                rows = model.encode_image(batch.to(device(), dtype=kind, non_blocking=True))
                done += len(batch)
                if not of_first:
                    first, of_first = time.perf_counter(), done
            rows.cpu()
        ended = time.perf_counter()
        found[f"batches of {size}"] = {
            "after the first batch": round((done - of_first) / (ended - first), 1),
            "from the first picture": round(done / (ended - started), 1),
        }
    return found


if __name__ == "__main__":
    typer.run(main)
