from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from item.errors import UsageError
from pipelines.storage.files import (
    Location,
    Roots,
    Storage,
    TooLargeError,
    check_readable,
    check_writable,
    fetch,
    filesystem,
    join,
    normalise,
    public_uri,
    redact,
    take_retries,
    write_atomically,
)
from tests.support.flaky_s3 import Fault, FlakyS3

STORAGE = Storage(retries=0)
SECRET = "hunter2"


@pytest.fixture
def locked_s3(s3):
    """The S3 server while it checks credentials."""

    def switch(count: str) -> None:
        url = f"{s3.endpoint}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, count.encode(), plain)).close()

    switch("0")
    yield s3
    switch("inf")


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


def test_configuration_takes_no_credentials_and_does_not_repeat_them() -> None:
    with pytest.raises(ValidationError) as caught:
        Storage(endpoint_url=f"https://user:{SECRET}@host")
    assert SECRET not in str(caught.value)
    with pytest.raises(UsageError) as refused:
        filesystem(f"s3://key:{SECRET}@bucket/x", STORAGE)
    assert SECRET not in str(refused.value)


def test_paths_are_joined_and_normalised(tmp_path: Path) -> None:
    assert join("s3://b/p/", "x", "y.jpg") == "s3://b/p/x/y.jpg"
    assert join("/", "x") == "/x"
    assert normalise("S3://b/p/") == "s3://b/p"
    assert normalise(f"file://{tmp_path}/a%20b") == f"{tmp_path}/a b"
    with pytest.raises(UsageError, match="neither"):
        normalise("gs://bucket/x")


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("where", ["local", "s3"])
def test_written_file_is_whole_and_alone(where, from_file, tmp_path, bucket) -> None:
    root = str(tmp_path / "new") if where == "local" else f"s3://{bucket}/new"
    fs, path = filesystem(join(root, "t.bin"), STORAGE)
    source = tmp_path / "source"
    source.write_bytes(b"second")
    write_atomically(fs, path, b"first")
    write_atomically(fs, path, source if from_file else b"second")
    assert fs.cat_file(path) == b"second"
    assert [name.rpartition("/")[2] for name in fs.find(filesystem(root, STORAGE)[1])] == ["t.bin"]
    assert source.exists()


def test_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    fs, path = filesystem(str(tmp_path / "t.bin"), STORAGE)
    write_atomically(fs, path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        write_atomically(fs, path, b"new")
    assert os.listdir(tmp_path) == ["t.bin"]
    assert Path(path).read_bytes() == b"old"


def test_what_can_be_read_and_written_passes(tmp_path, bucket, s3) -> None:
    s3.fill(bucket, {"p/x": b"x"})
    for url in (str(tmp_path), f"s3://{bucket}", f"s3://{bucket}/p", f"s3://{bucket}/p/x"):
        check_readable(url, STORAGE)
    check_writable(str(tmp_path / "not" / "yet"), STORAGE)
    check_writable(f"s3://{bucket}/out", STORAGE)
    assert os.listdir(tmp_path) == []
    assert s3.client.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_missing_things_are_named(tmp_path, bucket) -> None:
    with pytest.raises(UsageError, match=r"There is no file or folder at .*gone"):
        check_readable(str(tmp_path / "gone"), STORAGE)
    with pytest.raises(UsageError, match=f"There is nothing at s3://{bucket}/gone"):
        check_readable(f"s3://{bucket}/gone", STORAGE)
    for check in (check_readable, check_writable):
        with pytest.raises(UsageError, match="There is no bucket 'no-such-bucket' at http"):
            check("s3://no-such-bucket/x", STORAGE)


@pytest.mark.usefixtures("locked_s3")
def test_wrong_credentials_are_named_and_not_shown(monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    for check in (check_readable, check_writable):
        with pytest.raises(UsageError, match=r"denied access .* check the credentials") as caught:
            check("s3://any/x", STORAGE)
        assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("s3")
def test_absent_credentials_are_named(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="No usable credentials"):
        check_readable("s3://any/x", STORAGE)


@pytest.mark.usefixtures("s3")
def test_dead_endpoint_is_named_within_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(UsageError, match=r"endpoint at http://127.0.0.1:9 did not answer"):
        check_readable("s3://any/x", Storage(endpoint_url="http://127.0.0.1:9"))
    assert time.monotonic() - started < 8


def test_read_only_folder_is_named(tmp_path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(UsageError, match=f"may not write to {tmp_path} .Read-only file system"):
        check_writable(str(tmp_path), STORAGE)


def test_folder_below_a_file_is_named(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        check_writable(str(tmp_path / "file" / "out"), STORAGE)


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


def test_reads_are_bounded_and_only_of_regular_files(tmp_path: Path, bucket, s3) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    s3.fill(bucket, {"x": b"12345", "empty": b""})
    local, remote = Location("local", f"{tmp_path}/x"), Location("s3", f"{bucket}/x")
    for location in (local, remote):
        assert fetch(location, STORAGE, 5) == b"12345"
        with pytest.raises(TooLargeError):
            fetch(location, STORAGE, 4)
    assert fetch(Location("s3", f"{bucket}/empty"), STORAGE, 5) == b""
    for location in (
        Location("local", f"{tmp_path}/pipe"),
        Location("local", str(tmp_path)),
        Location("local", f"{tmp_path}/x/y"),
        Location("local", f"{tmp_path}/" + "n" * 300),
        Location("s3", f"{bucket}/gone"),
    ):
        with pytest.raises(FileNotFoundError):
            fetch(location, STORAGE, 5)


def test_link_put_in_place_of_a_resolved_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        fetch(Location("local", f"{tmp_path}/x"), STORAGE, 1 << 20)


class _Web(BaseHTTPRequestHandler):
    failures = 0

    def do_GET(self) -> None:
        if self.path == "/pub/moved":
            self.send_response(302)
            self.send_header("Location", "/secret")
        elif self.path == "/pub/shaky" and _Web.failures:
            _Web.failures -= 1
            self.send_response(503)
        elif self.path == "/pub/gone":
            self.send_response(404)
        else:
            self.send_response(200)
        self.end_headers()
        self.wfile.write(b"picture")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web():
    server = HTTPServer(("127.0.0.1", 0), _Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/pub"
    server.shutdown()
    server.server_close()


def test_http_is_retried_but_never_follows_a_redirect(web: str) -> None:
    _Web.failures = 1
    assert fetch(Location("http", f"{web}/shaky"), Storage(retries=1), 100) == b"picture"
    with pytest.raises(TooLargeError):
        fetch(Location("http", f"{web}/x"), STORAGE, 3)
    with pytest.raises(FileNotFoundError):
        fetch(Location("http", f"{web}/gone"), STORAGE, 100)
    with pytest.raises(OSError, match="302"):
        fetch(Location("http", f"{web}/moved"), STORAGE, 100)


def test_repeated_requests_are_counted_also_where_the_answer_is_no(s3, bucket):
    s3.fill(bucket, {"there": b"x"})
    take_retries()
    with FlakyS3(s3.endpoint, share=0.4, seed=1, faults=(Fault.SLOW_DOWN,)) as flaky:
        storage = Storage(endpoint_url=flaky.endpoint, retries=6)
        for name in ("there", "not-there") * 4:
            fs, path = filesystem(f"s3://{bucket}/{name}", storage)
            assert fs.exists(path) == (name == "there")
            if name == "there":
                assert fs.cat_file(path) == b"x"
            fs.invalidate_cache()
    failed = flaky.counts.faults.total()
    assert failed > 3 and take_retries() == failed and take_retries() == 0
