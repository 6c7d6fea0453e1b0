"""The files of a table, and tables that other programs wrote: Parquet or CSV."""

from __future__ import annotations

import csv
import gzip
import io
import posixpath
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from item.errors import UsageError
from pipelines.storage.access import check_readable, filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import is_s3, redact
from pipelines.tables.columns import as_text, check_distinct

PARQUET = (".parquet",)
TABLES = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
"""Endings of what :func:`read_text` reads."""


def parquet_files(path: str, storage: Storage) -> list[str]:
    """URLs of the Parquet files under a folder, or of the one file, in order.

    Names that begin with a dot or underscore are left out, as all readers of tables do.

    Raises
    ------
    UsageError
        If there is nothing at `path`.
    """
    return _files(path, storage, PARQUET)


def read_text(
    path: str, wanted: Collection[str], storage: Storage, what: str
) -> Iterator[tuple[str, pa.Table]]:
    """Columns of a table of Parquet or CSV as text, with the URL of each of its files.

    Parameters
    ----------
    path : a file or a folder of files
    wanted : names of columns; those that a file lacks are left out
    what : the table is called in a refusal

    Raises
    ------
    UsageError
        If there is no such table, a file cannot be read, or a column is there twice.
    """
    files = _files(path, storage, TABLES)
    if not files:
        raise UsageError(f"There is no Parquet and no CSV at {redact(path)} to read {what} from.")
    for url in files:
        fs, inner = filesystem(url, storage)
        try:
            if url.endswith(".parquet"):
                with fs.open(inner, "rb") as content:
                    parquet = pq.ParquetFile(content)
                    names = parquet.schema_arrow.names
                    check_distinct(names, wanted, url)
                    table = parquet.read(columns=[name for name in wanted if name in names])
            else:
                table = _csv(fs.cat_file(inner), wanted, url)
        except (pa.ArrowInvalid, ValueError, csv.Error, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"{redact(url)} cannot be read: {redact(reason)}.") from None
        columns = {name: as_text(table[name]) for name in wanted if name in table.column_names}
        yield url, pa.table(columns)


def _files(path: str, storage: Storage, endings: tuple[str, ...]) -> list[str]:
    check_readable(path, storage)
    fs, root = filesystem(path, storage)
    fs.invalidate_cache()
    by_name = {posixpath.relpath(file, root): file for file in fs.find(root)}
    files = [
        file
        for name, file in sorted(by_name.items())
        if file.endswith(endings) and not any(part[0] in "_." for part in _parts(name))
    ]
    return [f"s3://{file}" if is_s3(path) else file for file in files]


def _csv(content: bytes, wanted: Collection[str], url: str) -> pa.Table:
    """Columns of a CSV, each value as it is written; an empty cell is null."""
    if url.endswith(".gz"):
        content = gzip.decompress(content)
    first = content.decode("utf-8-sig").partition("\n")[0]
    between = "\t" if ".tsv" in url[-7:] else max(",;\t", key=first.count)
    names = next(csv.reader([first.rstrip("\r")], delimiter=between), [])
    check_distinct(names, wanted, url)
    own = [name for name in wanted if name in names]
    if not own:
        return pa.table({})
    return pyarrow.csv.read_csv(
        io.BytesIO(content),
        parse_options=pyarrow.csv.ParseOptions(delimiter=between, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(own, pa.string()),
            include_columns=own,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _parts(name: str) -> list[str]:
    """The parts of a relative path; none for the file that is the table itself."""
    return [] if name == "." else name.split("/")
