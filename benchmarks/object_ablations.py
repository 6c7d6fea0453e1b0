"""Features tables that differ in how objects are found, for the ablations of an evaluation.

    python benchmarks/object_ablations.py --data detection/ --features features/ --output ablations/
    python jobs/evaluate.py --features features/ --output evaluation/ \\
        --set 'variants={random crops: ablations/random, K = 1: ablations/k1}'

Captions are those of the features table; each picture's grid of crops is embedded once, and
each variant chooses among its crops: the best for the phrase (of 1, 3 or 5 phrases), one at
random, or the whole picture instead.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray

from item.embedding import load_dual_encoder
from item.featurizing import misaligned
from item.found_objects import FoundObjects
from item.grounding import CropGridGrounder, Grounding, Parts
from item.images.decode import decode
from item.phrases import PhraseExtractor
from item.profiles import Profile, load_profile
from item.tables import EMBEDDING, FEATURES, Status, as_features

BATCH = 32
MOST = {"k1": 1, "k3": 3}


class RandomCropGrounder(CropGridGrounder):
    """Takes any crop for a phrase, whatever is in it; the score still decides if it is grounded."""

    rng = np.random.default_rng(0)

    def _best(
        self, boxes: NDArray[np.float32], crops: NDArray[np.float32], text: NDArray[np.float32]
    ) -> Grounding:
        place = int(self.rng.integers(len(boxes)))
        return super()._best(boxes[[place]], crops[[place]], text)


def main(
    data: Annotated[Path, typer.Option(help="Folder of Parquet with uri and bytes.")],
    features: Annotated[Path, typer.Option(help="Features table of the same images.")],
    output: Annotated[Path, typer.Option(help="Folder for a features table a variant.")],
) -> None:
    """Write the tables best, random, every-random, whole, k1 and k3."""
    profile = load_profile("mini")
    files = sorted(features.glob("date=*/*.parquet"))
    metadata = pq.read_schema(files[0]).metadata
    table = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
    table = table.filter(pa.compute.equal(table["status"], Status.OK))
    stored = pa.concat_tables(
        pq.read_table(file, columns=["uri", "bytes"]) for file in sorted(data.glob("*.parquet"))
    )
    content = dict(zip(stored["uri"].to_pylist(), stored["bytes"].to_pylist(), strict=True))
    variants = Variants(profile)
    done: dict[str, list[pa.Table]] = {}
    started = time.perf_counter()
    for start in range(0, len(table), BATCH):
        batch = table.slice(start, BATCH)
        pictures = [
            decode(content[uri], profile.decoding).pixels for uri in batch["uri"].to_pylist()
        ]
        for name, rows in variants.of(batch, pictures).items():
            done.setdefault(name, []).append(rows)
        if start % (20 * BATCH) == 0:
            print(f"{start:,} of {len(table):,}, {time.perf_counter() - started:.0f} s", flush=True)
    for name, parts in done.items():
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        whole = pa.concat_tables(parts).replace_schema_metadata(metadata)
        pq.write_table(whole, folder / "part-0.parquet", compression="zstd")


class Variants:
    """All ways to find objects, on the same crops and phrases."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        encoder = load_dual_encoder(profile.clip)
        everything = profile.grounder.model_copy(update={"threshold": -1.0})
        self.encoder = encoder
        self.phrases = PhraseExtractor(profile.phrases)
        self.best = CropGridGrounder(encoder, profile.grounder)
        self.random = RandomCropGrounder(encoder, profile.grounder)
        self.any = RandomCropGrounder(encoder, everything)
        self.every = CropGridGrounder(encoder, everything)

    def of(self, batch: pa.Table, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, pa.Table]:
        """The batch's rows by variant."""
        phrases = self.phrases(batch["caption"].to_pylist())
        parts = self.best.parts(pictures)
        images = np.array(batch["image_embedding"].to_pylist(), np.float32)
        whole = [
            Parts(np.array([[0, 0, one.shape[1], one.shape[0]]], np.float32), row[np.newaxis])
            for one, row in zip(pictures, images, strict=True)
        ]
        few = {name: [some[:most] for some in phrases] for name, most in MOST.items()}
        found = {
            "best": self.best.choose(parts, phrases),
            "best-every-phrase": self.every.choose(parts, phrases),
            "random": self.random.choose(parts, phrases),
            "random-every-phrase": self.any.choose(parts, phrases),
            "whole-every-phrase": self.every.choose(whole, phrases),
            **{name: self.best.choose(parts, some) for name, some in few.items()},
        }
        named = dict.fromkeys(found, phrases) | few
        return {
            name: self._rows(batch, images, named[name], groundings)
            for name, groundings in found.items()
        }

    def _rows(
        self,
        batch: pa.Table,
        images: NDArray[np.float32],
        phrases: Sequence[Sequence[str]],
        found: Sequence[Sequence[Grounding]],
    ) -> pa.Table:
        captions = images - np.array(batch["global_misalignment"].to_pylist(), np.float32)
        objects = [
            [
                {
                    "phrase": phrase,
                    "box": dict(zip(("x0", "y0", "x1", "y1"), one.box.tolist(), strict=True)),
                    "grounding_score": one.score,
                    "grounded": one.grounded,
                }
                for phrase, one in zip(some, groundings, strict=True)
            ]
            for some, groundings in zip(phrases, found, strict=True)
        ]
        crops = [[one.embedding for one in some] for some in found]
        prompted = [[one.phrase_embedding for one in some] for some in found]
        made = misaligned(images, captions, FoundObjects(objects, crops, prompted))
        rows = batch
        for name, values in made.items():
            if name.startswith("global"):
                continue  # as they were: another rounding would be another ablation
            kind = EMBEDDING if name == "local_misalignment" else FEATURES.field(name).type
            rows = rows.set_column(
                rows.column_names.index(name), name, pa.array(list(values), kind)
            )
        for name in ("image_embedding", "parts_embedding", "global_misalignment"):
            values = pa.array(batch[name].to_pylist(), EMBEDDING)
            rows = rows.set_column(rows.column_names.index(name), name, values)
        return as_features(rows, self.profile.dimensions)


if __name__ == "__main__":
    typer.run(main)
