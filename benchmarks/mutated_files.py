"""Put many damaged image files through the decoder, and say what became of them.

    python -m benchmarks.mutated_files --files 100000

Files of every format that is decoded are cut, flipped in bits, overwritten, spliced and repeated at
random places. Each must give a picture or a reason; a crash ends its process, which is counted.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Annotated

import numpy as np
import PIL.Image
import typer
from rich.console import Console

from item.images.decode import Decoding, decode
from item.images.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
CHUNK = 1000
"""Files of one task; a crash costs the rest of its task."""


def originals(random: np.random.Generator) -> list[bytes]:
    """Whole files: plain, large, grey, transparent, animated, progressive, compressed."""
    files = []
    for size in ((64, 48), (300, 200)):
        pixels = random.integers(0, 256, (size[1] // 8, size[0] // 8, 4), dtype=np.uint8)
        rgba = PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC)
        for format in FORMATS:
            plain = rgba.convert("RGB")
            files += [_saved(plain, format), _saved(plain.convert("L"), format)]
            if format in ("PNG", "WEBP", "GIF", "AVIF"):
                files.append(_saved(rgba, format))
                files.append(_saved(plain, format, save_all=True, append_images=[plain] * 2))
        files.append(_saved(rgba.convert("RGB"), "JPEG", progressive=True))
        files.append(_saved(rgba.convert("CMYK"), "JPEG"))
        files += [_saved(rgba, "TIFF", compression=one) for one in ("tiff_lzw", "tiff_deflate")]
        files.append(_saved(rgba, "TIFF", big_tiff=True))
    return files


def _saved(picture: PIL.Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """A file with one to five kinds of damage."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 6))):
        if not data:
            break
        place = int(random.integers(0, len(data)))
        if random.random() < 0.4:
            place = int(random.integers(0, min(len(data), 200)))  # headers decide most
        length = int(random.integers(1, 64))
        match int(random.integers(0, 7)):
            case 0:
                del data[place:]
            case 1:
                data[place] ^= 1 << int(random.integers(0, 8))
            case 2:
                data[place : place + length] = random.bytes(length)
            case 3:
                data[place : place + 4] = random.choice([b"\0\0\0\0", b"\xff\xff\xff\xff"])
            case 4:
                data[place:place] = random.bytes(length)
            case 5:
                del data[place : place + length]
            case 6:
                data[place:place] = data[max(0, place - 500) : place]
    return bytes(data)


def chunk(seed: int, files: int) -> tuple[Counter[str], float, int]:
    """Decode some files; what became of them, the slowest in seconds, and peak memory in bytes."""
    random = np.random.default_rng(seed)
    whole = originals(np.random.default_rng(0))
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(files):
        data = mutated(whole[int(random.integers(0, len(whole)))], random)
        started = time.perf_counter()
        try:
            decode(data, Decoding())
            outcomes["a picture"] += 1
        except ImageError as error:
            outcomes[str(error.code) if error.message else "no reason"] += 1
        except Exception as error:
            outcomes[f"raised {type(error).__name__}"] += 1
        slowest = max(slowest, time.perf_counter() - started)
    return outcomes, slowest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(
    files: Annotated[int, typer.Option(help="How many.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
) -> None:
    """Count what becomes of damaged files."""
    started = time.monotonic()
    outcomes: Counter[str] = Counter()
    slowest, memory, crashes = 0.0, 0, 0
    spawn = multiprocessing.get_context("spawn")
    sizes = [min(CHUNK, files - first) for first in range(0, files, CHUNK)]
    left = {seed + number: size for number, size in enumerate(sizes)}
    while left:
        with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
            tasks = {pool.submit(chunk, number, count): number for number, count in left.items()}
            for task in as_completed(tasks):
                try:
                    found, seconds, peak = task.result()
                except BrokenProcessPool:
                    crashes += 1
                    left.pop(tasks[task], None)
                    break
                outcomes += found
                slowest, memory = max(slowest, seconds), max(memory, peak)
                del left[tasks[task]]
    raised = sum(
        number for what, number in outcomes.items() if what.startswith(("raised", "no reason"))
    )
    say = Console().print
    say(f"{outcomes.total():,} files in {time.monotonic() - started:.0f} s: {dict(outcomes)}")
    say(f"crashes {crashes}, errors without a reason {raised}")
    say(f"slowest {slowest * 1000:.0f} ms, peak memory of a process {memory / 1e6:.0f} MB")
    raise typer.Exit(1 if crashes or raised else 0)


if __name__ == "__main__":
    typer.run(main)
