"""Labels beside the features: joined by URI or picture, counted both ways, refused if useless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from item.errors import UsageError
from pipelines.storage.configuration import Storage
from pipelines.train.labels import Labels, as_labels
from pipelines.train.rows import LabelledRows, read_labelled
from tests.item.heads.examples import features_table
from tests.support.feature_tables import write_features

LOCAL = Storage(retries=0)
NONE: dict[str, list[None]] = dict.fromkeys(("label", "generator", "source"), [None] * 8)


@pytest.fixture
def features(tmp_path: Path) -> str:
    """Eight rows that nobody labelled: pictures/0-0.jpg, image id-0-0 and so on."""
    return write_features(tmp_path / "features", features_table(8, **NONE))


def uris(*numbers: int) -> list[str]:
    return [f"pictures/0-{number}.jpg" for number in numbers]


def images(*numbers: int) -> list[str]:
    return [f"id-0-{number}" for number in numbers]


def read(features: str, folder: Path, **columns: Any) -> LabelledRows:
    pd.DataFrame(columns).to_parquet(folder / "labels.parquet")
    return read_labelled([features], LOCAL, labels=str(folder / "labels.parquet"))


SPELLINGS: dict[str, list[Any]] = {
    "numbers": [0, 1, 1, 0],
    "numbers that a gap made floats": [0.0, 1.0, 1.0, 0.0, None],
    "truth": [False, True, True, False],
    "words": ["real", "Generated", "fake ", "REAL", ""],
    "digits": ["0", "1", "1", "0", None],
    "categories": pd.Categorical(["real", "generated", "generated", "real"]),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_labels_are_read_however_they_are_spelled(
    features: str, tmp_path: Path, spelling: str
) -> None:
    label = SPELLINGS[spelling]
    rows = read(features, tmp_path, uri=uris(*range(len(label))), label=label)
    assert rows.labels.tolist() == [0, 1, 1, 0]
    assert rows.uris.tolist() == uris(0, 1, 2, 3)


@pytest.mark.parametrize("label", [2, -1, 0.5, "maybe", "nan"])
def test_what_is_no_label_is_named(features: str, tmp_path: Path, label: Any) -> None:
    with pytest.raises(UsageError, match=f"has the label '{label}': labels are 1 or generated"):
        read(features, tmp_path, uri=uris(0, 1), label=[label, label])


def test_generators_and_sources_come_with_them(features: str, tmp_path: Path) -> None:
    rows = read(
        features,
        tmp_path,
        image_id=[one.upper() for one in images(3, 5)],
        label=[1, 0],
        generator=["SDXL", None],
        source=[None, "photographs"],
    )
    assert rows.uris.tolist() == uris(3, 5)
    assert rows.generators.tolist() == ["SDXL", None]
    assert rows.sources.tolist() == [None, "photographs"]
    assert rows.left_out == {"without a label": 6}


def test_they_take_the_place_of_those_of_the_features(tmp_path: Path) -> None:
    root = write_features(tmp_path / "features", features_table(4))
    rows = read(root, tmp_path, uri=uris(0, 1), label=[1, None], generator=["SDXL", None])
    assert dict(zip(rows.uris, rows.labels, strict=True)) == dict(
        zip(uris(0, 2, 3), [1, 0, 1], strict=True)
    )
    assert rows.generators.tolist() == ["SDXL", None, "model-1"]
    assert rows.sources.tolist() == ["photographs", "photographs", None]


def test_the_uri_counts_before_the_picture(features: str, tmp_path: Path) -> None:
    rows = read(
        features,
        tmp_path,
        uri=[*uris(0, 1), "elsewhere.jpg", None],
        image_id=[*images(2, 3), images(4)[0], images(5)[0]],
        label=[0, 1, 1, 0],
    )
    assert dict(zip(rows.uris, rows.labels, strict=True)) == dict(
        zip(uris(0, 1, 2, 3, 4, 5), [0, 1, 0, 1, 1, 0], strict=True)
    )


def test_what_is_not_matched_is_counted_on_both_sides(features: str, tmp_path: Path) -> None:
    rows = read(features, tmp_path, uri=[*uris(0, 1), "a", "b", "c"], label=[0, 1, 1, 1, 1])
    [note, left_out] = rows.remarks()
    assert "2 of 8 rows with features are named in it, 6 are not" in note
    assert "3 of its 5 rows name no row" in note
    assert left_out == "Rows left out: 6 without a label."


def test_relative_uris_are_read_from_the_folder_of_the_labels(tmp_path: Path) -> None:
    names = [f"{tmp_path}/pictures/{number}.jpg" for number in range(4)]
    root = write_features(tmp_path / "features", features_table(4, uri=names, label=[None] * 4))
    (tmp_path / "labels.csv").write_text("uri,label\npictures/1.jpg,1\n./pictures/2.jpg,0\n")
    rows = read_labelled([root], LOCAL, labels=str(tmp_path / "labels.csv"))
    assert rows.uris.tolist() == names[1:3]
    assert rows.labels.tolist() == [1, 0]


def test_labels_are_read_from_s3(features: str, s3: Any, bucket: str) -> None:
    s3.fill(bucket, {"labels.csv": "\n".join(["uri,label", "a,1", uris(0)[0] + ",1"]).encode()})
    labels = Labels.read(f"s3://{bucket}/labels.csv", LOCAL)
    rows = pa.table({"uri": uris(0), "image_id": images(0), "status": ["ok"]})
    rows = rows.append_column("label", pa.nulls(1, pa.int8()))
    assert labels.applied(rows)["label"].to_pylist() == [1]


USELESS: dict[str, dict[str, Any]] = {
    "names none of the rows .* it has 'a.jpg', they have 'pictures/0-0.jpg'": {
        "uri": ["a.jpg"],
        "label": [1],
    },
    "names none of the rows .* it has 'abc'": {"image_id": ["abc"], "label": [1]},
    "has no column 'label'": {"uri": uris(0), "labels": [1]},
    "has neither 'uri' nor 'image_id'": {"file": uris(0), "label": [1]},
    "two things of '.*0-1.jpg': its label is 0 and 1": {"uri": uris(1, 1), "label": [0, 1]},
    "two things of 'id-0-1': its label is 0 and None": {
        "image_id": images(1, 1),
        "label": [0, None],
    },
    "two things of .* its generator is a and b": {
        "uri": uris(1, 1),
        "label": [1, 1],
        "generator": ["a", "b"],
    },
    "two things of '.*0-1.jpg'": {
        "uri": ["pictures/0-1.jpg", "./pictures/0-1.jpg"],
        "label": [0, 1],
    },
}


@pytest.mark.parametrize("sentence", USELESS)
def test_useless_labels_are_refused_in_one_sentence(
    features: str, tmp_path: Path, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence) as refusal:
        read(features, tmp_path, **USELESS[sentence])
    assert str(refusal.value).count(". ") == 0


def test_rows_that_agree_may_come_twice(features: str, tmp_path: Path) -> None:
    rows = read(features, tmp_path, uri=uris(0, 0, 1, 1), label=[0, 0, 1, 1])
    assert rows.labels.tolist() == [0, 1]


def test_a_picture_of_two_uris_that_disagree_is_not_joined_by_its_bytes(
    features: str, tmp_path: Path
) -> None:
    rows = read(
        features,
        tmp_path,
        uri=["x", "y", *uris(0, 1)],
        image_id=[*images(5, 5), *images(6, 7)],
        label=[0, 1, 0, 1],
    )
    assert rows.uris.tolist() == uris(0, 1, 6, 7)


def test_labels_keep_their_order_and_nulls() -> None:
    column = pa.chunked_array([["1", None], ["real", "1"]], pa.string())
    found = as_labels(column, "a table")
    assert found.type == pa.int8()
    assert found.to_pylist() == [1, None, 0, 1]
    assert as_labels(pa.chunked_array([], pa.null()), "a table").to_pylist() == []
    many = as_labels(pa.chunked_array([np.arange(10_000) % 2]), "a table")
    assert sum(many.to_pylist()) == 5000
