"""Nights: found, featurized, scored, audited, published once, and left alone when done."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from item.errors import UsageError
from item.heads.head import Head
from item.mini import HEAD
from item.profiles import load_profile
from item.tables import REJECTS
from pipelines.configuration import resolved_with_profile
from pipelines.nightly.configuration import NightlyConfiguration
from pipelines.nightly.job import NightOutcome, plan_nights, run_nights
from pipelines.nightly.nights import nights_of
from pipelines.nightly.rejects import rejects
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.retries import take_retries
from pipelines.tables.features import FeatureTable
from pipelines.tables.lease import Lease
from pipelines.tables.parts import PartWriter
from pipelines.tables.provenance import provenance
from pipelines.tables.published import STAGING
from tests.support.dumps import make, parquet_of
from tests.support.feature_rows import done
from tests.support.flaky_s3 import Fault, FlakyS3
from tests.support.photographs import photographs

STORAGE = Storage(retries=0)
LAYOUT = "date=%Y-%m-%d"
FIRST, SECOND = "2026-01-30", "2026-01-31"
PICTURES = photographs(6)
NAMES = sorted(PICTURES)
EMBEDDINGS = (*("image_embedding", "parts_embedding", "global_misalignment", "local_misalignment"),)
SMALL = {"profile.resources.caption.workers_per_cpu": 0.5, "lease_seconds": 20}

pytestmark = pytest.mark.timeout(240)


def configured(input: Any, output: Any, **settings: Any) -> NightlyConfiguration:
    inputs = [str(one) for one in (input if isinstance(input, list) else [input])]
    options = {"input": inputs, "output": str(output)}
    return resolved_with_profile(NightlyConfiguration, None, options, SMALL | settings)


def run(input: Any, output: Any, **settings: Any) -> list[NightOutcome]:
    take_retries()  # those of other tests in this process
    return list(run_nights(plan_nights(configured(input, output, **settings))))


def manifest(root: Path, night: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "_nights" / f"{night}.json").read_text())
    return found


def files(folder: Path) -> dict[str, int]:
    return {str(one): one.stat().st_mtime_ns for one in folder.rglob("*") if one.is_file()}


@pytest.fixture(scope="module")
def audited(ray_cluster: None, tmp_path_factory: Any) -> tuple[Path, Path]:
    """A dump of two nights and what became of it.

    First night: four pictures, one of them twice, and two broken files. Second night: two
    pictures of the first, two new ones.
    """
    folder: Path = tmp_path_factory.mktemp("nights")
    first = {f"crawl/{name}": PICTURES[name] for name in NAMES[:4]}
    first |= {
        "shop/again.png": PICTURES[NAMES[0]],
        "shop/cut.jpg": b"\xff\xd8\xff",
        "shop/e.jpg": b"",
    }
    second = {f"crawl/{name}": PICTURES[name] for name in NAMES[2:]}
    dump = {f"date={FIRST}/{name}": data for name, data in first.items()}
    dump |= {f"date={SECOND}/{name}": data for name, data in second.items()}
    make(folder / "dump", dump)
    told = run(folder / "dump", folder / "out", max_error_rate=0.5)
    assert [(one.date, one.outcome) for one in told] == [
        (FIRST, "published"),
        (SECOND, "published"),
    ]
    return folder / "dump", folder / "out"


def test_every_row_is_in_every_table_once(audited: tuple[Path, Path]) -> None:
    _, out = audited
    features, scores = (pd.read_parquet(out / name) for name in ("features", "scores"))
    for frame in (features, scores):
        assert Counter(frame["date"].astype(str)) == {FIRST: 7, SECOND: 4}
        assert not frame.duplicated(["date", "uri"]).any()
    assert features["uri"].tolist() == scores["uri"].tolist()
    assert set(scores["verdict"]) <= {"likely_generated", "uncertain", "likely_real", "not_scored"}


def test_pictures_that_come_again_are_counted_and_have_the_same_features(
    audited: tuple[Path, Path],
) -> None:
    _, out = audited
    assert manifest(out, FIRST)["reuse"] == {"images": 5, "reused": 1, "rate": 0.2}
    assert manifest(out, SECOND)["reuse"] == {"images": 4, "reused": 2, "rate": 0.5}
    features = pd.read_parquet(out / "features").query("status == 'ok'")
    same = features.groupby("image_id")
    assert (same["caption"].nunique() == 1).all() and same.ngroups == 6
    assert (same["global_similarity"].nunique() == 1).all()


def test_rejects_view_counts_reasons_by_source(audited: tuple[Path, Path]) -> None:
    _, out = audited
    view = pd.read_parquet(out / "rejects")
    assert Counter(view["error_code"]) == Counter(["empty_file", "truncated"])
    assert view["rows"].sum() == 2 and (view["share"] > 0).all()
    assert all(len(one) == 1 for one in view["examples"])


def test_report_and_evidence_are_there(audited: tuple[Path, Path]) -> None:
    dump, out = audited
    page = (out / "reports" / f"{FIRST}.html").read_text()
    assert "<html" in page and f"{dump}/date={FIRST}/crawl/{NAMES[2]}" in page
    assert len(pd.read_parquet(out / "evidence").query("date == @FIRST")) == 4
    assert (out / "reports" / FIRST / "verdicts.csv").is_file()


def test_manifest_names_head_models_and_files(audited: tuple[Path, Path]) -> None:
    _, out = audited
    told = manifest(out, FIRST)
    head = Head.load(HEAD)
    assert told["outcome"] == "published" and told["head"]["head_id"] == head.head_id
    assert told["head"]["error_rates"]["real_rows"] > 0
    assert told["rows"]["by_error_code"] == {"empty_file": 1, "truncated": 1}
    assert sum(told["verdicts"].values()) == told["rows"]["total"] == 7
    assert told["images_per_second"] > 0 and told["storage_retries"] == 0


def test_done_nights_are_left_alone(audited: tuple[Path, Path]) -> None:
    dump, out = audited
    before = files(out)
    job = plan_nights(configured(dump, out))
    assert job.nights == () and job.done_before == (FIRST, SECOND)
    assert list(run_nights(job)) == []
    assert [one.outcome for one in run(dump, out, date=FIRST, max_error_rate=0.5)] == [
        "done_before"
    ]
    after = files(out)
    leases = [name for name in after if "_leases" in name]
    assert {k: v for k, v in after.items() if k not in leases} == {
        k: v for k, v in before.items() if k not in leases
    }


def test_night_killed_before_its_manifest_is_finished_without_computing_again(
    audited: tuple[Path, Path], tmp_path: Path
) -> None:
    dump, out = audited
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / "_nights" / f"{SECOND}.json").unlink()
    before = files(tmp_path / "out" / "features")
    [told] = run(dump, tmp_path / "out", max_error_rate=0.5)
    assert (told.date, told.outcome) == (SECOND, "published")
    assert before.items() <= files(tmp_path / "out" / "features").items()
    assert manifest(tmp_path / "out", SECOND)["images_per_second"] is None
    assert manifest(tmp_path / "out", SECOND)["rows"] == manifest(out, SECOND)["rows"]


def test_forced_night_takes_the_place_of_the_old_one(
    audited: tuple[Path, Path], tmp_path: Path
) -> None:
    dump, out = audited
    shutil.copytree(dump, tmp_path / "dump")
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "dump" / f"date={SECOND}" / "crawl" / NAMES[5]).unlink()
    [told] = run(tmp_path / "dump", tmp_path / "out", date=SECOND, overwrite="all")
    assert told.outcome == "published"
    features, scores = (pd.read_parquet(tmp_path / "out" / n) for n in ("features", "scores"))
    for frame in (features, scores):
        assert Counter(frame["date"].astype(str)) == {FIRST: 7, SECOND: 3}


def test_night_that_another_run_holds_is_told_and_left(
    audited: tuple[Path, Path], tmp_path: Path
) -> None:
    dump, _ = audited
    with Lease(str(tmp_path / "out"), FIRST, STORAGE):
        [told] = run(dump, tmp_path / "out", date=FIRST)
    assert told.outcome == "held" and "has held the lease on 2026-01-30" in told.facts["reason"]
    assert not (tmp_path / "out" / "features").exists()


def test_night_without_pictures_is_told_and_does_not_stop_the_others(
    audited: tuple[Path, Path], tmp_path: Path
) -> None:
    dump, _ = audited
    shutil.copytree(dump, tmp_path / "dump")
    make(tmp_path / "dump", {"date=2026-01-29/readme.md": b"nothing here"})
    told = run(tmp_path / "dump", tmp_path / "out", **{"from": "2026-01-29", "to": "2026-01-29"})
    assert [one.outcome for one in told] == ["refused"]
    assert "There is nothing to read" in told[0].facts["reason"]


def test_night_of_another_head_stays_as_it_is(audited: tuple[Path, Path], tmp_path: Path) -> None:
    dump, out = audited
    head = Head.load(HEAD)
    other = head.description.model_copy(
        update={"thresholds": type(head.description.thresholds)(0.1, 0.99)}
    )
    Head.of(other, head.fitted, head.familiarity).save(tmp_path / "head")
    own = {"head": str(tmp_path / "head")}
    job = plan_nights(configured(dump, out, **own, **{"from": FIRST}))
    assert job.nights == () and job.done_before == (FIRST, SECOND)
    with pytest.raises(UsageError, match="was scored by the head"):
        plan_nights(configured(dump, out, **own, retry_failed=True))


def test_too_many_errors_are_told_and_do_not_stop_the_next_night(
    audited: tuple[Path, Path], tmp_path: Path
) -> None:
    dump, out = audited
    shutil.copytree(out, tmp_path / "out")
    for night in (FIRST, SECOND):
        (tmp_path / "out" / "_nights" / f"{night}.json").unlink()
    late = {f"crawl/late-{number}.jpg": b"no picture" for number in range(3)}
    make(dump / f"date={FIRST}", late)
    try:
        told = run(dump, tmp_path / "out")
    finally:
        for name in late:
            (dump / f"date={FIRST}" / name).unlink()
    assert [night.outcome for night in told] == ["too_many_errors", "published"]
    reason = told[0].facts["reason"]
    assert reason.startswith(f"Of the rows of {FIRST}, 50.0% are without features")
    assert reason in told[0].sentence()
    assert not (tmp_path / "out" / "_nights" / f"{FIRST}.json").exists()


def publish_failed(root: str, uris: list[str], table_file: Path) -> None:
    """A done night on S3 of a table whose pictures could not be read, but for the last."""
    head = Head.load(HEAD)
    status = ["failed"] * (len(uris) - 1) + ["rejected"]
    code = ["uri_unreadable"] * (len(uris) - 1) + ["truncated"]
    about = table_file.stat()
    version = [f"{about.st_size}-{about.st_mtime_ns}"] * len(uris)
    own = {"listed_in": [str(table_file)] * len(uris), "input_version": version}
    rows = done(*uris, date=FIRST, status=status, error_code=code, **own)
    empty = {name: pa.nulls(len(uris), rows.schema.field(name).type) for name in EMBEDDINGS}
    for name, column in empty.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    table = FeatureTable(f"{root}/features", STORAGE)
    metadata = provenance(load_profile("mini"), "an older run")
    PartWriter(f"{root}/features/{STAGING}/work", STORAGE, 384, metadata)(rows)
    table.publish(["work"], "an older run")
    told = {"outcome": "published", "head": {"head_id": head.head_id}}
    fs, path = filesystem(f"{root}/_nights/{FIRST}.json", STORAGE)
    fs.pipe_file(path, json.dumps(told).encode())


@pytest.mark.usefixtures("ray_cluster")
def test_night_over_failing_storage_and_its_failed_rows_tried_again(
    tmp_path: Path, s3: Any, bucket: str
) -> None:
    """Reading two of three pictures failed in the first run; now one request in twenty fails.

    Half of them with an answer, which the client is sure to repeat and to count; where a
    connection is closed the HTTP library may repeat the request by itself.
    """
    s3.fill(bucket, {f"web/{name}": PICTURES[name] for name in NAMES[:2]})
    rows = {"uri": [f"s3://{bucket}/web/{name}" for name in NAMES[:2]] + ["local.png"]}
    dump = {
        f"date={FIRST}/names.parquet": parquet_of(rows),
        f"date={FIRST}/local.png": PICTURES[NAMES[0]],
    }
    make(tmp_path / "dump", dump)
    settings: dict[str, Any] = {
        "reading.kind": "parquet",
        "reading.uri_roots": [f"s3://{bucket}"],
        "max_error_rate": 0.9,
    }
    root = f"s3://{bucket}/out"
    night = tmp_path / "dump" / f"date={FIRST}"
    publish_failed(root, [*rows["uri"][:2], f"{night}/local.png"], night / "names.parquet")
    faults = (Fault.SLOW_DOWN, Fault.SLOW_DOWN, Fault.TIME_OUT, Fault.LOST_ANSWER)
    with FlakyS3(s3.endpoint, share=0.05, seed=3, hold=0.1, faults=faults) as flaky:
        often = {"storage.endpoint_url": flaky.endpoint, "storage.retries": 8}
        [told] = run(tmp_path / "dump", root, **settings, **often, retry_failed=True)
    assert told.outcome == "published", told.facts
    assert flaky.counts.slow_downs.total() > 0 and told.facts["storage_retries"] > 0
    assert told.facts["rows"]["by_status"] == {"ok": 2, "rejected": 1}
    features, scores = (pd.read_parquet(f"{root}/{name}") for name in ("features", "scores"))
    assert features["uri"].is_unique and sorted(scores["uri"]) == sorted(features["uri"])
    assert scores["score"].notna().sum() == 2
    page = s3.client.get_object(Bucket=bucket, Key=f"out/reports/{FIRST}.html")["Body"].read()
    assert b"<html" in page


# Without work


def test_nights_are_found_in_roots_and_in_prefixes(tmp_path: Path) -> None:
    names = [f"a/date={FIRST}/x.png", f"a/date={SECOND}/x.png", f"b/date={SECOND}/y.png"]
    make(tmp_path, dict.fromkeys([*names, "a/other/z.png", "a/date=never/z.png"], b"x"))
    both = [str(tmp_path / "a"), str(tmp_path / "b" / f"date={SECOND}")]
    found = nights_of(both, STORAGE, LAYOUT)
    assert found.others == ("date=never", "other")
    assert found.prefixes == {
        FIRST: [f"{tmp_path}/a/date={FIRST}"],
        SECOND: [f"{tmp_path}/a/date={SECOND}", f"{tmp_path}/b/date={SECOND}"],
    }
    with pytest.raises(UsageError, match="There is no night at"):
        nights_of([str(tmp_path / "a" / "other")], STORAGE, LAYOUT)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"date": "2026-02-01"}, "no night that was asked for"),
        ({"date": FIRST, "from": FIRST}, "one or the other"),
        ({"from": SECOND, "to": FIRST}, "from lies after to"),
        ({"date": "yesterday"}, "date"),
        ({"head": "nowhere"}, "There is no head"),
        ({"profile.captioner.beams": 2}, "cannot score"),
        ({"overwrite": "some"}, "nothing"),
        ({"max_eror_rate": 1}, "max_eror_rate"),
    ],
)
def test_mistake_is_refused_before_any_work(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    make(tmp_path / "dump", {f"date={FIRST}/a.png": b"x"})
    with pytest.raises(UsageError, match=words):
        plan_nights(configured(tmp_path / "dump", tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("s3")
def test_missing_bucket_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no bucket 'no-such-bucket'"):
        plan_nights(configured("s3://no-such-bucket/x", tmp_path / "out"))


def test_rejects_are_grouped_with_shares_and_at_most_five_examples() -> None:
    rows = [
        {"uri": f"{n}", "source": "a", "status": "rejected", "error_code": "truncated"}
        for n in range(7)
    ]
    rows += [{"uri": f"ok{n}", "source": "a", "status": "ok", "error_code": None} for n in range(7)]
    rows += [{"uri": "x", "source": None, "status": "failed", "error_code": "uri_unreadable"}]
    view = rejects(pa.Table.from_pylist(rows))
    assert view.schema.equals(REJECTS)
    first, second = view.to_pylist()
    assert (first["rows"], first["share"], len(first["examples"])) == (7, 0.5, 5)
    assert (second["source"], second["share"], second["status"]) == (None, 1.0, "failed")
    assert rejects(pa.Table.from_pylist(rows[7:14])).num_rows == 0
