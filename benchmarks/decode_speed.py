"""How fast JPEGs are decoded at bounded size, beside Pillow as people use it.

    python -m benchmarks.decode_speed --output decode_speed.json

The pictures are generated: smooth gradients, edges and grain at quality 90, so that their files
are about as large as photographs' of the same size. Both sides run in one thread, in turn, in
the same run: `item.images.decode.decode` with the default settings except for ``--max-side``, and
``Image.open(...).convert("RGB").resize(...)`` to the same size with the same filter. What
``decode`` does beside (checks of the file, orientation, estimate of the quality) is part of
its time.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import PIL
import PIL.Image
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from item.images.decode import Decoding, decode

SIZES = {0.3: (640, 480), 3.0: (2048, 1536), 12.0: (4000, 3000)}
"""Width and height by megapixels."""
QUALITY = 90
DIFFERENT = 4
"""Pictures of each size: the time depends on their content."""


def main(
    seconds: Annotated[float, typer.Option(help="Time for each size and side.")] = 5.0,
    max_side: Annotated[int, typer.Option(help="Pixels of the longer side.")] = 512,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure images and megapixels a second on one core, of decode and of plain Pillow."""
    decoding = Decoding(max_side=max_side)
    found: dict[str, Any] = {
        "machine": {**machine(), "pillow": PIL.__version__},
        "max_side": max_side,
        "quality": QUALITY,
        "sizes": [measure(megapixels, decoding, seconds) for megapixels in SIZES],
    }
    show(found)
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


def measure(megapixels: float, decoding: Decoding, seconds: float) -> dict[str, Any]:
    """Speeds of both sides for one size, measured in turns so that a busy machine hits both."""
    width, height = SIZES[megapixels]
    files = [photo_like(width, height, seed) for seed in range(DIFFERENT)]
    scale = min(1.0, decoding.max_side / max(width, height))
    size = (round(width * scale), round(height * scale))
    sides: dict[str, Callable[[bytes], np.ndarray]] = {
        "decode": lambda data: decode(data, decoding).pixels,
        "pillow": lambda data: plain(data, size),
    }
    spent, done = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
    for name, run in sides.items():
        shape = run(files[0]).shape
        if shape != (size[1], size[0], 3):
            raise RuntimeError(f"{name} gives pictures of {shape}, not {size}")
    while min(spent.values()) < seconds:
        for name, run in sides.items():
            started = time.perf_counter()
            for data in files:
                run(data)
            spent[name] += time.perf_counter() - started
            done[name] += len(files)
    speeds = {name: done[name] / spent[name] for name in sides}
    true_megapixels = width * height / 1e6
    return {
        "megapixels": round(true_megapixels, 3),
        "file_bytes": round(sum(map(len, files)) / len(files)),
        **{
            name: {
                "images_per_second": round(speed, 2),
                "megapixels_per_second": round(speed * true_megapixels, 1),
            }
            for name, speed in speeds.items()
        },
        "ratio": round(speeds["decode"] / speeds["pillow"], 3),
    }


def plain(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """A JPEG decoded at full size and then shrunk; `size` is width and height."""
    with PIL.Image.open(io.BytesIO(data)) as file:
        return np.asarray(file.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC))


def photo_like(width: int, height: int, seed: int) -> bytes:
    """A JPEG with light that falls off, a few shapes with edges, texture and grain.

    Returns
    -------
    The file, of 0.2 to 0.25 bytes a pixel.
    """
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, width, dtype=np.float32)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    light = np.empty((height, width, 3), np.float32)
    for channel, (across, down, start) in enumerate(rng.uniform(-60, 60, (3, 3))):
        light[..., channel] = 128 + start / 3 + across * x + down * y
    for _ in range(12):
        middle_x, middle_y, radius = rng.uniform(0.05, 0.95, 3) * (1, 1, 0.3)
        inside = (x - middle_x) ** 2 + (y - middle_y) ** 2 < radius**2
        light[inside] += rng.uniform(-70, 70, 3).astype(np.float32)
    coarse = rng.normal(0, 7, (height // 4 + 1, width // 4 + 1, 1)).astype(np.float32)
    light += coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    light += rng.normal(0, 2.5, (height, width, 1)).astype(np.float32)
    file = io.BytesIO()
    pixels = light.clip(0, 255).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def show(found: dict[str, Any]) -> None:
    """The figures as a table."""
    machine_line = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    table = Table(
        *("megapixels", "file, kB", "decode, images/s", "Pillow, images/s"),
        *("decode, MP/s", "Pillow, MP/s", "ratio"),
        title=f"JPEG to {found['max_side']} pixels, one core of {machine_line}",
    )
    for row in found["sizes"]:
        table.add_row(
            f"{row['megapixels']:.1f}",
            f"{row['file_bytes'] / 1e3:,.0f}",
            *(f"{row[side]['images_per_second']:,.1f}" for side in ("decode", "pillow")),
            *(f"{row[side]['megapixels_per_second']:,.0f}" for side in ("decode", "pillow")),
            f"{row['ratio']:.2f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
