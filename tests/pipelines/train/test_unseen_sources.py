"""Heads that leave sources out: no row is scored by a head that knows its source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from item.heads.columns import FeatureArrays
from item.heads.head import Head
from item.heads.settings import HeadSettings, Kind
from pipelines.train import unseen_sources
from pipelines.train.job import train_head
from pipelines.train.plan import plan_training
from pipelines.train.unseen_sources import families, unseen_logits
from tests.item.heads.examples import DIFFERENCES, features_table
from tests.pipelines.train.examples import configured
from tests.support.feature_tables import write_features

SETTINGS = HeadSettings(kind=Kind.LOGISTIC, groups=DIFFERENCES, whitened=False)


def test_small_generators_of_a_source_are_one_family() -> None:
    labels = np.array([1] * 180 + [0] * 5)
    generators = np.array(
        ["large"] * 150 + ["small-a"] * 20 + ["small-b"] * 10 + [None] * 5, object
    )
    sources = np.array(["models"] * 180 + ["photographs"] * 5, object)
    assert families(labels, generators, sources).tolist() == (
        ["large"] * 150 + ["models"] * 30 + ["photographs"] * 5
    )


@pytest.mark.parametrize(("folds", "trainings"), [(20, 5), (2, 2)])
def test_no_head_scores_a_source_that_it_was_trained_on(
    folds: int, trainings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = features_table(400)
    labels = np.array(table["label"].to_pylist())
    names = np.array([f"{label}-{n // 2 % (3 + 2 * label)}" for n, label in enumerate(labels)])
    arrays = FeatureArrays.of(table)
    trained: list[set[bytes]] = []
    real = unseen_sources.fit

    def fit(seen: FeatureArrays, *rest: object) -> object:
        trained.append({row.tobytes() for row in seen.image})
        return real(seen, *rest)

    monkeypatch.setattr(unseen_sources, "fit", fit)
    done: list[tuple[int, int]] = []
    logits = unseen_logits(
        *(arrays, labels, names, names, SETTINGS, folds), lambda *told: done.append(told)
    )
    assert done == [(number + 1, trainings) for number in range(trainings)]
    assert np.isfinite(logits).all()
    for name in np.unique(names):
        rows = [row.tobytes() for row in arrays.image[names == name]]
        without = [seen for seen in trained if not seen.intersection(rows)]
        assert len(without) == 1, name


def many_sources(tmp_path: Path, sources: int) -> str:
    labels = np.arange(900) % 2
    of_real = [None if y else f"camera-{n // 2 % sources}" for n, y in enumerate(labels)]
    of_generated = [f"model-{n // 2 % sources}" if y else None for n, y in enumerate(labels)]
    columns = {"source": of_real, "generator": of_generated}
    return write_features(tmp_path / "night", features_table(900, **columns))


@pytest.mark.parametrize(("sources", "promised"), [(4, True), (2, False)])
def test_head_says_what_it_promises_of_sources_that_it_never_saw(
    sources: int, promised: bool, tmp_path: Path
) -> None:
    features = many_sources(tmp_path, sources)
    settings = configured(features, tmp_path / "head", head={"kind": "logistic"})
    plan = plan_training(settings)
    assert ("leave sources out" in plan.describe()["score and thresholds"]) == promised
    manifest = train_head(plan)
    about = Head.load(tmp_path / "head").description
    assert (about.promises is not None) == promised
    assert (about.error_rates is not None) == promised
    said = "a new source" if promised else "of others nothing is promised"
    assert any(said in note for note in manifest["notes"])
    if about.promises is not None:
        assert about.promises[0].confidence == pytest.approx(0.8)
        assert set(about.promises[0].left_out) == {f"camera-{n}" for n in range(4)}
        assert 0.6 < about.metrics["unseen_sources"]["mean_auroc"] <= 1
