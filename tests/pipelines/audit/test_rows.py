"""Features and scores are read as one table, and never of different pictures."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from item.errors import UsageError
from item.tables import ErrorCode
from pipelines.audit import rows as audit_rows
from pipelines.audit.rows import NAMES, NUMBERS, AuditRows, nights
from pipelines.storage.configuration import Storage
from tests.conftest import S3Server
from tests.support.audit_root import broken, many, picture, thumbnail, write_night

NIGHT = "2026-01-02"


def read(root: Path, *dates: str, before: int = 0, rows: int = 100_000) -> AuditRows:
    return audit_rows.read(str(root), dates or (NIGHT,), Storage(), before, rows)


def rewrite(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)


def test_rows_of_both_tables_stand_side_by_side(tmp_path: Path) -> None:
    write_night(tmp_path, NIGHT, [picture("a", 0.25, byte_count=7), broken("b")], parts=1)
    rows = read(tmp_path).rows
    assert rows["score"].tolist()[0] == 0.25
    assert rows["byte_count"].tolist()[0] == 7
    assert rows["caption_length"].tolist()[0] == len("a black cat on a red sofa")
    assert rows["status"].tolist() == ["ok", "rejected"]
    assert np.isnan(rows["score"].tolist()[1])
    assert rows["date"].tolist() == [NIGHT, NIGHT]


@pytest.mark.parametrize("by", ["pandas", "duckdb"])
def test_tables_that_another_program_saved_are_read_alike(by: str, tmp_path: Path) -> None:
    write_night(tmp_path, NIGHT, [*many(NIGHT, 9), broken("b")], parts=2)
    before = read(tmp_path)
    for path in tmp_path.glob(f"*/date={NIGHT}/*.parquet"):
        if by == "pandas":
            frame = pd.read_parquet(path)
            texts = [name for name in frame if frame[name].dtype == "str"]
            frame.astype(dict.fromkeys(texts, "category")).to_parquet(path)
        else:
            saved = path.with_suffix(".saved")
            rows = f"read_parquet('{path}', hive_partitioning=false)"
            duckdb.sql(f"COPY (FROM {rows}) TO '{saved}' (FORMAT parquet)")
            saved.replace(path)
    after = read(tmp_path)
    pd.testing.assert_frame_equal(after.rows, before.rows)
    pd.testing.assert_frame_equal(
        after.texts(after.rows.index), before.texts(before.rows.index), check_dtype=False
    )


def test_pictures_with_the_same_bytes_are_recognised(tmp_path: Path) -> None:
    night = [picture("a", image_id="1"), picture("b", image_id="2"), picture("c", image_id="1")]
    picture_of = read(write_night(tmp_path, NIGHT, night, parts=1)).rows["picture"].tolist()
    assert picture_of[0] == picture_of[2] != picture_of[1]


def test_texts_come_under_the_labels_of_their_rows_in_the_order_asked(tmp_path: Path) -> None:
    rows = read(write_night(tmp_path, NIGHT, many(NIGHT, 9), parts=3))
    texts = rows.texts([7, 0, 4])
    assert texts.index.tolist() == [7, 0, 4]
    # Row 7 of the night is the second of its third file, which holds rows 2, 5 and 8.
    assert texts["uri"].tolist() == [f"s3://crawl/{NIGHT}/{n:05}.jpg" for n in (5, 0, 4)]
    assert texts["objects"].iloc[0][0]["phrase"] == "black cat"


def test_texts_are_found_in_whichever_row_group_they_are(tmp_path: Path) -> None:
    write_night(tmp_path, NIGHT, many(NIGHT, 10), parts=1)
    for name, size in (("features", 3), ("scores", 4)):
        [path] = (tmp_path / name).rglob("*.parquet")
        pq.write_table(pq.ParquetFile(path).read(), path, row_group_size=size)
    texts = read(tmp_path).texts([9, 2, 3, 8])
    assert texts["uri"].tolist() == [f"s3://crawl/{NIGHT}/{n:05}.jpg" for n in (9, 2, 3, 8)]


def test_no_texts_are_an_empty_table_with_all_columns(tmp_path: Path) -> None:
    texts = read(write_night(tmp_path, NIGHT, [broken("b")])).texts([])
    assert texts.empty
    assert {"uri", "caption", "objects", "explanation"} <= set(texts.columns)


@pytest.mark.parametrize("rows", [[], [broken("b")]], ids=["empty", "all rejected"])
def test_columns_have_their_kinds_whatever_the_night_holds(tmp_path: Path, rows: list) -> None:
    found = read(write_night(tmp_path, NIGHT, rows, manifest={})).rows
    assert all(isinstance(found[name].dtype, pd.CategoricalDtype) for name in NAMES)
    assert all(found[name].dtype.kind == "f" for name in NUMBERS)


def test_scores_of_other_rows_are_refused(tmp_path: Path) -> None:
    write_night(tmp_path, NIGHT, [picture("a"), picture("b"), picture("c")], parts=1)
    path = tmp_path / f"scores/date={NIGHT}/part-0000.parquet"
    table = pq.ParquetFile(path).read()
    rewrite(path, table.take([0, 2, 1]))
    with pytest.raises(UsageError, match=r"do not belong .* \(row 2 is of another URI\)"):
        read(tmp_path)
    rewrite(path, table.slice(1))
    with pytest.raises(UsageError, match=r"do not belong .* \(3 rows against 2\)"):
        read(tmp_path)


def test_features_without_scores_are_refused(tmp_path: Path) -> None:
    write_night(tmp_path, NIGHT, [picture("a"), picture("b")])
    (tmp_path / f"scores/date={NIGHT}/part-0001.parquet").unlink()
    with pytest.raises(UsageError, match=r"part-0001.parquet is in one of the two tables only"):
        read(tmp_path)
    (tmp_path / f"scores/date={NIGHT}/part-0000.parquet").unlink()
    with pytest.raises(UsageError, match=r"has features and no scores: score it first\.$"):
        read(tmp_path)


def test_damaged_table_is_one_sentence(tmp_path: Path) -> None:
    write_night(tmp_path, NIGHT, [picture("a")])
    path = tmp_path / f"scores/date={NIGHT}/part-0000.parquet"
    rewrite(path, pq.ParquetFile(path).read().drop_columns(["verdict"]))
    with pytest.raises(UsageError, match="lacks the column 'verdict'"):
        read(tmp_path)
    path.write_bytes(b"not Parquet")
    with pytest.raises(UsageError, match="not readable as Parquet"):
        read(tmp_path)


def test_nights_are_those_of_tables_and_manifests(tmp_path: Path) -> None:
    write_night(tmp_path, "2026-01-03", [picture("a")])
    write_night(tmp_path, "2026-01-01", [], manifest={})
    (tmp_path / "features" / "date=soon").mkdir()
    (tmp_path / "features" / "_runs").mkdir()
    assert nights(str(tmp_path), Storage()) == ["2026-01-01", "2026-01-03"]


def test_history_is_the_last_nights_before_that_are_scored(tmp_path: Path) -> None:
    for day in (1, 2, 3, 4, 5):
        write_night(tmp_path, f"2026-01-0{day}", [picture(f"{day}")])
    (tmp_path / "scores/date=2026-01-03/part-0000.parquet").unlink()
    assert set(read(tmp_path, "2026-01-04", before=2).history["date"]) == {"2026-01-02"}
    assert read(tmp_path, "2026-01-04").history.empty


def test_long_history_is_thinned_evenly(tmp_path: Path) -> None:
    night = [picture(f"{n}", n / 100) for n in range(100)]
    write_night(tmp_path, "2026-01-01", night, parts=1)
    write_night(tmp_path, NIGHT, [picture("a")])
    found = read(tmp_path, before=14, rows=5).history["score"].to_numpy()
    np.testing.assert_allclose(found, [0, 0.24, 0.49, 0.74, 0.99], atol=1e-6)


def test_examples_of_rejects_and_manifests_are_read(tmp_path: Path) -> None:
    night = [broken("x", source=None), broken("y", ErrorCode.URI_UNREADABLE)]
    rows = read(write_night(tmp_path, NIGHT, night, manifest={"seconds": 3}))
    assert rows.examples[("rejected", "truncated", "")] == ["x"]
    assert rows.examples[("failed", "uri_unreadable", "photos.example")] == ["y"]
    assert rows.manifests == {NIGHT: {"seconds": 3}}


def test_broken_manifest_is_one_sentence(tmp_path: Path) -> None:
    write_night(tmp_path, NIGHT, [picture("a")], manifest={})
    (tmp_path / "_nights" / f"{NIGHT}.json").write_text("{")
    with pytest.raises(UsageError, match=r"manifest .* is not JSON"):
        read(tmp_path)


def test_thumbnails_are_those_of_the_rows_asked_for(tmp_path: Path) -> None:
    for night in ("2026-01-01", NIGHT):
        write_night(tmp_path, night, [picture("a"), picture("b")])
    kept = read(tmp_path).thumbnails(pd.DataFrame({"date": [NIGHT], "uri": ["a"]}))
    assert kept == {(NIGHT, "a"): thumbnail()}


def test_missing_evidence_is_no_mistake(tmp_path: Path) -> None:
    rows = read(write_night(tmp_path, NIGHT, [picture("a")], evidence=False))
    assert rows.thumbnails(pd.DataFrame({"date": [NIGHT], "uri": ["a"]})) == {}


def test_a_root_on_s3_is_read_alike(tmp_path: Path, s3: S3Server, bucket: str) -> None:
    write_night(tmp_path, NIGHT, [*many(NIGHT, 5), broken("b")], manifest={"seconds": 3})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    s3.fill(bucket, {f"out/{path.relative_to(tmp_path)}": path.read_bytes() for path in files})
    there = audit_rows.read(f"s3://{bucket}/out", (NIGHT,), Storage())
    here = read(tmp_path)
    pd.testing.assert_frame_equal(there.rows, here.rows)
    pd.testing.assert_frame_equal(there.texts([3, 1]), here.texts([3, 1]))
    assert nights(f"s3://{bucket}/out", Storage()) == [NIGHT]
    assert there.manifests == here.manifests
