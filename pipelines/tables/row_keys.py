"""Which rows there are already: sets of row keys that are small and quick to ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


class RowKeys:
    """A set of keys at eight bytes a key.

    Ray shares the one array between all workers of a machine without a copy. Two
    different keys among ten million fall together with a probability of 3e-6.
    """

    def __init__(self, hashes: Hashes | None = None) -> None:
        """Hold `hashes`, uint64 of shape (n,), in any order."""
        self._hashes = np.unique(np.asarray([] if hashes is None else hashes, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._hashes)

    def union(self, *others: RowKeys) -> RowKeys:
        """Return the keys that are in any of these sets."""
        return RowKeys(np.concatenate([self._hashes, *(other._hashes for other in others)]))

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Return a bool array that says for each key whether it is in the set."""
        if not len(self._hashes):
            return np.zeros(len(hashes), dtype=bool)
        found = np.searchsorted(self._hashes, hashes).clip(max=len(self._hashes) - 1)
        return np.asarray(self._hashes[found] == hashes)


def identities(
    dates: Iterable[str], uris: Iterable[str], occurrences: Iterable[int | None]
) -> Hashes:
    """Hashes of what names a row and no other, shape (n,)."""
    return _hashes(dates, occurrences, uris)


def states(
    dates: Iterable[str],
    uris: Iterable[str],
    occurrences: Iterable[int | None],
    versions: Iterable[str | None],
) -> Hashes:
    """Hashes of what names a row and the version of its object, shape (n,)."""
    return _hashes(dates, occurrences, versions, uris)


def file_states(files: Iterable[str], versions: Iterable[str | None]) -> Hashes:
    """Hashes of the versions of files, shape (n,)."""
    return _hashes(versions, files)


def identities_of(rows: pa.Table, date: str) -> Hashes:
    """As `identities`, of a night's table with columns ``uri`` and ``occurrence``."""
    columns = (rows["uri"].to_pylist(), rows["occurrence"].to_pylist())
    return identities([date] * len(rows), *columns)


def states_of(rows: pa.Table, date: str) -> Hashes:
    """As `states`, of a night's table with column ``input_version`` too."""
    columns = (rows[name].to_pylist() for name in ("uri", "occurrence", "input_version"))
    return states([date] * len(rows), *columns)


def files_of(rows: pa.Table) -> list[str]:
    """The file of the input that each row came from."""
    pairs = zip(rows["listed_in"].to_pylist(), rows["uri"].to_pylist(), strict=True)
    return [file or uri for file, uri in pairs]


@dataclass(frozen=True)
class RowChoice:
    """Which rows of an input are read: those that are wanted and not finished."""

    finished: RowKeys = field(default_factory=RowKeys)
    """Of states: a row whose object has another version is not among them."""
    wanted: RowKeys | None = None
    """Of identities; all of them if None."""

    @property
    def takes_all(self) -> bool:
        """Whether no row is left out."""
        return self.wanted is None and not len(self.finished)

    def leaves_out(
        self,
        dates: Sequence[str],
        uris: Sequence[str],
        occurrences: Sequence[int],
        versions: Sequence[str],
    ) -> NDArray[np.bool_]:
        """Return a bool array that says for each key whether its row is not read."""
        if self.takes_all:
            return np.zeros(len(uris), dtype=bool)
        left_out = self.finished.contains(states(dates, uris, occurrences, versions))
        if self.wanted is not None:
            left_out |= ~self.wanted.contains(identities(dates, uris, occurrences))
        return left_out


def _hashes(*columns: Iterable[object]) -> Hashes:
    digests = b"".join(
        blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
        for key in zip(*columns, strict=True)
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
