"""Rows are found by URI, as written or by the object that is named."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.train.joining import UriIndex


def index(*uris: str | None, file: str = "/tables/labels.csv") -> UriIndex:
    return UriIndex(uris, [file] * len(uris))


def test_a_written_uri_is_found_before_a_spelling_of_it() -> None:
    rows = index("./a.jpg", "a.jpg", None, "b.jpg")
    assert rows.places(["a.jpg", "./a.jpg", "b.jpg", "c.jpg", "/tables/a.jpg"]).tolist() == [
        *(1, 0, 3, -1, 0),
    ]


def test_relative_uris_are_read_from_the_folder_of_their_file() -> None:
    rows = UriIndex(["a.jpg", "a.jpg"], ["/one/x.parquet", "s3://bucket/two/x.parquet"])
    assert rows.places(["/one/a.jpg", "s3://bucket/two/a.jpg", "/two/a.jpg"]).tolist() == [0, 1, -1]


def test_nothing_is_found_in_nothing() -> None:
    assert index().places(["a"]).tolist() == [-1]
    assert index(None).places([]).tolist() == []


@given(st.lists(st.text(alphabet="abc/%?.", min_size=1), unique=True))
def test_what_is_written_is_found_where_it_is_written(uris: list[str]) -> None:
    assert index(*uris).places(uris).tolist() == list(range(len(uris)))
