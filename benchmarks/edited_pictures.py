"""Pictures as platforms and photo editors leave them, so that no edit tells a label.

    python benchmarks/edited_pictures.py --data detection/ --data wild/ --output edited/

Every picture of both labels goes through the same random chain: cut, scaled, perhaps grey, lighter
or darker, of other contrast and colour, tinted, sharpened or blurred, and saved as JPEG or WebP.
`groups.parquet` beside the pictures says which rows show the same scene or follow the same
prompt, for `train --metadata … --group-column scene`.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Annotated

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import typer
from PIL import ImageEnhance, ImageFilter, ImageOps
from PIL.Image import Image, Resampling

KEPT = ("uri", "label", "generator", "source")
ROWS_IN_FILE = 1000
EDITED = "edited-"
"""How the names of edited copies begin."""


def edited(data: bytes) -> bytes:
    """An image file after a random chain of edits, the same for the same bytes."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(data).digest()[:8]))
    picture = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    picture = _cut(picture, rng) if rng.random() < 0.6 else picture
    if rng.random() < 0.7:
        factor = float(rng.uniform(0.4, 1.5))
        size = [max(48, round(side * factor)) for side in picture.size]
        resample = rng.choice([Resampling.BILINEAR, Resampling.BICUBIC, Resampling.LANCZOS])
        picture = picture.resize((size[0], size[1]), Resampling(int(resample)))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        if rng.random() < 0.3:
            picture = enhance(picture).enhance(float(rng.uniform(0.6, 1.5)))
    picture = _filtered(picture, rng)
    file = io.BytesIO()
    if rng.random() < 0.15:
        picture.save(file, "WEBP", quality=int(rng.integers(50, 96)))
    else:
        picture.save(file, "JPEG", quality=int(rng.integers(40, 97)))
    return file.getvalue()


def _cut(picture: Image, rng: np.random.Generator) -> Image:
    share = float(rng.uniform(0.6, 1.0))
    width, height = (max(1, round(side * share)) for side in picture.size)
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _filtered(picture: Image, rng: np.random.Generator) -> Image:
    """Grey, tinted, sharpened or blurred, each now and then."""
    chance = rng.random()
    if chance < 0.12:
        picture = picture.convert("L").convert("RGB")
    elif chance < 0.24:
        tint = tuple(int(value) for value in rng.integers(0, 256, 3))
        picture = PIL.Image.blend(
            picture, PIL.Image.new("RGB", picture.size, tint), float(rng.uniform(0.05, 0.25))
        )
    elif chance < 0.34:
        picture = ImageOps.autocontrast(picture, cutoff=float(rng.uniform(0, 3)))
    chance = rng.random()
    if chance < 0.2:
        return picture.filter(
            ImageFilter.UnsharpMask(float(rng.uniform(0.5, 2)), int(rng.integers(40, 160)))
        )
    if chance < 0.35:
        return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))
    return picture


def main(
    data: Annotated[list[Path], typer.Option(help="Labelled Parquet with uri and bytes.")],
    output: Annotated[Path, typer.Option(help="Folder of the edited pictures.")],
    share: Annotated[float, typer.Option(help="Of the pictures that are edited.")] = 1.0,
) -> None:
    """Write the edited pictures, and groups of rows that show the same."""
    output.mkdir(parents=True, exist_ok=True)
    scenes: dict[str, str] = {}
    number = 0
    for folder in data:
        dataset = pyarrow.dataset.dataset(folder, format="parquet")
        names = [*KEPT, "bytes", *(["prompt"] if "prompt" in dataset.schema.names else [])]
        for batch in dataset.to_batches(columns=names, batch_size=ROWS_IN_FILE):
            rows = batch.to_pylist()
            chosen = [row for row in rows if _share_of(row["uri"]) < share]
            for place, before, of_place in ((folder, "", rows), (output, EDITED, chosen)):
                for row in of_place:
                    uri = str(place.resolve() / f"{before}{row['uri']}")
                    scenes[uri] = row.get("prompt") or row["uri"]
            columns = {name: [row[name] for row in chosen] for name in KEPT}
            columns["uri"] = [EDITED + row["uri"] for row in chosen]
            columns["bytes"] = [edited(row["bytes"]) for row in chosen]
            pq.write_table(pa.table(columns), output / f"part-{number}.parquet")
            number += 1
    groups = pa.table({"uri": list(scenes), "scene": list(scenes.values())})
    pq.write_table(groups, output.parent / "groups.parquet")
    print(f"{number} files in {output}, groups in {output.parent / 'groups.parquet'}")


def _share_of(uri: str) -> float:
    """Where a picture stands between 0 and 1, the same in every run."""
    return int.from_bytes(hashlib.sha256(uri.encode()).digest()[:4]) / 2**32


if __name__ == "__main__":
    typer.run(main)
