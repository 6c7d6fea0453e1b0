"""The files of an input: what their names say, and how they are opened."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import date as Date
from datetime import datetime
from typing import IO, Literal

from fsspec.implementations.local import LocalFileSystem

from item.errors import UsageError
from pipelines.storage.access import filesystem
from pipelines.storage.allowed import Roots
from pipelines.storage.configuration import Storage
from pipelines.storage.uris import local_uri
from pipelines.storage.urls import is_s3

Kind = Literal["images", "parquet", "webdataset", "list"]


IMAGE_EXTENSIONS = frozenset(
    """
    .jpg .jpeg .jpe .jfif .png .apng .gif .bmp .dib .webp .avif .heic .heif .tif .tiff .svg .ico
    .icns .jp2 .j2k .jpx .jxl .psd .tga .pnm .ppm .pgm .pbm .pcx .raw .cr2 .cr3 .nef .arw .orf
    .rw2 .raf .dng .exr .hdr .eps .qoi .xbm .xpm .dds
    """.split()  # noqa: SIM905 - a column of a hundred strings is no easier to read
)
"""Files that are certainly meant as images, whether or not they can be decoded."""


OTHER_EXTENSIONS = frozenset(
    """
    .txt .json .jsonl .ndjson .csv .tsv .parquet .md .rst .yaml .yml .xml .html .htm .css .js
    .py .ipynb .sh .toml .ini .cfg .log .lock .cls .idx .index .md5 .sha1 .sha256 .npy .npz .pkl
    .pickle .pt .pth .ckpt .safetensors .onnx .h5 .hdf5 .arrow .feather .orc .avro .db .sqlite
    .mdb .lmdb .tfrecord .tar .tgz .gz .bz2 .xz .zst .zip .7z .rar .mp4 .mov .avi .mkv .webm
    .mpg .mpeg .mp3 .wav .flac .ogg .m4a .pdf .doc .docx .xls .xlsx .ppt .pptx .srt .vtt .tmp
    .part .crc .license
    """.split()  # noqa: SIM905 - a column of a hundred strings is no easier to read
)
"""Files that are certainly not images. Everything else is read, so that it is reported."""


_OTHER_NAMES = frozenset({"readme", "license", "licence", "notice", "changelog", "makefile"})


def is_hidden(name: str) -> bool:
    """Whether a file is hidden; ``_DSC0001.JPG`` is how cameras name pictures, and is not."""
    *folders, last = name.split("/")
    return (
        last.startswith(".")
        or (last.startswith("_") and extension(name) not in IMAGE_EXTENSIONS)
        or any(folder.startswith((".", "_")) for folder in folders)
    )


def extension(name: str) -> str:
    """Return the extension of a path in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def may_be_image(name: str) -> bool:
    """Whether a file is read as an image: everything that certainly is nothing else."""
    stem = name.rpartition("/")[2].lower()
    return extension(name) not in OTHER_EXTENSIONS and stem not in _OTHER_NAMES


ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip", ".cbz")
LISTS = (".csv", ".tsv", ".jsonl", ".ndjson")


def kind_of(name: str) -> Kind | None:
    """Return the kind of input that a file belongs to, if any."""
    if extension(name) == ".parquet":
        return "parquet"
    if name.lower().endswith(ARCHIVES):
        return "webdataset"
    if extension(name) in LISTS:
        return "list"
    return "images" if may_be_image(name) else None


_DATE_FOLDER = re.compile(r"(?:^|/)date=([^/]*)(?=/|$)")


def date_in(path: str) -> str | None:
    """Return the date of the innermost ``date=YYYY-MM-DD`` folder on a path."""
    for text in reversed(_DATE_FOLDER.findall(path)):
        if valid := valid_date(text):
            return valid
    return None


def valid_date(value: object) -> str | None:
    """Return a date as YYYY-MM-DD, or None: dates become names of folders."""
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, Date):
        return value.isoformat()
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        try:
            return Date.fromisoformat(value).isoformat()
        except ValueError:
            pass
    return None


def source_in(name: str) -> str | None:
    """Return the first folder of a path below the root, hive's ``date=`` aside."""
    for folder in name.split("/")[:-1]:
        if not folder.startswith("date="):
            return readable(folder.removeprefix("source="))
    return None


def readable(name: str) -> str:
    """Return a local file name as text; bytes that are not UTF-8 become ``\\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def uri_of(root: str, name: str) -> str:
    """Return the URI of a listed file, or of the root itself where `name` is empty.

    Parameters
    ----------
    root : real path of a local folder, or an ``s3://`` prefix
    name : path below it; on S3 every byte of the key counts
    """
    if is_s3(root):
        return f"{root}/{name}" if name else root
    return local_uri(os.path.join(root, name) if name else root)


def open_file(root: str, name: str, storage: Storage, uri_roots: Sequence[str] = ()) -> IO[bytes]:
    """Open a listed table or archive.

    Raises
    ------
    UsageError
        If it is a link that leads to none of the roots.
    """
    fs, path = filesystem(root, storage)
    path = f"{path}/{name}"
    if isinstance(fs, LocalFileSystem):
        if Roots([root, *uri_roots]).locate(path, root) is None:
            target = os.path.dirname(os.path.realpath(path))
            raise UsageError(
                f"{readable(name)} is a link that leads out of {readable(root)}: allow it with "
                f"--set reading.uri_roots=[{readable(target)}]."
            )
        return open(path, "rb")
    # Columns are read side by side: a cache around one position would be thrown away
    # at every step. Arrow buffers each column itself.
    handle: IO[bytes] = fs.open(path, "rb", cache_type="none")
    return handle
