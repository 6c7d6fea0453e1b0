"""Writes a dump with a package of others, in a process of its own: TOOL SOURCE TARGET."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def img2dataset(kind: str, source: Path, target: Path) -> None:
    """Download a CSV of URLs and captions in some formats, without touching the bytes."""
    from img2dataset import download

    for format in kind.split(","):
        download(
            url_list=str(source / "list.csv"),
            input_format="csv",
            url_col="url",
            caption_col="caption",
            output_folder=str(target / format),
            output_format=format,
            processes_count=1,
            thread_count=4,
            number_sample_per_shard=3,
            disable_all_reencoding=True,
            enable_wandb=False,
        )


def webdataset(kind: str, source: Path, target: Path) -> None:
    """Write pictures with captions, classes and JSON, in shards of three."""
    from webdataset import ShardWriter

    about = json.loads((source / "about.json").read_text())
    target.mkdir()
    ending = ".tar.gz" if kind == "gz" else ".tar"
    with ShardWriter(f"{target}/%05d{ending}", maxcount=3, verbose=0) as writer:
        for name, one in about.items():
            content = (source / name).read_bytes()
            stem = name.partition(".")[0]
            sample = {"__key__": stem, "jpg": content, "txt": one["caption"], "cls": one["label"]}
            writer.write({**sample, "json": {"generator": one["generator"]}})


def datasets(kind: str, source: Path, target: Path) -> None:
    """Write a data set with an Image feature, as Parquet or as Arrow files."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    about = json.loads((source / "about.json").read_text())
    rows = {
        "image": [
            {"path": name, "bytes": (source / name).read_bytes()}
            if kind == "bytes"
            else str(source / name)
            for name in about
        ],
        "label": [one["label"] for one in about.values()],
        "text": [one["caption"] for one in about.values()],
    }
    features = Features(
        image=Image(), label=ClassLabel(names=["real", "generated"]), text=Value("string")
    )
    table = Dataset.from_dict(rows, features=features)
    if kind != "arrow":
        target.mkdir()
        table.to_parquet(str(target / "train-00000-of-00001.parquet"))
    else:
        table.save_to_disk(str(target))


if __name__ == "__main__":
    tool, kind, *paths = sys.argv[1:]
    {"img2dataset": img2dataset, "webdataset": webdataset, "datasets": datasets}[tool](
        kind, *map(Path, paths)
    )
