"""Paths and URLs: one spelling, and no secret shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from item.errors import UsageError
from pipelines.storage.urls import join, normalise, redact


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("s3://key:hunter2@bucket/a", "s3://bucket/a"),
        ("s3://key:hun/ter2@bucket/a", "s3://bucket/a"),
        ("see https://u:hunter2@h/p?sig=hunter2 there", "see https://h/p there"),
        ("https://h/p#hunter2", "https://h/p"),
        ("s3://bucket/user@2x.png", "s3://bucket/user@2x.png"),
        ("s3://bucket/what?.jpg and more", "s3://bucket/what?.jpg and more"),
        ("https://host:8443/img/a@2x.png", "https://host:8443/img/a@2x.png"),
        (
            "no answer at http://127.0.0.1:9000: ask me@x.de",
            "no answer at http://127.0.0.1:9000: ask me@x.de",
        ),
        ("from s3://a/b to http://u:hunter2@h", "from s3://a/b to http://h"),
        ("a plain path/with?mark", "a plain path/with?mark"),
    ],
)
def test_redacted_text_holds_no_credentials(text: str, clean: str) -> None:
    assert redact(text) == clean


odd = st.text("/:?#@% \\[]&=+!", max_size=4)


@given(st.sampled_from(["http", "https", "ftp", "s3"]), odd, odd)
def test_no_password_is_shown_within_words(scheme: str, before: str, after: str) -> None:
    password = f"{before}hunter2{after}"
    assume("@" not in password or not set(password) & set("/?# "))
    place = "bucket" if scheme == "s3" else "cdn.example"
    shown = redact(f"Reading {scheme}://anna:{password}@{place}/a.jpg failed: see https://h/b.")
    assert shown == f"Reading {scheme}://{place}/a.jpg failed: see https://h/b."


def test_paths_are_joined_and_normalised(tmp_path: Path) -> None:
    assert join("s3://b/p/", "x", "y.jpg") == "s3://b/p/x/y.jpg"
    assert join("/", "x") == "/x"
    assert join("s3://b/p", "d//a/", "/b") == "s3://b/p/d//a///b"
    assert normalise("S3://b/p/") == normalise("s3a://b/p//") == "s3://b/p"
    assert normalise("s3://b//p//q/") == "s3://b//p//q"
    assert normalise(f"file://{tmp_path}/a%20b") == f"{tmp_path}/a b"
    for url in ("gs://bucket/x", "file://elsewhere/x"):
        with pytest.raises(UsageError, match="neither"):
            normalise(url)
    with pytest.raises(UsageError, match="names no bucket"):
        normalise("s3:///p")
