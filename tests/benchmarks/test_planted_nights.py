from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmarks.planted_nights import BROKEN, REPEATED, Picture, app, differences, plant
from item.images.decode import Decoding, decode
from item.images.errors import ImageError
from tests.support.dumps import parquet_of
from tests.support.photographs import photographs

PICTURES = [Picture("a.example", content) for content in photographs(60).values()]

Plan = dict[str, Any]
Audit = dict[str, Any]
"""Tables of an audit root by name, and its ``manifests`` by night."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    folder = tmp_path_factory.mktemp("planted") / "dump"
    return folder, plant(PICTURES, folder, nights=3, seed=1)


def files_of(folder: Path, night: Plan) -> dict[str, bytes]:
    root = folder / f"date={night['date']}"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("*/*")}


def fate(content: bytes) -> str | None:
    try:
        decode(content, Decoding())
    except ImageError as error:
        return str(error.code)
    return None


def test_plan_says_of_every_file_what_decoding_says(planted: tuple[Path, Plan]) -> None:
    folder, plan = planted
    for night in plan["nights"]:
        files = files_of(folder, night)
        assert len(files) == night["rows"]
        found = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "error_code": fate(data)}
            for name, data in files.items()
        }
        assert found == night["files"]
        codes = Counter(one["error_code"] for one in found.values() if one["error_code"])
        assert codes == night["by_error_code"]


def test_shares_of_broken_files_and_repeats_are_those_asked_for(
    planted: tuple[Path, Plan],
) -> None:
    _, plan = planted
    nights = plan["nights"]
    rows = sum(night["rows"] for night in nights)
    broken = sum(sum(night["by_error_code"].values()) for night in nights)
    assert rows == len(PICTURES) / (1 - BROKEN - REPEATED) == 80
    assert broken == BROKEN * rows == 4
    assert sum(night["reused"] for night in nights) == REPEATED * rows == 16


def test_reused_rows_are_whole_pictures_that_came_before(planted: tuple[Path, Plan]) -> None:
    folder, plan = planted
    seen: set[bytes] = set()
    for night in plan["nights"]:
        contents = [one for one in files_of(folder, night).values() if fate(one) is None]
        assert night["reused"] == len(contents) - len(set(contents) - seen)
        assert night["reused_of_earlier_nights"] == sum(one in seen for one in contents)
        seen |= set(contents)
    assert [night["reused_of_earlier_nights"] > 0 for night in plan["nights"]] == [0, 1, 1]


def test_same_seed_plants_the_same(planted: tuple[Path, Plan], tmp_path: Path) -> None:
    _, plan = planted
    assert plant(PICTURES, tmp_path / "again", nights=3, seed=1) == plan
    assert plant(PICTURES, tmp_path / "other", nights=3, seed=2) != plan


def as_audited(plan: Plan) -> Audit:
    """What a nightly job leaves that did all as planned."""
    rows = [
        {
            "uri": f"date={night['date']}/{name}",
            "image_id": one["sha256"],
            "status": "rejected" if one["error_code"] else "ok",
            "error_code": one["error_code"],
            "score": None if one["error_code"] else int(one["sha256"][:4], 16) / 0xFFFF,
            "verdict": "not_scored" if one["error_code"] else "uncertain",
            "date": night["date"],
        }
        for night in plan["nights"]
        for name, one in night["files"].items()
    ]
    rejects = [
        {"error_code": code, "rows": number, "date": night["date"]}
        for night in plan["nights"]
        for code, number in night["by_error_code"].items()
    ]
    manifests = {
        night["date"]: {
            "rows": {"total": night["rows"], "by_error_code": night["by_error_code"]},
            "reuse": {
                "images": night["rows"] - sum(night["by_error_code"].values()),
                "reused": night["reused"],
            },
        }
        for night in plan["nights"]
    }
    return {
        "features": pd.DataFrame(rows).drop(columns=["score", "verdict"]),
        "scores": pd.DataFrame(rows),
        "rejects": pd.DataFrame(rejects),
        "manifests": copy.deepcopy(manifests),
    }


def write(root: Path, audit: Audit) -> str:
    for name in ("features", "scores", "rejects"):
        for night, some in audit[name].groupby("date"):
            (folder := root / name / f"date={night}").mkdir(parents=True)
            some.drop(columns="date").to_parquet(folder / "night.parquet")
    (root / "_nights").mkdir()
    for night, manifest in audit["manifests"].items():
        (root / "_nights" / f"{night}.json").write_text(json.dumps(manifest))
    return str(root)


def test_audit_that_went_as_planned_has_no_differences(
    planted: tuple[Path, Plan], tmp_path: Path
) -> None:
    _, plan = planted
    assert differences(plan, write(tmp_path, as_audited(plan))) == []


def lose_a_row(audit: Audit) -> None:
    audit["features"] = audit["features"].iloc[1:]


def repeat_a_row(audit: Audit) -> None:
    audit["scores"] = pd.concat([audit["scores"], audit["scores"].iloc[:1]])


def change_a_reason(audit: Audit) -> None:
    first = audit["features"]["error_code"].first_valid_index()
    audit["features"].loc[first, "error_code"] = "uri_unreadable"


def change_a_picture(audit: Audit) -> None:
    audit["features"].loc[0, "image_id"] = "0" * 64


def count_a_reject_twice(audit: Audit) -> None:
    audit["rejects"].loc[0, "rows"] += 1


def score_a_reject(audit: Audit) -> None:
    first = audit["scores"]["error_code"].first_valid_index()
    audit["scores"].loc[first, "verdict"] = "likely_real"


def leave_a_picture_unscored(audit: Audit) -> None:
    first = audit["scores"]["score"].first_valid_index()
    audit["scores"].loc[first, "score"] = None


def score_a_repeat_otherwise(audit: Audit) -> None:
    scored = audit["scores"][audit["scores"]["error_code"].isna()]
    row = scored.index[scored["image_id"].duplicated()][0]
    audit["scores"].loc[row, "score"] += 0.01


def reuse_less(audit: Audit) -> None:
    audit["manifests"]["2026-01-30"]["reuse"]["reused"] -= 1


def add_a_night(audit: Audit) -> None:
    audit["scores"].loc[0, "date"] = "2026-02-28"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lose_a_row, "features of 2026-01-29: 1 files are missing"),
        (repeat_a_row, "scores of 2026-01-29: 1 files are there more than once"),
        (change_a_reason, "1 rows have error_code uri_unreadable instead of"),
        (change_a_picture, "1 rows have another image_id"),
        (count_a_reject_twice, "2026-01-29: rejects by reason"),
        (score_a_reject, "1 rows without features have a verdict"),
        (leave_a_picture_unscored, "1 rows with features have no score"),
        (score_a_repeat_otherwise, "1 pictures have more than one score"),
        (reuse_less, "2026-01-30: reused pictures"),
        (add_a_night, "scores has nights that were not planted: 2026-02-28"),
    ],
)
def test_each_difference_is_told(
    planted: tuple[Path, Plan],
    tmp_path: Path,
    change: Callable[[Audit], None],
    says: str,
) -> None:
    _, plan = planted
    audit = as_audited(plan)
    change(audit)
    found = differences(plan, write(tmp_path, audit))
    assert any(says in sentence for sentence in found), found


def test_commands_make_a_dump_and_refuse_what_is_not_as_planted(tmp_path: Path) -> None:
    contents = [one.content for one in PICTURES]
    (tmp_path / "pictures.parquet").write_bytes(parquet_of({"bytes": contents}))
    output = tmp_path / "planted"
    options = ["--data", str(tmp_path), "--output", str(output), "--images", "60"]
    made = CliRunner().invoke(app, ["make", *options])
    assert made.exit_code == 0, made.output
    assert made.output.startswith("80 files in")
    plan = json.loads((output / "planted.json").read_text())
    audit = as_audited(plan)
    root = write(tmp_path / "good", audit)
    checked = ["check", str(output / "planted.json"), "--root"]
    result = CliRunner().invoke(app, [*checked, root])
    assert result.exit_code == 0, result.output
    assert "Everything is as it was planted." in result.output
    lose_a_row(audit)
    result = CliRunner().invoke(app, [*checked, write(tmp_path / "bad", audit)])
    assert result.exit_code == 1
    assert "DIFFERENCE" in result.output


def test_too_few_pictures_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "pictures.parquet").write_bytes(parquet_of({"bytes": [b"1", b"2"]}))
    result = CliRunner().invoke(
        app, ["make", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 2
    assert "holds 2 different pictures" in result.output
