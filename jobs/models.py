"""The models of profiles: listed, fetched to where no hub is reached, and trained for ``mini``.

python jobs/models.py
python jobs/models.py fetch --profile base --to /mnt/models
python jobs/models.py train-mini --input flickr8k/ --output item/mini/weights
python jobs/models.py fit-layers --input photographs/ --output item/mini/weights
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from item.errors import UsageError
from item.images.decode import Decoding, decode
from item.models.files.mirror import mirror
from item.profiles import Profile, load_profile, profile_names
from jobs.command_line import Set, application, console, refusals
from pipelines.configuration import parse_settings
from pipelines.storage.access import check_writable
from pipelines.storage.configuration import Storage

COMMIT_DIGITS = 12

app = application()


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the profiles that come with the package: the models that each names, their
    licences, what is downloaded, and the memory that their weights take. Or fetch the models
    of one, or train those of mini.

    Example: python jobs/models.py
    """
    if context.invoked_subcommand:
        return
    with refusals():
        tables = [table(load_profile(name)) for name in profile_names()]
    say = console().print
    for profile in tables:
        say(profile)
        say()
    say("Use one:   --profile NAME", markup=False)
    say("Fetch it:  python jobs/models.py fetch --profile NAME --to DIR", markup=False)


def table(profile: Profile) -> Table:
    """What a person wants to know of a profile's models, 80 columns wide."""
    # The least of margins: with more, names of models are broken at 80 columns.
    found = Table(
        title=profile.name, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False
    )
    found.add_column("member", no_wrap=True)
    found.add_column("model", overflow="fold")
    found.add_column("licence", overflow="fold")
    found.add_column("download", justify="right", no_wrap=True)
    found.add_column("memory", justify="right", no_wrap=True)
    files = profile.model_files()
    for member in dict.fromkeys((*files, *profile.about)):
        about = profile.about.get(member)
        found.add_row(
            member,
            source(files[member].source, files[member].revision) if member in files else "packaged",
            about.licence if about else "",
            f"{about.gigabytes:,.1f} GB" if about else "",
            f"{about.memory_gigabytes:,.1f} GB" if about else "",
        )
    if not files and not profile.about:
        found.add_row("all", "packaged: nothing is downloaded", "", "", "")
    if len(profile.about) > 1:
        size = sum(about.gigabytes for about in profile.about.values())
        memory = sum(about.memory_gigabytes for about in profile.about.values())
        found.add_section()
        found.add_row("together", "", "", f"{size:,.1f} GB", f"{memory:,.1f} GB")
    return found


def source(name: str, revision: str | None) -> str:
    """A source, and its revision below it."""
    if revision is None:
        return name
    commit = len(revision) == 40
    return f"{name}\n@{revision[:COMMIT_DIGITS] if commit else revision}"


@app.command()
def fetch(
    profile: Annotated[str, typer.Option(help="Name or YAML file of a model profile.")],
    to: Annotated[str, typer.Option(help="Folder or s3:// prefix for the mirror.")],
    set: Set = None,
) -> None:
    """Copy every model that a profile names to a folder or s3:// prefix, with checksums.
    Run again, it fetches only what is missing or damaged. Keys of --set are the profile's,
    such as captioner.files.revision.

    Example: python jobs/models.py fetch --profile base --to /mnt/models
    """
    with refusals():
        settings = {
            key.removeprefix("profile."): value for key, value in parse_settings(set or []).items()
        }
        files = load_profile(profile, settings).model_files()
        say = console().print
        if not files:
            say(f"The models of the profile '{profile}' come with the package.", markup=False)
            return
        check_writable(to, Storage())
        with _Bars() as shown:
            copies = mirror(files, to, shown)
    for member, copy in copies.items():
        size = f"{copy.size / 1e9:,.2f} GB"
        text = f"{member}: {copy.revision}, {size}, files fetched: {len(copy.fetched)}"
        say(text, markup=False, soft_wrap=True)
    options = [
        f"--set {shlex.quote(f'profile.{member}.files.source={copy.files.source}')}"
        for member, copy in copies.items()
    ]
    lines = " \\\n  ".join([f"--profile {shlex.quote(profile)}", *options])
    say(f"Use it:  {lines}", markup=False, soft_wrap=True)


class _Bars:
    """One line a model on standard error."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def __call__(self, member: str, doing: str, done: int, total: int) -> None:
        task = self._tasks.get((member, doing))
        if task is None:
            task = self._progress.add_task(f"{doing} {member}", total=total)
            self._tasks[member, doing] = task
        self._progress.update(task, completed=done, total=total)


@app.command()
def train_mini(
    input: Annotated[Path, typer.Option(help="Folder of Parquet: bytes, captions, split.")],
    output: Annotated[Path, typer.Option(help="Folder for weights and metrics.json.")],
    cache: Annotated[Path, typer.Option(help="Folder for feature maps.")] = Path("mini-cache"),
    dual_encoder_epochs: Annotated[
        int | None, typer.Option(help="0 trains none.", show_default="as shipped")
    ] = None,
    captioner_epochs: Annotated[
        int | None, typer.Option(help="0 trains none.", show_default="as shipped")
    ] = None,
    concepts: Annotated[bool, typer.Option(help="Let the captioner read class names.")] = True,
) -> None:
    """Train the dual encoder and the captioner of the mini profile.

    Example: python jobs/models.py train-mini --input flickr8k/ --output item/mini/weights
    """
    # Not above: whoever lists models need not wait for torch.
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
    if dual_encoder_epochs != 0:
        recipe = DualEncoderRecipe(epochs=dual_encoder_epochs or DualEncoderRecipe.epochs)
        space, names = train_dual_encoder(train, recipe, say)
        save_weights({**space.state_dict(), "names": names}, output / "dual_encoder.safetensors")
        metrics |= retrieval(space, names, test)
    if captioner_epochs != 0:
        epochs = captioner_epochs or CaptionerRecipe.epochs
        words = CaptionerRecipe(epochs=epochs, concepts=concepts)
        decoder, language = train_captioner(train, words, say)
        save_decoder(decoder, language, output / "captioner.safetensors")
        found = captions_of(decoder, language, test)
        metrics |= caption_metrics(found, test.captions)
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    say(metrics)


@app.command()
def fit_layers(
    input: Annotated[list[Path], typer.Option(help="Folder of Parquet with bytes.")],
    output: Annotated[Path, typer.Option(help="Folder for layers.safetensors.")],
    most: Annotated[int, typer.Option(help="Pictures that are looked at, in all.", min=2)] = 6000,
) -> None:
    """Fit the projection of the mini profile's layers on pictures of many sources. No label is
    looked at.

    Example: python jobs/models.py fit-layers --input photographs/ --output item/mini/weights
    """
    from item.mini import layers_fitting
    from item.mini.checkpoint import save_weights

    with refusals():
        files = [file for folder in input for file in _files(folder)]
        rows = pa.concat_tables(pq.read_table(file, columns=["bytes"]) for file in files)
    chosen = np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
    decoding = load_profile("mini").decoding
    batches = (
        [decode(rows["bytes"][int(row)].as_py(), decoding).pixels for row in some]
        for some in np.array_split(chosen, max(len(chosen) // 50, 1))
    )
    with console().status("") as status:
        tensors = layers_fitting.fit_layers(batches, status.update)
    save_weights(tensors, output / "layers.safetensors")


def _read(folder: Path) -> pa.Table:
    return pa.concat_tables(
        pq.read_table(file, columns=["bytes", "captions", "split"]) for file in _files(folder)
    )


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UsageError(f"There is no Parquet in {folder}: give a folder that has some.")
    return files


if __name__ == "__main__":
    app()
