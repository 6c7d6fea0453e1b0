"""Scores of clean and of changed images, and how far they agree."""

from __future__ import annotations

import posixpath

import pandas as pd
import pyarrow.parquet as pq

from item.errors import UsageError
from item.heads.columns import columns_of
from item.heads.head import Head
from item.statistics.calibration import Verdict
from item.statistics.metrics import auroc, cluster_weights, interval, weighted_auroc
from pipelines.evaluate.robustness.sampling import ORIGIN
from pipelines.tables.features import FeatureTable
from pipelines.tables.identity import feature_set_in
from pipelines.train.labels import Labels


def score_table(table: FeatureTable, head: Head, labels: Labels | None = None) -> pd.DataFrame:
    """Score the labelled rows of a features table, labelled by a table beside it if given.

    Returns
    -------
    DataFrame by ``uri``, in its order, with ``label``, ``generator``, ``source``, ``score``
    and ``verdict``. Rows without features are not in it, nor are those of a URI that came on
    several dates, which names no single picture.

    Raises
    ------
    UsageError
        If the table is of another feature set than the head.
    """
    columns = ["uri", "image_id", "status", "caption", *ORIGIN]
    frames = []
    for path in table.published():
        with table.fs.open(posixpath.join(table.path, path), "rb") as file:
            parquet = pq.ParquetFile(file)
            head.check_feature_set(feature_set_in(parquet))
            seen = columns_of(parquet.schema_arrow.names)
            part = parquet.read(columns=list(dict.fromkeys([*columns, *seen])))
        if labels is not None:
            part = labels.applied(part)
        scores = head.score(part)
        frame = part.select(["uri", *ORIGIN]).to_pandas()
        frames.append(frame.assign(score=scores.score, verdict=list(map(str, scores.verdict))))
    rows = pd.concat(frames)
    rows = rows[rows["label"].isin([0, 1]) & (rows["verdict"] != Verdict.NOT_SCORED)]
    return rows[~rows["uri"].duplicated(keep=False)].set_index("uri").sort_index()


def compare(
    clean: pd.DataFrame, changed: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """How well a head tells changed images apart, and how often it changes its mind.

    Intervals hold 95% of the resamples of whole clusters
    (:func:`item.statistics.metrics.cluster_weights`), the same resamples for every number.

    Parameters
    ----------
    clean, changed : what :func:`score_table` returned; rows are paired by URI, and `clean` has a
        column ``cluster`` too
    resamples, seed : how many, and from which random numbers

    Returns
    -------
    The numbers of a row of ``robustness.parquet``; ``flip_rate`` is the share of verdicts
    that differ from those of the clean images, ``rows`` the images with features in both.

    Raises
    ------
    UsageError
        If there are too few pairs of a label to compare.
    """
    uris = clean.index.intersection(changed.index, sort=True)
    clean, changed = clean.loc[uris], changed.loc[uris]
    labels, scores = clean["label"].to_numpy(int), changed["score"].to_numpy()
    flips = (clean["verdict"] != changed["verdict"]).to_numpy(float)
    try:
        weights = cluster_weights(labels, clean["cluster"].to_numpy(str), resamples, seed)
    except ValueError as error:
        raise UsageError(f"These images cannot be compared. {error}") from None
    between = interval(weighted_auroc(labels, scores, weights))
    flipped = interval(weights @ flips / weights.sum(axis=1))
    return {
        "auroc": auroc(labels, scores),
        "low": between.low,
        "high": between.high,
        "flip_rate": float(flips.mean()),
        "flip_low": flipped.low,
        "flip_high": flipped.high,
        "uncertain_share": float((changed["verdict"] == Verdict.UNCERTAIN).mean()),
        "rows": len(uris),
    }
