"""A tour on one machine: two nights of a small dump in, verdicts and reports out.

    python jobs/demo.py

The photographs ship inside scikit-image and scikit-learn, so nothing is downloaded.
"""

from __future__ import annotations

import importlib.resources
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from PIL import Image
from rich.table import Table
from rich.text import Text

from item.errors import UsageError
from item.explanation.printable import printable
from item.tables import ErrorCode, Status
from jobs.command_line import application, console, refusals

PHOTOGRAPHS = {
    "astronaut.jpg": ("skimage", "data/astronaut.png"),
    "cat.png": ("skimage", "data/chelsea.png"),
    "coffee.webp": ("skimage", "data/coffee.png"),
    "coins.png": ("skimage", "data/coins.png"),
    "flower.webp": ("sklearn", "datasets/images/flower.jpg"),
    "motorcycle.jpg": ("skimage", "data/motorcycle_left.png"),
    "photographer.png": ("skimage", "data/camera.png"),
    "rocket.jpg": ("skimage", "data/rocket.jpg"),
    "temple.jpg": ("sklearn", "datasets/images/china.jpg"),
}
"""Name in the dump: the package that ships the photograph, and the path within it."""

NIGHTS = ("2026-11-21", "2026-11-22")

CROPS = 5
"""Pictures that are cut from each photograph, so that there are enough to compare nights."""

MARK = ".made-by-item-demo"
"""File that tells the demo's own folder from one that must not be cleared."""

SETTINGS = ("max_error_rate=0.5", "profile.resources.caption.workers_per_cpu=0.5")
"""One worker less starts sooner, and the dump is small."""

HONESTLY = (
    "All of these pictures are photographs: a likely_generated above is a false accusation. The "
    "head that ships keeps those rare by saying uncertain of most pictures; of generated ones of a "
    "kind that it never saw it finds about one in six. Crops and scans are unlike what it "
    "learned from, which is what the drift alarms are for."
)

app = application()


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option(help="The demo's own folder, which is cleared first.")
    ] = Path("demo-output"),
) -> None:
    """Make a dump of two nights, featurize, score and audit them, and show the result.

    The second night brings pictures of the first again, and small grey scans.

    Example: python jobs/demo.py
    """
    say = console().print
    with refusals():
        clear(output)
        dump, audit = output / "dump", output / "audit"
        numbers = make_dump(dump)
    say(f"{' and '.join(map(str, numbers))} files of two nights in {dump}", markup=False)
    code = audited(dump, audit)
    if code:
        raise typer.Exit(code)
    rows = read(audit)
    for table in (described(rows), refused(rows), nights(audit)):
        say()
        say(table)
    say()
    for sentence in alarms(audit):
        say(f"Drift: {sentence}", markup=False, soft_wrap=True)
    say()
    say(HONESTLY, markup=False, soft_wrap=True)
    say()
    say("Look at it in a browser:")
    say(str((audit / "reports" / f"{NIGHTS[-1]}.html").resolve()), markup=False, soft_wrap=True)
    say("Analyse it in Python:")
    say(f'import pandas as pd; pd.read_parquet("{audit / "scores"}")', markup=False, soft_wrap=True)


def clear(folder: Path) -> None:
    """Make ``folder`` new and empty; UsageError if it holds what the demo did not make."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is not a folder: name another with --output.")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise UsageError(
                f"{folder} holds files that the demo did not make: name another with --output."
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def make_dump(folder: Path) -> list[int]:
    """Write two nights; return how many files each has.

    The first holds the photographs in mixed formats, crops of them, and three broken files.
    The second holds the photographs and some crops again, small grey scans of the crops, and
    a broken file.
    """
    first, second = (folder / f"date={night}" for night in NIGHTS)
    whole = {name: _photograph(name) for name in PHOTOGRAPHS}
    for name, picture in whole.items():
        for night in (first, second):
            _save(picture, night / "crawl" / name, quality=90)
        for number in range(CROPS):
            crop = _crop(picture, number)
            _save(crop, first / "crops" / f"{Path(name).stem}-{number}.jpg", quality=85)
            if number < 2:
                _save(crop, second / "mirror" / f"{Path(name).stem}-{number}.jpg", quality=85)
            else:
                scan = crop.convert("L").resize((crop.width // 3, crop.height // 3))
                _save(scan, second / "scans" / f"{Path(name).stem}-{number}.jpg", quality=40)
    rocket = _shipped(*PHOTOGRAPHS["rocket.jpg"])
    broken = first / "downloads"
    broken.mkdir()
    (broken / "broken-download.jpg").write_bytes(rocket[: len(rocket) // 2])
    (broken / "not-found-page.jpg").write_text(
        "<!DOCTYPE html><html><title>404</title><body>Not found</body></html>\n"
    )
    (broken / "empty.png").touch()
    (second / "scans" / "empty.png").touch()
    return [sum(path.is_file() for path in night.rglob("*")) for night in (first, second)]


def _photograph(name: str) -> Image.Image:
    return Image.open(io.BytesIO(_shipped(*PHOTOGRAPHS[name])))


def _crop(picture: Image.Image, number: int) -> Image.Image:
    """The corners, then the middle, two thirds of each side."""
    width, height = picture.width * 2 // 3, picture.height * 2 // 3
    left, top = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5)][number]
    x, y = int(left * (picture.width - width)), int(top * (picture.height - height))
    return picture.crop((x, y, x + width, y + height)).convert("RGB")


def _save(picture: Image.Image, path: Path, quality: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=quality)


def audited(dump: Path, audit: Path) -> int:
    """Run the nightly job on this machine alone; its messages go where ours go."""
    command = [sys.executable, str(Path(__file__).with_name("nightly.py"))]
    command += ["--input", str(dump), "--output", str(audit)]
    command += [f"--set={setting}" for setting in SETTINGS]
    environment = {name: os.environ[name] for name in os.environ if name != "RAY_ADDRESS"}
    environment |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(command, env=environment, check=False).returncode


def read(audit: Path) -> pd.DataFrame:
    """The scores of both nights with captions and objects."""
    features = pd.read_parquet(audit / "features", columns=["uri", "date", "caption", "objects"])
    return pd.read_parquet(audit / "scores").merge(features, on=["date", "uri"])


def nights(audit: Path) -> Table:
    """What each night brought, as its manifest says."""
    table = Table(title="The nights")
    table.add_column("night", no_wrap=True)
    columns = ("files", "refused", "seen before", "likely generated", "uncertain", "likely real")
    for name in columns:
        table.add_column(name, justify="right")
    for night in NIGHTS:
        told = json.loads((audit / "_nights" / f"{night}.json").read_text())
        verdicts = told["verdicts"]
        numbers = [told["rows"]["total"], verdicts.get("not_scored", 0), told["reuse"]["reused"]]
        numbers += [verdicts.get(name.replace(" ", "_"), 0) for name in columns[3:]]
        table.add_row(night, *map(str, numbers))
    return table


def alarms(audit: Path) -> list[str]:
    """How the last night differs from the one before, as its report says."""
    drift = pd.read_parquet(audit / "reports" / NIGHTS[-1] / "drift.parquet")
    found = drift.loc[drift["alarm"], "sentence"].map(lambda text: _plain(text).plain)
    return found.tolist() or ["nothing in the second night is unlike the first."]


def described(rows: pd.DataFrame) -> Table:
    """Each picture's verdict, caption, and objects with their similarities.

    Cells are ``Text`` without control characters: whatever a caption or a file name
    holds, it is shown and neither styles nor moves anything.
    """
    table = Table(
        title="What the models saw in the photographs of the first night", show_lines=True
    )
    table.add_column("picture", no_wrap=True)
    for name in ("caption", "objects"):
        table.add_column(name, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("global cosine", justify="right", width=6)
    found = rows[(rows["status"] == Status.OK) & (rows["date"].astype(str) == NIGHTS[0])]
    whole = found[found["source"] == "crawl"].sort_values("uri")
    for row in whole.to_dict("records"):
        table.add_row(
            _plain(row["uri"].rsplit("/", 1)[-1]),
            _plain(row["caption"]),
            Text("\n").join(_object(one) for one in row["objects"]) or Text("none named"),
            _verdict(row),
            _number(row["global_similarity"]),
        )
    table.caption = (
        "Similarities are cosines in CLIP space. An object that was not found in the "
        "picture counts as ungrounded. The score is the head's probability of being "
        "generated at even odds; all of these are photographs."
    )
    return table


def refused(rows: pd.DataFrame) -> Table:
    """Each file without features, by its place in its night, with the reason."""
    table = Table(title="What was not processed", show_lines=True)
    table.add_column("file", overflow="fold")
    table.add_column("error_code", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for row in rows[rows["status"] != Status.OK].sort_values("uri").to_dict("records"):
        code = ErrorCode(row["error_code"])
        in_night = re.sub(r"^.*?/date=[^/]+/", "", row["uri"])
        table.add_row(_plain(in_night), Text(code), Text(code.sentence))
    return table


def _object(one: dict[str, Any]) -> Text:
    text = Text.assemble("- ", _plain(one["phrase"]), " ", _number(one["similarity"]))
    return text if one["grounded"] else Text.assemble(text, " not found", style="dim")


def _verdict(row: dict[str, Any]) -> Text:
    why = "" if pd.isna(row["abstention"]) else f"\n{row['abstention']}"
    return Text.assemble(row["verdict"], "\n", _number(row["score"]), why)


def _number(value: float | None) -> Text:
    return Text("–" if value is None or pd.isna(value) else f"{value:.2f}")


def _plain(text: str) -> Text:
    return Text(printable(text))


def _shipped(package: str, path: str) -> bytes:
    """A file inside an installed package; UsageError if the demo's packages are missing."""
    try:
        return importlib.resources.files(package).joinpath(*path.split("/")).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise UsageError(
            f"The demo's photograph {path} of {package} is missing: "
            "install the demo's packages with make demo or pip install -e '.[demo]'."
        ) from None


if __name__ == "__main__":
    app()
