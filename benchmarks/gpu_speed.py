"""How near the pipeline comes to what a GPU can do with the models of the ``base`` profile.

    python -m benchmarks.gpu_speed --images 4000 --output gpu_speed.json
    python -m benchmarks.gpu_speed --size tiny --images 40 --seconds 1      # anywhere, in a minute

Architectures are the real ones, weights are random, captions have 12 tokens: speed does not depend
on what a model knows. For CLIP ViT-L/14, BLIP base and OWLv2 base, in turn:

bare : the library's model on tensors that lie on the device: the roofline
adapter : the project's own class on decoded pictures, with resizing and transfer
loop : what people write today, a picture at a time: Pillow, the library's processor or pipeline

and then the whole job, embeddings alone and everything, from JPEGs in Parquet. On a GPU all is
in bfloat16 but the loop, which is in float32 as its libraries load models.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import transformers
import typer
import yaml
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.decode_speed import photo_like
from benchmarks.machine import machine
from benchmarks.random_checkpoints import Size, random_blip, random_clip, random_owlv2
from benchmarks.scale import featurize
from item.captioning import load_captioner
from item.embedding import load_dual_encoder
from item.images.decode import Decoding, decode
from item.models.batching import device
from item.models.detectors import Detector
from item.profiles import Profile, load_profile

TOKENS = 12
"""Of a caption: what BLIP usually says."""
PHRASES = ("dog", "table", "house")
PICTURE = (640, 480)
DIFFERENT = 64
"""Decoded pictures that adapters and loops work on."""
ROWS_IN_FILE = 1000
PUBLISHED = 312.0
"""Images a second of CLIP ViT-L/14 on an A100, embeddings alone, in clip-retrieval's README."""
AIMS = {
    "pipeline / all bare on one device": 0.9,
    "pipeline / loop": 10.0,
    "embeddings alone": 1000.0,
}
PARTS = ("clip", "blip", "owl", "embed", "pipeline")
PASSES = {"clip": 6, "blip": 1, "owl": 1}
"""Pictures that each model sees of one picture: CLIP the whole, four crops and an object."""

Run = Callable[[int], object]
"""Passes a number of pictures through a model."""


def main(
    size: Annotated[str, typer.Option(help="base or tiny.")] = "base",
    images: Annotated[int, typer.Option(help="Pictures of the whole job.")] = 4000,
    seconds: Annotated[float, typer.Option(help="Time for each bare model and adapter.")] = 10.0,
    parts: Annotated[str, typer.Option(help="Which, with commas.")] = ",".join(PARTS),
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure images a second, beside the bare models and beside a plain loop."""
    if size not in ("base", "tiny"):
        raise typer.BadParameter("size is base or tiny")
    chosen = parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise typer.BadParameter(f"there is no part {min(unknown)}: choose of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        profile = public_profile(place, "tiny" if size == "tiny" else "base")
        found: dict[str, Any] = {"machine": machine() | _gpu(), "size": size, "images": images}
        pictures = [decode(one, Decoding()).pixels for one in photographs(DIFFERENT)]
        for name, measure in (("clip", clip), ("blip", blip), ("owl", owl)):
            if name in chosen:
                found[name] = measure(profile, pictures, seconds)
                _keep(found, output)
        write_dump(place / "dump", images)
        for name, overrides in (("embed", {"captioner": {"model": "none"}}), ("pipeline", {})):
            if name in chosen:
                file = place / f"{name}.yaml"
                values = profile.model_dump(mode="json") | overrides
                file.write_text(yaml.safe_dump(values))
                with gpu_use() as use:
                    found[name] = featurize(place / "dump", place / name, file)
                found[name]["gpu"] = use
                _keep(found, output)
    _tell(found)


def _keep(found: dict[str, Any], output: Path | None) -> None:
    """Write what there is after every part: lent minutes end suddenly."""
    found["compared"] = compared(found)
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


def public_profile(folder: Path, size: Size) -> Profile:
    """The base profile with random weights, for the device that there is."""
    on_gpu = device().type == "cuda"
    values = load_profile("base").model_dump(mode="json")
    values["name"] = f"random-{size}"
    for member, write in (
        ("captioner", random_blip),
        ("grounder", random_owlv2),
        ("clip", random_clip),
    ):
        values[member]["files"] = {"source": str(write(folder / member, size))}
        values[member]["precision"] = "bfloat16" if on_gpu else "float32"
    values["captioner"] |= {"min_tokens": TOKENS, "max_tokens": TOKENS}
    values["grounder"]["threshold"] = 0.0  # random boxes count as found, as real ones do
    values["clip"]["dimensions"] = 768 if size == "base" else 24
    if not on_gpu:
        for stage in ("caption", "objects", "embed"):
            own = {"cpus": 0.3, "gpus": 0.0, "workers_per_cpu": 0.5, "most_workers": 1}
            values["resources"][stage] |= own
    return Profile.model_validate(values)


# One model at a time


def clip(profile: Profile, pictures: list[NDArray[np.uint8]], seconds: float) -> dict[str, Any]:
    """Images a second of the image tower."""
    folder = profile.clip.files.source
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model = model.eval().to(device())
    side = model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    found = {"loop": _loop(lambda image: _embed(model, preprocess, image), pictures)}
    model = model.to(dtype=_dtype(profile))
    pixels = torch.randn(512, 3, side, side, device=device(), dtype=_dtype(profile))
    found["bare"] = _fastest(model.encode_image, pixels, seconds)
    encoder = load_dual_encoder(profile.clip)
    found["adapter"] = _speed(lambda count: encoder.embed_images(_some(pictures, count)), seconds)
    return _rounded(found)


def blip(profile: Profile, pictures: list[NDArray[np.uint8]], seconds: float) -> dict[str, Any]:
    """Images a second of the captioner."""
    folder = profile.captioner.files.source
    search = {"num_beams": 3, "min_new_tokens": TOKENS, "max_new_tokens": TOKENS}
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.BlipForConditionalGeneration.from_pretrained(folder).to(device())
    found = {"loop": _loop(lambda image: _caption(model, processor, image, search), pictures)}
    model = model.to(_dtype(profile))
    side = model.config.vision_config.image_size
    pixels = torch.randn(256, 3, side, side, device=device(), dtype=_dtype(profile))
    found["bare"] = _fastest(
        lambda some: model.generate(pixel_values=some, **search), pixels, seconds
    )
    captioner = load_captioner(profile.captioner)
    found["adapter"] = _speed(lambda count: captioner.caption(_some(pictures, count)), seconds)
    return _rounded(found)


def owl(profile: Profile, pictures: list[NDArray[np.uint8]], seconds: float) -> dict[str, Any]:
    """Images a second of the detector, three phrases each."""
    folder = profile.grounder.files.source
    detect = transformers.pipeline(
        "zero-shot-object-detection", model=folder, device=str(device()), dtype=torch.float32
    )
    found = {"loop": _loop(lambda image: detect(image, candidate_labels=list(PHRASES)), pictures)}
    model = detect.model.to(_dtype(profile))
    side = model.config.vision_config.image_size
    texts = detect.tokenizer(list(PHRASES), padding="max_length", return_tensors="pt")
    texts = {name: ids.to(device()) for name, ids in texts.items()}
    pixels = torch.randn(64, 3, side, side, device=device(), dtype=_dtype(profile))

    def bare(some: Tensor) -> object:
        repeated = {name: ids.repeat(len(some), 1) for name, ids in texts.items()}
        return model(pixel_values=some, **repeated)

    found["bare"] = _fastest(bare, pixels, seconds)
    settings = profile.grounder
    detector = Detector(Path(folder), threshold=0.0, precision=settings.precision)
    found["adapter"] = _speed(
        lambda count: detector.best(_some(pictures, count), [PHRASES] * count), seconds
    )
    return _rounded(found)


def _embed(model: Any, preprocess: Any, image: Image.Image) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.encode_image(preprocess(image).unsqueeze(0).to(device()))
    return found.cpu()


def _caption(model: Any, processor: Any, image: Image.Image, search: dict[str, Any]) -> str:
    inputs = processor(images=image, return_tensors="pt").to(device())
    with torch.no_grad():
        tokens = model.generate(**inputs, **search)
    return str(processor.decode(tokens[0], skip_special_tokens=True))


# Timing


def _speed(run: Run, seconds: float, count: int | None = None) -> float:
    """Images a second of a call with so many pictures, after one that warms up."""
    count = count or (512 if device().type == "cuda" else 8)
    with torch.inference_mode():
        run(count)
        _wait()
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            run(count)
            _wait()
            done += count
    return done / (time.perf_counter() - started)


def _fastest(run: Callable[[Tensor], object], pixels: Tensor, seconds: float) -> float:
    """The same of a model at the best of some batch sizes, of which ``pixels`` has enough.

    What does not fit into memory is left out.
    """
    sizes = (16, 32, 64, 128, 256, 512) if device().type == "cuda" else (8,)
    sizes = tuple(size for size in sizes if size <= len(pixels))
    speeds = [0.0]
    for count in sizes:
        try:
            speeds.append(_speed(lambda number: run(pixels[:number]), seconds / len(sizes), count))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    return max(speeds)


def _loop(run: Callable[[Image.Image], object], pictures: list[NDArray[np.uint8]]) -> float:
    """Images a second, one picture after the other, from JPEGs as a loop reads them."""
    number = min(len(pictures), 64 if device().type == "cuda" else 4)
    files = photographs(number)
    run(Image.open(io.BytesIO(files[0])).convert("RGB"))
    _wait()
    started = time.perf_counter()
    for file in files:
        run(Image.open(io.BytesIO(file)).convert("RGB"))
    _wait()
    return number / (time.perf_counter() - started)


def _wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def _some(pictures: list[NDArray[np.uint8]], count: int) -> list[NDArray[np.uint8]]:
    return (pictures * (count // len(pictures) + 1))[:count]


def _dtype(profile: Profile) -> torch.dtype:
    found: torch.dtype = getattr(torch, profile.clip.precision)
    return found


def _rounded(found: dict[str, float]) -> dict[str, float]:
    found = {name: round(speed, 2) for name, speed in found.items()}
    return found | {
        "adapter / bare": round(found["adapter"] / found["bare"], 3),
        "adapter / loop": round(found["adapter"] / found["loop"], 2),
    }


@contextmanager
def gpu_use() -> Iterator[dict[str, Any]]:
    """Mean and highest utilisation and memory while the block runs; empty without a GPU."""
    use: dict[str, Any] = {}
    if not shutil.which("nvidia-smi"):
        yield use
        return
    query = "--query-gpu=utilization.gpu,memory.used"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "500"]
    sampler = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(sampler.stdout or ()), daemon=True)
    reader.start()
    try:
        yield use
    finally:
        sampler.terminate()
        reader.join(timeout=10)
        samples = [[float(one) for one in line.split(",")] for line in lines if "," in line]
        if samples:
            busy = np.array(samples)
            working = busy[busy[:, 0] > 0, 0]
            use["busy_share_of_the_whole_job"] = round(float(busy[:, 0].mean()) / 100, 3)
            # From the first to the last sample with work: without imports and start-up.
            first, last = np.flatnonzero(busy[:, 0] > 0)[[0, -1]] if len(working) else (0, 0)
            use["busy_share_at_work"] = round(float(busy[first : last + 1, 0].mean()) / 100, 3)
            use["most_memory_mib"] = int(busy[:, 1].max())


# The whole job


def photographs(number: int) -> list[bytes]:
    """JPEGs of 640 by 480, no two with the same bytes, few with the same content."""
    files = [photo_like(*PICTURE, seed) for seed in range(min(number, 16))]
    return [_commented(files[place % len(files)], place) for place in range(number)]


def _commented(jpeg: bytes, number: int) -> bytes:
    """The same picture with a comment of its own (JPEG's COM segment, after SOI)."""
    text = f"{number:08}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def write_dump(folder: Path, number: int) -> None:
    """Parquet files of photographs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    files = photographs(number)
    for start in range(0, number, ROWS_IN_FILE):
        some = files[start : start + ROWS_IN_FILE]
        uris = [f"generated/{start + place:07}.jpg" for place in range(len(some))]
        table = pa.table({"uri": uris, "bytes": pa.array(some, pa.binary())})
        pq.write_table(table, folder / f"{start:07}.parquet", row_group_size=250)


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """What was aimed at, and what is there; none of what was not measured."""
    models = {name: found[name] for name in PASSES if name in found}
    there: dict[str, float] = {}
    if "pipeline" in found and len(models) == len(PASSES):
        speed = found["pipeline"]["images_per_second"]
        # Each picture goes through one model after the other, as often as the job has it do.
        for name, how in (("loop", "loop"), ("all bare on one device", "bare")):
            seconds = sum(PASSES[model] / one[how] for model, one in models.items())
            there[f"pipeline / {name}"] = speed * seconds
    if "embed" in found:
        there["embeddings alone"] = found["embed"]["images_per_second"]
        there["embeddings alone / published"] = there["embeddings alone"] / PUBLISHED
    return {
        name: {"value": round(value, 3), "aim": AIMS.get(name)} for name, value in there.items()
    }


def _gpu() -> dict[str, Any]:
    if device().type != "cuda":
        return {"gpu": "none"}
    return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}


def _tell(found: dict[str, Any]) -> None:
    console = Console(width=120)
    machine_line = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    table = Table("", *("bare", "adapter", "loop", "adapter / bare"), title=machine_line)
    for name in ("clip", "blip", "owl"):
        if name in found:
            one = found[name]
            keys = ("bare", "adapter", "loop", "adapter / bare")
            table.add_row(name, *(f"{one[key]:,.2f}" for key in keys))
    console.print(table)
    for name in ("embed", "pipeline"):
        if name in found:
            one = found[name]
            print(f"{name}: {one['images_per_second']:.1f} images/s; stages {one['stages']}")
            print(f"  GPU: {one['gpu'] or 'none'}")
    for name, one in found["compared"].items():
        aim = f" (aim {one['aim']:g})" if one["aim"] else ""
        print(f"{name}: {one['value']:g}{aim}")


if __name__ == "__main__":
    typer.run(main)
