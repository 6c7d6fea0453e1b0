"""Scores: a row for each row, in order, again only where something changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from item.errors import MachineError, UsageError
from item.heads.head import Head
from item.mini import HEAD
from item.tables import FEATURES, SCORES
from pipelines.score.configuration import ScoreConfiguration
from pipelines.score.job import plan_scoring, run_scoring
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join
from pipelines.tables.features import FeatureTable
from pipelines.tables.lease import Lease, LeaseHeldError
from pipelines.tables.parts import PartWriter
from pipelines.tables.published import STAGING

STORAGE = Storage(retries=0)
SHIPPED = Head.load(HEAD)
DIMENSIONS = SHIPPED.description.dimensions
NIGHTS = ("2026-01-30", "2026-01-31")
WORK = "0123456789abcdef"

pytestmark = pytest.mark.timeout(180)


def feature_rows(number: int, seed: int) -> pa.Table:
    """Rows of random unit vectors; the first is rejected, the second has no caption."""
    random = np.random.default_rng(seed)
    names = ("image_embedding", "parts_embedding", "global_misalignment", "local_misalignment")
    vectors = random.normal(size=(len(names), number, DIMENSIONS))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    rows: list[dict[str, Any]] = []
    for row in range(number):
        one: dict[str, Any] = {"uri": f"{seed}/{row:03}.jpg", "source": "crawl", "status": "ok"}
        one |= {name: vectors[place, row].astype(np.float16) for place, name in enumerate(names)}
        one["layers"] = random.normal(size=SHIPPED.description.layers).astype(np.float16)
        one |= {"caption": "a dog on a sofa", "width": 640, "height": 480, "format": "jpeg"}
        one |= {"byte_count": 5000, "jpeg_quality": 80.0, "object_count": 2}
        one |= {"ungrounded_fraction": 0.0, "global_similarity": 0.3}
        one |= {f"local_similarity_{name}": 0.2 for name in ("min", "mean", "max", "std")}
        box = dict(zip(("x0", "y0", "x1", "y1"), (0.0, 1.0, 2.0, 3.0), strict=True))
        found = {"box": box, "grounding_score": 0.5, "grounded": True, "image_similarity": 0.1}
        one["objects"] = [
            {"phrase": "a dog", "similarity": 0.2 + row / 1000, **found},
            {"phrase": "a sofa", "similarity": 0.1, **found},
        ]
        rows.append(one)
    rows[0] = {
        "uri": rows[0]["uri"],
        "source": "crawl",
        "status": "rejected",
        "error_code": "truncated",
    }
    rows[1]["caption"] = None
    return pa.Table.from_pylist(rows, schema=FEATURES)


def write_features(root: str, feature_set: str | None = None, **numbers: int) -> FeatureTable:
    """Publish nights, each of several parts, with the feature set of the shipped head."""
    told = feature_set or SHIPPED.description.feature_set_id
    metadata = {
        "item.table": '"features"',
        "item.schema_version": "2",
        "item.feature_set_id": f'"{told}"',
        "item.run_id": '"a run"',
    }
    table = FeatureTable(root, STORAGE)
    writer = PartWriter(join(root, STAGING, WORK), STORAGE, DIMENSIONS, metadata)
    for seed, (night, number) in enumerate(numbers.items()):
        rows = feature_rows(number, seed)
        for start in range(0, number, 7):
            some = rows.slice(start, 7)
            writer.store("part", night, some, [0] * len(some), {"stage_seconds": {}, "reused": 0})
    table.publish([WORK], "20260131-a")
    return table


def configured(folder: Path, **settings: Any) -> ScoreConfiguration:
    values = {"input": str(folder / "features"), "output": str(folder / "scores")}
    return ScoreConfiguration(**{**values, "storage": STORAGE, "rows_per_task": 10, **settings})


def run(folder: Path, **settings: Any) -> dict[str, Any]:
    return run_scoring(plan_scoring(configured(folder, **settings)))


@pytest.fixture(scope="module")
def scored(ray_cluster: None, tmp_path_factory: Any) -> Path:
    """A folder with features and scores of two nights."""
    folder: Path = tmp_path_factory.mktemp("scored")
    write_features(str(folder / "features"), **{NIGHTS[0]: 30, NIGHTS[1]: 12})
    manifest = run(folder)
    assert manifest["rows"]["total"] == 42 and manifest["outcome"] == "published"
    assert manifest["rows"]["by_verdict"]["not_scored"] == 2
    return folder


def files(folder: Path) -> dict[str, int]:
    return {str(one): one.stat().st_mtime_ns for one in folder.rglob("*") if one.is_file()}


def test_scores_stand_beside_features_row_by_row(scored: Path) -> None:
    for night in NIGHTS:
        [features] = scored.glob(f"features/date={night}/*.parquet")
        scores = pq.ParquetFile(scored / "scores" / f"date={night}" / features.name).read()
        assert scores.schema.equals(SCORES)
        rows = pq.ParquetFile(features).read()
        for name in ("uri", "image_id", "status", "error_code", "global_similarity"):
            assert scores[name].to_pylist() == rows[name].to_pylist()


def test_scores_are_those_of_the_head(scored: Path) -> None:
    [path] = scored.glob(f"features/date={NIGHTS[0]}/*.parquet")
    said = SHIPPED.score(pq.ParquetFile(path).read())
    frame = pd.read_parquet(scored / "scores").query("date == @NIGHTS[0]")
    assert np.allclose(frame["score"], said.score, atol=1e-6, equal_nan=True)
    assert np.allclose(frame["logit"], said.logit, atol=1e-4, equal_nan=True)
    assert frame["verdict"].tolist() == [str(one) for one in said.verdict]
    assert set(frame["head_id"]) == {SHIPPED.head_id}


def test_row_without_features_or_caption_says_so(scored: Path) -> None:
    frame = pd.read_parquet(scored / "scores").set_index("uri")
    rejected, silent = frame.loc["0/000.jpg"], frame.loc["0/001.jpg"]
    assert rejected["verdict"] == "not_scored" and pd.isna(rejected["score"])
    assert rejected["explanation"].startswith("Not scored: the image ends before")
    assert (silent["verdict"], silent["abstention"]) == ("uncertain", "no_caption")
    assert frame["explanation"].notna().all()


def test_weakest_object_is_named_with_its_box(scored: Path) -> None:
    row = pd.read_parquet(scored / "scores").set_index("uri").loc["0/005.jpg"]
    assert row["weakest_phrase"] == "a sofa"
    assert row["weakest_similarity"] == pytest.approx(0.1)
    assert row["weakest_box"] == {"x0": 0.0, "y0": 1.0, "x1": 2.0, "y1": 3.0}


@pytest.fixture
def copy(scored: Path, tmp_path: Path) -> Path:
    shutil.copytree(scored, tmp_path / "copy")
    return tmp_path / "copy"


def test_scored_table_run_again_changes_nothing(copy: Path) -> None:
    before = files(copy)
    again = run(copy)
    assert again["outcome"] == "nothing_to_do" and again["rows"]["done_before"] == 42
    assert files(copy) == before


def test_only_the_night_whose_features_changed_is_scored_again(copy: Path) -> None:
    before = files(copy / "scores" / f"date={NIGHTS[1]}")
    write_features(str(copy / "features"), **{NIGHTS[0]: 40})
    again = run(copy)
    assert again["rows"] == again["rows"] | {"total": 40, "done_before": 12}
    assert files(copy / "scores" / f"date={NIGHTS[1]}") == before
    frame = pd.read_parquet(copy / "scores")
    assert len(frame) == 52 and frame["uri"].is_unique


def test_killed_scoring_goes_on_with_what_is_staged(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / "scores")
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.score.job._publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(copy)
    assert not list((copy / "scores").glob("date=*"))
    staged = [p for p in files(copy / "scores") if "part-" in p]
    assert len(staged) > 2
    Path(staged[0]).unlink()
    manifest = run(copy)
    assert manifest["rows_scored"] < 42 and manifest["rows"]["total"] == 42
    expected = pd.read_parquet(copy / "scores").sort_values("uri")["score"]
    assert len(expected) == 42 and not list((copy / "scores" / STAGING).iterdir())


def test_other_head_is_refused_unless_told_to_replace(copy: Path, tmp_path: Path) -> None:
    other = Head.of(
        SHIPPED.description.model_copy(
            update={"calibration": type(SHIPPED.description.calibration)(2.0, 0.1)}
        ),
        SHIPPED.fitted,
        SHIPPED.familiarity,
    )
    other.save(tmp_path / "head")
    with pytest.raises(UsageError, match=f"scores of {NIGHTS[0]} by the head {SHIPPED.head_id}"):
        run(copy, head=str(tmp_path / "head"))
    run(copy, head=str(tmp_path / "head"), overwrite="all")
    assert set(pd.read_parquet(copy / "scores")["head_id"]) == {other.head_id}


def test_features_of_another_set_are_refused(tmp_path: Path) -> None:
    write_features(str(tmp_path / "features"), "mini-0", **{NIGHTS[0]: 3})
    with pytest.raises(UsageError, match="trained on features of the set"):
        plan_scoring(configured(tmp_path))


def test_place_without_features_is_refused(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    with pytest.raises(UsageError, match="There is no features table at"):
        plan_scoring(configured(tmp_path))


def test_night_that_another_run_holds_is_not_published(copy: Path) -> None:
    shutil.rmtree(copy / "scores" / f"date={NIGHTS[0]}")
    with (
        Lease(str(copy / "scores"), NIGHTS[0], STORAGE),
        pytest.raises((LeaseHeldError, MachineError)),
    ):
        run(copy)
    assert not (copy / "scores" / f"date={NIGHTS[0]}").exists()
