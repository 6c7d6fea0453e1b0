"""Whole runs, in one process with Ray: refused, finished, grown, resumed, and told of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import item.mini.checkpoint
from item.errors import MachineError, UsageError
from item.featurizing import Featurizer
from item.profiles import load_profile
from item.tables import ErrorCode
from pipelines.featurize import run as featurize_run
from pipelines.featurize.configuration import FeaturizeConfiguration, resolve
from pipelines.featurize.error_rate import ErrorRateError, too_many_errors
from pipelines.featurize.plan import FeaturizingPlan, plan_featurizing
from pipelines.featurize.run import run_featurizing, run_together
from pipelines.runtime.failures import machine_failures
from pipelines.storage.configuration import Storage
from pipelines.tables.parts import REPEAT, PartWriter
from pipelines.tables.provenance import provenance
from pipelines.tables.published import STAGING
from tests.support.dumps import make, parquet_of
from tests.support.feature_rows import COLUMNS, done
from tests.support.odd_files import ODD_FILES, encode, flat
from tests.support.photographs import photographs

NIGHT = "2026-01-31"
GOOD = photographs(6)
DUMP = GOOD | {"empty.jpg": b"", "cut.jpg": ODD_FILES["jpeg cut in half"][0]}

pytestmark = pytest.mark.timeout(180)


def configured(input: object, output: object, **settings: Any) -> FeaturizeConfiguration:
    """Small parts, and a date of its own, so that a test may run at midnight."""
    options = {"input": str(input), "output": str(output)}
    common: dict[str, Any] = {"rows_per_part": 4, "reading.date": NIGHT, "max_error_rate": 0.5}
    # One worker a model starts sooner than two on two cores.
    common |= {"profile.resources.caption.workers_per_cpu": 0.5}
    return resolve(None, options, common | settings)


def run(input: object, output: object, **settings: Any) -> dict[str, Any]:
    return run_featurizing(plan_featurizing(configured(input, output, **settings)))


def files(folder: Path) -> dict[str, tuple[str, int]]:
    """Checksum and time of everything below a folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def outcomes(output: object, below: object) -> dict[str, str]:
    """What became of each URI, named below an input; fails if one comes twice."""
    frame = pd.read_parquet(str(output))
    assert frame["uri"].is_unique and frame["uri"].str.startswith(f"{below}/").all()
    names = frame["uri"].str.removeprefix(f"{below}/")
    return dict(zip(names, frame["error_code"].fillna("ok"), strict=True))


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where Ray is asked to work."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr(featurize_run.reading, "read", refuse)
    monkeypatch.setattr(featurize_run, "start_ray", refuse)


# Refusals


def missing_input(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"input": folder / "nowhere"}


def nothing_in_it(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    (folder / "empty").mkdir()
    return {"input": folder / "empty"}


def file_for_output(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    (folder / "file").write_text("not a folder")
    return {"output": folder / "file" / "features"}


def missing_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(item.mini.checkpoint, "FOLDER", folder)
    return {}


def other_features(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    metadata = provenance(load_profile("mini", {"captioner.beams": 2}), "a run")
    PartWriter(str(folder / "old"), Storage(), 4, metadata)(done("a"))
    return {"output": folder / "old"}


def other_perturbation(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    metadata = provenance(load_profile("mini"), "a run", "jpeg-75")
    PartWriter(str(folder / "old"), Storage(), 4, metadata)(done("a"))
    return {"output": folder / "old"}


def unknown_columns(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    make(folder / "table", {"a.parquet": parquet_of({"picture": [b"x"], "size": [1]})})
    return {"input": folder / "table"}


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (missing_input, "nowhere"),
        (nothing_in_it, "nothing to read"),
        (file_for_output, "is a file"),
        (missing_weights, "weights"),
        (other_features, "features of the set"),
        (other_perturbation, "under the perturbation 'jpeg-75'"),
        (unknown_columns, "uri"),
    ],
)
def test_mistake_is_refused_in_a_sentence_before_anything_is_written(
    mistake: Callable[..., dict[str, Any]],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(tmp_path / "dump", {"a.jpg": GOOD["cat-01.jpg"]})
    places = {"input": tmp_path / "dump", "output": tmp_path / "features"}
    places |= mistake(tmp_path, monkeypatch)
    before = files(tmp_path)
    with pytest.raises(UsageError, match=says) as refusal:
        plan_featurizing(configured(**places))
    sentence = str(refusal.value)
    assert sentence.endswith(".") and "\n" not in sentence
    assert files(tmp_path) == before
    assert not (tmp_path / "features").exists()


def test_preparing_writes_nothing_and_describes_the_plan(tmp_path: Path) -> None:
    dump = make(tmp_path / "dump", DUMP | {".hidden": b"x"})
    job = plan_featurizing(configured(dump, tmp_path / "features"))
    described = job.describe()
    assert described["rows"] == len(DUMP)
    assert described["dates"] == [NIGHT]
    assert described["left out"] == {"hidden": 1}
    assert [stage["stage"] for stage in described["stages"]] == [
        *("identify", "decode", "caption", "phrases", "findobjects", "embed", "misalign")
    ]
    assert not (tmp_path / "features").exists()


def test_perturbation_is_another_work_and_its_plan_says_so(tmp_path: Path) -> None:
    dump = make(tmp_path / "dump", DUMP)
    plain = plan_featurizing(configured(dump, tmp_path / "features"))
    perturbed = plan_featurizing(configured(dump, tmp_path / "features", perturbation="jpeg-75"))
    assert perturbed.work != plain.work
    assert perturbed.feature_set_id == plain.feature_set_id
    assert perturbed.describe()["perturbation"] == "jpeg-75"
    assert [stage["stage"] for stage in perturbed.describe()["stages"]][:3] == [
        *("perturb", "identify", "decode")
    ]


# A folder


@dataclasses.dataclass(frozen=True)
class Finished:
    """A night that was run once; tests that change something copy it first."""

    dump: Path
    output: Path
    manifest: dict[str, Any]


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: Any) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    dump = make(folder / "dump", DUMP)
    manifest = run(dump, folder / "features")
    return Finished(dump, folder / "features", manifest)


def test_every_file_is_a_row_with_its_outcome(finished: Finished) -> None:
    frame = pd.read_parquet(finished.output)
    assert sorted(frame.columns) == COLUMNS
    assert outcomes(finished.output, finished.dump) == {
        **dict.fromkeys(GOOD, "ok"),
        "empty.jpg": "empty_file",
        "cut.jpg": "truncated",
    }
    assert set(frame["date"].astype(str)) == {NIGHT}
    assert frame["caption"].notna().sum() == len(GOOD)


def test_rows_are_those_of_the_featurizer_without_ray(finished: Finished) -> None:
    records = pd.read_parquet(finished.output).to_dict("records")
    published = {Path(row["uri"]).name: row for row in records}
    table = Featurizer(load_profile("mini")).featurize(list(DUMP.values()), list(DUMP))
    for row in table.to_pandas().to_dict("records"):
        expected = published[row["uri"]]
        for column in ("image_id", "status", "width", "jpeg_quality", "caption", "object_count"):
            assert row[column] == expected[column] or pd.isna(row[column]), column
            assert pd.isna(row[column]) == pd.isna(expected[column]), column
        if row["status"] == "ok":
            for column in ("image_embedding", "parts_embedding", "local_misalignment"):
                # Models round otherwise beside other pictures.
                assert row[column] == pytest.approx(expected[column], abs=2e-3), column
            assert [
                (found["phrase"], found["box"], found["grounded"]) for found in row["objects"]
            ] == [
                (found["phrase"], found["box"], found["grounded"]) for found in expected["objects"]
            ]


def test_nothing_but_the_table_and_its_run_is_left(finished: Finished) -> None:
    assert {path.name for path in finished.output.iterdir()} <= {
        *(f"date={NIGHT}", "_runs", "_leases", STAGING)
    }
    assert not [name for name in files(finished.output) if name.startswith(STAGING)]


def test_manifest_counts_rows_by_status_and_code(finished: Finished) -> None:
    rows = finished.manifest["rows"]
    assert rows["total"] == len(DUMP) and rows["done_before"] == 0
    assert rows["by_status"] == {"ok": len(GOOD), "rejected": 2}
    assert rows["by_error_code"] == {"empty_file": 1, "truncated": 1}
    assert finished.manifest["rows_computed"] == len(DUMP)


def test_manifest_lists_the_files_that_are_there(finished: Finished) -> None:
    listed = {one["path"]: one for one in finished.manifest["files"]}
    there = {name: sha for name, (sha, _) in files(finished.output).items() if "date=" in name}
    assert {path: one["sha256"] for path, one in listed.items()} == there
    assert sum(one["rows"] for one in listed.values()) == len(DUMP)
    assert len(listed) == 1


def test_manifest_tells_speeds_memory_and_models(finished: Finished) -> None:
    manifest = finished.manifest
    assert [one["stage"] for one in manifest["stages"]] == [
        *("identify", "decode", "caption", "phrases", "findobjects", "embed", "misalign")
    ]
    assert all(one["images_per_second"] > 0 for one in manifest["stages"])
    assert manifest["peak_memory_bytes"] > 100 << 20
    assert manifest["images_per_second"] > 0
    assert 0 < manifest["start_up_seconds"] <= manifest["seconds"]
    profile = load_profile("mini")
    assert manifest["models"] == profile.revisions()
    assert manifest["feature_set_id"] == profile.feature_set_id()
    assert {"item", "python", "ray", "torch", "pillow"} <= set(manifest["versions"])
    assert manifest["input"]["kinds"] == ["images"] and manifest["input"]["rows"] == len(DUMP)


def test_manifest_is_written_beside_the_configuration_that_made_it(finished: Finished) -> None:
    path = Path(finished.manifest["manifest"])
    written = json.loads(path.read_text())
    assert written == {name: finished.manifest[name] for name in written}
    assert written["outcome"] == "published"
    again = resolve(str(path.with_suffix(".yaml")), {}, {})
    assert again == configured(finished.dump, finished.output)
    assert yaml.safe_load(path.with_suffix(".yaml").read_text())["rows_per_part"] == 4


@pytest.mark.usefixtures("forbidden")
def test_finished_night_run_again_changes_nothing(finished: Finished) -> None:
    before = files(finished.output)
    again = run(finished.dump, finished.output)
    assert again["outcome"] == "nothing_to_do"
    assert again["rows"]["done_before"] == len(DUMP) and again["rows"]["total"] == 0
    assert files(finished.output) == before


@pytest.mark.usefixtures("forbidden")
def test_other_resources_are_the_same_work(finished: Finished) -> None:
    settings = {"profile.resources.caption.batch_size": 2, "rows_per_part": 7}
    assert run(finished.dump, finished.output, **settings)["outcome"] == "nothing_to_do"


def test_of_a_night_that_changed_only_what_is_new_is_computed_and_what_went_leaves_it(
    finished: Finished, tmp_path: Path
) -> None:
    output = tmp_path / "features"
    shutil.copytree(finished.output, output)
    before = files(output)
    new = {"new.png": encode(flat(), "PNG"), "new-empty.png": b""}
    with changed(finished.dump, new | {"cut.jpg": encode(flat(), "PNG"), "empty.jpg": None}):
        manifest = run(finished.dump, output)
        assert manifest["rows_computed"] == 3 and manifest["rows"]["taken_out"] == 1
        assert manifest["rows"]["done_before"] == len(GOOD)
        assert run(finished.dump, output)["outcome"] == "nothing_to_do"
    assert {n for n in before if "date=" in n} == {n for n in files(output) if "date=" in n}
    assert outcomes(output, finished.dump) == {
        **dict.fromkeys(GOOD, "ok"),
        "cut.jpg": "ok",
        "new.png": "ok",
        "new-empty.png": "empty_file",
    }


def test_another_folder_with_the_same_names_joins_the_table(
    finished: Finished, tmp_path: Path
) -> None:
    output = tmp_path / "features"
    shutil.copytree(finished.output, output)
    shutil.copytree(finished.dump, tmp_path / "other")
    (tmp_path / "other" / "cut.jpg").write_bytes(b"")
    manifest = run(tmp_path / "other", output)
    assert manifest["rows"]["total"] == len(DUMP) and manifest["rows"]["taken_out"] == 0
    frame = pd.read_parquet(output)
    assert len(frame) == frame["uri"].nunique() == 2 * len(DUMP)
    assert run(finished.dump, output)["outcome"] == "nothing_to_do"


@contextmanager
def changed(dump: Path, content: dict[str, bytes | None]) -> Iterator[None]:
    """Files of a dump with other content, or none, until the block ends."""
    before = {name: (dump / name).read_bytes() for name in content if (dump / name).exists()}
    times = {name: (dump / name).stat().st_mtime_ns for name in before}
    try:
        for name, data in content.items():
            (dump / name).unlink(missing_ok=True) if data is None else make(dump, {name: data})
        yield
    finally:
        for name in content:
            (dump / name).unlink(missing_ok=True)
        make(dump, before)
        for name, when in times.items():
            os.utime(dump / name, ns=(when, when))


@pytest.mark.usefixtures("forbidden")
def test_kill_between_publishing_and_the_manifest_leaves_a_night_that_can_be_run_again(
    finished: Finished, tmp_path: Path
) -> None:
    output = tmp_path / "features"
    shutil.copytree(finished.output, output)
    shutil.rmtree(output / "_runs")
    run(finished.dump, output)
    assert len(outcomes(output, finished.dump)) == len(DUMP)
    after = files(output)
    assert run(finished.dump, output)["outcome"] == "nothing_to_do"
    assert files(output) == after


@pytest.mark.usefixtures("ray_cluster")
def test_kill_before_rows_got_the_features_of_another_night_costs_no_further_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [picture, *others] = photographs(3).values()
    nights = {"2026-01-30": tmp_path / "a", NIGHT: tmp_path / "b"}
    for folder, other in zip(nights.values(), others, strict=True):
        make(folder, {"same.jpg": picture, "other.jpg": other})

    def planned() -> list[FeaturizingPlan]:
        return [
            plan_featurizing(configured(folder, tmp_path / "out"), night)
            for night, folder in nights.items()
        ]

    with monkeypatch.context() as patch:
        patch.setattr(featurize_run, "_copy", lambda *_: (_ for _ in ()).throw(SystemError("kill")))
        with pytest.raises(SystemError):
            run_together(planned())
    waits = [bool(job.table.staged(job.work, REPEAT)) for job in planned()]
    assert sorted(waits) == [False, True]
    work = planned()[waits.index(True)].work
    first = list(nights.values())[waits.index(False)] / "same.jpg"
    with monkeypatch.context() as patch:  # had the first file gone, the other would be read
        patch.setattr(featurize_run, "_compute", lambda work, _: pytest.fail(f"{work}"))
        shutil.copytree(tmp_path / "out", tmp_path / "before")
        first.rename(tmp_path / "aside.jpg")
        with pytest.raises(pytest.fail.Exception):
            run_together(planned())
        assert not planned()[0].table.staged(work, REPEAT)
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "before").rename(tmp_path / "out")
        (tmp_path / "aside.jpg").rename(first)
    manifests = run_together(planned())
    assert [one["outcome"] for one in manifests] == ["published", "published"]
    assert list(outcomes(tmp_path / "out", tmp_path).values()) == ["ok"] * 4


# Tables


@pytest.fixture(scope="module")
def tables(ray_cluster: None, tmp_path_factory: Any) -> Finished:
    """One table with pictures inside and one that names them."""
    folder = tmp_path_factory.mktemp("tables")
    first, second, third = list(GOOD)[:3]
    pictures = {
        "uri": [first, second, first, first],
        "bytes": [GOOD[first], GOOD[second], GOOD[first], GOOD[first]],
        "label": [1, 0, 1, 1],
        "generator": ["a model", None, "a model", "a model"],
        "date": ["2026-01-30", "2026-01-30", "2026-01-30", NIGHT],
    }
    names = {"uri": [f"photos/{third}", "photos/gone.jpg", "../../etc/passwd"], "date": [NIGHT] * 3}
    content = {"pictures.parquet": parquet_of(pictures), "names.parquet": parquet_of(names)}
    dump = make(folder / "dump", content | {f"photos/{third}": GOOD[third]})
    manifest = run(dump, folder / "features", **{"reading.kind": "parquet"})
    return Finished(dump, folder / "features", manifest)


def rows_of(output: Path, uri: str) -> list[tuple[str, str]]:
    """Date and outcome of each row of a URI in a table of the dump."""
    frame = pd.read_parquet(output)
    assert sorted(frame.columns) == COLUMNS
    rows = frame[frame["uri"] == os.path.normpath(output.parent / "dump" / uri)]
    return sorted(zip(rows["date"].astype(str), rows["error_code"].fillna("ok"), strict=True))


def test_repeated_uri_is_kept_once_a_night_and_rejected_otherwise(tables: Finished) -> None:
    first, second = list(GOOD)[:2]
    assert rows_of(tables.output, first) == [
        ("2026-01-30", "duplicate_uri"),
        ("2026-01-30", "ok"),
        (NIGHT, "ok"),
    ]
    assert rows_of(tables.output, second) == [("2026-01-30", "ok")]


def test_named_pictures_are_read_and_each_failure_is_a_row(tables: Finished) -> None:
    assert rows_of(tables.output, f"photos/{list(GOOD)[2]}") == [(NIGHT, "ok")]
    assert rows_of(tables.output, "photos/gone.jpg") == [(NIGHT, "uri_not_found")]
    assert rows_of(tables.output, "../../etc/passwd") == [(NIGHT, "uri_outside_root")]
    assert tables.manifest["rows"]["total"] == len(pd.read_parquet(tables.output)) == 7


def test_labels_and_generators_come_through(tables: Finished) -> None:
    frame = pd.read_parquet(tables.output)
    frame.index = [os.path.relpath(uri, tables.dump) for uri in frame["uri"]]
    assert set(frame["listed_in"]) == {
        f"{tables.dump}/{name}.parquet" for name in ("names", "pictures")
    }
    first, second = list(GOOD)[:2]
    assert set(frame.loc[first, "label"]) == {1} and frame.loc[second, "label"] == 0
    assert set(frame.loc[first, "generator"]) == {"a model"}
    assert pd.isna(frame.loc["photos/gone.jpg", "label"])


@pytest.mark.usefixtures("forbidden")
def test_tables_run_again_change_nothing(tables: Finished) -> None:
    before = files(tables.output)
    again = run(tables.dump, tables.output, **{"reading.kind": "parquet"})
    assert again["outcome"] == "nothing_to_do" and again["rows"]["done_before"] == 7
    assert files(tables.output) == before


# Too many errors, from bucket to bucket


@pytest.fixture(scope="module")
def stopped(ray_cluster: None, s3: Any) -> tuple[str, str, ErrorRateError, dict[str, Any]]:
    """Input, output, error and manifest of a night with three bad files of four."""
    s3.client.create_bucket(Bucket="stopped")
    broken = {"a.jpg": b"", "b.jpg": b"", "c.jpg": b"<html>", "d.png": GOOD["astronaut-00.png"]}
    s3.fill("stopped", {f"crawl/date={NIGHT}/{name}": broken[name] for name in broken})
    with pytest.raises(ErrorRateError) as error:
        run("s3://stopped/crawl", "s3://stopped/features", max_error_rate=0.7)
    [manifest] = [read(s3, key) for key in keys(s3) if key.endswith(".json") and "_runs" in key]
    return "s3://stopped/crawl", "s3://stopped/features", error.value, json.loads(manifest)


def keys(s3: Any) -> list[str]:
    listed = s3.client.list_objects_v2(Bucket="stopped", Prefix="features/")
    return [one["Key"] for one in listed["Contents"]]


def read(s3: Any, key: str) -> bytes:
    content: bytes = s3.client.get_object(Bucket="stopped", Key=key)["Body"].read()
    return content


def test_too_many_errors_are_told_with_their_main_reason(stopped: Any) -> None:
    sentence = str(stopped[2])
    assert "75.0%" in sentence and "70.0%" in sentence
    assert ErrorCode.EMPTY_FILE.sentence in sentence and "2 rows" in sentence
    manifest = stopped[3]
    assert manifest["outcome"] == "too_many_errors" and "files" not in manifest
    assert manifest["rows"]["by_error_code"] == {"empty_file": 2, "not_an_image": 1}


@pytest.mark.usefixtures("forbidden")
def test_higher_limit_publishes_what_was_stopped_and_computes_nothing_again(
    stopped: Any, s3: Any
) -> None:
    source, output, _, _ = stopped
    assert not [key for key in keys(s3) if key.startswith("features/date=")]
    with pytest.raises(ErrorRateError):
        run(source, output, max_error_rate=0.7)
    assert not [key for key in keys(s3) if key.startswith("features/date=")]
    manifest = run(source, output, max_error_rate=0.75)
    assert manifest["outcome"] == "published" and not manifest.get("rows_computed")
    assert manifest["rows"]["total"] == 4
    assert outcomes(output, f"{source}/date={NIGHT}") == {
        "a.jpg": "empty_file",
        "b.jpg": "empty_file",
        "c.jpg": "not_an_image",
        "d.png": "ok",
    }
    for one in manifest["files"]:
        data = read(s3, f"features/{one['path']}")
        assert hashlib.sha256(data).hexdigest() == one["sha256"]
    assert not [key for key in keys(s3) if STAGING in key]
    written = keys(s3)
    assert run(source, output)["outcome"] == "nothing_to_do"
    assert keys(s3) == written
    assert not [key for key in written if "_runs" in key and b"testing" in read(s3, key)]


def test_repeated_uris_count_neither_as_rows_nor_as_errors() -> None:
    facts = {"statuses": {"ok": 3, "rejected": 7}, "error_codes": {"duplicate_uri": 7}}
    assert too_many_errors(NIGHT, facts, 0.0) is None
    mixed = facts | {"error_codes": {"duplicate_uri": 6, "truncated": 1}}
    assert too_many_errors(NIGHT, mixed, 0.25) is None
    sentence = too_many_errors(NIGHT, mixed, 0.1)
    assert sentence and "most often (1 rows)" in sentence and NIGHT in sentence
    assert too_many_errors(NIGHT, {"statuses": {}, "error_codes": {}}, 0.0) is None


def test_passing_and_lasting_reasons_count_apart() -> None:
    statuses = {"ok": 4, "rejected": 3, "failed": 3}
    facts = {"statuses": statuses, "error_codes": {"truncated": 3, "uri_unreadable": 3}}
    assert too_many_errors(NIGHT, facts, 0.3) is None
    lasting = too_many_errors(NIGHT, facts | {"error_codes": {"truncated": 4}}, 0.3)
    passing = too_many_errors(NIGHT, facts | {"error_codes": {"uri_unreadable": 4}}, 0.3)
    assert lasting and "lasting reasons" in lasting
    assert passing and "passing reasons" in passing


@pytest.mark.usefixtures("ray_cluster")
def test_gpus_that_the_cluster_lacks_are_told_before_any_image_is_read(tmp_path: Path) -> None:
    make(tmp_path / "dump", GOOD)
    with pytest.raises(UsageError, match=r"0\.5 for caption.*the cluster has 0"):
        run(tmp_path / "dump", tmp_path / "out", **{"profile.resources.caption.gpus": 0.5})
    assert not list((tmp_path / "out").rglob("*.parquet"))


@pytest.mark.usefixtures("ray_cluster")
def test_full_disk_is_a_sentence_and_the_next_start_goes_on(
    tmp_path: Path, small_disk: Path
) -> None:
    dump = make(tmp_path / "dump", photographs(20))
    filler = small_disk / "of_others"
    filler.write_bytes(bytes(60_000))
    out = small_disk / "out"
    told = pytest.raises(MachineError, match=f"no room left .*{small_disk}")
    alone = {"profile.captioner.model": "none"}
    with told as found, machine_failures():
        run(dump, out, **alone)
    assert "\n" not in str(found.value)
    [lease] = (out / "_leases" / NIGHT).glob("*.json")
    assert json.loads(lease.read_text())["released"]
    assert not (out / f"date={NIGHT}").exists()
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert run(dump, out, **alone)["rows"]["total"] == 20
    assert set(outcomes(out, dump).values()) == {"ok"}
