from __future__ import annotations

import gzip
import os
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from item.errors import UsageError
from item.tables import IMAGES
from pipelines.input import reading
from pipelines.input.archives.tars import Tar
from pipelines.input.reading import Reading, count_left, read
from pipelines.input.table_files import ParquetTable
from pipelines.tables.row_keys import RowKeys
from tests.support.dumps import (
    STORAGE,
    Rows,
    keys_of,
    make,
    parquet_of,
    planned,
    prefix,
    rows_of,
    tables_of,
    tar_of,
)


def outcome(rows: Rows) -> dict[str, str | None]:
    return {row["uri"]: row["error_code"] for row in rows}


def test_image_folder_is_read_with_everything_odd_reported(store) -> None:
    root = store(
        {
            "cats/a.webp": b"a",
            "cats/deep/B.JPG": b"b",
            "c.avif": b"c",
            "noextension": b"d",
            "_DSC0001.JPG": b"e",
            "empty.png": b"",
            ".hidden.jpg": b"x",
            "_temporary/x.jpg": b"x",
            ".git/x.jpg": b"x",
            "notes.txt": b"x",
            "README": b"x",
        }
    )
    found = planned(root)
    rows = rows_of(found)
    at = prefix(root)
    assert {row["uri"].removeprefix(at): row["bytes"] for row in rows} == {
        "cats/a.webp": b"a",
        "cats/deep/B.JPG": b"b",
        "c.avif": b"c",
        "noextension": b"d",
        "_DSC0001.JPG": b"e",
        "empty.png": b"",
    }
    assert all(row["uri"].startswith(at) for row in rows)
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["error_message"] for row in rows} == {None}
    assert {row["source"] for row in rows} == {"cats", None}
    assert found.ignored == {".txt": 1, "hidden": 3, "without extension": 1}
    assert found.dates == ("2026-01-31",)


def test_single_image_file_is_an_input(store) -> None:
    root = store({"a.jpg": b"a", "b.jpg": b"b"})
    (row,) = rows_of(planned(f"{root}/a.jpg"))
    assert (row["uri"], row["bytes"], row["source"]) == (f"{prefix(root)}a.jpg", b"a", None)


def test_big_file_is_refused_unread(store) -> None:
    root = store({"a.jpg": b"12345", "b.jpg": b"1234"})
    rows = rows_of(planned(root), max_bytes=4)
    assert [(row["error_code"], row["bytes"]) for row in rows] == [
        ("too_many_bytes", None),
        (None, b"1234"),
    ]


def test_links_that_lead_out_and_files_that_vanish_cost_one_row(tmp_path: Path) -> None:
    make(tmp_path, {"secret": b"x", "in/a.jpg": b"a", "in/gone.jpg": b"g", "out/x.jpg": b"x"})
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "alias.jpg").symlink_to("a.jpg")
    (tmp_path / "in" / "nowhere.jpg").symlink_to("nothing")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "out")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    found = planned(tmp_path / "in")
    (tmp_path / "in" / "gone.jpg").unlink()
    assert outcome(rows_of(found)) == {
        f"{tmp_path}/in/a.jpg": None,
        f"{tmp_path}/in/alias.jpg": None,
        f"{tmp_path}/in/link.jpg": "uri_outside_root",
        f"{tmp_path}/in/gone.jpg": "uri_not_found",
        f"{tmp_path}/in/nowhere.jpg": "uri_not_found",
    }
    assert found.ignored == {"linked folders that lead out of the input": 1, "special files": 1}


def test_file_names_that_are_not_text_are_read_and_shown(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    with open(name, "wb") as file:
        file.write(b"x")
    (row,) = rows_of(planned(tmp_path))
    assert (row["uri"], row["bytes"]) == (f"file://{tmp_path}/caf%E9.jpg", b"x")


def test_a_file_named_like_a_url_is_only_a_file(tmp_path: Path) -> None:
    make(tmp_path, {"file:/x.jpg": b"x", "50%41.jpg": b"y", "s3:/b/z.jpg": b"z"})
    assert set(outcome(rows_of(planned(tmp_path))).values()) == {None}


def test_parquet_with_all_columns(store) -> None:
    table = parquet_of(
        {
            "uri": ["a", "b", "c"],
            "bytes": [b"1", b"2", b"3"],
            "label": [0, 1, 7],
            "generator": [None, "sd", None],
            "source": ["web", "web", None],
            "captions": [["x", None], None, []],
            "date": [date(2026, 1, 1), None, date(2026, 1, 2)],
            "other": [1, 2, 3],
        }
    )
    found = planned(store({"sub/t.parquet": table}))
    rows = rows_of(found)
    assert [row["label"] for row in rows] == [0, 1, None]
    assert [row["generator"] for row in rows] == [None, "sd", None]
    assert [row["source"] for row in rows] == ["web", "web", None]
    assert [row["captions"] for row in rows] == [["x"], None, []]
    assert [row["date"] for row in rows] == ["2026-01-01", "2026-01-31", "2026-01-02"]
    assert [row["bytes"] for row in rows] == [b"1", b"2", b"3"]
    assert found.notes == ("1 labels are neither 0 nor 1 and are taken as unknown.",)


def test_parquet_without_uri_counts_its_rows(store) -> None:
    root = store(
        {
            f"date=2026-01-0{day}/t.parquet": parquet_of(
                {"bytes": [b"1", b"2"], "captions": ["x"] * 2}
            )
            for day in (1, 2)
        }
    )
    rows = rows_of(planned(root))
    assert [(row["uri"].removeprefix(prefix(root)), row["date"]) for row in rows] == [
        (f"date=2026-01-0{day}/t.parquet#{row}", f"2026-01-0{day}")
        for day in (1, 2)
        for row in (0, 1)
    ]
    assert rows[0]["captions"] == ["x"]


def test_parquet_of_uris_reads_what_lies_beside_it(store) -> None:
    root = store(
        {
            "t/t.parquet": parquet_of(
                {"uri": ["i/a.bin", "gone.jpg", None, "../../x", "../up.bin"]}
            ),
            "t/i/a.bin": b"a",
            "up.bin": b"u",
        }
    )
    rows = rows_of(planned(root, kind="parquet"))
    assert [(row["error_code"], row["bytes"]) for row in rows] == [
        (None, b"a"),
        ("uri_not_found", None),
        ("missing_bytes", None),
        ("uri_outside_root", None),
        (None, b"u"),
    ]
    assert rows[2]["uri"] == f"{prefix(root)}t/t.parquet#2"


def test_uris_below_further_roots_are_read(tmp_path: Path, s3, bucket: str) -> None:
    s3.fill(bucket, {"ok/a.jpg": b"s3", "other/a.jpg": b"no"})
    make(tmp_path, {"more/a.jpg": b"more", "secret": b"no"})
    uris = [
        f"s3://{bucket}/ok/a.jpg",
        f"s3://{bucket}/other/a.jpg",
        f"{tmp_path}/more/a.jpg",
        f"file://{tmp_path}/secret",
        "http://127.0.0.1:1/x.jpg",
    ]
    make(tmp_path, {"in/t.parquet": parquet_of({"uri": uris})})
    roots = (f"s3://{bucket}/ok", str(tmp_path / "more"), "http://127.0.0.1:1/")
    rows = rows_of(planned(tmp_path / "in", uri_roots=roots))
    assert [row["bytes"] or row["error_code"] for row in rows] == [
        b"s3",
        "uri_outside_root",
        b"more",
        "uri_outside_root",
        "uri_unreadable",
    ]
    assert rows[4]["status"] == "failed"
    assert rows[1]["status"] == "rejected"


def test_null_bytes_fall_back_to_the_uri(store) -> None:
    root = store(
        {
            "t.parquet": parquet_of({"uri": ["a.bin", "b"], "bytes": pa.array([None, b"b"])}),
            "a.bin": b"from the file",
        }
    )
    rows = rows_of(planned(root, kind="parquet"))
    assert [row["bytes"] for row in rows] == [b"from the file", b"b"]


def test_tables_show_no_credentials_of_uris(tmp_path: Path) -> None:
    signed = "X-Amz-Credential=x&X-Amz-Signature=hunter2"
    uris = ["https://u:hunter2@h/a.jpg?id=1", f"https://h/b.jpg?{signed}"]
    make(tmp_path, {"t.parquet": parquet_of({"uri": uris})})
    rows = rows_of(planned(tmp_path))
    assert "hunter2" not in repr(rows)
    assert [row["uri"] for row in rows] == ["https://h/a.jpg?id=1", "https://h/b.jpg"]


def test_damaged_pages_cost_the_rows_in_them_by_name(tmp_path: Path) -> None:
    pictures = [os.urandom(4000) for _ in range(64)]
    uris = [f"u{number}" for number in range(64)]
    data = parquet_of(
        {"bytes": pictures, "uri": uris},
        use_dictionary=False,
        compression="none",
        data_page_size=20_000,
        write_batch_size=4,
    )
    place = data.index(pictures[40])
    make(tmp_path, {"t.parquet": data[:place] + b"\xff" * 40_000 + data[place + 40_000 :]})
    rows = rows_of(planned(tmp_path))
    assert [row["uri"] for row in rows] == [f"{tmp_path}/{uri}" for uri in uris]
    first = next(number for number, row in enumerate(rows) if row["error_code"])
    assert 0 < first <= 40
    assert [row["bytes"] for row in rows[:first]] == pictures[:first]
    assert {row["error_code"] for row in rows[first:]} == {"unreadable_archive"}


def test_big_cells_are_refused(tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of({"bytes": [b"12345", b"1"]})})
    rows = rows_of(planned(tmp_path), max_bytes=4)
    assert [row["error_code"] for row in rows] == ["too_many_bytes", None]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    files=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["a", "b", "é", "a\0"]), st.sampled_from(["2026-01-01", None])
            ),
            max_size=12,
        ),
        min_size=1,
        max_size=3,
    ).filter(any),
    data=st.data(),
)
def test_each_row_comes_once_with_its_occurrence_and_resume_gives_the_rest(
    files, data, tmp_path_factory
) -> None:
    root = tmp_path_factory.mktemp("dump")
    expected: list[tuple[str, str, int, bytes | None]] = []
    seen: Counter[tuple[str, str]] = Counter()
    for number, rows in enumerate(files):
        pictures = [f"{number}.{index}".encode() for index in range(len(rows))]
        columns = {
            "uri": pa.array([uri for uri, _ in rows], pa.string()),
            "date": pa.array([day for _, day in rows], pa.string()),
            "bytes": pa.array(pictures, pa.binary()),
        }
        make(root, {f"{number}.parquet": parquet_of(columns, row_group_size=3)})
        for (uri, day), picture in zip(rows, pictures, strict=True):
            key = (uri, day or "2026-01-31")
            expected.append((key[1], f"{root}/{uri}", seen[key], None if seen[key] else picture))
            seen[key] += 1
    found = planned(root, rows_per_task=4)

    def named(rows: Rows) -> list[tuple[str, str, int, bytes | None]]:
        return [(row["date"], row["uri"], row["occurrence"], row["bytes"]) for row in rows]

    everything = rows_of(found)
    assert named(everything) == expected
    for row in everything:
        assert row["error_code"] == ("duplicate_uri" if row["occurrence"] else None)
    done = data.draw(st.lists(st.booleans(), min_size=len(expected), max_size=len(expected)))
    kept = [row for row, flag in zip(everything, done, strict=True) if flag]
    finished = keys_of(kept)
    rest = [row for row, flag in zip(expected, done, strict=True) if not flag]
    assert named(rows_of(found, finished)) == rest


def test_finished_rows_are_not_fetched(tmp_path: Path, monkeypatch) -> None:
    make(tmp_path, {f"{name}.jpg": b"x" for name in "abc"})
    found = planned(tmp_path)
    everything = pa.concat_tables(tables_of(found, None, 100))
    fetched = []
    original = reading.fetch
    monkeypatch.setattr(
        reading, "fetch", lambda place, *rest: fetched.append(place) or original(place, *rest)
    )
    assert [row["uri"] for row in rows_of(found, keys_of(everything[:2].to_pylist()))] == [
        f"{tmp_path}/c.jpg"
    ]
    assert len(fetched) == 1
    assert rows_of(found, keys_of(everything.to_pylist())) == []


def test_pictures_of_finished_row_groups_are_not_read(tmp_path: Path, monkeypatch) -> None:
    columns = {"uri": list("abcd"), "bytes": [b"x"] * 4}
    make(tmp_path, {"t.parquet": parquet_of(columns, row_group_size=2)})
    found = planned(tmp_path)
    everything = pa.concat_tables(tables_of(found, None, 100))
    read_groups = []
    original = ParquetTable.batches

    def watched(table, groups, columns, size):
        if "bytes" in columns:
            read_groups.extend(groups)
        return original(table, groups, columns, size)

    monkeypatch.setattr(ParquetTable, "batches", watched)
    assert [row["uri"] for row in rows_of(found, keys_of(everything[:3].to_pylist()))] == [
        f"{tmp_path}/d"
    ]
    assert read_groups == [1]


@pytest.mark.usefixtures("ray_cluster")
def test_dataset_has_each_row_once_and_the_exact_schema(store) -> None:
    root = store({f"{number:03}.jpg": bytes([number]) for number in range(40)})
    found = planned(root, rows_per_task=7)
    dataset = read([Reading(found)], STORAGE).materialize()
    assert dataset.schema().base_schema.remove_metadata() == IMAGES
    rows = sorted(dataset.take_all(), key=lambda row: row["uri"])
    assert [row["bytes"] for row in rows] == [bytes([number]) for number in range(40)]


@pytest.mark.usefixtures("ray_cluster")
def test_dataset_leaves_out_finished_rows_and_keeps_its_schema_when_empty(tmp_path: Path) -> None:
    found = planned(make(tmp_path, {f"{name}.jpg": b"x" for name in "abc"}), rows_per_task=1)
    everything = pa.concat_tables(tables_of(found, None, 100))
    rest = read([Reading(found, keys_of(everything[:2].to_pylist()))], STORAGE).take_all()
    assert [row["uri"] for row in rest] == [f"{tmp_path}/c.jpg"]
    nothing = read([Reading(found, keys_of(everything.to_pylist()))], STORAGE).materialize()
    assert nothing.count() == 0
    assert nothing.schema().base_schema.remove_metadata() == IMAGES


def _images(data: st.DataObject) -> dict[str, bytes]:
    folders = st.sampled_from(["", "cats/", "date=2026-01-02/", "é/"])
    return {f"{folder}{n}.jpg": b"x" for n, folder in enumerate(data.draw(st.lists(folders)))}


def _parquet(data: st.DataObject) -> dict[str, bytes]:
    rows = data.draw(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.booleans())))
    columns = {
        "uri": pa.array([uri for uri, _ in rows], pa.string()),
        "date": pa.array(["2026-01-02" if dated else None for _, dated in rows], pa.string()),
        "bytes": pa.array([b"x"] * len(rows), pa.binary()),
    }
    left_out = data.draw(st.sampled_from([(), ("bytes",), ("uri",), ("uri", "date")]))
    kept = {name: column for name, column in columns.items() if name not in left_out}
    return {f"{name}.parquet": parquet_of(kept, row_group_size=4) for name in "ab"}


def _tars(data: st.DataObject) -> dict[str, bytes]:
    names = st.sampled_from(["0.jpg", "0.txt", "0.cls", "1.jpg", "./1.jpg", ".x.jpg", "2.png"])
    members = data.draw(st.lists(st.tuples(names, st.sampled_from([b"", b"x", b"x" * 600]))))
    whole = tar_of(members).rstrip(b"\0") + bytes(1024)
    return {"date=2026-01-02/a.tar": whole, "b.tar": whole[: data.draw(st.integers(0, len(whole)))]}


@pytest.mark.parametrize("dump", [_images, _parquet, _tars])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rows_left_are_counted_as_they_are_read(dump, data, tmp_path_factory) -> None:
    root = make(tmp_path_factory.mktemp("dump"), {"0.txt": b"", **dump(data)})
    try:
        found = planned(root, rows_per_task=data.draw(st.integers(1, 5)))
    except UsageError:
        assume(False)
    everything = rows_of(found)
    assert count_left(found, RowKeys(), STORAGE) == found.rows == len(everything)
    strangers = [{**row, "occurrence": row["occurrence"] + 1000} for row in everything]
    finished = keys_of([row for row in everything if data.draw(st.booleans())] + strangers)
    assert count_left(found, finished, STORAGE) == len(rows_of(found, finished))
    assert count_left(found, keys_of(everything), STORAGE) == 0


def test_rows_left_are_not_counted_where_that_means_reading_everything(store) -> None:
    root = store({"a.tar": tar_of([("0.jpg", b"x"), ("1.jpg", b"x")])})
    found = planned(root)
    finished = keys_of(rows_of(found)[:1])
    assert count_left(found, finished, STORAGE) == (None if root.startswith("s3://") else 1)


def test_rows_left_of_gzipped_tars_are_not_counted(tmp_path: Path) -> None:
    found = planned(make(tmp_path, {"a.tgz": gzip.compress(tar_of([("0.jpg", b"x")]))}))
    assert count_left(found, keys_of(rows_of(found)), STORAGE) is None


def test_counting_what_is_left_reads_no_picture(tmp_path: Path, monkeypatch) -> None:
    make(tmp_path / "tar", {"t.tar": tar_of([(f"{n}.jpg", b"x" * 5000) for n in range(3)])})
    make(tmp_path / "files", {f"{n}.jpg": b"x" for n in range(3)})
    columns = {"uri": list("abc"), "bytes": [b"x"] * 3, "caption": list("abc")}
    make(tmp_path / "table", {"t.parquet": parquet_of(columns)})
    plans = [planned(folder) for folder in tmp_path.iterdir()]
    finished = [keys_of(rows_of(found)[:1]) for found in plans]
    asked: list[str] = []
    original = ParquetTable.batches

    def watched(table: Any, groups: Any, columns: Any, size: int) -> Any:
        asked.extend(columns)
        return original(table, groups, columns, size)

    def forbidden(*_: Any) -> None:
        raise AssertionError("a picture is read")

    monkeypatch.setattr(ParquetTable, "batches", watched)
    monkeypatch.setattr(reading, "fetch", forbidden)
    monkeypatch.setattr(Tar, "read", forbidden)
    assert [count_left(*pair, STORAGE) for pair in zip(plans, finished, strict=True)] == [2] * 3
    assert asked == ["uri"]
