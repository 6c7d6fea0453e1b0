"""Features tables as rows to train on, checked before any training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from item.errors import UsageError
from item.heads.columns import COLUMNS, FeatureArrays, Group, columns_of, embedding_dimensions
from item.tables import LAYERS, SCHEMA_VERSION, Status, decoded, typed
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import redact
from pipelines.tables.columns import as_text, check_distinct
from pipelines.tables.identity import FEATURES, feature_set_in, table_kind
from pipelines.train.files import parquet_files
from pipelines.train.labels import Labels, as_labels
from pipelines.train.metadata import metadata_column

KEYS = ("uri", "image_id", "status", "label", "generator", "source")
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Fragment:
    """A row group of a Parquet file, the unit in which rows are read."""

    url: str
    row_group: int
    rows: int

    def read(self, storage: Storage, columns: Iterable[str] = ()) -> pa.Table:
        """What a head looks at, and some columns beside it."""
        fs, path = filesystem(self.url, storage)
        with fs.open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            names = dict.fromkeys([*columns, *columns_of(parquet.schema_arrow.names)])
            return typed(parquet.read_row_group(self.row_group, list(names)))


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Rows with features and a label; arrays have n rows.

    The features themselves stay in the files until they are asked for.
    """

    fragments: tuple[Fragment, ...]
    fragment: Indices
    """Which of the fragments holds a row."""
    place: Indices
    """Where in its fragment the row stands."""
    uris: NDArray[np.object_]
    labels: NDArray[np.int8]
    generators: NDArray[np.object_]
    """None for real rows, or where it is not known."""
    sources: NDArray[np.object_]
    groups: Indices
    """Number of the group; a split never divides one."""
    feature_set_id: str
    dimensions: int
    layers: int
    storage: Storage
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows that cannot be learned from, by reason."""
    notes: tuple[str, ...] = ()
    """What was noticed as labels were joined and compared."""

    def remarks(self) -> list[str]:
        """What whoever uses the rows should know of them."""
        left_out = [f"{number:,} {reason}" for reason, number in self.left_out.items()]
        return [*self.notes, *([f"Rows left out: {', '.join(left_out)}."] if left_out else [])]

    def __len__(self) -> int:
        return len(self.labels)

    def origins(self) -> NDArray[np.object_]:
        """(n,) what each row comes from: its generator, else its source, else nothing known."""
        pairs = zip(self.generators, self.sources, strict=True)
        return np.array([generator or source or "" for generator, source in pairs], object)

    def arrays(self, rows: Indices) -> FeatureArrays:
        """Features of the given rows, in their order; reads their fragments."""
        order = np.argsort(self.fragment[rows], kind="stable")
        parts = [
            fragment_arrays(self.fragments[number], places, self.storage)
            for number, places, _ in self.by_fragment(rows[order])
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return FeatureArrays.concat(parts).take(back)

    def by_fragment(self, rows: Indices) -> Iterator[tuple[int, Indices, Indices]]:
        """Fragment, places in it and the rows themselves, of rows that are in order."""
        numbers, starts = np.unique(self.fragment[rows], return_index=True)
        for number, members in zip(numbers, np.split(rows, starts[1:]), strict=True):
            yield int(number), self.place[members], members

    def check_groups(self, groups: Sequence[Group]) -> None:
        """UsageError if a head asks for layers that the features do not have."""
        if Group.LAYERS in groups and not self.layers:
            raise UsageError(
                "The features hold no layers: featurize with profile.clip.layers above 0, or leave "
                "'layers' out of head.groups."
            )

    def without(self, names: Sequence[str]) -> LabelledRows:
        """All rows but those of the named generators and real sources.

        Raises
        ------
        UsageError
            If there is no such generator or source.
        """
        kind = np.where(self.labels == 1, self.generators, self.sources)
        if unknown := sorted(set(names) - set(kind)):
            known = sorted({name for name in kind if name})
            raise UsageError(
                f"There are no rows of '{unknown[0]}' to leave out: choose among "
                f"{', '.join(known)}."
            )
        kept = ~np.isin(kind.astype(str), list(names))
        arrays = ("fragment", "place", "uris", "labels", "generators", "sources", "groups")
        return replace(self, **{name: getattr(self, name)[kept] for name in arrays})

    def describe(self) -> list[dict[str, Any]]:
        """Rows by label, generator and source."""
        return counted(self, np.arange(len(self)))


def counted(rows: LabelledRows, chosen: Indices) -> list[dict[str, Any]]:
    """Chosen rows by label, generator and source, most first."""
    columns = {
        "label": rows.labels[chosen].astype(int),
        "generator": rows.generators[chosen],
        "source": rows.sources[chosen],
    }
    return counted_origins(pd.DataFrame(columns))


def counted_origins(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows by their columns label, generator and source, most first."""
    counts = rows[["label", "generator", "source"]].value_counts(dropna=False, sort=True)
    return [
        {
            "label": int(label),
            "generator": generator if isinstance(generator, str) else None,
            "source": source if isinstance(source, str) else None,
            "rows": int(number),
        }
        for (label, generator, source), number in counts.items()
    ]


def fragment_arrays(fragment: Fragment, places: Indices, storage: Storage) -> FeatureArrays:
    """Features of some rows of a fragment."""
    return FeatureArrays.of(fragment.read(storage).take(places))


def read_labelled(
    paths: Sequence[str],
    storage: Storage,
    metadata: str | None = None,
    group_column: str | None = None,
    labels: str | None = None,
) -> LabelledRows:
    """Read features tables of one feature set, and refuse what cannot be trained on.

    Rows that share a URI, an image or a group belong together. Of a picture that is labelled
    both real and generated no row is used.

    Parameters
    ----------
    paths : features tables, Parquet files or folders of them
    storage : how S3 is reached
    metadata : Parquet with ``uri`` and `group_column`
    group_column : column of `metadata`, or of the features tables, such as the prompt; rows
        that are equal in it are never divided
    labels : table whose labels, generators and sources take the place of those of the features;
        see :class:`pipelines.train.labels.Labels`

    Raises
    ------
    UsageError
        If a path is missing or no features table, if feature sets are mixed, if there are no
        rows, no labels or one class alone, if a feature is NaN or infinite, or if labels cannot
        be joined.
    """
    files = [(path, url) for path in paths for url in _files(path, storage)]
    own_column = group_column if metadata is None else None
    beside = None if labels is None else Labels.read(labels, storage)
    feature_set_id, (dimensions, layers), fragments = _fragments(files, storage, own_column)
    tables = [
        _checked(number, fragment, storage, own_column, beside)
        for number, fragment in enumerate(fragments)
    ]
    rows = pa.concat_tables(tables)
    notes = [beside.note()] if beside is not None and len(rows) else []
    _refuse_useless(rows, paths)
    usable = pc.and_(pc.equal(rows["status"], Status.OK), pc.is_valid(rows["label"]))
    without_features = pc.sum(pc.not_equal(rows["status"], Status.OK)).as_py() or 0
    left_out = {"without features": without_features}
    left_out["without a label"] = len(rows) - (pc.sum(usable).as_py() or 0) - without_features
    rows = rows.filter(usable)
    both, pictures = _labelled_both_ways(rows)
    if pictures:
        notes.append(
            f"{pictures:,} {'picture is' if pictures == 1 else 'pictures are'} labelled both real "
            f"(0) and generated (1), such as {_an_example(rows.filter(pa.array(both)))}: none of "
            "their rows is used."
        )
        left_out["of pictures labelled both real and generated"] = int(both.sum())
        rows = rows.filter(pa.array(~both))
        _refuse_one_label(rows, paths, notes[-1])
    keys = [rows["uri"], rows["image_id"]]
    if metadata is not None:
        keys.append(metadata_column(rows["uri"], metadata, str(group_column), storage))
    elif own_column is not None:
        keys.append(rows[own_column])
    return LabelledRows(
        fragments=tuple(fragments),
        fragment=rows["fragment"].to_numpy(),
        place=rows["place"].to_numpy(),
        uris=_names(rows["uri"]),
        labels=rows["label"].to_numpy().astype(np.int8),
        generators=_names(rows["generator"]),
        sources=_names(rows["source"]),
        groups=_group_numbers(keys),
        feature_set_id=feature_set_id,
        dimensions=dimensions,
        layers=layers,
        storage=storage,
        left_out={reason: number for reason, number in left_out.items() if number},
        notes=tuple(notes),
    )


def _files(path: str, storage: Storage) -> list[str]:
    files = parquet_files(path, storage)
    if not files:
        raise UsageError(f"There is no features table at {redact(path)}: it holds no Parquet.")
    return files


def _fragments(
    files: Sequence[tuple[str, str]], storage: Storage, column: str | None
) -> tuple[str, tuple[int, int], list[Fragment]]:
    """Feature set, lengths of embeddings and of layers, and row groups of files.

    UsageError unless they fit together.
    """
    tables: dict[tuple[str, int | None], str] = {}
    layers = 0
    fragments = []
    for path, url in files:
        fs, inner = filesystem(url, storage)
        with fs.open(inner, "rb") as file:
            try:
                about = pq.ParquetFile(file)
                feature_set_id = _feature_set(about, path, column)
                schema, groups = about.schema_arrow, about.metadata
                facts = decoded(schema.metadata)
                size = facts.get("dimensions") or _length(about)
                known = facts["layers"] if "layers" in facts else _length(about, LAYERS)
                layers = max(layers, known or 0)
            except (pa.ArrowInvalid, ValueError):
                raise UsageError(f"{redact(url)} is not readable as Parquet.") from None
        tables.setdefault((feature_set_id, size), path)
        fragments += [
            Fragment(url, number, groups.row_group(number).num_rows)
            for number in range(groups.num_row_groups)
        ]
    feature_sets, sizes = {name for name, _ in tables}, {size for _, size in tables if size}
    if len(feature_sets) > 1 or len(sizes) > 1:
        sets = " and ".join(f"'{name}' ({redact(path)})" for (name, _), path in tables.items())
        raise UsageError(
            f"The tables hold different feature sets, {sets}: featurize all images with one "
            "profile."
        )
    dimensions = max((size for size in sizes if size), default=0)
    return feature_sets.pop(), (dimensions, layers), fragments


def _feature_set(parquet: pq.ParquetFile, path: str, column: str | None) -> str:
    """Feature set of a file; UsageError if its rows are no features that can be learned from."""
    schema = parquet.schema_arrow
    if table_kind(schema) != FEATURES:
        raise UsageError(
            f"{redact(path)} is not a features table: make one with jobs/featurize.py."
        )
    check_distinct(schema.names, [*KEYS, *COLUMNS, LAYERS, *([column] if column else [])], path)
    if missing := sorted({*KEYS, *COLUMNS} - set(schema.names)):
        raise UsageError(f"The features table {redact(path)} lacks the column '{missing[0]}'.")
    if column is not None and column not in schema.names:
        raise UsageError(
            f"{redact(path)} has no column '{column}' to group by: name the table that has it with "
            "--metadata."
        )
    version = decoded(schema.metadata).get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{redact(path)} has version {version} of the table schema, this program reads "
            f"version {SCHEMA_VERSION}: featurize the images again."
        )
    feature_set_id = feature_set_in(parquet)
    if feature_set_id is None:
        raise UsageError(
            f"{redact(path)} does not say which feature set it is of: a program that saved it "
            "again left that out, so give the table as jobs/featurize.py wrote it, and labels of "
            "your own with --labels."
        )
    return feature_set_id


def _length(parquet: pq.ParquetFile, column: str = "image_embedding") -> int | None:
    """How long the vectors of a file's column are; None if it holds none."""
    if column not in parquet.schema_arrow.names:
        return None
    for batch in parquet.iter_batches(256, columns=[column]):
        found = embedding_dimensions(pa.chunked_array([batch.column(0)]))
        if found is not None:
            return found
    return None


def _checked(
    number: int, fragment: Fragment, storage: Storage, column: str | None, labels: Labels | None
) -> pa.Table:
    """Keys of a fragment's rows; UsageError if a usable one has features that are no numbers."""
    own = [column] if column is not None and column not in KEYS else []
    table = fragment.read(storage, [*KEYS, *own])
    place = table.column_names.index("label")
    table = table.set_column(place, "label", as_labels(table["label"], fragment.url))
    if labels is not None:
        table = labels.applied(table)
    usable = table.filter(
        pc.and_(pc.equal(table["status"], Status.OK), pc.is_valid(table["label"]))
    )
    broken = np.flatnonzero(~FeatureArrays.of(usable).complete())
    if len(broken):
        raise UsageError(
            f"{len(broken)} rows of {redact(fragment.url)} have features that are NaN or infinite, "
            f"the first of them {usable['uri'][int(broken[0])].as_py()!r}: featurize them again."
        )
    keys = table.select([*KEYS, *own])
    for name in own:
        keys = keys.set_column(keys.column_names.index(name), name, as_text(keys[name]))
    length = len(table)
    keys = keys.append_column("fragment", pa.array(np.full(length, number), pa.int64()))
    return keys.append_column("place", pa.array(np.arange(length), pa.int64()))


def _refuse_useless(rows: pa.Table, paths: Sequence[str]) -> None:
    where = ", ".join(map(redact, paths))
    if not len(rows):
        raise UsageError(f"The features table {where} is empty: there is nothing to train on.")
    with_features = rows.filter(pc.equal(rows["status"], Status.OK))
    if not len(with_features):
        raise UsageError(
            f"None of the {len(rows):,} rows of {where} has features: see their error_code."
        )
    labelled = with_features.filter(pc.is_valid(with_features["label"]))
    if not len(labelled):
        raise UsageError(
            f"No row of {where} has a label: give a table of labels with --labels, 1 for generated "
            "and 0 for real."
        )
    _refuse_one_label(labelled, paths)


def _refuse_one_label(rows: pa.Table, paths: Sequence[str], why: str = "") -> None:
    where = ", ".join(map(redact, paths))
    labels = pc.unique(rows["label"]).to_pylist()
    if not labels:
        raise UsageError(f"No labelled row of {where} is left: {why}")
    if len(labels) == 1:
        names = ("real (0)", "generated (1)")
        only, other = names[labels[0]], names[1 - labels[0]]
        said = f"All labelled rows of {where} are {only}: add a table with {other} rows."
        raise UsageError(f"{why[:-1]}; {said[0].lower()}{said[1:]}" if why else said)


def _labelled_both_ways(rows: pa.Table) -> tuple[NDArray[np.bool_], int]:
    """(n,) which labelled rows are of a picture that has both labels, and how many pictures."""
    codes, names = pd.factorize(rows["image_id"].to_numpy())
    known = codes >= 0
    labels = rows["label"].to_numpy()
    sides = [
        np.bincount(codes[known & (labels == label)], minlength=len(names)) > 0 for label in (0, 1)
    ]
    both = sides[0] & sides[1]
    return known & np.append(both, False)[codes], int(both.sum())


def _an_example(rows: pa.Table) -> str:
    """URIs of the first picture, of each label one."""
    same = rows.filter(pc.equal(rows["image_id"], rows["image_id"][0]))
    uris = [same.filter(pc.equal(same["label"], label))["uri"][0].as_py() for label in (0, 1)]
    return " and ".join(repr(redact(str(uri))) for uri in dict.fromkeys(uris))


def _group_numbers(keys: Sequence[pa.ChunkedArray]) -> Indices:
    """Number of each row's group: rows are together if any key is equal, null being none."""
    count = len(keys[0])
    rows, nodes, first = [], [], count
    for key in keys:
        codes, names = pd.factorize(key.to_numpy())
        known = np.flatnonzero(codes >= 0)
        rows.append(known)
        nodes.append(codes[known] + first)
        first += len(names)
    where = (np.concatenate(rows), np.concatenate(nodes))
    graph = coo_array((np.ones(len(where[0]), np.int8), where), shape=(first, first))
    components = connected_components(graph, directed=False)[1][:count]
    return np.unique(components, return_inverse=True)[1]


def _names(column: pa.ChunkedArray) -> NDArray[np.object_]:
    return np.array(column.to_pylist(), dtype=object)
