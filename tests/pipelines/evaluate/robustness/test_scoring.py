"""Scores of clean and changed images: what is scored, and how it is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from item.errors import UsageError
from item.heads.head import Head
from item.statistics import metrics
from pipelines.evaluate.robustness.scoring import compare, score_table
from pipelines.storage.configuration import Storage
from pipelines.tables.features import FeatureTable
from tests.item.heads.examples import features_table
from tests.pipelines.evaluate.robustness.examples import MINI
from tests.support.feature_tables import write_features

ROWS = 60


def frame(rows: int = ROWS, **columns: Any) -> pd.DataFrame:
    """Scored rows, real and generated in turn, each its own cluster."""
    labels = np.arange(rows) % 2
    score = np.random.default_rng(0).normal(labels, 1.0)
    uris = pd.Index([f"{number:03}.jpg" for number in range(rows)], name="uri")
    verdict = np.where(score > 0.5, "likely_generated", "likely_real")
    values = {"label": labels, "score": score, "verdict": verdict, "cluster": uris} | columns
    return pd.DataFrame(values, index=uris)


def test_image_that_is_not_changed_changes_no_verdict() -> None:
    clean = frame()
    figures = compare(clean, clean)
    assert (figures["flip_rate"], figures["flip_low"], figures["flip_high"]) == (0, 0, 0)
    assert figures["auroc"] == metrics.auroc(clean["label"], clean["score"])
    assert figures["low"] < figures["auroc"] < figures["high"]
    assert figures["uncertain_share"] == 0 and figures["rows"] == ROWS


def test_changed_and_uncertain_verdicts_are_counted() -> None:
    clean = frame()
    changed = clean.assign(verdict=["uncertain"] * 6 + clean["verdict"].tolist()[6:])
    figures = compare(clean, changed)
    assert figures["flip_rate"] == figures["uncertain_share"] == pytest.approx(6 / ROWS)
    assert figures["flip_low"] < 6 / ROWS < figures["flip_high"]


def test_rows_are_paired_by_uri_and_those_without_a_pair_left_out() -> None:
    clean = frame()
    changed = clean.drop(clean.index[:5]).sample(frac=1, random_state=2)
    figures = compare(clean, changed)
    assert figures["rows"] == ROWS - 5 and figures["flip_rate"] == 0
    assert figures["auroc"] == metrics.auroc(clean["label"][5:], clean["score"][5:])


def test_alike_images_make_the_interval_wider() -> None:
    """Ten copies of each row are no more evidence than the row."""
    clean = frame()
    copies = pd.concat([clean.set_axis(clean.index + f"#{n}") for n in range(10)])
    alone = compare(copies.assign(cluster=copies.index), copies)
    together = compare(copies, copies)
    assert together["auroc"] == alone["auroc"]
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [(slice(0, 0), "no rows"), (slice(0, None, 2), "no generated"), (slice(0, 2), "two clusters")],
)
def test_too_few_pairs_are_refused(rows: slice, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        compare(frame(), frame().iloc[rows])


def test_scored_rows_have_features_a_label_and_a_uri_of_their_own(
    head: Head, tmp_path: Path
) -> None:
    status, label = ["ok"] * 6, [0, 1, None, 1, 0, 1]
    status[1] = "rejected"
    uris = ["a", "b", "c", "d", "d", "e"]
    table = features_table(6, seed=5, status=status, label=label, uri=uris)
    scored = score_table(FeatureTable(write_features(tmp_path, table, MINI), Storage()), head)
    assert scored.index.tolist() == ["a", "e"]
    direct = head.score(table)
    assert scored["score"].tolist() == [direct.score[0], direct.score[5]]
    assert scored["verdict"].tolist() == [direct.verdict[0], direct.verdict[5]]


def test_table_without_any_features_gives_no_rows(head: Head, tmp_path: Path) -> None:
    table = features_table(2, status=["failed"] * 2)
    assert score_table(FeatureTable(write_features(tmp_path, table, MINI), Storage()), head).empty


def test_table_of_another_feature_set_is_refused(head: Head, tmp_path: Path) -> None:
    table = FeatureTable(write_features(tmp_path, features_table(4), "other-set"), Storage())
    with pytest.raises(UsageError, match="cannot score those of 'other-set'"):
        score_table(table, head)
