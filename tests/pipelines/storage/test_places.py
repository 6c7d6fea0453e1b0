"""What a user types means the same on every machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipelines.input.plan import InputOptions
from pipelines.storage.places import Place, Places, absolute


class Typed(BaseModel):
    """As a configuration has them."""

    one: Place = "."
    some: Places = ()


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_every_place_is_absolute_or_a_url_and_stays_so(text: str) -> None:
    found = absolute(text)
    assert os.path.isabs(found) or "://" in found
    assert absolute(found) == found


def test_relative_paths_are_below_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home-of-somebody")
    found = Typed(one="photos/", some=["../a", "~/b", "s3://bucket/x//", "https://h/y"])
    assert found.one == str(tmp_path / "photos")
    assert found.some == (
        str(tmp_path.parent / "a"),
        "/home-of-somebody/b",
        "s3://bucket/x//",
        "https://h/y",
    )
    assert InputOptions(uri_roots=["roots"]).uri_roots == (str(tmp_path / "roots"),)


def test_one_place_needs_no_list_and_none_may_be_empty() -> None:
    assert Typed(some="/a").some == ("/a",)
    for wrong in ({"one": ""}, {"some": [""]}, {"some": 5}):
        with pytest.raises(ValidationError):
            Typed(**wrong)
