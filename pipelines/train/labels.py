"""Labels that stand beside the features: a table of them, joined by URI or by image id."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from item.errors import UsageError
from item.tables import Status
from pipelines.input.rows import as_label
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import redact
from pipelines.tables.columns import as_text
from pipelines.train.files import read_text
from pipelines.train.joining import UriIndex, find

GIVEN = ("label", "generator", "source")
_KEYS = ("uri", "image_id")


def as_labels(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Labels of any spelling as 1 (generated), 0 (real) or null.

    Raises
    ------
    UsageError
        For anything but 0, 1, true, false, real, generated, fake or nothing.
    """
    text = as_text(column)
    names = pc.unique(text)
    numbers = []
    for name in names.to_pylist():
        number = as_label(name)
        if number is None and (name or "").strip():
            raise UsageError(
                f"{redact(where)} has the label {name[:60]!r}: labels are 1 or generated, and 0 or "
                "real."
            )
        numbers.append(number)
    return pa.chunked_array([pa.array(numbers, pa.int8()).take(pc.index_in(text, names))])


@dataclass(eq=False)
class Labels:
    """A table of labels, and how far it and the features know the same pictures."""

    where: str
    rows: pd.DataFrame
    """Those of ``GIVEN`` that the table has; ``label`` is 0, 1 or None."""
    by_uri: UriIndex
    by_image: pd.Series
    """Row by image id, where all rows of one agree."""
    named: NDArray[np.bool_]
    """Which of its rows name a row of the features that were seen."""
    matched: int = 0
    seen: int = 0
    examples: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: str, storage: Storage) -> Labels:
        """From Parquet or CSV with ``label``, and ``uri`` or ``image_id``.

        Raises
        ------
        UsageError
            If it cannot be read, lacks these columns, has labels that are none, or says two
            things of one key.
        """
        parts, files = [], list[str]()
        for url, table in read_text(path, (*_KEYS, *GIVEN), storage, "labels"):
            if "label" not in table.column_names:
                raise UsageError(f"The labels table {redact(url)} has no column 'label'.")
            if not set(_KEYS) & set(table.column_names):
                raise UsageError(
                    f"The labels table {redact(url)} has neither 'uri' nor 'image_id', by which "
                    "its rows would be known."
                )
            label = as_labels(table["label"], url)
            place = table.column_names.index("label")
            parts.append(table.set_column(place, "label", label))
            files += [url] * len(table)
        rows = pa.concat_tables(parts, promote_options="default").to_pandas(
            types_mapper={pa.int8(): pd.Int8Dtype()}.get
        )
        rows = rows.astype(object).where(rows.notna(), None)
        for name in _KEYS:
            if name not in rows:
                rows[name] = None
        rows["image_id"] = [one and one.strip().lower() for one in rows["image_id"]]
        by_uri = UriIndex(rows["uri"].tolist(), files)
        own = [name for name in GIVEN if name in rows]
        _check_agreement(rows.assign(key=by_uri.keys), own, path)
        apart = rows["image_id"].map(_contradicted(rows, "image_id", own)).fillna(False)
        if rows["uri"].isna().all():
            _check_agreement(rows.assign(key=rows["image_id"]), own, path)
        images = rows["image_id"].where(~apart.astype(bool), None)
        places = pd.Series(np.arange(len(rows)), index=pd.Index(images, dtype=object))
        places = places[places.index.notna() & ~places.index.duplicated()]
        return cls(path, rows[own], by_uri, places, np.zeros(len(rows), bool))

    def applied(self, rows: pa.Table) -> pa.Table:
        """Rows of features with what the table says of them in place of their own.

        Parameters
        ----------
        rows : with ``uri``, ``image_id``, ``status`` and ``GIVEN``
        """
        uris, images = rows["uri"].to_pylist(), rows["image_id"].to_pylist()
        places = self.by_uri.places(uris)
        lost = np.flatnonzero(places < 0)
        places[lost] = find(self.by_image, [images[row] for row in lost])
        known = places >= 0
        self.named[places[known]] = True
        usable = pc.equal(rows["status"], Status.OK).fill_null(False).to_numpy()
        self.matched += int((known & usable).sum())
        self.seen += int(usable.sum())
        self.examples = self.examples or [str(one) for one in uris[:1]]
        for name in self.rows:
            values = self.rows[name].to_numpy()
            own = np.array(rows[name].to_pylist(), object)
            own[known] = values[places[known]]
            at = rows.column_names.index(str(name))
            rows = rows.set_column(at, str(name), pa.array(own, rows.schema.field(at).type))
        return rows

    def note(self) -> str:
        """How many rows of either side the other knows, once all features were seen.

        Raises
        ------
        UsageError
            If there are none.
        """
        where = redact(self.where)
        if not self.named.any():
            key = next((one for one in self.by_uri.uris if one), None)
            key = key or next(iter(self.by_image.index), "nothing")
            raise UsageError(
                f"The labels table {where} names none of the rows of the features: it has "
                f"{redact(key)!r}, they have {redact(''.join(self.examples))!r}."
            )
        idle = int((~self.named).sum())
        return (
            f"Labels of {where}: {self.matched:,} of {self.seen:,} rows with features are named "
            f"in it, {self.seen - self.matched:,} are not; {idle:,} of its {len(self.named):,} "
            "rows name no row of the features."
        )


def _contradicted(rows: pd.DataFrame, key: str, columns: list[str]) -> pd.Series:
    """Whether rows of a key say different things, by key."""
    known = rows[rows[key].notna()]
    said: Any = known.groupby(key, sort=False)[columns]
    return (said.nunique(dropna=False) > 1).any(axis=1)


def _check_agreement(rows: pd.DataFrame, columns: list[str], path: str) -> None:
    apart = _contradicted(rows, "key", columns)
    if not apart.any():
        return
    key = apart.index[apart.to_numpy()][0]
    some = rows[rows["key"] == key]
    name = next(name for name in columns if some[name].nunique(dropna=False) > 1)
    values = " and ".join(str(one) for one in dict.fromkeys(some[name]))
    raise UsageError(
        f"The labels table {redact(path)} says two things of {redact(str(key))!r}: its {name} is "
        f"{values}; {int(apart.sum()):,} such keys are in it."
    )
