"""A tour on one machine: photographs and broken files in, a readable table out.

    python jobs/demo.py

The photographs ship inside scikit-image and scikit-learn, so nothing is downloaded.
"""

from __future__ import annotations

import importlib.resources
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pyarrow.parquet as pq
import typer
from PIL import Image
from rich.table import Table
from rich.text import Text

from item.errors import UsageError
from item.heads.head import Head
from item.mini import HEAD
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

MARK = ".made-by-item-demo"
"""File that tells the demo's own folder from one that must not be cleared."""

app = application()


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option(help="The demo's own folder, which is cleared first.")
    ] = Path("demo-output"),
) -> None:
    """Put photographs and broken files into a small dump, featurize it, and show the result.

    Example: python jobs/demo.py
    """
    say = console().print
    with refusals():
        clear(output)
        dump, features = output / "dump", output / "features"
        names = make_dump(dump)
    broken = len(names) - len(PHOTOGRAPHS)
    say(f"{len(PHOTOGRAPHS)} photographs and {broken} broken files in {dump}", markup=False)
    code = featurize(dump, features)
    if code:
        raise typer.Exit(code)
    with refusals():
        rows = scored(features)
    say()
    say(described(rows))
    say()
    say(refused(rows))
    say()
    say("Analyse it in Python:")
    say(f'import pandas as pd; pd.read_parquet("{features}")', markup=False, soft_wrap=True)


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


def make_dump(folder: Path) -> list[str]:
    """Write photographs in mixed formats and three broken files; return all names."""
    folder.mkdir()
    for name, (package, path) in PHOTOGRAPHS.items():
        photograph = Image.open(io.BytesIO(_shipped(package, path)))
        photograph.save(folder / name, quality=90)
    rocket = _shipped(*PHOTOGRAPHS["rocket.jpg"])
    (folder / "broken-download.jpg").write_bytes(rocket[: len(rocket) // 2])
    (folder / "not-found-page.jpg").write_text(
        "<!DOCTYPE html><html><title>404</title><body>Not found</body></html>\n"
    )
    (folder / "empty.png").touch()
    return sorted(path.name for path in folder.iterdir())


def featurize(dump: Path, features: Path) -> int:
    """Run the real job on this machine alone; its messages go where ours go."""
    command = [sys.executable, str(Path(__file__).with_name("featurize.py"))]
    command += ["--input", str(dump), "--output", str(features)]
    command += ["--set", "max_error_rate=0.5"]  # a quarter of this dump is broken
    environment = {name: os.environ[name] for name in os.environ if name != "RAY_ADDRESS"}
    environment |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(command, env=environment, check=False).returncode


def scored(features: Path) -> pd.DataFrame:
    """The features table with the shipped head's score and verdict."""
    head = Head.load(HEAD)
    table = pq.read_table(features)
    found = head.score(table)
    return table.to_pandas().assign(
        score=found.score,
        verdict=list(found.verdict),
        abstention=[str(one) if one else None for one in found.abstention],
    )


def described(rows: pd.DataFrame) -> Table:
    """Each picture's verdict, caption, and objects with their similarities.

    Cells are ``Text`` without control characters: whatever a caption or a file name
    holds, it is shown and neither styles nor moves anything.
    """
    table = Table(title="What the models saw", show_lines=True)
    for name in ("picture", "caption", "objects"):
        table.add_column(name, overflow="fold")
    table.add_column("verdict", overflow="fold")
    table.add_column("global similarity", justify="right", width=10)
    found = rows[rows["status"] == Status.OK].sort_values("uri")
    for row in found.to_dict("records"):
        table.add_row(
            _plain(row["uri"]),
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
    """Each file without features, with the reason."""
    table = Table(title="What was not processed", show_lines=True)
    table.add_column("file", overflow="fold")
    table.add_column("error_code", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for row in rows[rows["status"] != Status.OK].sort_values("uri").to_dict("records"):
        code = ErrorCode(row["error_code"])
        table.add_row(_plain(row["uri"]), Text(code), Text(code.sentence))
    return table


def _object(one: dict[str, Any]) -> Text:
    text = Text.assemble("- ", _plain(one["phrase"]), " ", _number(one["similarity"]))
    return text if one["grounded"] else Text.assemble(text, " not found", style="dim")


def _verdict(row: dict[str, Any]) -> Text:
    why = row["abstention"]
    return Text.assemble(row["verdict"], " ", _number(row["score"]), f" {why}" if why else "")


def _number(value: float | None) -> Text:
    return Text("–" if value is None or pd.isna(value) else f"{value:.2f}")


def _plain(text: str) -> Text:
    return Text(
        "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    )


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
