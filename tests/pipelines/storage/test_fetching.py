"""Bytes are bounded, and a server may stumble."""

from __future__ import annotations

import errno
import os
import socketserver
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError

from item.tables import ErrorCode
from pipelines.storage.access import HttpStatusError, ReadError, RefusedError, filesystem
from pipelines.storage.allowed import Location, Roots
from pipelines.storage.configuration import Storage
from pipelines.storage.fetching import TooLargeError, fetch, row_failure

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


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (TooLargeError(5, 9), ErrorCode.TOO_MANY_BYTES, "9 bytes; the limit is 5"),
        (FileNotFoundError(), ErrorCode.URI_NOT_FOUND, "Nothing exists"),
        (IsADirectoryError(), ErrorCode.URI_NOT_FOUND, "Nothing exists"),
        (RefusedError("HTTP 308"), ErrorCode.URI_REFUSED, "does not send the file: HTTP 308"),
        (HttpStatusError(403), ErrorCode.URI_UNREADABLE, "failed: HTTP 403"),
        (ReadError("no answer in time"), ErrorCode.URI_UNREADABLE, "failed: no answer in time"),
        (PermissionError(errno.EACCES, "x"), ErrorCode.URI_UNREADABLE, "Permission denied"),
        (NoCredentialsError(), ErrorCode.URI_UNREADABLE, "NoCredentialsError"),
    ],
)
def test_each_failure_has_a_code_and_words(error: Exception, code: ErrorCode, words: str) -> None:
    found, message = row_failure(error)
    assert found == code and words in message


def test_a_bug_is_no_failure_of_a_row() -> None:
    with pytest.raises(KeyError):
        row_failure(KeyError("x"))


def test_a_file_that_is_cut_while_it_is_read_may_pass(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    about = os.fstat

    def cut(handle: int) -> os.stat_result:
        found = about(handle)
        path.write_bytes(b"12")
        return found

    monkeypatch.setattr(os, "fstat", cut)
    with pytest.raises(ReadError, match="was cut"):
        fetch(Location("local", str(path)), STORAGE, 100)


KEYS = [
    *("d/a.jpg", "d//a.jpg", "d///a.jpg", "/a.jpg", "//a.jpg", "d/", "d//", "d"),
    *("a?versionId=3", "a", "a?", "a#b", "a%20b", "a b", "a+b", "a%", "a&b=c", "ä/日本.jpg"),
    *(" a ", "a\\b", "a:b@c", "a;b,c", "~a", "[a]", "a*", "'a\"", "\U0001f600", "a\u0301", "á"),
]


def test_s3_keys_are_read_byte_for_byte(bucket, s3) -> None:
    s3.fill(bucket, {key: key.encode() for key in KEYS})
    roots = Roots([f"s3://{bucket}"])
    for key in KEYS:
        location = roots.locate(f"s3://{bucket}/{key}", "/nowhere")
        assert location == Location("s3", f"{bucket}/{key}")
        assert fetch(location, STORAGE, 100) == key.encode()
        if not key.endswith("/"):
            fs, path = filesystem(f"s3://{bucket}/{key}", STORAGE)
            with fs.open(path, "rb", cache_type="none") as file:
                assert file.read() == key.encode()


@pytest.mark.parametrize("prefix", ["", "/d", "/d/", "/ä", "//lead", "//lead//x"])
def test_s3_keys_are_listed_byte_for_byte(prefix: str, bucket, s3) -> None:
    keys = [*KEYS, "d/x/y.jpg", "d//e/z.jpg", "/lead/a.jpg", "/lead//x/b"]
    s3.fill(bucket, dict.fromkeys(keys, b"x"))
    fs, path = filesystem(f"s3://{bucket}{prefix}", STORAGE)
    wanted = {f"{bucket}/{key}" for key in keys if f"/{key}".startswith(f"{prefix.rstrip('/')}/")}
    assert set(fs.find(path)) == wanted and wanted


def test_what_no_key_can_be_is_not_there(bucket) -> None:
    for path in (bucket, f"{bucket}/", f"{bucket}/{'k' * 2000}", f"{bucket}/gone/"):
        with pytest.raises(FileNotFoundError):
            fetch(Location("s3", path), STORAGE, 100)


S3_ANSWERS: dict[str, bytes] = {
    "a body that breaks off": b"HTTP/1.1 206 P\r\nContent-Length: 99\r\n\r\nabc",
    "no HTTP": b"garbage nonsense\r\n\r\n",
    "nothing": b"",
    "an error that is no XML": b"HTTP/1.1 500 E\r\nContent-Length: 5\r\n\r\n<a><b",
    "access denied": b"HTTP/1.1 403 F\r\nContent-Length: 50\r\n\r\n"
    b"<Error><Code>AccessDenied</Code></Error>          ",
    "a redirect": b"HTTP/1.1 307 R\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("how", S3_ANSWERS)
@pytest.mark.usefixtures("s3")
def test_a_bad_answer_of_s3_may_pass(how: str) -> None:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(S3_ANSWERS[how])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        storage = Storage(retries=0, endpoint_url=f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(OSError) as caught:
            fetch(Location("s3", "bucket/key"), storage, 100)
        server.shutdown()
    assert row_failure(caught.value)[0] == ErrorCode.URI_UNREADABLE


def test_over_http_a_file_is_bounded_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "x").write_bytes(b"12345")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        location = Location("http", f"http://127.0.0.1:{server.server_port}/x")
        assert fetch(location, STORAGE, 5) == b"12345"
        with pytest.raises(TooLargeError, match="5 bytes; the limit is 4"):
            fetch(location, STORAGE, 4)
        server.shutdown()
