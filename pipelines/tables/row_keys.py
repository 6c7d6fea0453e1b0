"""Which rows there are already: sets of row keys that are small and quick to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import pyarrow as pa


class RowKeys:
    """A set of (`date`, `uri`, `occurrence`) keys at eight bytes a key.

    Ray shares the one array between all workers of a machine without a copy. Two
    different keys among ten million fall together with a probability of 3e-6.
    """

    def __init__(self, hashes: np.ndarray | None = None) -> None:
        """Hold `hashes`, uint64 of shape (n,), in any order."""
        self._hashes = np.unique(np.asarray([] if hashes is None else hashes, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._hashes)

    @classmethod
    def of(cls, table: pa.Table, date: str | None = None) -> RowKeys:
        """Return the keys of a table with columns `uri`, `occurrence` and `date`.

        Parameters
        ----------
        table : any table with these columns
        date : stands for the `date` column where the table has none
        """
        dates = (
            [date] * len(table) if date is not None else table["date"].cast(pa.string()).to_pylist()
        )
        return cls(_key_hashes(dates, table["uri"].to_pylist(), table["occurrence"].to_pylist()))

    def union(self, *others: RowKeys) -> RowKeys:
        """Return the keys that are in any of these sets."""
        return RowKeys(np.concatenate([self._hashes, *(other._hashes for other in others)]))

    def contains(
        self, dates: Sequence[str], uris: Sequence[str], occurrences: Sequence[int]
    ) -> np.ndarray:
        """Return a bool array that says for each key whether it is in the set."""
        if not len(self._hashes):
            return np.zeros(len(uris), dtype=bool)
        wanted = _key_hashes(dates, uris, occurrences)
        found = np.searchsorted(self._hashes, wanted).clip(max=len(self._hashes) - 1)
        return np.asarray(self._hashes[found] == wanted)


@dataclass(frozen=True)
class RowChoice:
    """Which rows of an input are read: those that are wanted and not finished."""

    finished: RowKeys = field(default_factory=RowKeys)
    wanted: RowKeys | None = None
    """All of them if None."""

    @property
    def takes_all(self) -> bool:
        """Whether no row is left out."""
        return self.wanted is None and not len(self.finished)

    def leaves_out(
        self, dates: Sequence[str], uris: Sequence[str], occurrences: Sequence[int]
    ) -> np.ndarray:
        """Return a bool array that says for each key whether its row is not read."""
        left_out = self.finished.contains(dates, uris, occurrences)
        if self.wanted is not None:
            left_out |= ~self.wanted.contains(dates, uris, occurrences)
        return left_out


def _key_hashes(
    dates: Sequence[str], uris: Sequence[str], occurrences: Sequence[int]
) -> np.ndarray:
    digests = b"".join(
        blake2b(f"{date}\0{occurrence}\0{uri}".encode(), digest_size=8).digest()
        for date, uri, occurrence in zip(dates, uris, occurrences, strict=True)
    )
    return np.frombuffer(digests, dtype="<u8")
