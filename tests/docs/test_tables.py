"""``docs/tables.md`` says what the tables are, and its queries give what they promise."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from item.statistics.calibration import Abstention, Verdict
from item.tables import (
    BOX,
    EVIDENCE,
    FEATURES,
    OBJECT,
    REJECTS,
    SCORES,
    ErrorCode,
    Note,
    Status,
)
from tests.support.audit_root import DIMENSIONS, broken, picture, strange, write_night

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tables.md"

NIGHTS = ("2026-01-29", "2026-01-30", "2026-01-31")
DECLARED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
NEAR = [0.995, 0.1, 0.0, 0.0]
HOSTILE = "<script>alert(1)</script>"

TYPES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "bytes": pa.binary(),
    "int8": pa.int8(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "timestamp": pa.timestamp("ms", tz="UTC"),
    "vector": pa.list_(pa.float16()),
    "box": BOX,
    "list of string": pa.list_(pa.string()),
    "list of object": pa.list_(OBJECT),
}
"""What the page calls the types."""


@cache
def section(heading: str) -> str:
    """The text below a heading, to the next of the same or a higher rank."""
    found = re.search(rf"^(#+) {re.escape(heading)}$", PAGE.read_text(), re.MULTILINE)
    assert found, f"no heading {heading}"
    rest = PAGE.read_text()[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def listed(heading: str) -> list[list[str]]:
    """Cells of the first Markdown table below a heading, without its first two lines."""
    lines = section(heading).splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("| "))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("| "):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip().strip("|").split("|")])
    return rows


# Columns and words


@pytest.mark.parametrize(
    ("heading", "schema", "is_table"),
    [
        ("features", FEATURES, True),
        ("scores", SCORES, True),
        ("rejects", REJECTS, True),
        ("evidence", EVIDENCE, True),
        ("object", pa.schema(list(OBJECT)), False),
        ("box", pa.schema(list(BOX)), False),
    ],
)
def test_columns_and_types_are_those_of_the_schema(
    heading: str, schema: pa.Schema, is_table: bool
) -> None:
    rows = listed(heading)
    if is_table:
        assert rows[0][:2] == ["date", "partition"]
        rows = rows[1:]
    assert [(name, TYPES[kind]) for name, kind, *_ in rows] == [
        (field.name, field.type) for field in schema
    ]


@pytest.mark.parametrize("heading", ["features", "scores", "rejects", "evidence", "object", "box"])
def test_every_column_has_a_meaning_and_says_when_it_is_null(heading: str) -> None:
    for row in listed(heading):
        name, _, _, meaning, null = row
        assert meaning.endswith("."), name
        assert null, name


@pytest.mark.parametrize(
    ("heading", "words"),
    [("status", Status), ("notes", Note), ("verdict", Verdict), ("abstention", Abstention)],
)
def test_every_word_of_a_column_is_explained(heading: str, words: Any) -> None:
    assert [value for value, _ in listed(heading)] == [str(word) for word in words]


def test_every_error_code_has_its_status_and_sentence() -> None:
    assert [tuple(row) for row in listed("error_code")] == [
        (str(code), str(code.status), code.sentence) for code in ErrorCode
    ]


def test_abstentions_are_explained_in_their_own_words() -> None:
    assert [meaning for _, meaning in listed("abstention")] == [one.sentence for one in Abstention]


def test_every_link_leads_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", PAGE.read_text(), re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", PAGE.read_text()):
        path, _, anchor = link.partition("#")
        assert (PAGE.parent / path).exists(), link
        assert path or anchor in anchors, link


# Queries


def named(phrase: str, similarity: float, grounded: bool = True) -> dict[str, Any]:
    """An object of a caption."""
    box = {"x0": 0.0, "y0": 0.0, "x1": 10.0, "y1": 10.0}
    return {
        "phrase": phrase,
        "box": box,
        "grounding_score": 0.5,
        "grounded": grounded,
        "similarity": similarity,
        "image_similarity": similarity,
    }


def small(uri: str, score: float, source: str = "crawl", **columns: Any) -> dict[str, Any]:
    """A picture with one object and an embedding."""
    own = {
        "source": source,
        "objects": [named("cat", 0.4)],
        "object_count": 1,
        "image_embedding": [0.0, 0.0, 0.0, 1.0],
    }
    return picture(uri, score, **(own | columns))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nights: repeats, broken rows, declared pictures, an uncertain last night."""
    path = tmp_path_factory.mktemp("audit")
    write_night(
        path,
        NIGHTS[0],
        [
            small("s3://c/1.jpg", 0.95, image_id="a" * 64, global_similarity=0.4),
            small("s3://c/2.jpg", 0.1, object_count=0, objects=[], local_similarity_mean=0.0),
            small("s3://p/1.jpg", 0.5, "partner"),
            broken("s3://c/3.jpg", source="crawl"),
        ],
    )
    write_night(
        path,
        NIGHTS[1],
        [
            small("s3://c/1-again.jpg", 0.95, image_id="a" * 64, image_embedding=[1.0, 0, 0, 0]),
            small(
                "s3://c/4.jpg",
                0.99,
                caption=HOSTILE,
                digital_source_type=DECLARED,
                image_embedding=NEAR,
                objects=[named("hat", 0.1), named("cat", 0.3), named("bat", 0.05, grounded=False)],
            ),
            broken("s3://c/4.jpg", ErrorCode.DUPLICATE_URI, source="crawl"),
            small("s3://p/2.jpg", 0.02, "partner", digital_source_type=DECLARED),
            small("s3://p/3.jpg", 0.98, "partner"),
            broken("s3://p/4.jpg", ErrorCode.URI_UNREADABLE, source="partner"),
        ],
    )
    return write_night(
        path,
        NIGHTS[2],
        [
            small("s3://c/5.jpg", 0.6),
            strange("s3://c/6.jpg", 0.51, source="crawl"),
            small("s3://p/5.jpg", 0.45, "partner"),
            small("s3://c/7.jpg", 0.97),
            broken("s3://c/8.jpg", source="crawl"),
        ],
    )


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of the first night by a head that is less sure."""
    path = tmp_path_factory.mktemp("other")
    write_night(
        path,
        NIGHTS[0],
        [
            small("s3://c/1.jpg", 0.75),
            small("s3://c/2.jpg", 0.1),
            small("s3://p/1.jpg", 0.1, "partner"),
            broken("s3://c/3.jpg", source="crawl"),
        ],
    )
    return path / "scores"


Query = Callable[[int], dict[str, Any]]


@pytest.fixture
def query(root: Path, other: Path) -> Query:
    """Runs a query by its number; SQL gives its rows as ``rows``, pandas its variables."""

    def blocks(text: str) -> list[tuple[str, str]]:
        places = {"OTHER": str(other), "ROOT": str(root)}
        found = re.findall(r"^```(python|sql)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for word, place in places.items():
            found = [(kind, code.replace(word, place)) for kind, code in found]
        return found

    def run(number: int) -> dict[str, Any]:
        whole = section("Ten queries")
        (python, sql) = blocks(whole[: whole.index("### 1.")])
        heading = re.search(rf"^### ({number}\. .+)$", whole, re.MULTILINE)
        assert heading
        ((kind, code),) = blocks(section(heading[1]))
        names: dict[str, Any] = {}
        if kind == "python":
            exec(compile(python[1] + code, heading[1], "exec"), names)
            return names
        with duckdb.connect() as connection:
            connection.execute(sql[1])
            return {"rows": connection.sql(code).df()}

    return run


def test_there_are_ten_queries_half_of_them_in_sql() -> None:
    text = section("Ten queries")
    assert re.findall(r"^### (\d+)\.", text, re.MULTILINE) == [str(n + 1) for n in range(10)]
    kinds = re.findall(r"^```(\w+)$", text[text.index("### 1.") :], re.MULTILINE)
    assert sorted(kinds) == ["python"] * 5 + ["sql"] * 5


def test_query_1_shares_of_flagged_pictures(query: Query) -> None:
    rows = query(1)["rows"]
    assert rows.date.dt.strftime("%Y-%m-%d").tolist() == [
        night for night in NIGHTS for _ in range(2)
    ]
    assert rows.source.tolist() == ["crawl", "partner"] * 3
    assert rows.scored.tolist() == [2, 1, 2, 2, 3, 1]
    assert rows.flagged.tolist() == [1, 0, 2, 1, 1, 0]
    assert rows.share.tolist() == pytest.approx([0.5, 0, 1, 0.5, 1 / 3, 0])


def test_query_2_most_suspicious_with_captions(query: Query) -> None:
    found = query(2)["suspicious"]
    assert found.uri.tolist() == ["s3://c/4.jpg", "s3://c/1-again.jpg"]
    assert found.caption.iloc[0] == HOSTILE
    assert found.score.is_monotonic_decreasing


def test_query_3_objects_that_fit_badly(query: Query) -> None:
    rows = query(3)["rows"]
    assert rows[["uri", "phrase"]].to_numpy().tolist() == [["s3://c/4.jpg", "hat"]]
    assert rows.similarity[0] == pytest.approx(0.1)
    assert rows.box[0]["x1"] == 10


def test_query_4_reasons(query: Query) -> None:
    reasons = query(4)["reasons"]
    assert dict(zip(reasons.error_code, reasons.rows, strict=True)) == {
        "truncated": 2,
        "duplicate_uri": 1,
        "uri_unreadable": 1,
    }
    assert reasons.error_code[0] == "truncated"
    assert reasons.reason[0] == ErrorCode.TRUNCATED.sentence


def test_query_5_pictures_that_come_back(query: Query) -> None:
    rows = query(5)["rows"]
    assert rows[["image_id", "nights", "rows"]].to_numpy().tolist() == [["a" * 64, 2, 2]]
    assert rows.first_night[0] == pd.Timestamp(NIGHTS[0])
    assert rows.last_night[0] == pd.Timestamp(NIGHTS[1])


def test_query_6_declared_pictures_against_the_verdict(query: Query) -> None:
    against = query(6)["against"]
    assert against.loc[True, "likely_generated"] == 1
    assert against.loc[True, "likely_real"] == 1
    assert against.loc[True, "not_scored"] == 0
    assert against.loc[False, "not_scored"] == 4


def test_query_7_uncertain_ones_of_the_last_night(query: Query) -> None:
    rows = query(7)["rows"]
    assert rows.uri.tolist() == ["s3://p/5.jpg", "s3://c/5.jpg", "s3://c/6.jpg"]
    assert rows.abstention.tolist()[-1] == "out_of_distribution"


def test_query_8_means_by_night(query: Query) -> None:
    drift = query(8)["drift"]
    assert drift.index.tolist() == list(NIGHTS)
    assert drift.global_similarity["count"].tolist() == [3, 4, 4]
    assert drift.global_similarity["mean"].iloc[0] == pytest.approx(1 / 3)
    # The picture without objects has no local similarity.
    assert drift.local_similarity_mean["count"].iloc[0] == 2
    assert drift.local_similarity_mean["mean"].iloc[0] == pytest.approx(0.275)


def test_query_9_near_duplicates(query: Query) -> None:
    found = query(9)
    assert found["vectors"].dtype == np.float32
    assert found["vectors"].shape == (4, DIMENSIONS)
    pairs = {frozenset(pair) for pair in found["near"][["uri", "other_uri"]].to_numpy().tolist()}
    assert pairs == {
        frozenset({"s3://c/1-again.jpg", "s3://c/4.jpg"}),
        frozenset({"s3://p/2.jpg", "s3://p/3.jpg"}),
    }
    assert found["near"].cosine.between(0.98, 1.001).all()


def test_query_10_changes_of_the_verdict(query: Query) -> None:
    rows = query(10)["rows"]
    assert rows[["verdict", "other_verdict", "rows"]].to_numpy().tolist() == [
        ["likely_generated", "uncertain", 1],
        ["uncertain", "likely_real", 1],
    ]
    assert rows.mean_change.tolist() == pytest.approx([-0.2, -0.4])


def test_pandas_reads_the_same_from_s3(root: Path, s3: Any, bucket: str) -> None:
    files = {
        f"audit/{path.relative_to(root)}": path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }
    s3.fill(bucket, files)
    (code,) = re.findall(r"^```python\n(.*?)^```$", section("From S3"), re.MULTILINE | re.DOTALL)
    code = code.replace("BUCKET", bucket).replace("https://objects.example.com", s3.endpoint)
    names: dict[str, Any] = {}
    exec(compile(code, "From S3", "exec"), names)
    here = pd.read_parquet(root / "scores", filters=[("date", "==", NIGHTS[2])])
    assert len(here) == 5
    pd.testing.assert_frame_equal(names["scores"], here)


def test_metadata_of_a_file_are_read_as_the_page_says(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from item.tables import decoded

    schema = SCORES.with_metadata({"item.feature_set_id": '"mini-1"', "item.models": '{"clip": 1}'})
    path = tmp_path / "features" / "date=2026-01-31" / "night.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(schema.empty_table(), path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", section("Manifests"), re.MULTILINE | re.DOTALL)
    code = code.replace('"features/', f'"{tmp_path}/features/')
    lines = code.strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join([*lines[:-1], f"found = {lines[-1]}"]), names)
    said = decoded(pq.read_metadata(path).metadata)
    assert names["found"] == (said["feature_set_id"], said["models"]) == ("mini-1", {"clip": 1})
