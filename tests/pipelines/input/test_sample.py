"""A labelled sample: half real, even over origins, the same from the same seed, written once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from item.errors import UsageError
from pipelines.input.sample import (
    PART,
    Sampling,
    draw,
    drawn_rows,
    even_shares,
    write_sample,
    written_sample,
)
from tests.support.dumps import STORAGE, make, parquet_of

ORIGINS = [(0, None, "photos")] * 30 + [(0, None, "stamps")] * 5
ORIGINS += [(1, "small", "web")] * 4 + [(1, "middle", "web")] * 20 + [(1, "large", "web")] * 40
ORIGINS += [(None, "large", "web")] * 9


def rows() -> pd.DataFrame:
    frame = pd.DataFrame(ORIGINS, columns=["label", "generator", "source"], dtype=object)
    return frame.assign(uri=[f"{number}.jpg" for number in range(len(frame))])


def sampling(images: int = 24, **changes: Any) -> Sampling:
    return Sampling(**{"inputs": ("dump",), "images": images, "seed": 0, **changes})


def numbers(drawn: pd.DataFrame, column: str) -> dict[str, int]:
    return dict(drawn[column].value_counts())


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 50), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_shares_are_as_even_as_what_is_there(available: dict[str, int], part: float) -> None:
    number = round(part * sum(available.values()))
    shares = even_shares(available, number)
    assert sum(shares.values()) == number
    for name, share in shares.items():
        assert share == available[name] or share >= max(shares.values()) - 1


def test_half_is_real_and_generators_and_sources_are_even() -> None:
    drawn = draw(rows(), sampling(24))
    assert numbers(drawn, "label") == {0: 12, 1: 12}
    assert numbers(drawn, "generator") == {"small": 4, "middle": 4, "large": 4}
    assert numbers(drawn[drawn["label"] == 0], "source") == {"photos": 7, "stamps": 5}


def test_seed_decides_and_the_order_of_the_rows_does_not() -> None:
    drawn = set(draw(rows(), sampling())["uri"])
    assert set(draw(rows().sample(frac=1, random_state=1), sampling())["uri"]) == drawn
    assert set(draw(rows(), sampling(seed=1))["uri"]) != drawn


def test_only_named_generators_and_sources_are_drawn() -> None:
    drawn = draw(rows(), sampling(8, generators=("middle",), sources=("stamps",)))
    assert set(drawn["generator"].dropna()) == {"middle"}
    assert set(drawn.loc[drawn["label"] == 0, "source"]) == {"stamps"}


def test_repeated_uri_is_drawn_once() -> None:
    twice = pd.concat([rows(), rows()], ignore_index=True)
    drawn = draw(twice, sampling(30))
    assert len(drawn) == 30 and drawn["uri"].is_unique


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": 72}, "needs 36 real rows and there are 35"),
        ({"generators": ("small",)}, "needs 12 generated rows and there are 4"),
        ({"generators": ("none such",)}, "no generated rows of the generator 'none such'"),
        ({"sources": ("web",)}, "no real rows of the source 'web' to draw, only of photos, stamps"),
    ],
)
def test_sample_that_cannot_be_drawn_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        draw(rows(), sampling(**changes))


# Files


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Two files, of which one has a column that the other lacks, in row groups of four."""
    frame = rows()
    parts = {}
    for name, some in (("a", frame[:30]), ("b", frame[30:])):
        columns = {column: some[column].tolist() for column in frame}
        columns["bytes"] = [f"picture {uri}".encode() for uri in some["uri"]]
        if name == "b":
            columns["prompt"] = [f"prompt {uri}" for uri in some["uri"]]
        parts[f"{name}.parquet"] = parquet_of(columns, row_group_size=4)
    return make(tmp_path / "dump", parts)


def test_names_that_two_folders_share_are_two_pictures(tmp_path: Path) -> None:
    columns = {"uri": list("abcd"), "label": [0, 0, 1, 1], "bytes": [b"x"] * 4}
    folders = [make(tmp_path / name, {"a.parquet": parquet_of(columns)}) for name in ("x", "y")]
    drawn = drawn_rows(sampling(8, inputs=tuple(map(str, folders))), STORAGE)
    assert sorted(drawn["uri"]) == [f"{folder}/{name}" for folder in folders for name in "abcd"]


def test_sample_is_written_with_its_pictures_and_columns(dump: Path, tmp_path: Path) -> None:
    how, place = sampling(inputs=(str(dump),)), str(tmp_path / "sample")
    drawn = drawn_rows(how, STORAGE)
    write_sample(drawn, how, place, STORAGE)
    table = pq.read_table(Path(place, PART)).to_pandas().set_index("uri")
    assert sorted(table.index) == sorted(drawn["uri"])
    for uri, row in table.iterrows():
        folder, name = os.path.split(uri)
        assert folder == str(dump)
        assert row["bytes"] == f"picture {name}".encode()
        assert row["prompt"] == f"prompt {name}" or int(name.removesuffix(".jpg")) < 30
    found = written_sample(how, place, STORAGE)
    assert found is not None
    columns = ["uri", "label", "generator", "source"]
    assert found[columns].equals(drawn[columns].reset_index(drop=True))


def test_sample_drawn_otherwise_is_not_taken_for_this_one(dump: Path, tmp_path: Path) -> None:
    how, folder = sampling(inputs=(str(dump),)), str(tmp_path / "sample")
    assert written_sample(how, folder, STORAGE) is None
    write_sample(drawn_rows(how, STORAGE), how, folder, STORAGE)
    with pytest.raises(UsageError, match="holds a sample that was drawn otherwise"):
        written_sample(sampling(inputs=(str(dump),), seed=1), folder, STORAGE)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a.parquet": parquet_of({"uri": ["a"], "label": [1]})}, "has no 'bytes'"),
        ({"a.parquet": parquet_of({"bytes": [b"a"], "uri": ["a"]})}, "has no 'label'"),
        ({"a.jpg": b"picture"}, "drawn from Parquet"),
    ],
)
def test_input_without_pictures_and_labels_is_refused(
    tmp_path: Path, files: dict[str, bytes], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        drawn_rows(sampling(inputs=(str(make(tmp_path / "dump", files)),)), STORAGE)
