"""Places: where a relative one lies, and that every configuration says so."""

from __future__ import annotations

import os
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from docs.make_configuration import JOBS, sections
from item.models.files.source import ModelFiles
from pipelines.featurize.configuration import resolve
from pipelines.storage.places import Place, Places, absolute

URLS = ["s3://b/x", "S3a://b//x/", "http://h/a?b=c", "https://h", "file:///a/../b", "gs://b/x"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the command is typed, with a home elsewhere."""
    monkeypatch.setenv("HOME", "/of-mine")
    monkeypatch.chdir(tmp_path)
    return Path.cwd()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("photos", "HERE/photos"),
        ("photos/", "HERE/photos"),
        ("./a/../photos", "HERE/photos"),
        ("../photos", "ABOVE/photos"),
        (".", "HERE"),
        ("a b\u00e9.parquet", "HERE/a b\u00e9.parquet"),
        ("s3:/x", "HERE/s3:/x"),
        ("~", "/of-mine"),
        ("~/photos", "/of-mine/photos"),
        ("~nobody-of-this-name/x", "HERE/~nobody-of-this-name/x"),
        ("/photos", "/photos"),
    ],
)
def test_a_relative_place_lies_where_the_command_was_typed(
    here: Path, typed: str, meant: str
) -> None:
    meant = meant.replace("HERE", str(here)).replace("ABOVE", str(here.parent))
    assert absolute(typed) == meant


@pytest.mark.parametrize("url", URLS)
def test_urls_stay_as_they_are(url: str) -> None:
    assert absolute(url) == url


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and "~" not in text))
def test_a_place_that_was_made_absolute_stays(text: str) -> None:
    assert absolute(absolute(text)) == absolute(text)


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [("", "not be empty"), ("a\0b", "null character"), ("~/photos", "no home: write it in full")],
)
def test_what_is_no_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, typed: str, sentence: str
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and name
    with pytest.raises(ValidationError, match=sentence):
        TypeAdapter(Place).validate_python(typed)


def test_a_relative_place_in_a_folder_that_is_gone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        with pytest.raises(ValidationError, match="current folder is gone"):
            TypeAdapter(Place).validate_python("photos")
        assert absolute("/photos") == "/photos"
        assert ModelFiles(source="org/name").place == "hub"
        with pytest.raises(ValidationError, match="current folder is gone"):
            ModelFiles(source="./models")
    finally:
        monkeypatch.undo()


def test_one_place_may_stand_for_a_list(here: Path) -> None:
    assert TypeAdapter(Places).validate_python("photos") == (str(here / "photos"),)
    for wrong in ("", [""], 5):
        with pytest.raises(ValidationError):
            TypeAdapter(Places).validate_python(wrong)


NO_PLACES = {
    "date", "dates", "first", "last", "group_column", "subset_column", "subset_values",
    "subset_name", "leave_out", "validation_generator", "protocols", "training_generator",
    "training_source", "perturbation", "perturbations", "generators", "sources", "night_folders",
    "name", "kind", "overwrite", "currency", "endpoint_url", "region", "model", "load",
    "revision", "precision", "prompt", "licence", "source", "formats", "groups", "balance",
    "measured_on", "worst_source", "dropped_lemmas", "partitive_lemmas", "uri",
    "bytes", "label", "generator", "captions", "version", "families",
}  # fmt: skip
"""Keys with text that names no file; ``source`` is a column, and of model files tested below."""


def test_every_key_that_is_text_is_a_place_or_known_as_none() -> None:
    seen = set()
    for job in JOBS.values():
        for settings in [job, *sections(job)]:
            if isinstance(settings, type) and issubclass(settings, BaseModel):
                seen |= set(texts(settings))
    assert seen - NO_PLACES == set()


def texts(settings: type[BaseModel]) -> typing.Iterator[str]:
    """Keys of text that is not made absolute."""
    for name, hint in typing.get_type_hints(settings, include_extras=True).items():
        if name in settings.model_fields and any(_is_text(one) for one in _leaves(hint)):
            yield name


def _leaves(hint: Any) -> typing.Iterator[Any]:
    if hint is Place:
        return
    arguments = [one for one in typing.get_args(hint) if one is not Ellipsis]
    if typing.get_origin(hint) is typing.Literal or not arguments:
        yield hint
    if typing.get_origin(hint) is dict:
        arguments = arguments[1:]
    for one in arguments:
        yield from _leaves(one)


def _is_text(hint: Any) -> bool:
    return hint is str


def test_the_resolved_configuration_shows_absolute_places(here: Path) -> None:
    (here / "blip").mkdir()
    settings = {
        "reading.uri_roots": ["lists", "s3://b/x", "https://h/x"],
        "profile.captioner.files.source": "blip",
        "profile.grounder.files.source": "org/name",
    }
    options = {"input": ["photos", "s3://b/c"], "output": "~/features", "profile": "base"}
    found = resolve(None, options, settings)
    assert found.reading.uri_roots == (str(here / "lists"), "s3://b/x", "https://h/x")
    assert found.input == (str(here / "photos"), "s3://b/c")
    files = {name: one.source for name, one in found.profile.model_files().items()}
    assert (files["captioner"], files["grounder"]) == (str(here / "blip"), "org/name")
    assert "/of-mine/features" in found.as_yaml()
