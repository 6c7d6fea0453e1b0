"""What hostile rows may name, and what not."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest

from item.errors import UsageError
from pipelines.storage.allowed import Location, Roots
from pipelines.storage.configuration import Storage
from pipelines.storage.fetching import fetch

STORAGE = Storage(retries=0)


@pytest.mark.parametrize(
    "uri",
    [
        "../outside.jpg",
        "a/../../outside.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "file://elsewhere/root/in/a.jpg",
        "FILE:///etc/passwd",
        "s3://other/x",
        "s3://bucket/crawl-evil/x",
        "s3://bucket/crawl/../x",
        "https://host/pub-evil/x",
        "s3://bucket/crawl",
        "s3://bucket//crawl/x",
        "s3://key:secret@bucket/crawl/x",
        "https://host/pub/%2e%2e/x",
        "https://host/pub/../x",
        "https://host/pub%2f..%2fx",
        "https://host/pub%2fx",
        "https://host/pub/a%5cx",
        "https://host:8443/pub/x",
        "https://host:x/pub/x",
        "https://user@host/pub/x",
        "https://host.evil/pub/x",
        "http://host/pub/x",
        "https://host/pub/x\ny",
        "https://host/pub/..\\x",
        "https://[/pub/x",
        "gs://bucket/crawl/x",
        "data:image/png;base64,AAAA",
        "file:/etc/passwd",
        "simplecache::s3://bucket/crawl/x",
        "link/x.jpg",
        "a\0b",
        "",
    ],
)
def test_uris_that_leave_the_roots_are_refused(uri: str, tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "out").mkdir()
    (inside / "link").symlink_to(tmp_path / "out")
    roots = Roots([str(inside), "s3://bucket/crawl", "https://host/pub"])
    found = roots.locate(uri, str(inside))
    # Not a URI of any scheme that is read: a file of that name within the folder at most.
    assert (
        found is None
        or (found.path.startswith(f"{inside}/") and not os.path.exists(found.path))
        or (uri == "" and found.path == str(inside))
    )


def test_uris_below_a_root_are_found(tmp_path: Path) -> None:
    roots = Roots([str(tmp_path), "s3://bucket/crawl/", "https://host/pub"])
    folder = str(tmp_path / "t")
    local = Location("local", str(tmp_path / "t" / "a b.jpg"))
    for uri in ("a b.jpg", f"file://{folder}/a%20b.jpg", f"file:{folder}/a%20b.jpg"):
        assert roots.locate(uri, folder) == local
    assert roots.locate(f"{folder}/a b.jpg", "s3://bucket/crawl") == local
    assert roots.locate("file://" + quote(f"{folder}/") + "%FF", folder) == Location(
        "local", f"{folder}/\udcff"
    )


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://bucket/crawl/x?#.jpg", "bucket/crawl/x?#.jpg"),
        ("S3A://bucket/crawl//x/", "bucket/crawl//x/"),
        ("s3://bucket/crawl/./x", "bucket/crawl/./x"),
        ("y/../x", "bucket/crawl/t/x"),
        ("d//a.jpg?versionId=3", "bucket/crawl/t/d//a.jpg?versionId=3"),
        ("../x", "bucket/crawl/x"),
        ("../../x", None),
        ("../../../bucket/crawl/x", None),
    ],
)
def test_s3_keys_are_found_byte_for_byte(uri: str, path: str | None) -> None:
    found = Roots(["s3://bucket/crawl/"]).locate(uri, "s3://bucket/crawl/t")
    assert (found.path if found else None) == path


@pytest.mark.parametrize(
    ("uri", "sent"),
    [
        ("https://HOST/pub/ä?w=1", "https://host/pub/%C3%A4?w=1"),
        ("https://host:443/pub/a b.jpg#top", "https://host/pub/a%20b.jpg"),
        ("https://host/x/../pub/%2E/x", "https://host/pub/x"),
        ("HTTPS://host/%70ub/x", "https://host/%70ub/x"),
        ("https://host/pub/100%.jpg", "https://host/pub/100%25.jpg"),
    ],
)
def test_http_uris_are_sent_with_what_may_stand_in_a_request(uri: str, sent: str) -> None:
    roots = Roots(["https://Host:443/pub/"])
    assert roots.locate(uri, "/nowhere") == Location("http", sent)


def test_a_root_that_is_no_address_is_named_without_its_password() -> None:
    with pytest.raises(UsageError, match=r"https://host:port/ is not a URL") as caught:
        Roots(["https://anna:hunter2@host:port/"])
    assert "hunter2" not in str(caught.value)


def test_a_path_that_is_too_long_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc")
    roots = Roots([str(tmp_path / "in")])
    assert roots.locate("x/../" * 2000 + "link/passwd", str(tmp_path / "in")) is None
    long = roots.locate("x" * 5000, str(tmp_path / "in"))
    assert long is not None
    with pytest.raises(FileNotFoundError):
        fetch(long, STORAGE, 9)
