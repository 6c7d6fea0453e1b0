"""Which cluster a job joins, and what is no address of one."""

from __future__ import annotations

import http.server
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from item.errors import MachineError, UsageError
from pipelines.runtime import address
from pipelines.runtime.address import cluster_address


def free_address() -> str:
    """Where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def deaf_server() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(16)
        yield f"127.0.0.1:{deaf.getsockname()[1]}"


@contextmanager
def web_server() -> Iterator[str]:
    """Speaks another protocol."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file in which a cluster leaves its address; no other cluster is seen."""
    monkeypatch.setattr(address, "PROBE_SECONDS", 1.0)
    monkeypatch.setattr(address, "find_gcs_addresses", frozenset)
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        file = Path(folder, "ray", "ray_current_cluster")
        file.parent.mkdir()
        yield file


@pytest.mark.parametrize("asked", [None, "", " ", "local"])
def test_without_an_address_ray_starts_here(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    if asked is None:
        monkeypatch.delenv("RAY_ADDRESS")
    else:
        monkeypatch.setenv("RAY_ADDRESS", asked)
    assert cluster_address() is None


@pytest.mark.parametrize("asked", ["", "auto"])
def test_address_of_a_dead_cluster_is_passed_over(
    asked: str, left_behind: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind.write_text(free_address())
    monkeypatch.setenv("RAY_ADDRESS", asked)
    if not asked:
        assert cluster_address() is None
        return
    with pytest.raises(MachineError, match="RAY_ADDRESS is auto, but no cluster runs here"):
        cluster_address()


@pytest.mark.parametrize("server", [deaf_server, web_server])
def test_what_is_no_cluster_is_told_within_seconds(
    server, monkeypatch: pytest.MonkeyPatch, left_behind: Path
) -> None:
    with server() as place:
        monkeypatch.setenv("RAY_ADDRESS", place)
        started = time.monotonic()
        with pytest.raises(MachineError, match=f"No Ray cluster answers at RAY_ADDRESS={place}"):
            cluster_address()
        assert time.monotonic() - started < 30
        monkeypatch.setenv("RAY_ADDRESS", "")
        left_behind.write_text(place)
        assert cluster_address() is None


def test_dead_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    place = free_address()
    monkeypatch.setenv("RAY_ADDRESS", place)
    with pytest.raises(MachineError, match=f"answers at RAY_ADDRESS={place} .*refused"):
        cluster_address()


def test_host_without_a_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "no-such-host.invalid:6379")
    with pytest.raises(MachineError, match="No Ray cluster answers"):
        cluster_address()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("ray://127.0.0.1:10001", "`ray job submit`.*RAY_ADDRESS=auto"),
        ("http://127.0.0.1:8265", "the address for `ray job submit`.*6379"),
        ("https://ray.example", "the address for `ray job submit`"),
        ("127.0.0.1", "write host:port"),
        ("127.0.0.1:port", "write host:port"),
        ("127.0.0.1:0", "write host:port"),
        ("127.0.0.1:99999", "write host:port"),
        (":6379", "write host:port"),
    ],
)
def test_address_that_jobs_cannot_use_is_refused(
    asked: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", asked)
    with pytest.raises(UsageError, match=words):
        cluster_address()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("way", ["named", "left behind", "auto"])
def test_cluster_that_runs_is_found(
    way: str, left_behind: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_ADDRESS", {"named": place, "auto": "auto"}.get(way, ""))
    if way == "auto":
        left_behind.write_text(free_address())
        monkeypatch.setattr(address, "find_gcs_addresses", lambda: frozenset({place}))
    else:
        left_behind.write_text(place)
    assert cluster_address() == place
    assert os.environ["RAY_ADDRESS"] != "local"
