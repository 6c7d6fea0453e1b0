"""What is scored when features are given: the whole table, one night, one file, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from item.errors import UsageError
from pipelines.score.configuration import resolve
from pipelines.score.images import ImageScoringPlan, plan_image_scoring
from tests.pipelines.score.test_job import NIGHTS, write_features
from tests.support.audit_root import picture, write_night
from tests.support.dumps import make

FIRST, SECOND = NIGHTS


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """The root of an audit with features of two nights."""
    write_features(str(tmp_path / "audit" / "features"), **{FIRST: 3, SECOND: 4})
    return tmp_path / "audit"


def planned(*places: Path, **options: Any) -> ImageScoringPlan:
    output = str(places[0].parents[1] / "out")
    given = {"input": [str(one) for one in places], "output": output, **options}
    return plan_image_scoring(resolve(None, given, {}))


def nights(plan: ImageScoringPlan) -> list[str]:
    assert plan.scoring is not None and not plan.features_are_made
    found: list[str] = plan.scoring.describe()["nights"]
    return found


def test_one_night_is_scored_where_one_is_given(audit: Path) -> None:
    night = audit / "features" / f"date={FIRST}"
    assert nights(planned(night)) == [FIRST]
    assert nights(planned(night / "night.parquet")) == [FIRST]


def test_all_nights_are_scored_where_the_table_or_the_audit_is_given(audit: Path) -> None:
    assert nights(planned(audit / "features")) == [FIRST, SECOND]
    assert nights(planned(audit)) == [FIRST, SECOND]


def test_a_night_that_pandas_saved_is_scored(audit: Path) -> None:
    again = audit.parent / "again" / "features"
    pd.read_parquet(audit / "features").to_parquet(again, partition_cols=["date"])
    assert nights(planned(again)) == [FIRST, SECOND]
    assert nights(planned(again / f"date={SECOND}")) == [SECOND]


def test_a_table_that_changes_without_its_metadata_is_scored_again(audit: Path) -> None:
    again = audit.parent / "again" / "features" / f"date={FIRST}" / "night.parquet"
    again.parent.mkdir(parents=True)
    frame = pd.read_parquet(audit / "features" / f"date={FIRST}")
    states = []
    for caption in ("a cat", "a dog", "a dog"):
        if not states or caption != "a dog" or len(states) == 1:
            frame.assign(caption=caption).to_parquet(again)
        plan = planned(again).scoring
        assert plan is not None
        states.append(plan.files[0].state)
    assert states[0] != states[1] == states[2]


def flat(audit: Path) -> list[Path]:
    frame = pd.read_parquet(audit / "features").drop(columns="date")
    frame.to_parquet(audit.parent / "flat.parquet")
    return [audit.parent / "flat.parquet"]


def one_of_two(audit: Path) -> list[Path]:
    night = audit / "features" / f"date={FIRST}"
    pd.read_parquet(night).to_parquet(night / "late.parquet")
    return [night / "late.parquet"]


def of_scores(audit: Path) -> list[Path]:
    write_night(audit, FIRST, [picture("a")])
    return [audit / "scores" / f"date={FIRST}"]


def with_pictures(audit: Path) -> list[Path]:
    return [audit / "features", make(audit.parent / "dump", {"a.jpg": b"x"})]


def several_sets(audit: Path) -> list[Path]:
    night = audit / "features" / f"date={FIRST}" / "night.parquet"
    frame = pd.read_parquet(night)
    frame.loc[0, "feature_set_id"] = "another-0"
    frame.to_parquet(night)
    return [night]


def another_set(audit: Path) -> list[Path]:
    night = audit / "features" / f"date={FIRST}" / "night.parquet"
    pd.read_parquet(night).assign(feature_set_id="another-0").to_parquet(night)
    return [night]


def without_captions(audit: Path) -> list[Path]:
    night = audit / "features" / f"date={FIRST}" / "night.parquet"
    pd.read_parquet(night).drop(columns="caption").to_parquet(night)
    return [audit]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (flat, "flat.parquet is features that lie in no folder date=…: put the file into one"),
        (one_of_two, "is one of 2 files of its night: give the night's folder, .*/date="),
        (of_scores, "is a table of scores: give the features that belong to it, .* features/"),
        (with_pictures, "is a features table, which is no picture: score a features table by"),
        (several_sets, "Rows of different feature sets"),
        (another_set, "cannot score those of 'another-0'"),
        (without_captions, "lacks the column 'caption'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_give(
    audit: Path, given: Any, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        planned(*given(audit))
    assert not (audit.parent / "out").exists()


def test_features_that_are_not_of_a_profile_are_no_pictures(tmp_path: Path) -> None:
    plan = planned(make(tmp_path / "in" / "dump", {"date=2026-01-31/a.jpg": b"x"}))
    assert plan.scoring is None and plan.features_are_made
