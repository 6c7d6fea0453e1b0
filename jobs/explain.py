"""One image in, what a head makes of it and why out, and a picture of its objects.

python jobs/explain.py photos/dog.jpg
python jobs/explain.py s3://bucket/dog.jpg --head head/ --output explanation/
"""

from __future__ import annotations

import io
import json
import posixpath
from typing import Annotated

import typer

from item.explanation.pictures import annotate
from item.explanation.sentences import Explanation, explain
from item.images.decode import Decoding, decode
from item.mini import HEAD
from item.statistics.calibration import Verdict
from jobs.command_line import ConfigFile, ProfileName, Set, application, console, refusals
from pipelines.configuration import parse_settings
from pipelines.featurize.configuration import resolve
from pipelines.featurize.one_image import featurize_one, read_one
from pipelines.input.files import readable
from pipelines.score.heads import load_head
from pipelines.storage.access import check_writable, filesystem
from pipelines.storage.atomic import write_atomically
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join

EXIT_NOT_SCORED = 3
"""The image cannot be used; the explanation says why."""
SIDE = 1024
"""Pixels of the longer side of the picture that is drawn on, at most."""

app = application()


@app.command("explain")
def explain_image(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Local path or s3:// of an image.")],
    head: Annotated[
        str, typer.Option(help="Folder or s3:// prefix of a head.", show_default="shipped")
    ] = str(HEAD),
    output: Annotated[
        str, typer.Option(help="Folder or s3:// prefix for the result.")
    ] = "explanation",
    profile: ProfileName = None,
    config: ConfigFile = None,
    set: Set = None,
) -> None:
    """Say of one image whether it is likely generated and what speaks for it, and save that
    with a picture of its objects. Of a configuration, that of a featurize job, the keys
    under profile and storage count. Exits with 3 if the image cannot be used.

    Example: python jobs/explain.py photos/dog.jpg
    """
    with refusals():
        options = {"input": readable(uri), "output": output, "profile": profile}
        configuration = resolve(config, options, parse_settings(set or []))
        configuration = configuration.with_pinned_models()
        storage, models = configuration.storage, configuration.profile
        judge = load_head(head, storage)
        judge.check_feature_set(models.feature_set_id())
        check_writable(output, storage)
        data = read_one(uri, models, storage)
        found = explain(featurize_one(data, configuration.input[0], models), judge)
        saved = save(found, data, models.decoding, output, storage)
    say = console().print
    say(found.as_text(), markup=False, emoji=False, soft_wrap=True)
    say()
    for path in saved:
        say(f"Saved: {path}", markup=False, emoji=False, soft_wrap=True)
    if found.verdict == Verdict.NOT_SCORED:
        raise typer.Exit(EXIT_NOT_SCORED)


def save(
    found: Explanation, data: bytes, decoding: Decoding, output: str, storage: Storage
) -> list[str]:
    """Write the explanation, and the picture if there is one; return where they are."""
    text = json.dumps(found.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    name = (found.image_id or "")[:16]
    files = {f"{name}.json": text.encode()}
    if found.verdict != Verdict.NOT_SCORED:
        image = decode(data, decoding.model_copy(update={"max_side": SIDE}))
        size = image.width, image.height
        buffer = io.BytesIO()
        annotate(image.pixels, found.objects, found.weakest, size).save(buffer, "PNG")
        files[f"{name}.png"] = buffer.getvalue()
    fs, folder = filesystem(output, storage)
    for path, content in files.items():
        write_atomically(fs, posixpath.join(folder, path), content)
    return [join(output, path) for path in files]


if __name__ == "__main__":
    app()
