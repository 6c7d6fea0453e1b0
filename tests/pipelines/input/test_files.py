from __future__ import annotations

import pytest

from pipelines.input.files import date_in, is_hidden, kind_of, source_in


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a/b.JPG", "images"),
        ("noextension", "images"),
        ("x.avif.unknown", "images"),
        ("t.Parquet", "parquet"),
        ("s.tar", "webdataset"),
        ("s.TAR.GZ", "webdataset"),
        ("s.gz", None),
        ("README", None),
        ("notes.txt", None),
    ],
)
def test_names_say_what_kind_of_input_a_file_is(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (".a.jpg", True),
        ("_SUCCESS", True),
        ("_DSC0001.JPG", False),
        ("_tmp/a.jpg", True),
        (".git/a.jpg", True),
        ("a_/b.c/d.jpg", False),
    ],
)
def test_hidden_files_are_not_confused_with_those_of_cameras(name: str, hidden: bool) -> None:
    assert is_hidden(name) == hidden


@pytest.mark.parametrize(
    ("name", "day", "source"),
    [
        ("a.jpg", None, None),
        ("date=2026-01-02/cats/a.jpg", "2026-01-02", "cats"),
        ("cats/date=2026-01-02/date=2026-01-03/a.jpg", "2026-01-03", "cats"),
        ("source=web/date=2026-1-2/a.jpg", None, "web"),
        ("date=2026-13-45/a.jpg", None, None),
        ("update=2026-01-02/a.jpg", None, "update=2026-01-02"),
    ],
)
def test_folders_give_dates_and_sources(name: str, day: str | None, source: str | None) -> None:
    assert (date_in(name), source_in(name)) == (day, source)
