"""What an input is: image files, tables of them, lists of URIs, or archives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from item.errors import UsageError
from pipelines.input.files import IMAGE_EXTENSIONS, Kind, extension, kind_of
from pipelines.input.listing import ListedFile
from pipelines.storage.urls import redact

NAMES: Mapping[Kind, str] = {
    "images": "image files",
    "parquet": "Parquet files",
    "webdataset": "tar or zip archives",
    "list": "CSV or JSONL lists of URIs",
}


def kind_of_input(place: str, wanted: str, files: Sequence[ListedFile]) -> Kind:
    """Return what an input is, as its owner says or as its files tell.

    Parameters
    ----------
    place : for the sentence of a refusal
    wanted : a kind, or ``auto``
    files : all that is there

    Raises
    ------
    UsageError
        If it may be meant in more than one way, or is a format that is not read.
    """
    if wanted != "auto":
        return wanted  # type: ignore[return-value]
    _refuse_arrow(place, files)
    counts = Counter(_clear_kind(file.name) for file in files)
    main = [kind for kind in ("images", "parquet", "webdataset") if counts[kind]]
    if len(main) > 1 and counts["parquet"]:
        described = _without_descriptions(files)
        main = [kind for kind in main if kind != "parquet" or not described]
    if not main:  # beside pictures they say something of these, alone they are what is meant
        main = [kind for kind in ("zip", "list") if counts[kind]]
    if len(main) > 1:
        kinds = ["webdataset" if kind == "zip" else kind for kind in main]
        found = " and ".join(f"{counts[kind]} {_name(kind)}" for kind in sorted(main))
        choices = " or ".join(f"--set reading.kind={kind}" for kind in sorted(kinds))
        raise UsageError(f"{redact(place)} holds {found}: say which is meant with {choices}.")
    kind = main[0] if main else "images"
    return "webdataset" if kind == "zip" else kind  # type: ignore[return-value]


def _clear_kind(name: str) -> str | None:
    """The kind of a file that is certainly meant as one; zips are a kind of their own."""
    if name.lower().endswith((".zip", ".cbz")):
        return "zip"
    kind = kind_of(name)
    return None if kind == "images" and extension(name) not in IMAGE_EXTENSIONS else kind


def _name(kind: str) -> str:
    return "zip archives" if kind == "zip" else NAMES[kind]  # type: ignore[index]


def _without_descriptions(files: Sequence[ListedFile]) -> bool:
    """Whether each Parquet file describes the archive or folder of its name, as img2dataset's."""
    stems = {file.name.removesuffix(".parquet") for file in files if _is_parquet(file)}
    archives = {file.name.removesuffix(".tar") for file in files if file.name.endswith(".tar")}
    folders = {file.name.rpartition("/")[0] for file in files}
    return stems <= archives | folders


def _is_parquet(file: ListedFile) -> bool:
    return file.name.endswith(".parquet")


def _refuse_arrow(place: str, files: Sequence[ListedFile]) -> None:
    names = {file.name.rpartition("/")[2] for file in files}
    if "state.json" in names and any(file.name.endswith(".arrow") for file in files):
        raise UsageError(
            f"{redact(place)} was written by save_to_disk of Hugging Face's datasets, which is not "
            "read: write it as Parquet with load_from_disk(…).to_parquet(…)."
        )
