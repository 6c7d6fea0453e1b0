"""The Parquet files of a table."""

from __future__ import annotations

import posixpath

from pipelines.storage.access import Storage, check_readable, filesystem
from pipelines.storage.urls import is_s3


def parquet_files(path: str, storage: Storage) -> list[str]:
    """URLs of the Parquet files under a folder, or of the one file, in order.

    Names that begin with a dot or underscore are left out, as all readers of tables do.

    Raises
    ------
    UsageError
        If there is nothing at `path`.
    """
    check_readable(path, storage)
    fs, root = filesystem(path, storage)
    fs.invalidate_cache()
    by_name = {posixpath.relpath(file, root): file for file in fs.find(root)}
    files = [
        file
        for name, file in sorted(by_name.items())
        if file.endswith(".parquet") and not any(part[0] in "_." for part in _parts(name))
    ]
    return [f"s3://{file}" if is_s3(path) else file for file in files]


def _parts(name: str) -> list[str]:
    """The parts of a relative path; none for the file that is the table itself."""
    return [] if name == "." else name.split("/")
