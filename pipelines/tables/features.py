"""A ``features`` table on disk or S3: which rows it holds, and how finished parts join it."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from item.errors import UsageError
from item.images.perturb import NONE
from item.tables import KEYS_VERSION, Status, decoded, encoded
from pipelines.storage.urls import join
from pipelines.tables.parts import (
    COUNTS,
    FAILED,
    KINDS,
    PART,
    REPEAT,
    SUMS,
    Facts,
    occurrences_of,
    row_counts,
    scaled,
    store,
    summed,
)
from pipelines.tables.published import STAGING, PublishedTable, date_of, row_groups
from pipelines.tables.row_keys import RowKeys, files_of, identities_of, states_of

NAMES = ("uri", "input_version", "listed_in")
"""Columns that say of which object a row is, and of which state of it."""

IsGone = Callable[[Sequence[str], Sequence[str]], NDArray[np.bool_]]
"""Says of rows, by the files of the input that they came from and their versions, whether these
files are not there any more, or are others now."""


class FeatureTable(PublishedTable):
    """The table at ``root``, a local folder or an ``s3://`` prefix."""

    def feature_set_id(self) -> str | None:
        """The feature set of the published rows; None for an empty table."""
        return self._published_facts().get(_FEATURE_SET)

    def check_feature_set(self, wanted: str, perturbation: str = NONE) -> None:
        """UsageError if the table holds features that must not be mixed with those wanted."""
        facts = self._published_facts()
        if not facts:
            return
        if facts.get("keys_version") != KEYS_VERSION:
            raise UsageError(
                "The output was made by another version of this program, which names rows "
                "otherwise: choose another output."
            )
        found = facts[_FEATURE_SET]
        if found != wanted:
            raise UsageError(
                f"The output holds features of the set '{found}', this run makes '{wanted}': "
                "choose another output, or the profile and version that made the first."
            )
        found = facts.get("perturbation", NONE)
        if found != perturbation:
            raise UsageError(
                f"The output holds features under the perturbation '{found}', this run makes "
                f"them under '{perturbation}': choose another output."
            )

    def check_own(self, dates: Sequence[str]) -> None:
        """UsageError if a night that is to be continued was saved by another program."""
        for path in self.published(dates):
            if _FEATURE_SET not in self.facts(self.path, path):
                raise UsageError(
                    f"The output holds {path}, which another program saved: it can be read, but "
                    "not continued. Choose another output, or put the file of this program back."
                )

    def keyed(self, folder: str, path: str, columns: Sequence[str] = ()) -> pa.Table:
        """:data:`NAMES`, ``occurrence``, ``status`` and some columns of a file's rows."""
        with self.fs.open(posixpath.join(folder, path), "rb") as file:
            parquet = pq.ParquetFile(file)
            rows = parquet.read(columns=[*NAMES, "status", *columns])
            repeated = decoded(parquet.metadata.metadata)["occurrences"]
        return rows.append_column("occurrence", occurrences_of(repeated, len(rows)))

    def finished(self, work: str, dates: Sequence[str], overwrite: str = "nothing") -> RowKeys:
        """States of all rows that need no reading: published, or staged by an earlier try.

        A row that failed is none of them, and neither is one whose object changed since.

        Parameters
        ----------
        work : the staging folder
        dates : nights of the published rows that matter
        overwrite : with ``all``, published rows do not count
        """
        return self._staged_states(work, REPEAT).union(self.done(work, dates, overwrite))

    def done(self, work: str, dates: Sequence[str], overwrite: str = "nothing") -> RowKeys:
        """As `finished`, without rows that wait for the features of another row."""
        published = [] if overwrite == "all" else self.published(dates)
        states = [self._states(self.path, path, but=Status.FAILED) for path in published]
        return self._staged_states(work, PART).union(*states)

    def written(self, work: str, dates: Sequence[str], overwrite: str = "nothing") -> RowKeys:
        """As `done`, with the rows that failed in this try."""
        return self._staged_states(work, FAILED).union(self.done(work, dates, overwrite))

    def gone(
        self, dates: Sequence[str], is_gone: IsGone, replaced: RowKeys | None = None
    ) -> dict[str, int]:
        """Number of published rows whose files are not there any more, by night.

        Parameters
        ----------
        dates, is_gone : as for :meth:`publish`
        replaced : names of rows that are staged, which are not counted
        """
        numbers: Counter[str] = Counter()
        for path in self.published(dates):
            rows = self.keyed(self.path, path)
            kept = _kept(rows, date_of(path), replaced or RowKeys(), None)
            numbers[date_of(path)] += int(_gone(rows.filter(kept), is_gone).sum())
        return {night: number for night, number in numbers.items() if number}

    def prune(self, work: str, is_gone: IsGone) -> None:
        """Take out of the staged rows what this try reads again.

        These are rows that failed, rows whose files changed or went, and rows that a killed
        try staged twice over, under two cuts.
        """
        staging = self.staging(work)
        for path in self.staged(work, FAILED):
            self.fs.rm_file(posixpath.join(staging, path))
        seen = RowKeys()
        for kind in (PART, REPEAT):
            for path in self.staged(work, kind):
                rows = self.keyed(staging, path)
                states = states_of(rows, date_of(path))
                kept = ~(_gone(rows, is_gone) | seen.contains(states))
                seen = seen.union(RowKeys(states))
                if not kept.all():
                    self._keep(staging, path, kind, kept)

    def drop_strays(self, work: str, known: Iterable[str]) -> None:
        """Remove staged parts that no finished task answers for."""
        there = {path for kind in KINDS for path in self.staged(work, kind)}
        for path in there - set(known):
            self.fs.rm_file(posixpath.join(self.staging(work), path))

    def drop_repeats(self, work: str) -> None:
        """Remove rows that waited for the features of others, once they have them."""
        for path in self.staged(work, REPEAT):
            self.fs.rm_file(posixpath.join(self.staging(work), path))

    def parts(self, work: str) -> list[str]:
        """Paths of the staged files that are published, below the staging folder."""
        return sorted([*self.staged(work, PART), *self.staged(work, FAILED)])

    def publish(
        self,
        works: Sequence[str],
        run_id: str,
        dates: Sequence[str] = (),
        is_gone: IsGone | None = None,
    ) -> list[str]:
        """Put the staged rows of some pieces of work into their nights, one step a night.

        A staged row takes the place of a published one with its name. A second try after a
        kill ends the same.

        Parameters
        ----------
        works : staging folders
        run_id : named in the files; their ``run`` says what this run brought
        dates : nights out of which rows are taken whose files are gone
        is_gone : which these are; none if not given

        Returns
        -------
        Paths of the nights' files.
        """
        parts = [(self.staging(work), path) for work in works for path in self.parts(work)]
        emptied = self.gone(dates, is_gone) if is_gone else {}
        nights = sorted({date_of(path) for _, path in parts} | set(emptied))
        written = []
        for night in nights:
            mine = [one for one in parts if date_of(one[1]) == night]
            written.append(self._publish(night, mine, run_id, is_gone))
        for work in works:
            self.drop_staging(work)
        return written

    def night_counts(self, night: str, parts: Sequence[tuple[str, str]], is_gone: IsGone) -> Facts:
        """What :meth:`publish` would count in a night."""
        facts = [self.facts(*part) for part in parts]
        new = self._identities(parts)
        for path in self.published([night]):
            rows = self.keyed(self.path, path, ["error_code", "notes"])
            facts.append(row_counts(rows.filter(_kept(rows, night, new, is_gone))))
        return summed(facts)

    def _publish(
        self,
        night: str,
        parts: Sequence[tuple[str, str]],
        run_id: str,
        is_gone: IsGone | None,
    ) -> str:
        brought = summed(self.facts(*part) for part in parts)
        new = self._identities(parts)
        before = [(self.path, path) for path in self.published([night])]
        stay = [self._staying(path, night, new, is_gone) for _, path in before]
        facts = summed([*stay, brought])
        facts |= {"occurrences": {}, "statuses": {}, "error_codes": {}, "notes": {}}
        rows = _counted(self._rows_of_night(before, new, parts, is_gone), facts)
        with self.fs.open(posixpath.join(*(parts or before)[0]), "rb") as file:
            schema = pq.read_schema(file)
        provenance = decoded(schema.metadata) | {"run_id": run_id}
        for name in ("occurrences", *COUNTS, *SUMS):
            provenance.pop(name, None)
        facts["run"] = {"run_id": run_id, **brought}
        path = self.replace(night, rows, schema.with_metadata(encoded(provenance)), facts)
        for _, old in before:
            if old != path:
                self.fs.rm_file(posixpath.join(self.path, old))
        return path

    def _staying(self, path: str, night: str, new: RowKeys, is_gone: IsGone | None) -> Facts:
        """What the rows of a published file took that stay."""
        kept = _kept(self.keyed(self.path, path), night, new, is_gone)
        return scaled(self.facts(self.path, path), pc.mean(kept).as_py() or 0.0)

    def staged_names(self, work: str) -> RowKeys:
        """Names of the rows of a piece of work that are published next."""
        return self._identities([(self.staging(work), path) for path in self.parts(work)])

    def _identities(self, files: Sequence[tuple[str, str]]) -> RowKeys:
        hashes = [
            RowKeys(identities_of(self.keyed(folder, path), date_of(path)))
            for folder, path in files
        ]
        return RowKeys().union(*hashes)

    def _states(self, folder: str, path: str, but: Status | None = None) -> RowKeys:
        rows = self.keyed(folder, path)
        if but is not None:
            rows = rows.filter(pc.not_equal(rows["status"], but))
        return RowKeys(states_of(rows, date_of(path)))

    def _staged_states(self, work: str, kind: str) -> RowKeys:
        staging = self.staging(work)
        return RowKeys().union(*(self._states(staging, one) for one in self.staged(work, kind)))

    def _keep(self, staging: str, path: str, kind: str, kept: NDArray[np.bool_]) -> None:
        """Leave some rows of a staged file, none of which is none of the file."""
        if kept.any():
            with self.fs.open(posixpath.join(staging, path), "rb") as file:
                parquet = pq.ParquetFile(file)
                rows, facts = parquet.read(), decoded(parquet.metadata.metadata)
            occurrences = occurrences_of(facts["occurrences"], len(rows)).filter(pa.array(kept))
            metadata = {
                key: value
                for key, value in facts.items()
                if key not in ("occurrences", *COUNTS, *SUMS)
            }
            rows = rows.filter(pa.array(kept)).replace_schema_metadata(None)
            took = scaled(facts, float(kept.mean()))
            store(
                join(self.root, STAGING, posixpath.basename(staging)),
                self.storage,
                encoded(metadata),
                (kind, date_of(path)),
                rows,
                occurrences.to_pylist(),
                {name: took[name] for name in SUMS},
            )
        self.fs.rm_file(posixpath.join(staging, path))

    def _rows_of_night(
        self,
        before: Sequence[tuple[str, str]],
        new: RowKeys,
        parts: Sequence[tuple[str, str]],
        is_gone: IsGone | None,
    ) -> Iterator[tuple[pa.Table, pa.Array]]:
        """Rows and occurrences: of published files those that stay, then all new."""
        for files, replaced, gone in ((before, new, is_gone), (parts, RowKeys(), None)):
            for folder, path in files:
                with self.fs.open(posixpath.join(folder, path), "rb") as file:
                    parquet = pq.ParquetFile(file)
                    repeated = decoded(parquet.metadata.metadata)["occurrences"]
                    occurrences = occurrences_of(repeated, parquet.metadata.num_rows)
                    first = 0
                    for rows in row_groups(parquet):
                        own = occurrences.slice(first, len(rows))
                        first += len(rows)
                        keyed = rows.append_column("occurrence", own)
                        kept = _kept(keyed, date_of(path), replaced, gone)
                        if kept.to_numpy(zero_copy_only=False).any():
                            yield rows.filter(kept), own.filter(kept)

    def _published_facts(self) -> Facts:
        """Provenance of the published rows, which all share it; empty for an empty table."""
        every = (self.facts(self.path, path) for path in self.published())
        return next((facts for facts in every if _FEATURE_SET in facts), {})


_FEATURE_SET = "feature_set_id"
"""What every file of this program says of itself; other programs drop it."""


def _gone(rows: pa.Table, is_gone: IsGone) -> NDArray[np.bool_]:
    return is_gone(files_of(rows), rows["input_version"].to_pylist())


def _kept(rows: pa.Table, night: str, replaced: RowKeys, is_gone: IsGone | None) -> pa.Array:
    """Which rows stay: those that no new row replaces and whose files are there."""
    kept = ~replaced.contains(identities_of(rows, night))
    if is_gone is not None:
        kept &= ~_gone(rows, is_gone)
    return pa.array(kept)


def _counted(rows: Iterable[tuple[pa.Table, pa.Array]], facts: Facts) -> Iterator[pa.Table]:
    """Pass the rows on; when they are through, ``facts`` holds their counts."""
    first = 0
    totals = {name: Counter[str]() for name in COUNTS}
    for table, occurrences in rows:
        for name, counts in row_counts(table).items():
            totals[name].update(counts)
        facts["occurrences"] |= {
            str(first + row): number for row, number in enumerate(occurrences.to_pylist()) if number
        }
        first += len(table)
        facts |= {name: dict(total) for name, total in totals.items()}
        yield table
