from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from item.errors import UsageError
from item.tables import IMAGES
from pipelines import inputs
from pipelines.inputs import InputOptions, InputPlan, RowKeys, plan, read
from pipelines.storage import Storage

TODAY = date(2026, 1, 31)
STORAGE = Storage(retries=0)
Rows = list[dict[str, Any]]


def planned(path: object, **options: Any) -> InputPlan:
    return plan(str(path), InputOptions(**options), STORAGE, TODAY)


def rows_of(plan: InputPlan, finished: RowKeys | None = None, max_bytes: int = 1 << 20) -> Rows:
    """Read a plan as its tasks do, without Ray; checks schema and count."""
    tables = tables_of(plan, finished, max_bytes)
    assert all(table.schema == IMAGES for table in tables)
    rows = pa.concat_tables(tables).to_pylist()
    assert finished is not None or plan.rows in (None, len(rows))
    assert {row["date"] for row in rows} <= set(plan.dates)
    return rows


def tables_of(plan: InputPlan, finished: RowKeys | None, max_bytes: int) -> list[pa.Table]:
    read_piece = inputs.piece_reader(plan, STORAGE, max_bytes=max_bytes)
    return [table for piece in plan.pieces for table in read_piece(piece, finished or RowKeys())]


def outcome(rows: Rows) -> dict[str, str | None]:
    return {row["uri"]: row["error_code"] for row in rows}


def make(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def parquet_of(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, bytes]], str]:
    """Put files on a local disk or into a bucket and return where they are."""

    def put(files: dict[str, bytes]) -> str:
        if request.param == "local":
            return str(make(tmp_path / "dump", files))
        name = request.getfixturevalue("bucket")
        request.getfixturevalue("s3").fill(name, {f"dump/{key}": b for key, b in files.items()})
        return f"s3://{name}/dump"

    return put


def prefix(root: str) -> str:
    """What stands before a file's name in its URI."""
    return f"{root}/" if root.startswith("s3://") else ""


# --- image files


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


def test_date_folders_give_dates_and_are_no_source(store) -> None:
    root = store({"date=2025-12-30/cats/a.jpg": b"a", "date=2025-13-45/c.jpg": b"c"})
    found = planned(root, date=date(2025, 1, 1))
    assert [(row["date"], row["source"]) for row in rows_of(found)] == [
        ("2025-12-30", "cats"),
        ("2025-01-01", None),
    ]
    assert found.dates == ("2025-01-01", "2025-12-30")
    assert planned(f"{root}/date=2025-12-30").dates == ("2025-12-30",)


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
        "a.jpg": None,
        "alias.jpg": None,
        "link.jpg": "uri_outside_root",
        "gone.jpg": "uri_not_found",
        "nowhere.jpg": "uri_not_found",
    }
    assert found.ignored == {"linked folders": 1, "special files": 1}


def test_file_names_that_are_not_text_are_read_and_shown(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    with open(name, "wb") as file:
        file.write(b"x")
    (row,) = rows_of(planned(tmp_path))
    assert (row["uri"], row["bytes"]) == ("caf\\xe9.jpg", b"x")


def test_a_file_named_like_a_url_is_only_a_file(tmp_path: Path) -> None:
    make(tmp_path, {"file:/x.jpg": b"x", "50%41.jpg": b"y", "s3:/b/z.jpg": b"z"})
    assert set(outcome(rows_of(planned(tmp_path))).values()) == {None}


# --- Parquet


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
    uris = ["https://u:hunter2@h/a.jpg?id=1", "https://h/b.jpg?X-Amz-Signature=hunter2"]
    make(tmp_path, {"t.parquet": parquet_of({"uri": uris})})
    rows = rows_of(planned(tmp_path))
    assert "hunter2" not in repr(rows)
    assert [row["uri"] for row in rows] == ["https://h/a.jpg?id=1", "https://h/b.jpg"]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"url": ["x"]}, r"needs a 'bytes' or a 'uri' column; found 'url'"),
        ({"bytes": ["x"]}, "'bytes' of t.parquet must be binary; it is string"),
        ({"uri": [1]}, "'uri' of t.parquet must be text"),
        ({"uri": ["x"], "label": ["fake"]}, "must be 0, 1 or null; it is string"),
        ({"uri": ["x"], "captions": [[1]]}, "must be text or a list of texts"),
        ({"uri": ["x"], "date": [20260101]}, "must be a date"),
        ({"uri": pa.array([], pa.string())}, "have no rows"),
    ],
)
def test_unfit_columns_are_named_before_any_work(columns, sentence, tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of(columns)})
    with pytest.raises(UsageError, match=sentence):
        planned(tmp_path)


@pytest.mark.parametrize(
    ("values", "labels"),
    [([True, False, None], [1, 0, None]), ([1.0, float("nan"), 0.5], [1, None, None])],
)
def test_labels_of_other_number_types_are_understood(values, labels, tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of({"uri": list("abc"), "label": values})})
    found = planned(tmp_path)
    assert [row["label"] for row in rows_of(found)] == labels
    assert len(found.notes) == (0.5 in values)


@pytest.mark.parametrize(
    "dates",
    [
        ["2026-01-01", "../../etc", "2026-1-1"],
        pa.array([datetime(2026, 1, 1, 23, 59), None, None], pa.timestamp("ns")),
        pa.array(["2026-01-01", None, None]).dictionary_encode(),
        pa.array([20454, 2**31 - 1, None], pa.date32()),
    ],
)
def test_dates_become_days_or_the_default(dates, tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of({"uri": list("abc"), "date": dates})})
    assert [row["date"] for row in rows_of(planned(tmp_path))] == [
        "2026-01-01",
        "2026-01-31",
        "2026-01-31",
    ]


def test_text_that_is_not_utf8_costs_no_row(tmp_path: Path) -> None:
    bad = pa.array([b"caf\xe9", b"b"]).view(pa.string())
    captions = pa.ListArray.from_arrays([0, 1, 2], bad)
    columns = {"uri": bad, "bytes": [b"1", b"2"], "generator": bad, "captions": captions}
    make(tmp_path, {"t.parquet": parquet_of(columns)})
    rows = rows_of(planned(tmp_path))
    assert [row["uri"] for row in rows] == ["caf\\xe9", "b"]
    assert rows[0]["captions"] == ["caf\\xe9"]


def test_row_groups_are_pieces_and_rows_keep_their_order(tmp_path: Path) -> None:
    uris = [f"u{number:03}" for number in range(100)]
    both = {"uri": uris, "bytes": [uri.encode() for uri in uris]}
    make(tmp_path / "both", {"t.parquet": parquet_of(both, row_group_size=10)})
    make(tmp_path / "uris", {"t.parquet": parquet_of({"uri": uris}, row_group_size=64)})
    whole = planned(tmp_path / "both", rows_per_task=25)
    assert [(piece.start, piece.stop) for piece in whole.pieces] == [
        (0, 30), (30, 60), (60, 90), (90, 100),
    ]  # fmt: skip
    assert [row["bytes"].decode() for row in rows_of(whole)] == uris
    split = planned(tmp_path / "uris", rows_per_task=25)
    assert len(split.pieces) > 2
    assert [row["uri"] for row in rows_of(split)] == uris


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
    assert [row["uri"] for row in rows] == uris
    first = next(number for number, row in enumerate(rows) if row["error_code"])
    assert 0 < first <= 40
    assert [row["bytes"] for row in rows[:first]] == pictures[:first]
    assert {row["error_code"] for row in rows[first:]} == {"unreadable_archive"}


def test_a_file_that_is_no_parquet_is_named(store) -> None:
    root = store({"t.parquet": b"PAR1 not really", "u.parquet": parquet_of({"uri": ["x"]})})
    with pytest.raises(UsageError, match=r"t\.parquet cannot be read as a Parquet file"):
        planned(root)


def test_big_cells_are_refused(tmp_path: Path) -> None:
    make(tmp_path, {"t.parquet": parquet_of({"bytes": [b"12345", b"1"]})})
    rows = rows_of(planned(tmp_path), max_bytes=4)
    assert [row["error_code"] for row in rows] == ["too_many_bytes", None]


# --- repeated URIs and finished rows


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
            expected.append((key[1], uri, seen[key], None if seen[key] else picture))
            seen[key] += 1
    found = planned(root, rows_per_task=4)

    def keys(rows: Rows) -> list[tuple[str, str, int, bytes | None]]:
        return [(row["date"], row["uri"], row["occurrence"], row["bytes"]) for row in rows]

    everything = rows_of(found)
    assert keys(everything) == expected
    for row in everything:
        assert row["error_code"] == ("duplicate_uri" if row["occurrence"] else None)
    done = data.draw(st.lists(st.booleans(), min_size=len(expected), max_size=len(expected)))
    kept = [row for row, flag in zip(everything, done, strict=True) if flag]
    finished = RowKeys.of(pa.Table.from_pylist(kept, schema=IMAGES))
    rest = [row for row, flag in zip(expected, done, strict=True) if not flag]
    assert keys(rows_of(found, finished)) == rest


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=3)), max_size=30))
def test_row_keys_hold_what_was_put_in(pairs) -> None:
    half = len(pairs) // 2
    parts = [
        RowKeys.of(
            pa.table(
                {
                    "uri": pa.array([uri for _, uri in part], pa.string()),
                    "occurrence": pa.array([count for count, _ in part], pa.int32()),
                }
            ),
            date="2026-01-01",
        )
        for part in (pairs[:half], pairs[half:])
    ]
    union = parts[0].union(parts[1])
    assert len(union) == len(set(pairs))
    uris, counts = [uri for _, uri in pairs], [count for count, _ in pairs]
    assert union.contains(["2026-01-01"] * len(pairs), uris, counts).all()
    assert not union.contains(["2026-01-02"] * len(pairs), uris, counts).any()


def test_finished_rows_are_not_fetched(tmp_path: Path, monkeypatch) -> None:
    make(tmp_path, {f"{name}.jpg": b"x" for name in "abc"})
    found = planned(tmp_path)
    everything = pa.concat_tables(tables_of(found, None, 100))
    fetched = []
    original = inputs.fetch
    monkeypatch.setattr(
        inputs, "fetch", lambda place, *rest: fetched.append(place) or original(place, *rest)
    )
    assert [row["uri"] for row in rows_of(found, RowKeys.of(everything[:2]))] == ["c.jpg"]
    assert len(fetched) == 1
    assert rows_of(found, RowKeys.of(everything)) == []


def test_pictures_of_finished_row_groups_are_not_read(tmp_path: Path, monkeypatch) -> None:
    columns = {"uri": list("abcd"), "bytes": [b"x"] * 4}
    make(tmp_path, {"t.parquet": parquet_of(columns, row_group_size=2)})
    found = planned(tmp_path)
    everything = pa.concat_tables(tables_of(found, None, 100))
    read_groups = []
    original = inputs._batches

    def watched(parquet, groups, columns, size):
        if "bytes" in columns:
            read_groups.extend(groups)
        return original(parquet, groups, columns, size)

    monkeypatch.setattr(inputs, "_batches", watched)
    assert [row["uri"] for row in rows_of(found, RowKeys.of(everything[:3]))] == ["d"]
    assert read_groups == [1]


# --- WebDataset

SAMPLES = [
    ("./000.jpg", b"0"),
    ("./000.txt", b"a caption\n"),
    ("./000.json", json.dumps({"label": 1, "generator": "sd", "source": "s"}).encode()),
    ("sub/001.PNG", b"1"),
    ("sub/001.cls", b"0"),
    ("../../etc/passwd.jpg", b"2"),
    ("._000.jpg", b"hidden"),
    ("3.left.jpg", b"3l"),
    ("3.right.jpg", b"3r"),
    ("3.json", b'{"label": 9, "captions": ["\\ud800", 4], "generator": 5}'),
    ("./000.jpg", b"again"),
]


@pytest.mark.parametrize("name", ["shard-0.tar", "shard-0.tar.gz"])
def test_tar_members_and_what_lies_beside_them(store, name: str) -> None:
    tar = tar_of(SAMPLES)
    root = store({f"date=2026-01-02/{name}": gzip.compress(tar) if name.endswith("gz") else tar})
    found = planned(root)
    rows = rows_of(found)
    assert (found.rows is None) == (name.endswith("gz") or root.startswith("s3://"))
    at = f"{prefix(root)}date=2026-01-02/{name}!"
    summary = [
        (row["uri"].removeprefix(at), row["bytes"], row["label"], row["captions"]) for row in rows
    ]
    assert summary == [
        ("./000.jpg", b"0", 1, ["a caption"]),
        ("sub/001.PNG", b"1", 0, None),
        ("../../etc/passwd.jpg", b"2", None, None),
        ("3.left.jpg", b"3l", None, ["\\ud800"]),
        ("3.right.jpg", b"3r", None, ["\\ud800"]),
        ("./000.jpg", None, None, None),
    ]
    assert [row["source"] for row in rows] == ["s", *["shard-0"] * 5]
    assert {row["date"] for row in rows} == {"2026-01-02"}
    assert (rows[0]["generator"], rows[3]["generator"]) == ("sd", None)
    assert (rows[5]["occurrence"], rows[5]["error_code"]) == (1, "duplicate_uri")


def test_tar_cut_anywhere_keeps_what_was_read_and_says_so_once(tmp_path: Path) -> None:
    whole = tar_of([("0.jpg", b"0" * 600), ("0.txt", b"t" * 600), ("1.jpg", b"1" * 600)])
    for end in range(0, len(whole.rstrip(b"\0")), 211):
        make(tmp_path, {"x.tar": whole[:end]})
        found = planned(tmp_path)
        rows = rows_of(found)
        codes = [row["error_code"] for row in rows]
        assert codes == [None] * (len(rows) - 1) + ["unreadable_archive"]
        assert len(rows) == found.rows
        finished = RowKeys.of(pa.Table.from_pylist(rows, schema=IMAGES))
        assert rows_of(found, finished) == []


def test_big_and_linked_members_are_reported(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, size in [("a.jpg", tarfile.REGTYPE, 5), ("b.jpg", tarfile.SYMTYPE, 0)]:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, size, "/etc/passwd"
            tar.addfile(info, io.BytesIO(b"12345"))
    make(tmp_path, {"x.tar": buffer.getvalue()})
    rows = rows_of(planned(tmp_path), max_bytes=4)
    assert [row["error_code"] for row in rows] == ["too_many_bytes", "missing_bytes"]


# --- what a user did wrong


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a.txt": b"", "b.csv": b""}, r"no image files there \(left out: 1 .csv, 1 .txt\)"),
        ({"a.jpg": b"", "t.parquet": b""}, "1 image files and 1 Parquet files: set the input's"),
        ({".a.jpg": b""}, "left out: 1 hidden"),
    ],
)
def test_inputs_without_anything_to_read_are_refused(files, sentence, store) -> None:
    with pytest.raises(UsageError, match=sentence):
        planned(store(files))


def test_missing_inputs_are_refused(tmp_path: Path, bucket: str) -> None:
    for gone in (tmp_path / "gone", f"s3://{bucket}/gone", "s3://no-such-bucket/x"):
        with pytest.raises(UsageError, match="There is no"):
            planned(gone)
    with pytest.raises(UsageError, match="nothing to read"):
        planned(tmp_path)


def test_fingerprint_changes_with_the_files_and_not_with_their_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        make(tmp_path / place, {"a.jpg": b"a", "b.jpg": b"b"})
        for name in ("a.jpg", "b.jpg"):
            os.utime(tmp_path / place / name, (1, 1))
    one = planned(tmp_path / "one").fingerprint()
    assert planned(tmp_path / "two", rows_per_task=1).fingerprint() == one
    make(tmp_path, {"two/a.jpg": b"A"})
    assert planned(tmp_path / "two").fingerprint() != one


# --- with Ray


@pytest.mark.usefixtures("ray_cluster")
def test_dataset_has_each_row_once_and_the_exact_schema(store) -> None:
    root = store({f"{number:03}.jpg": bytes([number]) for number in range(40)})
    found = planned(root, rows_per_task=7)
    dataset = read(found, None, STORAGE).materialize()
    assert dataset.schema().base_schema.remove_metadata() == IMAGES
    rows = sorted(dataset.take_all(), key=lambda row: row["uri"])
    assert [row["bytes"] for row in rows] == [bytes([number]) for number in range(40)]


@pytest.mark.usefixtures("ray_cluster")
def test_dataset_leaves_out_finished_rows_and_keeps_its_schema_when_empty(tmp_path: Path) -> None:
    found = planned(make(tmp_path, {f"{name}.jpg": b"x" for name in "abc"}), rows_per_task=1)
    everything = pa.concat_tables(tables_of(found, None, 100))
    rest = read(found, RowKeys.of(everything[:2]), STORAGE).take_all()
    assert [row["uri"] for row in rest] == ["c.jpg"]
    nothing = read(found, RowKeys.of(everything), STORAGE).materialize()
    assert nothing.count() == 0
    assert nothing.schema().base_schema.remove_metadata() == IMAGES


def test_big_tables_are_cut_and_rows_of_a_piece_stay_in_order(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(inputs, "TABLE_BYTES", 2500)
    make(
        tmp_path,
        {f"{number}.jpg": np.full(1000, number, np.uint8).tobytes() for number in range(9)},
    )
    tables = tables_of(planned(tmp_path), None, 1 << 20)
    assert [len(table) for table in tables] == [2, 2, 2, 2, 1]
    assert [row["bytes"][0] for table in tables for row in table.to_pylist()] == list(range(9))
