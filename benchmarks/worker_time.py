"""What a GPU worker's own processor does for a picture, with models that return at once.

    python -m benchmarks.worker_time

A GPU waits while its worker's processor is at work. The stages of the ``base`` profile run here on
decoded pictures as they do in a worker, all but the towers, the search and the resizing that a GPU
does: these return zeros. Random weights, pictures of the sizes that the real models read. Decoding,
which runs in tasks, is timed as it is, and says how many processors feed a GPU.
"""

from __future__ import annotations

import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pyarrow as pa
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_speed import photographs, public_profile
from benchmarks.machine import machine
from item.captioning import NoCaptions
from item.models.open_clip import device_crops
from item.models.open_clip.preprocessing import OpenClipFit
from item.profiles import Profile
from item.tables import Status
from pipelines.featurize.steps import stages
from pipelines.runtime.stages import Stage, run_stage

BATCH = 128
TOKENS = 12
AIMS = {"embeddings alone": 0.5, "everything": 3.0}
"""Milliseconds of a worker's processor for a picture (issue 17)."""
WORKERS = ("caption", "findobjects", "embed", "embedimages")
"""Stages that run in GPU workers, by name."""


def main(
    batches: Annotated[int, typer.Option(help="Of 128 pictures, after one that warms up.")] = 4,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure milliseconds of processor time a picture, and bytes that are copied, by stage."""
    torch.set_num_threads(1)  # as in a Ray worker of one CPU
    found: dict[str, Any] = {"machine": machine(), "batch": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        profile = public_profile(Path(folder), "thin")
        alone = profile.model_copy(update={"captioner": NoCaptions(model="none")})
        for name, chosen in (("embeddings alone", alone), ("everything", profile)):
            found[name] = measured(chosen, batches)
            found[name]["worker, ms"] = round(
                sum(found[name]["ms"].get(stage, 0.0) for stage in WORKERS), 3
            )
            found[name]["aim, ms"] = AIMS[name]
    _tell(found)
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


def measured(profile: Profile, batches: int) -> dict[str, Any]:
    """Milliseconds and copied bytes of a picture, by stage."""
    method = stages(profile)
    for stage in method:
        stage.set_up()
        _hollow(stage)
    milliseconds: dict[str, float] = {}
    copied: dict[str, float] = {}
    for number in range(batches + 1):
        table = _batch(number)
        for stage in method:
            table, seconds, size = _run(stage, table)
            if number:
                share = 1 / (batches * BATCH)
                milliseconds[stage.name] = milliseconds.get(stage.name, 0) + 1000 * seconds * share
                copied[stage.name] = copied.get(stage.name, 0) + size * share
    return {
        "ms": {name: round(value, 3) for name, value in milliseconds.items()},
        "kB newly allocated": {name: round(value / 1000, 1) for name, value in copied.items()},
    }


def _batch(number: int) -> pa.Table:
    files = photographs(BATCH * (number + 1))[-BATCH:]
    return pa.table(
        {
            "uri": [f"{number}-{place}.jpg" for place in range(BATCH)],
            "date": ["2026-01-01"] * BATCH,
            "occurrence": pa.array([0] * BATCH, pa.int32()),
            "bytes": pa.array(files, pa.binary()),
            "captions": pa.nulls(BATCH, pa.list_(pa.string())),
            "status": [Status.OK] * BATCH,
            "error_code": pa.nulls(BATCH, pa.string()),
            "error_message": pa.nulls(BATCH, pa.string()),
        }
    )


def _run(stage: Stage, table: pa.Table) -> tuple[pa.Table, float, int]:
    """A batch through a stage: the result, seconds of the processor, bytes at the most."""
    started = time.process_time()
    result = run_stage(stage, table)
    seconds = time.process_time() - started
    pool = pa.default_memory_pool()
    tracemalloc.start()
    before = pool.total_bytes_allocated()
    run_stage(stage, table)  # once more: watching memory takes time
    size = tracemalloc.get_traced_memory()[1] + pool.total_bytes_allocated() - before
    tracemalloc.stop()
    return result, seconds, size


# What a GPU does


def _hollow(stage: Stage) -> None:
    """Put models that return at once in the place of a stage's."""
    if captioner := getattr(stage, "captioner", None):
        captioner._model.generate = _sentences(captioner)
        captioner._pixels = lambda pixels: pixels[:, 0, 0, 0]
    if encoder := getattr(stage, "encoder", None):
        width = encoder.dimensions + encoder._half
        encoder._tower_rows = _rows(width)
        encoder._text_rows = _rows(encoder.dimensions)
        encoder.cuts_on_device = True
        device_crops._cut = _blank
    if finder := getattr(stage, "finder", None):
        detector = finder.grounder.detector
        detector._images = lambda images, **_: {"pixel_values": torch.zeros(len(images))}
        detector.model = _Boxes()


def _rows(width: int) -> Callable[[Sequence[Any]], Sequence[torch.Tensor]]:
    row = torch.nn.functional.normalize(torch.ones(width), dim=0)
    return lambda inputs: [row] * len(inputs)


def _sentences(captioner: Any) -> Callable[..., torch.Tensor]:
    words = captioner._processor.tokenizer("dog on table and house beside boat")["input_ids"]

    def generate(pixel_values: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.tensor(words[:TOKENS]).expand(len(pixel_values), -1)

    return generate


def _blank(
    _pixels: torch.Tensor, _places: list[int], spans: Sequence[Any], fit: OpenClipFit
) -> torch.Tensor:
    return torch.zeros((len(spans), fit.height, fit.width, 3), dtype=torch.uint8)


class _Boxes:
    """A detector that finds every phrase in the first of 3600 places."""

    dtype = torch.float32

    def __call__(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, **_: Any) -> Any:
        count = len(pixel_values)
        return SimpleNamespace(
            logits=torch.zeros(count, 3600, len(input_ids) // count),
            pred_boxes=torch.full((count, 3600, 4), 0.5),
        )


def _tell(found: dict[str, Any]) -> None:
    console = Console(width=110)
    for name in AIMS:
        one = found[name]
        title = f"{name}: {one['worker, ms']} ms in GPU workers (aim {one['aim, ms']})"
        table = Table("stage", "ms a picture", "kB newly allocated a picture", title=title)
        for stage, value in one["ms"].items():
            table.add_row(stage, f"{value}", f"{one['kB newly allocated'][stage]:,}")
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
