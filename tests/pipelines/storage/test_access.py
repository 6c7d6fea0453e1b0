from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import ValidationError

from item.errors import UsageError
from pipelines.storage.access import check_readable, check_writable, filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.retries import take_retries
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


def test_configuration_takes_no_credentials_and_does_not_repeat_them() -> None:
    with pytest.raises(ValidationError) as caught:
        Storage(endpoint_url=f"https://user:{SECRET}@host")
    assert SECRET not in str(caught.value)
    with pytest.raises(UsageError) as refused:
        filesystem(f"s3://key:{SECRET}@bucket/x", STORAGE)
    assert SECRET not in str(refused.value)


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


@pytest.mark.usefixtures("s3")
def test_endpoint_that_is_no_storage_is_named() -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html><p>hello")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(
            UsageError, match=f"The storage at {endpoint} could not read s3://any/x"
        ):
            check_readable("s3://any/x", Storage(endpoint_url=endpoint, retries=0))
        server.shutdown()


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
