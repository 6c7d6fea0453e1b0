"""Rebuild the weights of the mini models from captioned photographs.

    python jobs/train_mini.py --input flickr8k/ --output item/mini/weights

About an hour and a half on two cores, most of it the captioner. Reads Parquet with
``bytes``, ``captions`` and ``split``; trains on ``train``, measures on ``test``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from item.errors import UsageError
from item.images.decode import Decoding, decode
from item.mini.captioner import save_decoder
from item.mini.captioner_training import (
    CaptionerRecipe,
    caption_metrics,
    captions_of,
    train_captioner,
)
from item.mini.checkpoint import save_weights
from item.mini.dual_encoder_training import DualEncoderRecipe, retrieval, train_dual_encoder
from item.mini.photographs import cache_maps, load_photographs
from item.phrases import PhraseExtraction, PhraseExtractor
from jobs.command_line import application, console, refusals

app = application()


@app.command()
def train_mini(
    input: Annotated[Path, typer.Option(help="Folder of Parquet: bytes, captions, split.")],
    output: Annotated[Path, typer.Option(help="Folder for weights and metrics.json.")],
    cache: Annotated[Path, typer.Option(help="Folder for feature maps.")] = Path("mini-cache"),
    dual_encoder_epochs: int = DualEncoderRecipe.epochs,
    captioner_epochs: int = CaptionerRecipe.epochs,
    concepts: Annotated[bool, typer.Option(help="Let the captioner read class names.")] = True,
) -> None:
    """Train the dual encoder and the captioner of the mini profile.

    Example: python jobs/train_mini.py --input flickr8k/ --output item/mini/weights
    """
    say = console().print
    with refusals():
        rows = _read(input)
        captions, split = rows["captions"].to_pylist(), np.array(rows["split"].to_pylist())
        pictures = [decode(image.as_py(), Decoding()).pixels for image in rows["bytes"]]
        cache_maps(pictures, cache, say)
        extract = PhraseExtractor(PhraseExtraction())
        phrases = [sorted({p for some in extract(part) for p in some}) for part in captions]
    photographs = load_photographs(cache, captions, phrases)
    train = photographs.subset(np.flatnonzero(split == "train"))
    test = photographs.subset(np.flatnonzero(split == "test"))
    metrics: dict[str, float] = {}
    if dual_encoder_epochs:
        recipe = DualEncoderRecipe(epochs=dual_encoder_epochs)
        space, names = train_dual_encoder(train, recipe, say)
        save_weights({**space.state_dict(), "names": names}, output / "dual_encoder.safetensors")
        metrics |= retrieval(space, names, test)
    if captioner_epochs:
        words = CaptionerRecipe(epochs=captioner_epochs, concepts=concepts)
        decoder, language = train_captioner(train, words, say)
        save_decoder(decoder, language, output / "captioner.safetensors")
        found = captions_of(decoder, language, test)
        metrics |= caption_metrics(found, test.captions)
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    say(metrics)


def _read(folder: Path) -> pa.Table:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UsageError(f"There is no Parquet in {folder}: give the folder of Flickr8k parts.")
    return pa.concat_tables(
        pq.read_table(file, columns=["bytes", "captions", "split"]) for file in files
    )


if __name__ == "__main__":
    app()
