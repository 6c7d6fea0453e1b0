"""Rows of one table found by the URIs of another, however the two spell them."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.storage.uris import canonical_uri
from pipelines.storage.urls import normalise


class UriIndex:
    """Finds a table's rows by URI: as it is written there, else by the object that it names.

    Parameters
    ----------
    uris : of the table's rows, None for none; of equal ones the first row is found
    files : which file of the table each row is from; relative URIs are read from its folder
    """

    def __init__(self, uris: Sequence[str | None], files: Sequence[str]) -> None:
        self.uris = uris
        self.files = files
        self.written = _first(uris)

    @cached_property
    def keys(self) -> list[str | None]:
        """What each row names, in the one spelling that tables have."""
        folders = {file: posixpath.dirname(normalise(file)) for file in set(self.files)}
        return [
            None if uri is None else canonical_uri(uri, folders[file])
            for uri, file in zip(self.uris, self.files, strict=True)
        ]

    def places(self, uris: Sequence[str | None]) -> NDArray[np.int64]:
        """Row of each URI, -1 where there is none."""
        places = find(self.written, uris)
        lost = np.flatnonzero(places < 0)
        if len(lost):
            places[lost] = find(self._canonical, [uris[int(row)] for row in lost])
        return places

    @cached_property
    def _canonical(self) -> pd.Series:
        return _first(self.keys)


def _first(keys: Sequence[str | None]) -> pd.Series:
    rows = pd.Series(np.arange(len(keys)), index=pd.Index(list(keys), dtype=object))
    return rows[rows.index.notna() & ~rows.index.duplicated()]


def find(rows: pd.Series, keys: Sequence[str | None]) -> NDArray[np.int64]:
    """Values of a series of row numbers by its distinct labels, -1 where there is none."""
    places = rows.index.get_indexer(pd.Index(list(keys), dtype=object))
    found = np.full(len(keys), -1, np.int64)
    found[places >= 0] = rows.to_numpy()[places[places >= 0]]
    return found
