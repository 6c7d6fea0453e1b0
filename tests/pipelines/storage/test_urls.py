"""Paths and URLs: one spelling, and no secret shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from item.errors import UsageError
from pipelines.storage.urls import join, normalise, public_uri, redact


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("s3://key:hunter2@bucket/a", "s3://bucket/a"),
        ("s3://key:hun/ter2@bucket/a", "s3://bucket/a"),
        ("see https://u:hunter2@h/p?sig=hunter2 there", "see https://h/p there"),
        ("https://h/p#hunter2", "https://h/p"),
        ("s3://bucket/user@2x.png", "s3://bucket/user@2x.png"),
        ("a plain path/with?mark", "a plain path/with?mark"),
    ],
)
def test_redacted_text_holds_no_credentials(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://u:hunter2@h/p.jpg?id=1", "https://h/p.jpg?id=1"),
        ("https://h/p.jpg?id=1&X-Amz-Signature=hunter2", "https://h/p.jpg?id=1"),
        ("https://h/p.jpg?access_token=hunter2", "https://h/p.jpg"),
        ("s3://bucket/what?.jpg", "s3://bucket/what?.jpg"),
        ("a/b?c.jpg", "a/b?c.jpg"),
    ],
)
def test_public_uri_names_the_picture_but_no_secret(uri: str, shown: str) -> None:
    assert public_uri(uri) == shown


def test_paths_are_joined_and_normalised(tmp_path: Path) -> None:
    assert join("s3://b/p/", "x", "y.jpg") == "s3://b/p/x/y.jpg"
    assert join("/", "x") == "/x"
    assert normalise("S3://b/p/") == "s3://b/p"
    assert normalise(f"file://{tmp_path}/a%20b") == f"{tmp_path}/a b"
    with pytest.raises(UsageError, match="neither"):
        normalise("gs://bucket/x")
