"""A labelled sample of a Parquet dump: half real, the generated half spread over generators."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from item.errors import UsageError
from pipelines.input import plan as inputs
from pipelines.input.columns import labels_of, texts
from pipelines.input.pieces import TableRows
from pipelines.input.plan import InputOptions
from pipelines.input.rows import as_label
from pipelines.input.table_files import open_parquet, reading_failure
from pipelines.storage.access import filesystem
from pipelines.storage.atomic import write_atomically
from pipelines.storage.configuration import Storage
from pipelines.storage.uris import canonical_uri
from pipelines.storage.urls import join, normalise, redact

COLUMNS = ("uri", "bytes", "label")
"""What an input must have for a sample to be drawn from it."""
PART = "part-0.parquet"
KINDS = ("real", "generated")
"""What a label is called."""
ROWS_AT_ONCE = 64
"""Pictures of the input that are in memory while those drawn are looked for."""


class Sampling(BaseModel):
    """Which rows are drawn; the same settings draw the same rows of the same input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[str, ...]
    """The dumps, normalised."""
    images: int = Field(ge=4)
    seed: int = Field(ge=0)
    generators: tuple[str, ...] = ()
    """Generators that generated rows are drawn from; all if none is named."""
    sources: tuple[str, ...] = ()
    """Sources that real rows are drawn from; all if none is named."""


def draw(rows: pd.DataFrame, sampling: Sampling) -> pd.DataFrame:
    """Draw half real and half generated rows.

    Real ones are spread as evenly over sources, and generated ones over generators, as
    their numbers allow. Which rows are drawn does not depend on the order of `rows`.

    Parameters
    ----------
    rows : ``uri``, ``label`` (0, 1 or None), ``generator``, ``source``; of a URI that comes
        more than once the first row counts
    sampling : how many, from which random numbers and of which origins

    Returns
    -------
    The rows drawn, in the order of `rows`.

    Raises
    ------
    UsageError
        If a generator or source is unknown, or a half cannot be filled.
    """
    usable = rows[rows["label"].isin([0, 1]) & rows["uri"].notna()].drop_duplicates("uri")
    random = np.random.default_rng(sampling.seed)
    drawn: list[Any] = []
    halves = ((0, "source", sampling.sources), (1, "generator", sampling.generators))
    for label, column, wanted in halves:
        half = usable[usable["label"] == label].sort_values("uri")
        origins = half[column].fillna("")
        known = sorted(filter(None, set(origins)))
        for name in set(wanted) - set(known):
            raise UsageError(
                f"There are no {KINDS[label]} rows of the {column} '{name}' to draw, only of "
                f"{', '.join(known) or 'unnamed ones'}."
            )
        if wanted:
            origins = origins[origins.isin(wanted)]
        number = (sampling.images + label) // 2
        if len(origins) < number:
            raise UsageError(
                f"A sample of {sampling.images:,} needs {number:,} {KINDS[label]} rows and there "
                f"are {len(origins):,}: draw fewer images, or name more origins."
            )
        for origin, share in even_shares(dict(origins.value_counts()), number).items():
            drawn.extend(random.permutation(origins.index[origins == origin])[:share])
    return rows.loc[rows.index.isin(drawn)]


def even_shares(available: Mapping[str, int], number: int) -> dict[str, int]:
    """Divide a number as evenly as what is available of each name allows."""
    shares = {}
    names = sorted(available, key=lambda name: (available[name], name))
    for place, name in enumerate(names):
        shares[name] = min(available[name], number // (len(names) - place))
        number -= shares[name]
    return shares


def drawn_rows(sampling: Sampling, storage: Storage) -> pd.DataFrame:
    """Draw from the input; reads every row but no picture.

    Returns
    -------
    DataFrame with ``file`` and ``row``, where a row stands, beside the columns of :func:`draw`.

    Raises
    ------
    UsageError
        As :func:`draw`, and if the input is not Parquet with :data:`COLUMNS`.
    """
    plan = inputs.plan(sampling.inputs, InputOptions(), storage, datetime.now(UTC).date())
    if set(plan.kinds) != {"parquet"}:
        raise UsageError(
            f"A sample is drawn from Parquet with the columns {', '.join(COLUMNS)}, and "
            f"{' and '.join(map(redact, sampling.inputs))} holds none."
        )
    pieces = [piece for piece in plan.pieces if isinstance(piece, TableRows)]
    files = dict.fromkeys((piece.root, piece.name) for piece in pieces)
    frames = [_origins(root, name, storage) for root, name in files]
    return draw(pd.concat(frames, ignore_index=True), sampling)


def _origins(root: str, file: str, storage: Storage) -> pd.DataFrame:
    """Label, generator and source of all rows of a file, and where they stand."""
    with open_parquet(root, file, storage) as parquet:
        names = set(parquet.schema_arrow.names)
        if missing := set(COLUMNS) - names:
            raise UsageError(
                f"A sample is drawn from Parquet with the columns {', '.join(COLUMNS)}, and "
                f"{redact(join(root, file))} has no '{min(missing)}'."
            )
        wanted = ["uri", "label", *sorted({"generator", "source"} & names)]
        columns: dict[str, list[Any]] = {name: [] for name in wanted}
        for batch in parquet.iter_batches(8192, columns=wanted, use_threads=False):
            columns["label"] += [as_label(value) for value in labels_of(batch["label"])]
            for name in columns.keys() - {"label"}:
                columns[name] += texts(batch[name])
    columns["uri"] = [one and canonical_uri(one, root) for one in columns["uri"]]
    frame = pd.DataFrame(columns, columns=["uri", "label", "generator", "source"], dtype=object)
    return frame.assign(root=root, file=file, row=range(len(frame)))


def write_sample(rows: pd.DataFrame, sampling: Sampling, folder: str, storage: Storage) -> None:
    """Write the rows of :func:`drawn_rows`, all their columns with them, as one Parquet file."""
    parts: list[pa.Table] = []
    for (root, file), some in rows.groupby(["root", "file"], sort=True):
        try:
            parts += _read(str(root), str(file), some["row"].to_numpy(), storage)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(
                f"{redact(join(str(root), str(file)))} cannot be read as a Parquet file "
                f"({reading_failure(error)}): replace or remove it."
            ) from None
    table = pa.concat_tables(parts, promote_options="permissive")
    buffer = io.BytesIO()
    metadata = {"item.sampling": sampling.model_dump_json()}
    # A row group is what one task reads.
    pq.write_table(table.replace_schema_metadata(metadata), buffer, row_group_size=256)
    fs, path = filesystem(folder, storage)
    write_atomically(fs, posixpath.join(path, PART), buffer.getvalue())


def _read(root: str, file: str, rows: Sequence[int], storage: Storage) -> Iterator[pa.Table]:
    """Some rows of a file; row groups without any are not read."""
    with open_parquet(root, file, storage) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            stop = start + parquet.metadata.row_group(group).num_rows
            if any(start <= row < stop for row in rows):
                for batch in parquet.iter_batches(ROWS_AT_ONCE, row_groups=[group]):
                    here = [row - start for row in rows if start <= row < start + len(batch)]
                    if here:
                        yield _with_keys(pa.Table.from_batches([batch]).take(here), root)
                    start += len(batch)
            start = stop


def _with_keys(rows: pa.Table, root: str) -> pa.Table:
    """Rows whose URIs mean the same in another folder than their own."""
    uris = [one and canonical_uri(one, root) for one in texts(rows["uri"].combine_chunks())]
    return rows.set_column(rows.column_names.index("uri"), "uri", pa.array(uris, pa.string()))


def written_sample(sampling: Sampling, folder: str, storage: Storage) -> pd.DataFrame | None:
    """Label, generator and source of the sample that is in a folder; None if there is none.

    Raises
    ------
    UsageError
        If it was drawn otherwise.
    """
    fs, path = filesystem(folder, storage)
    fs.invalidate_cache()
    part = posixpath.join(path, PART)
    if not fs.exists(part):
        return None
    with fs.open(part, "rb") as file:
        parquet = pq.ParquetFile(file)
        found = (parquet.schema_arrow.metadata or {}).get(b"item.sampling", b"").decode()
    if found != sampling.model_dump_json():
        raise UsageError(
            f"{redact(folder)} holds a sample that was drawn otherwise: choose another output."
        )
    return _origins(normalise(folder), PART, storage)
