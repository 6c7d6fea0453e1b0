"""What hostile rows may name, and what not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.storage.access import Storage
from pipelines.storage.allowed import Location, Roots

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
        "https://host/pub/%2e%2e/x",
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
    roots = Roots([str(tmp_path), "s3://bucket/crawl", "https://host/pub"])
    folder = str(tmp_path / "t")
    local = Location("local", str(tmp_path / "t" / "a b.jpg"))
    assert roots.locate("a b.jpg", folder) == local
    assert roots.locate(f"file://{folder}/a%20b.jpg", folder) == local
    assert roots.locate("s3://bucket/crawl/x?#.jpg", folder) == Location(
        "s3", "bucket/crawl/x?#.jpg"
    )
    assert roots.locate("y/../x", "s3://bucket/crawl/t") == Location("s3", "bucket/crawl/t/x")
    assert roots.locate("../../x", "s3://bucket/crawl/t") is None
    assert roots.locate("https://HOST/pub/ä?w=1", folder) == Location(
        "http", "https://HOST/pub/%C3%A4?w=1"
    )
