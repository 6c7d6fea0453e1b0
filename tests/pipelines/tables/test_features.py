"""The features table: parts staged whole, published once, readable by anyone at any time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from item.errors import UsageError
from item.profiles import load_profile
from item.tables import FEATURES, KEYS_VERSION, decoded, encoded
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join
from pipelines.tables.features import FeatureTable
from pipelines.tables.parts import FAILED, PartWriter
from pipelines.tables.provenance import provenance
from pipelines.tables.published import NIGHT as FILE
from pipelines.tables.published import STAGING
from pipelines.tables.row_keys import identities_of, states
from tests.support.feature_rows import COLUMNS, DIMENSIONS, NIGHT, VERSION, done

STORAGE = Storage(retries=0)
NEXT = "2026-01-31"
WORK = "0123456789abcdef"
RUN = "20260131T000000.000000Z-01234567"
METADATA = encoded({"feature_set_id": "mini-0", "run_id": "a run", "keys_version": KEYS_VERSION})

pytestmark = pytest.mark.timeout(60)


def write(folder: str, rows: pa.Table) -> list[dict[str, Any]]:
    return PartWriter(folder, STORAGE, DIMENSIONS, METADATA)(rows).to_pylist()


def stage(root: str, rows: pa.Table) -> list[str]:
    return [part["path"] for part in write(join(root, STAGING, WORK), rows)]


def table(root: str) -> FeatureTable:
    return FeatureTable(root, STORAGE)


def uris(root: str, date: str | None = None) -> list[str]:
    """What an analyst sees."""
    frame = pd.read_parquet(root)
    return sorted(frame["uri"] if date is None else frame[frame["date"] == date]["uri"])


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "features")
    return f"s3://{request.getfixturevalue('bucket')}/features"


# One part


def test_part_has_the_schema_of_the_table_and_zstd(tmp_path: Path) -> None:
    [part] = write(str(tmp_path), done("a", "bad", "c"))
    file = pq.ParquetFile(tmp_path / part["path"])
    assert file.schema_arrow.equals(FEATURES)
    assert file.schema_arrow.field("image_embedding").type == pa.list_(pa.float16())
    groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
    codecs = {g.column(n).compression for g in groups for n in range(g.num_columns)}
    assert codecs == {"ZSTD"}


def test_part_says_where_its_rows_come_from_and_what_they_are(tmp_path: Path) -> None:
    metadata = provenance(load_profile("mini"), "a run")
    rows = done("a", "bad", "a", notes=[["first_frame"], None, None])
    [part] = PartWriter(str(tmp_path), STORAGE, DIMENSIONS, metadata)(rows).to_pylist()
    facts = decoded(pq.read_metadata(tmp_path / part["path"]).metadata)
    assert facts["run_id"] == "a run"
    assert facts["feature_set_id"] == load_profile("mini").feature_set_id()
    assert {"models", "decoding", "code_version", "schema_version"} <= set(facts)
    assert facts["statuses"] == {"ok": 2, "rejected": 1}
    assert facts["error_codes"] == {"truncated": 1}
    assert facts["notes"] == {"first_frame": 1}
    assert facts["occurrences"] == {"2": 1}
    assert facts["stage_seconds"] == {"decode": 1.5}


def test_writer_returns_path_rows_size_and_checksum(tmp_path: Path) -> None:
    [part] = write(str(tmp_path), done("a", "b"))
    data = (tmp_path / part["path"]).read_bytes()
    assert part["rows"] == 2
    assert part["bytes"] == len(data)
    assert part["sha256"] == hashlib.sha256(data).hexdigest()


def test_rejected_rows_are_null_in_every_feature(tmp_path: Path) -> None:
    [part] = write(str(tmp_path), done("bad 1", "a", "b", "bad 2"))
    rows = pq.ParquetFile(tmp_path / part["path"]).read().to_pylist()
    kept = {"uri", "input_version", "status", "error_code", "error_message", "feature_set_id"}
    for row in rows:
        if row["status"] == "rejected":
            assert {name for name, value in row.items() if value is not None} == kept
    assert [row["image_embedding"] for row in rows] == [None, [0, 1, 0, 0], [0, 0, 1, 0], None]


@pytest.mark.parametrize("names", [("bad 1", "bad 2"), ("bad",)])
def test_part_of_rejected_rows_alone_has_the_same_schema(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    [part] = write(str(tmp_path), done(*names))
    file = pq.ParquetFile(tmp_path / part["path"])
    assert file.schema_arrow.equals(FEATURES)
    assert file.read()["local_misalignment"].null_count == len(names)


def test_batch_of_several_dates_becomes_a_part_a_date(tmp_path: Path) -> None:
    parts = write(str(tmp_path), done("a", "b", "c", date=[NIGHT, NEXT, NIGHT]))
    found = {part["path"].split("/")[0]: part["rows"] for part in parts}
    assert found == {f"date={NIGHT}": 2, f"date={NEXT}": 1}
    assert uris(str(tmp_path), NEXT) == ["b"]


def test_empty_batch_writes_nothing(tmp_path: Path) -> None:
    assert write(str(tmp_path / "out"), done()) == []
    assert not (tmp_path / "out").exists()


def test_same_rows_give_the_same_file_and_other_rows_another(root: str) -> None:
    first, again = write(root, done("a", "b")), write(root, done("a", "b"))
    assert first == again
    assert uris(root) == ["a", "b"]
    others = [done("a", "c"), done("a"), done("a", "a"), done("ab"), done("b", "a")]
    names = {part["path"] for rows in others for part in write(root, rows)}
    assert len(names | {first[0]["path"]}) == 6


# What is there


def asked(dates: list[str], uris: list[str], occurrences: list[int] | None = None) -> Any:
    """States of rows of files that are as they were."""
    return states(dates, uris, occurrences or [0] * len(uris), [VERSION] * len(uris))


def nothing_is_gone(files: Sequence[str], _: Sequence[str]) -> NDArray[np.bool_]:
    return np.zeros(len(files), bool)


def gone(*names: str) -> Callable[[Sequence[str], Sequence[str]], NDArray[np.bool_]]:
    return lambda files, _: np.isin(np.array(files, object), names)


def test_names_of_rows_know_dates_and_repetitions(root: str) -> None:
    rows = done("a", "b", "a", date=[NIGHT, NEXT, NIGHT])
    found = table(root)
    for part in write(root, rows):
        night = part["path"].split("/")[0].removeprefix("date=")
        keyed = found.keyed(found.path, part["path"])
        assert keyed["occurrence"].to_pylist() == ([0, 1] if night == NIGHT else [0])
        assert len(set(identities_of(keyed, night))) == len(keyed)


def test_finished_rows_are_published_or_staged_and_of_these_dates(root: str) -> None:
    write(root, done("a", "b"))
    write(root, done("c", date=NEXT))
    stage(root, done("d"))
    keys = table(root).finished(WORK, [NIGHT])
    wanted = asked([NIGHT, NIGHT, NEXT, NIGHT, NIGHT], ["a", "b", "c", "d", "e"])
    assert keys.contains(wanted).tolist() == [True, True, False, True, False]
    assert len(table(root).finished("another work", [NIGHT, NEXT])) == 3


def test_row_of_a_file_that_changed_is_not_finished(root: str) -> None:
    write(root, done("a"))
    stage(root, done("b"))
    keys = table(root).finished(WORK, [NIGHT])
    for name in ("a", "b"):
        assert keys.contains(states([NIGHT], [name], [0], [VERSION])).all()
        assert not keys.contains(states([NIGHT], [name], [0], ["another"])).any()


def test_failed_row_is_finished_neither_staged_nor_published(root: str) -> None:
    failed = {"status": ["ok", "failed"], "error_code": [None, "uri_unreadable"]}
    write(root, done("a", "b", **failed))
    stage(root, done("c", "d", **failed))
    keys = table(root).finished(WORK, [NIGHT])
    wanted = asked([NIGHT] * 4, ["a", "b", "c", "d"])
    assert keys.contains(wanted).tolist() == [True, False, True, False]
    assert table(root).written(WORK, [NIGHT]).contains(wanted).tolist() == [True, False, True, True]
    table(root).prune(WORK, nothing_is_gone)
    assert table(root).staged(WORK, FAILED) == []
    assert table(root).written(WORK, [NIGHT]).contains(wanted[3:]).tolist() == [False]


def test_of_staged_rows_those_stay_whose_files_are_there(root: str) -> None:
    stage(root, done("a", "b", "a"))
    stage(root, done("c"))
    table(root).prune(WORK, gone("b", "c"))
    [path] = table(root).staged(WORK)
    facts = table(root).facts(table(root).staging(WORK), path)
    assert facts["statuses"] == {"ok": 2} and facts["occurrences"] == {"1": 1}
    assert facts["feature_set_id"] == "mini-0"
    publish(root)
    assert uris(root) == ["a", "a"]


def test_published_row_goes_with_its_file_when_the_night_is_published_again(root: str) -> None:
    write(root, done("a", "b", "c"))
    write(root, done("z", date=NEXT))
    found = table(root)
    assert found.gone([NIGHT, NEXT], gone("b")) == {NIGHT: 1}
    assert found.publish([WORK], RUN) == []
    [path] = found.publish([WORK], RUN, [NIGHT, NEXT], gone("b"))
    assert path.startswith(f"date={NIGHT}/")
    assert uris(root) == ["a", "c", "z"]
    assert found.gone([NIGHT, NEXT], gone("b")) == {}


def test_night_is_counted_as_it_would_be_published(root: str) -> None:
    write(root, done("a", "bad", "bad 2", "old"))
    stage(root, done("a", "bad"))
    found = table(root)
    parts = [(found.staging(WORK), path) for path in found.parts(WORK)]
    counted = found.night_counts(NIGHT, parts, gone("old"))
    assert counted["statuses"] == {"ok": 1, "rejected": 2}
    found.publish([WORK], RUN, [NIGHT], gone("old"))
    [path] = found.published([NIGHT])
    assert found.facts(found.path, path)["statuses"] == counted["statuses"]


def test_empty_place_has_nothing_finished_and_no_feature_set(root: str) -> None:
    assert len(table(root).finished(WORK, [NIGHT])) == 0
    assert table(root).feature_set_id() is None
    assert table(root).staged(WORK) == table(root).published() == []
    table(root).check_feature_set("any")


def test_row_that_was_staged_twice_is_kept_once(root: str) -> None:
    """Two cuts of the same rows, as a killed try and its successor may leave."""
    stage(root, done("a", "b"))
    stage(root, done("b", "c"))
    stage(root, done("d", "e"))
    table(root).prune(WORK, nothing_is_gone)
    assert len(table(root).finished(WORK, [NIGHT])) == 5
    publish(root)
    assert uris(root) == list("abcde")


def test_staged_row_that_is_published_already_comes_once(root: str) -> None:
    """As a kill between copy and removal leaves it on S3."""
    write(root, done("a", "b"))
    stage(root, done("a", "b"))
    stage(root, done("c"))
    assert len(table(root).finished(WORK, [NIGHT])) == 3
    publish(root)
    assert uris(root) == ["a", "b", "c"]


def test_strays_go_and_known_parts_stay(root: str) -> None:
    known, stray = stage(root, done("a")), stage(root, done("a", "b"))
    table(root).drop_strays(WORK, known)
    assert table(root).staged(WORK) == known != stray


def test_half_written_files_are_no_parts(tmp_path: Path) -> None:
    write(str(tmp_path), done("a"))
    (tmp_path / f"date={NIGHT}" / ".part-x.parquet.1234.tmp").write_bytes(b"PAR1")
    (tmp_path / STAGING / WORK / f"date={NIGHT}").mkdir(parents=True)
    (tmp_path / STAGING / WORK / f"date={NIGHT}" / ".part-x.parquet.1.tmp").write_bytes(b"PAR1")
    assert len(table(str(tmp_path)).finished(WORK, [NIGHT])) == 1
    assert uris(str(tmp_path)) == ["a"]


def test_table_that_names_rows_otherwise_is_refused(root: str) -> None:
    older = {key: value for key, value in METADATA.items() if "keys_version" not in key}
    PartWriter(root, STORAGE, DIMENSIONS, older)(done("a"))
    with pytest.raises(UsageError, match="names rows otherwise: choose another output"):
        table(root).check_feature_set("mini-0")


def test_night_that_another_program_saved_is_not_continued(root: str) -> None:
    write(root, done("a"))
    write(root, done("b", date=NEXT))
    fs, path = filesystem(root, STORAGE)
    name = f"{path}/{table(root).published([NIGHT])[0]}"
    with fs.open(name, "rb") as file:
        found = pd.read_parquet(file)
    with fs.open(name, "wb") as file:
        found.to_parquet(file)
    table(root).check_own([NEXT])
    with pytest.raises(UsageError, match=f"holds date={NIGHT}.*which another program saved"):
        table(root).check_own([NEXT, NIGHT])
    with pytest.raises(UsageError, match="of the set 'mini-0'"):
        table(root).check_feature_set("mini-1")


def test_runs_are_found_where_a_path_has_brackets(tmp_path: Path) -> None:
    found = table(str(tmp_path / "a[b]*" / "features"))
    found.write_run(f"1-{WORK[:8]}", {"outcome": "published"}, "")
    assert found.manifests(WORK[:8]) == [{"outcome": "published"}]


@pytest.mark.parametrize("place", ["published", "staged"])
def test_other_feature_set_is_refused_where_rows_are_published(root: str, place: str) -> None:
    write(root if place == "published" else join(root, STAGING, WORK), done("a"))
    table(root).check_feature_set("mini-0")
    if place == "staged":
        table(root).check_feature_set("mini-1")
        return
    with pytest.raises(UsageError, match=r"holds features of the set 'mini-0'.*'mini-1'"):
        table(root).check_feature_set("mini-1")


@pytest.mark.parametrize(
    ("there", "wanted"), [("none", "jpeg-75"), ("jpeg-75", "none"), ("jpeg-75", "jpeg-50")]
)
def test_other_perturbation_is_refused(tmp_path: Path, there: str, wanted: str) -> None:
    metadata = provenance(load_profile("mini"), "a run", there)
    PartWriter(str(tmp_path), STORAGE, DIMENSIONS, metadata)(done("a"))
    features = load_profile("mini").feature_set_id()
    table(str(tmp_path)).check_feature_set(features, there)
    with pytest.raises(UsageError, match=rf"perturbation '{there}'.*'{wanted}': .*output\.$"):
        table(str(tmp_path)).check_feature_set(features, wanted)


def test_table_that_names_no_perturbation_has_none(tmp_path: Path) -> None:
    write(str(tmp_path), done("a"))
    table(str(tmp_path)).check_feature_set("mini-0")
    with pytest.raises(UsageError, match="perturbation 'none'"):
        table(str(tmp_path)).check_feature_set("mini-0", "jpeg-75")


# Publishing


def publish(root: str) -> list[str]:
    return table(root).publish([WORK], RUN)


def test_published_night_is_one_file_and_staging_is_gone(root: str) -> None:
    stage(root, done("a", "bad"))
    stage(root, done("b"))
    stage(root, done("c", date=NEXT))
    paths = [f"date={night}/{FILE}" for night in (NIGHT, NEXT)]
    assert publish(root) == table(root).published() == paths
    assert table(root).published([NEXT]) == paths[1:]
    assert table(root).staged(WORK) == []
    assert uris(root, NIGHT) == ["a", "b", "bad"] and uris(root, NEXT) == ["c"]


def test_night_says_what_its_rows_are_and_what_its_run_brought(root: str) -> None:
    metadata = provenance(load_profile("mini"), "an older run")
    for rows in (done("a", "bad", "a"), done("c", "d")):
        PartWriter(join(root, STAGING, WORK), STORAGE, DIMENSIONS, metadata)(rows)
    [path] = publish(root)
    facts = table(root).facts(table(root).path, path)
    assert facts["statuses"] == {"ok": 4, "rejected": 1}
    assert facts["error_codes"] == {"truncated": 1}
    assert facts["stage_seconds"] == {"decode": 2.5}
    assert list(facts["occurrences"].values()) == [1]
    assert facts["run_id"] == facts["run"]["run_id"] == RUN
    assert facts["feature_set_id"] == load_profile("mini").feature_set_id()
    stage(root, done("e"))
    publish(root)
    again = table(root).facts(table(root).path, path)
    assert again["statuses"] == {"ok": 5, "rejected": 1}
    assert again["run"]["statuses"] == {"ok": 1}
    assert again["file_id"] != facts["file_id"]


def test_publishing_nothing_changes_nothing(root: str) -> None:
    write(root, done("a"))
    assert publish(root) == []
    assert uris(root) == ["a"]


def test_night_appears_and_changes_in_one_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path)
    replace, seen = os.replace, []

    def rows() -> int:
        return len(uris(root)) if table(root).published() else 0

    def watched(source: Any, target: Any) -> None:
        seen.append(rows())
        replace(source, target)
        seen.append(rows())

    for names in ("abc", "de"):
        for name in names:
            stage(root, done(name))
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", watched)
            publish(root)
    assert seen == [3, 5]


def test_new_night_appears_together_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path)
    stage(root, done("a"))
    rename, seen = os.rename, []

    def watched(source: Any, target: Any) -> None:
        seen.append(list(tmp_path.glob("date=*")))
        rename(source, target)
        seen.append(uris(root))

    monkeypatch.setattr(os, "rename", watched)
    publish(root)
    assert seen == [[], ["a"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_staging", f"date={NIGHT}"]


def test_rows_join_a_night_and_take_the_place_of_their_like(root: str) -> None:
    stage(root, done("a", "bad", "c"))
    publish(root)
    stage(root, done("bad", "d", caption=["new", "new"]))
    publish(root)
    frame = pd.read_parquet(root).set_index("uri")
    assert sorted(frame.index) == ["a", "bad", "c", "d"]
    assert frame.loc["d", "caption"] == "new"
    keys = table(root).done(WORK, [NIGHT])
    assert len(keys) == 4


def test_repeated_uris_stay_apart_when_a_night_grows(root: str) -> None:
    stage(root, done("a", "b", "a"))
    publish(root)
    stage(root, done("c"))
    publish(root)
    assert uris(root) == ["a", "a", "b", "c"]
    keys = table(root).done(WORK, [NIGHT])
    wanted = asked([NIGHT] * 3, ["a", "a", "b"], [0, 1, 1])
    assert keys.contains(wanted).tolist() == [True, True, False]


def test_night_computed_anew_keeps_what_other_inputs_brought(root: str) -> None:
    stage(root, done("a", "b"))
    stage(root, done("z", date=NEXT))
    publish(root)
    assert len(table(root).finished("other", [NIGHT], "all")) == 0
    stage(root, done("b", "c", caption=["new", "new"]))
    publish(root)
    frame = pd.read_parquet(root).set_index("uri")
    assert frame["caption"].to_dict() == {"a": "a cat", "b": "new", "c": "new", "z": "a cat"}


class KilledError(Exception):
    """Stands for a kill at this very instant."""


@pytest.mark.parametrize("instant", ["replace", "drop_staging"])
def test_publication_killed_at_any_step_is_finished_by_the_next(
    root: str, instant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(root, done("old"))
    publish(root)
    for rows in (done("a", "b"), done("c"), done("d", date=NEXT)):
        stage(root, rows)
    steps = getattr(FeatureTable, instant)
    calls = []

    def killed(self: FeatureTable, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == (2 if instant == "replace" else 1):
            raise KilledError
        return steps(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureTable, instant, killed)
        with pytest.raises(KilledError):
            publish(root)
    assert uris(root, NIGHT) == ["a", "b", "c", "old"]
    assert len(table(root).finished(WORK, [NIGHT, NEXT])) == 5
    publish(root)
    assert uris(root) == ["a", "b", "c", "d", "old"]
    assert table(root).staged(WORK) == []


def test_leftovers_of_a_killed_writer_are_unseen_and_go(tmp_path: Path) -> None:
    aside = tmp_path / f"date={NIGHT}" / f".{FILE}.1234.tmp"
    aside.parent.mkdir()
    aside.write_bytes(b"PAR1 half")
    stage(str(tmp_path), done("a"))
    publish(str(tmp_path))
    assert uris(str(tmp_path)) == ["a"] and not aside.exists()


def test_file_of_an_older_program_gets_columns_that_it_lacks(root: str) -> None:
    stage(root, done("a"))
    [path] = publish(root)
    fs, inner = filesystem(f"{root}/{path}", STORAGE)
    with fs.open(inner, "rb") as file:
        metadata = {k: v for k, v in pq.read_metadata(file).metadata.items() if b"item." in k}
        old = pq.read_table(file, partitioning=None).drop_columns(["digital_source_type"])
    with fs.open(inner, "wb") as file:
        old = old.replace_schema_metadata(metadata)
        pq.write_table(old, file)
    stage(root, done("b"))
    publish(root)
    assert uris(root) == ["a", "b"]
    assert pd.read_parquet(root)["digital_source_type"].isna().all()


# What analysts see


def test_pandas_opens_the_table_while_another_run_is_staged(root: str) -> None:
    write(root, done("a", "bad"))
    stage(root, done("c"))
    table(root).write_run("20260131T000000.000000Z-01234567", {"rows": 1}, "input: x\n")
    frame = pd.read_parquet(root)
    assert sorted(frame["uri"]) == ["a", "bad"]
    publish(root)
    assert uris(root) == ["a", "bad", "c"]


def test_pandas_returns_exactly_the_designed_columns(root: str) -> None:
    write(root, done("a", "bad", date=[NIGHT, NEXT]))
    frame = pd.read_parquet(root)
    assert sorted(frame.columns) == COLUMNS
    assert set(frame["date"].astype(str)) == {NIGHT, NEXT}
    embedding = frame.set_index("uri").loc["a", "image_embedding"]
    assert embedding.dtype == np.float16 and embedding.tolist() == [1, 0, 0, 0]


def test_nights_written_by_different_code_paths_have_one_schema(root: str) -> None:
    write(root, done("bad", date=NIGHT))
    write(root, done("a", date=NEXT))
    assert sorted(pd.read_parquet(root, columns=["uri", "caption"])["uri"]) == ["a", "bad"]


# Manifests


def test_run_is_written_with_its_configuration_and_found_again(root: str) -> None:
    run = f"20260131T000000.000000Z-{WORK[:8]}"
    assert table(root).manifests(WORK[:8]) == []
    manifest = {"outcome": "published", "uri": "été"}
    url = table(root).write_run(run, manifest, "input: x\n")
    assert url == f"{root}/_runs/{run}.json"
    fs, path = filesystem(url, STORAGE)
    assert json.loads(fs.cat_file(path)) == manifest
    assert "été" in fs.cat_file(path).decode()
    assert fs.cat_file(path.replace(".json", ".yaml")) == b"input: x\n"
    assert table(root).manifests(WORK[:8]) == [manifest]
    assert table(root).manifests("fedcba98") == []


def test_stopped_run_published_nothing(tmp_path: Path) -> None:
    found = table(str(tmp_path))
    found.write_run(f"1-{WORK[:8]}", {"outcome": "too_many_errors"}, "")
    assert found.manifests(WORK[:8]) == []
