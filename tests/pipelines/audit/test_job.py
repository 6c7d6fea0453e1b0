"""From published nights to files: which nights, which pictures, and what is written."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from item.errors import UsageError
from item.heads.head import Head
from item.mini import HEAD as SHIPPED
from pipelines.audit.configuration import AuditConfiguration
from pipelines.audit.files import as_csv
from pipelines.audit.job import AuditPlan, plan_audit, shown, write_report
from pipelines.audit.numbers import AuditOptions
from pipelines.configuration import resolved
from tests.conftest import S3Server
from tests.support.audit_root import HOSTILE, broken, many, picture, write_night

NIGHTS = ("2026-01-07", "2026-01-08", "2026-01-09")
TABLES = (
    *("verdicts", "prevalence", "histogram", "families", "drift"),
    *("suspicious", "review", "rejects", "run"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    for seed, night in enumerate(NIGHTS):
        rows = [*many(night, 60, seed), *(broken(f"b{n}") for n in range(3))]
        write_night(root, night, rows, manifest={})
    return root


def auditing(root: Path, output: str = "report.html", **given: Any) -> AuditPlan:
    return plan_audit(AuditConfiguration(input=str(root), output=output, **given))


@pytest.mark.parametrize(
    ("given", "dates"),
    [
        ({}, NIGHTS[2:]),
        ({"date": NIGHTS[0]}, NIGHTS[:1]),
        ({"first": NIGHTS[1]}, NIGHTS[1:]),
        ({"last": NIGHTS[1]}, NIGHTS[:2]),
        ({"first": "2025-01-01", "last": "2027-01-01"}, NIGHTS),
    ],
)
def test_report_is_of_the_nights_asked_for(
    root: Path, given: dict[str, str], dates: tuple[str, ...]
) -> None:
    assert auditing(root, **given).rows.dates == dates


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"date": "2026-02-01"}, "it has 3 nights, 2026-01-07 to 2026-01-09."),
        ({"first": "2026-01-10"}, "has no night that was asked for"),
    ],
)
def test_missing_night_is_refused_with_what_is_there(
    root: Path, given: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        auditing(root, **given)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("table", ["features", "scores", "rejects", "evidence"])
def test_a_table_or_a_night_of_it_stands_for_the_root(root: Path, table: str) -> None:
    assert auditing(root / table).rows.dates == NIGHTS[2:]
    assert auditing(root / table, date=NIGHTS[1]).rows.dates == NIGHTS[1:2]
    night = root / table / f"date={NIGHTS[0]}"
    assert auditing(night).rows.dates == NIGHTS[:1]
    assert auditing(night, date=NIGHTS[0]).rows.dates == NIGHTS[:1]
    assert auditing(next(night.glob("*.parquet"))).rows.dates == NIGHTS[:1]


@pytest.mark.parametrize("given", [{"date": NIGHTS[1]}, {"first": NIGHTS[0]}])
def test_other_nights_than_the_one_given_are_refused(root: Path, given: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=f"is the night {NIGHTS[0]} alone: give .* to choose"):
        auditing(root / "features" / f"date={NIGHTS[0]}", **given)


def test_a_table_outside_an_audit_is_refused_with_what_to_give(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "features", tmp_path / "mine")
    with pytest.raises(UsageError, match=r"give the output of jobs/nightly\.py"):
        auditing(tmp_path / "mine" / f"date={NIGHTS[0]}")
    shutil.copytree(root / "features", tmp_path / "features")
    with pytest.raises(UsageError, match="has features and no scores: score it first"):
        auditing(tmp_path / "features" / f"date={NIGHTS[0]}")


def test_root_without_nights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no night at"):
        auditing(tmp_path)
    with pytest.raises(UsageError, match="There is no file or folder at"):
        auditing(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"date": "2026-01-01", "first": "2026-01-01"}, "give one or the other"),
        ({"first": "2026-01-02", "last": "2026-01-01"}, "first lies after last"),
        ({"output": "report"}, "'output'"),
        ({"drift.psi": -1}, "drift.psi"),
        ({"price_per_hour.cpus": 1}, "did you mean 'cpu'"),
    ],
)
def test_wrong_configuration_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    given = {"input": "root", "output": "report.html"} | options
    with pytest.raises(UsageError) as refusal:
        resolved(AuditConfiguration, None, given, {})
    assert sentence in str(refusal.value)


def test_options_of_a_nightly_run_fit_into_the_configuration() -> None:
    options = AuditOptions(gallery=3, currency="EUR")
    configuration = AuditConfiguration(input="root", output="report.html", **dict(options))
    assert (configuration.gallery, configuration.currency) == (3, "EUR")


def test_thresholds_come_from_the_head_that_is_given(tmp_path: Path) -> None:
    head = Head.load(SHIPPED)
    write_night(tmp_path, NIGHTS[0], [picture("a")], head_id=head.head_id)
    found = auditing(tmp_path, head=str(SHIPPED)).known
    assert found.thresholds == head.description.thresholds
    assert found.error_rates == head.description.error_rates


def test_head_that_did_not_score_the_night_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="the scores are by 0123456789abcdef: give the head"):
        auditing(root, head=str(SHIPPED))


def test_pictures_to_keep_are_the_same_at_every_reading(root: Path) -> None:
    first, again = (shown(auditing(root, gallery=10, review_pictures=5)) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert list(first) == ["date", "uri", "image_id"]
    assert 10 <= len(first) <= 15
    assert first["image_id"].str.fullmatch("[0-9a-f]{64}").all()
    assert set(first["date"]) == {NIGHTS[2]}


def test_every_table_is_written_as_parquet_and_csv(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "reports" / "night.html"
    job = auditing(root, str(output))
    assert write_report(job) == str(output)
    folder = output.with_suffix("")
    expected = {f"{name}.{kind}" for name in TABLES for kind in ("csv", "parquet")}
    assert {path.name for path in folder.iterdir()} == expected
    for name, table in job.audit.tables().items():
        parquet, text = pd.read_parquet(folder / f"{name}.parquet"), folder / f"{name}.csv"
        assert list(parquet) == list(pd.read_csv(text)) == list(table)
        assert len(parquet) == len(pd.read_csv(text)) == len(table)
    counts = pd.read_parquet(folder / "verdicts.parquet")
    pd.testing.assert_series_equal(counts["rows"], job.audit.verdicts["rows"])


def test_empty_night_is_written_too(tmp_path: Path) -> None:
    write_night(tmp_path, NIGHTS[0], [], manifest={})
    output = tmp_path / "report.html"
    write_report(auditing(tmp_path, str(output)))
    assert pd.read_parquet(tmp_path / "report" / "review.parquet").empty
    assert pd.read_parquet(tmp_path / "report" / "verdicts.parquet")["rows"].tolist() == [0]


def test_same_nights_give_the_same_files(root: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        output = tmp_path / name / "report.html"
        write_report(auditing(root, str(output)))
        contents.append({path.name: path.read_bytes() for path in output.parent.rglob("*.*")})
    assert contents[0] == contents[1]


def test_report_goes_to_s3(root: Path, s3: S3Server, bucket: str) -> None:
    write_report(auditing(root, f"s3://{bucket}/reports/night.html"))
    keys = [one["Key"] for one in s3.client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert len(keys) == 1 + 2 * len(TABLES)
    page = s3.client.get_object(Bucket=bucket, Key="reports/night.html")["Body"].read()
    assert page.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "＝1"])
def test_formulas_in_csv_are_text(text: str) -> None:
    [[_, cell]] = list(
        csv.reader(
            io.StringIO(
                as_csv(pd.DataFrame({"a": ["x"], "b": [text]})).decode("utf-8-sig"), newline=""
            )
        )
    )[1:]
    assert cell == f"'{text}"


def test_csv_keeps_numbers_and_harmless_text() -> None:
    table = pd.DataFrame({"n": [-1.5], "t": ['a "cat", =b\n<b>'], "l": [["x", "y"]]})
    [_, row] = csv.reader(io.StringIO(as_csv(table).decode("utf-8-sig"), newline=""))
    assert row == ["-1.5", 'a "cat", =b\n<b>', "x y"]


def test_hostile_rows_stay_one_line_each_in_csv(tmp_path: Path) -> None:
    rows = [picture(text, 0.5, caption=text, source=text) for text in HOSTILE]
    output = tmp_path / "report.html"
    write_report(auditing(write_night(tmp_path, NIGHTS[0], rows), str(output)))
    review = pd.read_csv(tmp_path / "report" / "review.csv")
    assert len(review) == len(HOSTILE)
    told = {text.removeprefix("'") for text in review["caption"]}
    assert told == set(HOSTILE)
    assert not review["uri"].str.startswith(("=", "+", "-", "@")).any()
