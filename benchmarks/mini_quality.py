"""How good the mini models are: captions, matching, grounding, with intervals.

    python benchmarks/mini_quality.py --flickr flickr8k/ --detection detection/

Captions against human ones on the Flickr8k test split (in domain) and on the captioned
COCO photographs of the detection table (out of domain). Similarity of a photograph with
its own caption against another photograph's; of its own grounded phrases against
phrases of another's caption. Intervals are 95% percentile bootstraps over photographs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import roc_auc_score

from item.grounding import CropGridGrounder
from item.images.decode import Decoding, decode
from item.mini.captioner import MiniCaptioner
from item.mini.captioner_training import caption_metrics
from item.mini.dual_encoder import MiniDualEncoder
from item.phrases import PhraseExtractor
from item.profiles import load_profile

RESAMPLES = 1000
CAPTION_RESAMPLES = 50


def main(
    flickr: Annotated[Path, typer.Option(help="Folder of Parquet: bytes, captions, split.")],
    detection: Annotated[Path, typer.Option(help="Folder of Parquet: bytes, captions, source.")],
    weights: Annotated[Path | None, typer.Option(help="Another captioner's weights.")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure the mini models on photographs that they never saw."""
    test = _rows(flickr, "test")
    coco = _rows(detection)
    captioner = MiniCaptioner(weights)
    found: dict[str, Any] = {
        "captions, Flickr8k test": _captions(captioner, test),
        "captions, COCO": _captions(captioner, coco),
    }
    if weights is None:
        encoder = MiniDualEncoder()
        found["threshold, Flickr8k val"] = _threshold(encoder, _rows(flickr, "val"))
        found["matching, Flickr8k test"] = _matching(encoder, test)
        found["matching, COCO"] = _matching(encoder, coco)
    Console().print(found)
    if output:
        output.write_text(json.dumps(found, indent=2) + "\n")


def _captions(captioner: MiniCaptioner, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """BLEU-4 and CIDEr of one caption an image against its five human ones."""
    captions = captioner.caption([row["picture"] for row in rows])
    references = [row["captions"] for row in rows]

    def score(chosen: NDArray[np.intp]) -> dict[str, float]:
        return caption_metrics([captions[i] for i in chosen], [references[i] for i in chosen])

    every = np.arange(len(rows))
    generator = np.random.default_rng(0)
    resampled = [score(generator.choice(every, len(every))) for _ in range(CAPTION_RESAMPLES)]
    return {
        "photographs": len(rows),
        **{
            name: [round(value, 4), *_interval([one[name] for one in resampled])]
            for name, value in score(every).items()
        },
        "examples": captions[:5],
    }


def _matching(encoder: MiniDualEncoder, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """AUROC of own against foreign captions, globally and for grounded phrases."""
    profile = load_profile("mini")
    pictures = [row["picture"] for row in rows]
    captions = [row["captions"][0] for row in rows]
    images, texts = encoder.embed_images(pictures), encoder.embed_texts(captions)
    other = np.roll(np.arange(len(rows)), 1)
    own_global, foreign_global = (images * texts).sum(1), (images * texts[other]).sum(1)
    own, foreign = _phrase_scores(encoder, pictures, captions)
    threshold = profile.grounder.threshold
    return {
        "photographs": len(rows),
        "global AUROC": _auroc([[s] for s in own_global], [[s] for s in foreign_global]),
        "phrase AUROC": _auroc(own, foreign),
        "own phrases grounded": _share(own, threshold),
        "foreign phrases grounded": _share(foreign, threshold),
    }


def _threshold(encoder: MiniDualEncoder, rows: list[dict[str, Any]]) -> float:
    """Where own phrases that reach it exceed foreign ones by most (Youden's index)."""
    captions = [row["captions"][0] for row in rows]
    scores = _phrase_scores(encoder, [row["picture"] for row in rows], captions)
    own, foreign = (np.concatenate(of_rows) for of_rows in scores)
    grid = np.arange(0, 0.5, 0.01)
    gained = [(own >= threshold).mean() - (foreign >= threshold).mean() for threshold in grid]
    return round(float(grid[int(np.argmax(gained))]), 2)


def _phrase_scores(
    encoder: MiniDualEncoder, pictures: list[Any], captions: list[str]
) -> tuple[list[list[float]], list[list[float]]]:
    """Grounding scores of each picture's own phrases, and of the next picture's."""
    profile = load_profile("mini")
    phrases = PhraseExtractor(profile.phrases)(captions)
    other = np.roll(np.arange(len(pictures)), 1)
    ground = CropGridGrounder(encoder, profile.grounder)
    asked = [[*phrases[i], *phrases[other[i]]] for i in range(len(pictures))]
    scores = [[one.score for one in some] for some in _in_parts(ground, pictures, asked)]
    own = [some[: len(mine)] for some, mine in zip(scores, phrases, strict=True)]
    foreign = [some[len(mine) :] for some, mine in zip(scores, phrases, strict=True)]
    return own, foreign


def _in_parts(ground: CropGridGrounder, pictures: list[Any], phrases: list[list[str]]) -> list[Any]:
    return [
        one
        for start in range(0, len(pictures), 32)
        for one in ground(pictures[start : start + 32], phrases[start : start + 32])
    ]


def _auroc(own: list[list[float]], foreign: list[list[float]]) -> list[float]:
    """AUROC over all values, resampled by photograph."""

    def score(rows: NDArray[np.intp]) -> float:
        positive = np.concatenate([own[row] for row in rows])
        negative = np.concatenate([foreign[row] for row in rows])
        labels = np.repeat([1, 0], [len(positive), len(negative)])
        return float(roc_auc_score(labels, np.concatenate([positive, negative])))

    return _with_interval(score, len(own))


def _share(values: list[list[float]], threshold: float) -> list[float]:
    def score(rows: NDArray[np.intp]) -> float:
        return float((np.concatenate([values[row] for row in rows]) >= threshold).mean())

    return _with_interval(score, len(values))


def _with_interval(score: Callable[[NDArray[np.intp]], float], rows: int) -> list[float]:
    generator = np.random.default_rng(0)
    resampled = [score(generator.integers(0, rows, rows)) for _ in range(RESAMPLES)]
    return [round(score(np.arange(rows)), 4), *_interval(resampled)]


def _interval(values: list[float]) -> list[float]:
    return [round(float(bound), 4) for bound in np.percentile(values, [2.5, 97.5])]


def _rows(folder: Path, split: str = "test") -> list[dict[str, Any]]:
    """Captioned photographs of a split; all where there is none."""
    tables = [pq.read_table(file) for file in sorted(folder.glob("*.parquet"))]
    rows = pa.concat_tables(tables).to_pylist()
    chosen = [row for row in rows if row["captions"] and row.get("split", split) == split]
    return [row | {"picture": decode(row["bytes"], Decoding()).pixels} for row in chosen]


if __name__ == "__main__":
    typer.run(main)
