"""Bytes are bounded, and a server may stumble."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.storage.access import Storage
from pipelines.storage.allowed import Location
from pipelines.storage.fetching import TooLargeError, fetch

STORAGE = Storage(retries=0)


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
    requests = 0

    def do_GET(self) -> None:
        _Web.requests += 1
        if self.path.startswith("/pub/shaky") and _Web.failures:
            _Web.failures -= 1
            self.send_response(503)
        elif self.path.endswith("cut"):
            self.send_response(200)
            self.send_header("Content-Length", "100")
        elif self.path == "/pub/moved":
            self.send_response(302)
            self.send_header("Location", "/secret")
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


def test_a_body_that_ends_early_is_an_error_that_may_pass(web: str) -> None:
    _Web.requests = 0
    with pytest.raises(OSError, match=r"IncompleteRead|ProtocolError"):
        fetch(Location("http", f"{web}/cut"), Storage(retries=1), 1000)
    assert _Web.requests == 2


def test_broken_bodies_and_bad_answers_share_the_repetitions(web: str) -> None:
    _Web.failures, _Web.requests = 1, 0
    with pytest.raises(OSError, match=r"IncompleteRead|ProtocolError"):
        fetch(Location("http", f"{web}/shaky-and-cut"), Storage(retries=2), 1000)
    assert _Web.requests == 3


def test_a_server_that_is_not_there_is_an_error_that_may_pass() -> None:
    with pytest.raises(OSError, match="MaxRetryError"):
        fetch(Location("http", "http://127.0.0.1:9/x"), Storage(retries=1), 1000)
