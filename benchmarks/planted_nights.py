"""A dump whose every row has a known fate, and whether the nightly job gave it that fate.

    python benchmarks/planted_nights.py make --data detection/ --output planted/
    python benchmarks/planted_nights.py run planted/ --root audit/
    python benchmarks/planted_nights.py check planted/planted.json --root audit/

``make`` spreads pictures over nightly folders, with broken files and repeats among them, and
writes beside the dump what must become of each. ``run`` sends the dump through
``jobs/nightly.py`` twice, and the second time there must be nothing left to do.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from item.statistics.calibration import Verdict
from item.tables import ErrorCode
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join

FIRST_NIGHT = date(2026, 1, 29)
BROKEN = 0.05
REPEATED = 0.2
"""Shares of a dump's files."""
PLAN = "planted.json"
DUMP = "dump"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


# What is planted


@dataclass(frozen=True)
class Picture:
    """A whole picture as a crawl would find it."""

    source: str
    content: bytes


def truncated(content: bytes) -> bytes:
    """The first half of a picture."""
    return content[: len(content) // 2]


def empty(_: bytes) -> bytes:
    """A file without bytes."""
    return b""


def page(content: bytes) -> bytes:
    """An error page under a picture's name."""
    return b"<!doctype html><title>404</title><p>No picture %s here." % _name(content)


def text(content: bytes) -> bytes:
    """A text under a picture's name."""
    return b"Picture %s has moved; ask the webmaster for its new place.\n" % _name(content)


def bomb(content: bytes) -> bytes:
    """A PNG of some hundred bytes that announces 50,000 x 50,000 pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)),
        (b"tEXt", b"Comment\0" + _name(content)),
        (b"IDAT", zlib.compress(b"")),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def corrupt(content: bytes) -> bytes:
    """A picture as PNG whose header has a wrong checksum."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as opened:
        small = opened.convert("RGB")
    small.thumbnail((96, 96))
    small.save(buffer, "PNG")
    png = buffer.getvalue()
    return png[:29] + bytes(4) + png[33:]


def _name(content: bytes) -> bytes:
    """Makes files that are made of different pictures differ."""
    return hashlib.sha256(content).hexdigest().encode()


KINDS: dict[Callable[[bytes], bytes], tuple[str, ErrorCode]] = {
    truncated: ("jpg", ErrorCode.TRUNCATED),
    empty: ("jpg", ErrorCode.EMPTY_FILE),
    page: ("jpg", ErrorCode.NOT_AN_IMAGE),
    text: ("png", ErrorCode.NOT_AN_IMAGE),
    bomb: ("png", ErrorCode.TOO_MANY_PIXELS),
    corrupt: ("png", ErrorCode.CORRUPT),
}
"""How a picture is broken, the extension of what comes out, and why it must be rejected."""


@dataclass(frozen=True)
class Planted:
    """One file of a night, and why it must be rejected."""

    source: str
    content: bytes
    extension: str
    error_code: ErrorCode | None = None

    @classmethod
    def whole(cls, picture: Picture) -> Planted:
        """A picture under the extension of its format."""
        with Image.open(io.BytesIO(picture.content)) as opened:
            extension = str(opened.format).lower().replace("jpeg", "jpg")
        return cls(picture.source, picture.content, extension)

    @classmethod
    def broken(cls, picture: Picture, kind: Callable[[bytes], bytes]) -> Planted:
        """What a kind of damage makes of a picture."""
        return cls(picture.source, kind(picture.content), *KINDS[kind])


def plant(pictures: Sequence[Picture], folder: Path, nights: int, seed: int) -> dict[str, Any]:
    """Write a dump into ``folder``, and return what must become of it.

    Parameters
    ----------
    pictures : different ones; each is a file once, and some come again
    folder : gets ``date=YYYY-MM-DD/<source>/<number>.<extension>``
    nights : number of folders
    seed : of everything that is drawn

    Returns
    -------
    dict with a list ``nights``, each with ``date``, counts (``rows``, ``by_error_code``,
    ``reused``, and of these ``reused_of_earlier_nights``) and ``files``: for each
    ``source/name`` its SHA-256 and error code. Reused is every whole picture that came before,
    in its night or an earlier one.
    """
    rng = np.random.default_rng(seed)
    by_night = _drawn(pictures, nights, rng)
    seen: set[str] = set()
    found = []
    for number, files in enumerate(by_night):
        night = (FIRST_NIGHT + timedelta(days=number)).isoformat()
        found.append(_write(folder / f"date={night}", night, files, seen, rng))
    return {"seed": seed, "pictures": len(pictures), "nights": found}


def _drawn(
    pictures: Sequence[Picture], nights: int, rng: np.random.Generator
) -> list[list[Planted]]:
    """Files by night: pictures, then broken files, then repeats of earlier pictures."""
    files = round(len(pictures) / (1 - BROKEN - REPEATED))
    broken = round(files * BROKEN)
    repeats = files - len(pictures) - broken
    originals = [
        [Planted.whole(pictures[place]) for place in some.tolist()]
        for some in np.array_split(rng.permutation(len(pictures)), nights)
    ]
    by_night = [list(some) for some in originals]
    kinds = list(KINDS)
    for number, place in enumerate(rng.permutation(len(pictures))[:broken].tolist()):
        kind = kinds[number // nights % len(kinds)]
        by_night[number % nights].append(Planted.broken(pictures[place], kind))
    for number in range(repeats):
        night = number % nights
        # Every other repeat is of an earlier night, where there is one.
        earlier = night and number // nights % 2
        pool = originals[rng.integers(night)] if earlier else originals[night]
        by_night[night].append(pool[rng.integers(len(pool))])
    return by_night


def _write(
    folder: Path, night: str, files: list[Planted], seen: set[str], rng: np.random.Generator
) -> dict[str, Any]:
    before = set(seen)
    planned: dict[str, Any] = {}
    reused = earlier = 0
    # Numbers are drawn, so that a repeat may be listed before its original.
    for number, one in zip(rng.permutation(len(files)), files, strict=True):
        digest = hashlib.sha256(one.content).hexdigest()
        if not one.error_code:
            reused += digest in seen
            earlier += digest in before
            seen.add(digest)
        name = f"{one.source}/{number:05}.{one.extension}"
        planned[name] = {"sha256": digest, "error_code": one.error_code}
        (folder / one.source).mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(one.content)
    codes = Counter(one.error_code for one in files if one.error_code)
    return {
        "date": night,
        "rows": len(files),
        "by_error_code": dict(sorted(codes.items())),
        "reused": reused,
        "reused_of_earlier_nights": earlier,
        "files": planned,
    }


def read_pictures(data: Path, number: int, seed: int) -> list[Picture]:
    """Different pictures of a folder of Parquet with ``bytes`` and perhaps ``source``."""
    different: dict[str, Picture] = {}
    for file in sorted(data.glob("*.parquet")):
        names = pq.read_schema(file).names
        rows = pq.read_table(file, columns=[one for one in ("bytes", "source") if one in names])
        if "source" not in names:
            rows = rows.append_column("source", pa.array([data.resolve().name] * len(rows)))
        for content, source in zip(
            rows["bytes"].to_pylist(), rows["source"].to_pylist(), strict=True
        ):
            picture = Picture(source or "unknown", content)
            different.setdefault(hashlib.sha256(content).hexdigest(), picture)
    if len(different) < number:
        raise typer.BadParameter(f"{data} holds {len(different):,} different pictures.")
    found = list(different.values())
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:number]]


# What became of it


def differences(plan: dict[str, Any], root: str) -> list[str]:
    """Sentences on whatever in an audit root is not as planned; none if all is."""
    found = []
    dates = [night["date"] for night in plan["nights"]]
    tables = {
        "features": ["uri", "image_id", "status", "error_code", "date"],
        "scores": ["uri", "image_id", "status", "error_code", "score", "verdict", "date"],
        "rejects": ["error_code", "rows", "date"],
    }
    read = {
        name: pd.read_parquet(join(root, name), columns=columns) for name, columns in tables.items()
    }
    for name, rows in read.items():
        if other := sorted(set(rows["date"].astype(str)) - set(dates)):
            found.append(f"{name} has nights that were not planted: {', '.join(other)}.")
    for night in plan["nights"]:
        mine = {name: _of_night(rows, night["date"]) for name, rows in read.items()}
        for name in ("features", "scores"):
            found += _row_differences(f"{name} of {night['date']}", mine[name], night["files"])
        found += _score_differences(f"scores of {night['date']}", mine["scores"])
        rejects = night["by_error_code"]
        rejected = mine["rejects"].groupby("error_code")["rows"].sum().to_dict()
        manifest = read_manifest(root, night["date"])
        for what, is_, planned in (
            ("rejects by reason", rejected, rejects),
            ("manifest's rows", manifest["rows"]["total"], night["rows"]),
            ("manifest's errors", manifest["rows"]["by_error_code"], rejects),
            ("reused pictures", manifest["reuse"]["reused"], night["reused"]),
            ("pictures", manifest["reuse"]["images"], night["rows"] - sum(rejects.values())),
        ):
            if is_ != planned:
                found.append(f"{night['date']}: {what}: {is_} instead of {planned}.")
    return found + _repeat_differences(read["scores"])


def read_manifest(root: str, night: str) -> dict[str, Any]:
    """What the nightly job says of a night."""
    fs, path = filesystem(join(root, "_nights", f"{night}.json"), Storage())
    found: dict[str, Any] = json.loads(fs.cat_file(path))
    return found


def _of_night(rows: pd.DataFrame, night: str) -> pd.DataFrame:
    return rows[rows["date"].astype(str) == night]


def _row_differences(where: str, rows: pd.DataFrame, files: dict[str, Any]) -> list[str]:
    """Every planted file once, with its bytes and its reason, and nothing else."""
    names = ["/".join(uri.split("/")[-2:]) for uri in rows["uri"]]
    times = Counter(names)
    found = []
    for what, some in (
        ("missing", set(files) - set(times)),
        ("not planted", set(times) - set(files)),
        ("there more than once", {name for name, number in times.items() if number > 1}),
    ):
        if some:
            found.append(f"{where}: {len(some)} files are {what}, such as {min(some)}.")
    wrong: Counter[str] = Counter()
    for name, image, code in zip(names, rows["image_id"], rows["error_code"], strict=True):
        planned = files.get(name, {})
        code = None if pd.isna(code) else code
        if planned and image != planned["sha256"]:
            wrong["another image_id"] += 1
        if planned and code != planned["error_code"]:
            wrong[f"error_code {code} instead of {planned['error_code']}"] += 1
    return found + [f"{where}: {number} rows have {what}." for what, number in wrong.items()]


def _score_differences(where: str, rows: pd.DataFrame) -> list[str]:
    """A row is scored exactly if it has features."""
    without = rows["error_code"].notna()
    found = []
    if (scored := without & (rows["verdict"] != Verdict.NOT_SCORED)).any():
        found.append(f"{where}: {scored.sum()} rows without features have a verdict.")
    if (unscored := ~without & rows["score"].isna()).any():
        found.append(f"{where}: {unscored.sum()} rows with features have no score.")
    return found


def _repeat_differences(scores: pd.DataFrame) -> list[str]:
    """The same picture has the same score wherever it stands."""
    number = (scores.groupby("image_id")["score"].nunique() > 1).sum()
    return [f"{number} pictures have more than one score."] if number else []


# Commands


@app.command()
def make(
    data: Annotated[Path, typer.Option(help="Folder of Parquet with bytes.")],
    output: Annotated[Path, typer.Option(help="Folder for dump/ and planted.json.")],
    images: Annotated[int, typer.Option(help="Different whole pictures.", min=20)] = 4000,
    nights: Annotated[int, typer.Option(min=1)] = 3,
    seed: int = 0,
) -> None:
    """Write a dump with 5% broken files and 20% repeats, and what must become of it."""
    if (output / DUMP).exists():
        raise typer.BadParameter(f"{output / DUMP} is there already: choose another folder.")
    plan = plant(read_pictures(data, images, seed), output / DUMP, nights, seed)
    (output / PLAN).write_text(json.dumps(plan, indent=1) + "\n")
    rows = sum(night["rows"] for night in plan["nights"])
    reused = sum(night["reused"] for night in plan["nights"])
    print(f"{rows:,} files in {output / DUMP}, {reused:,} of them repeats ({reused / rows:.2%})")


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="What make wrote.")],
    root: Annotated[str, typer.Option(help="Folder or s3:// prefix for the audit.")],
    head: Annotated[str, typer.Option()] = "item/mini/head",
    set: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """Run the nightly job, compare, and run it again, when nothing may be left to do."""
    settings = [f"--set={one}" for one in set or []]
    command = ["jobs/nightly.py", "--input", str(folder / DUMP), "--head", head, "--output", root]
    seconds, outcomes = [], []
    for _ in range(2):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, *command, *settings], stdout=subprocess.PIPE, text=True, check=True
        )
        seconds.append(time.monotonic() - started)
        outcomes.append(json.loads(done.stdout.splitlines()[-1])["outcome"])
    for number, outcome, spent in zip(("first", "second"), outcomes, seconds, strict=True):
        print(f"{number} run: {outcome} in {spent:.1f} s")
    check(folder / PLAN, root)
    if outcomes[1] != "nothing_to_do":
        raise typer.Exit(1)


@app.command()
def check(
    planted: Annotated[Path, typer.Argument(help="planted.json of make.")],
    root: Annotated[str, typer.Option(help="Output root of jobs/nightly.py.")],
) -> None:
    """Compare an audit root with what was planted; exit code 1 on any difference."""
    plan = json.loads(planted.read_text())
    table = Table("night", "rows", "rejects by reason", "reused", "rate", title="as planted")
    for night in plan["nights"]:
        codes = ", ".join(f"{number} {code}" for code, number in night["by_error_code"].items())
        rate = f"{night['reused'] / night['rows']:.2%}"
        reused = f"{night['reused']} ({night['reused_of_earlier_nights']} of earlier nights)"
        table.add_row(night["date"], str(night["rows"]), codes, reused, rate)
    Console(width=140).print(table)
    found = differences(plan, root)
    for sentence in found:
        print(f"DIFFERENCE {sentence}")
    print(f"{len(found)} differences" if found else "Everything is as it was planted.")
    if found:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
