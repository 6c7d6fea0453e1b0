"""A model hub on this machine: the few endpoints that huggingface_hub needs to fetch a model.

::

    with HubServer() as hub:
        commit = hub.add("org/name", {"config.json": b"{}", "model.safetensors": ...})
        ...  # with HF_ENDPOINT set to hub.endpoint
    hub.files_sent()  # ["config.json", "model.safetensors"]
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

LARGE = (".safetensors", ".bin", ".pt")
"""Files that a real hub keeps outside of git, under their SHA-256."""


@dataclass
class Repository:
    """Commits of a model, and where its branches and tags are."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False


class HubServer:
    """Repositories behind HTTP, and what was asked of them.

    Attributes
    ----------
    requests : (method, path) of each request
    down : the status with which everything is answered, if not None
    sends_instead : by file name, what is sent in place of a file's content
    holds : name of a file of which only the first half is sent until ``release`` is set
    holding : set as soon as that half is sent
    connections : that are open
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.down: int | None = None
        self.sends_instead: dict[str, bytes] = {}
        self.holds: str | None = None
        self.holding = threading.Event()
        self.release = threading.Event()
        self.connections: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True)

    @property
    def endpoint(self) -> str:
        """Where clients find it."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer nobody any more."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(self, name: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Put a new commit on a branch of ``org/name``; returns the commit."""
        repository = self.repositories.setdefault(name, Repository())
        commit = hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.refs[branch] = commit
        return commit

    def files_sent(self) -> list[str]:
        """Names of the files of which content was sent, in order of name."""
        found = [path for method, path in self.requests if method == "GET" and "/resolve/" in path]
        return sorted(path.rpartition("/")[2] for path in found)

    @contextmanager
    def in_use(self, patch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubServer]:
        """This process and those that it starts use this hub, with a cache of their own."""
        constants = huggingface_hub.constants
        environment = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
            patch.delenv(name, raising=False)
        # The library reads its environment when it is imported.
        patch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        huggingface_hub.utils.disable_progress_bars()
        yield self
        huggingface_hub.utils.enable_progress_bars()


def listed(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub describes it."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    facts: dict[str, Any] = {"size": len(content), "blob_id": blob}
    if name.endswith(LARGE):
        digest = hashlib.sha256(content).hexdigest()
        facts["lfs"] = {"sha256": digest, "size": len(content), "pointer_size": 134}
    return facts


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            if hub.down is not None:
                self.send(hub.down, {}, b"")
            elif path.startswith("/api/models/"):
                self.describe(*path.removeprefix("/api/models/").split("/"))
            elif "/resolve/" in path:
                self.resolve(*path.strip("/").split("/"))
            else:
                self.send(404, {}, b"")

        do_GET = do_HEAD = answer  # noqa: N815

        def describe(self, org: str, name: str, kind: str = "revision", *rest: str) -> None:
            found = self.commit(f"{org}/{name}", "/".join(rest) or "main")
            if found is None:
                return
            commit, files = found
            if kind == "tree":
                entries = []
                for path, content in sorted(files.items()):
                    facts = listed(path, content)
                    lfs = facts.get("lfs")
                    entry = {"type": "file", "path": path, "size": facts["size"]}
                    entry["oid"] = facts["blob_id"]
                    if lfs:
                        entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"]}
                        entry["lfs"]["pointerSize"] = lfs["pointer_size"]
                    entries.append(entry)
                self.send_json(entries)
                return
            siblings = []
            for path, content in sorted(files.items()):
                facts = listed(path, content)
                if lfs := facts.pop("lfs", None):
                    facts["lfs"] = {**lfs, "pointerSize": lfs["pointer_size"]}
                siblings.append({"rfilename": path, "blobId": facts.pop("blob_id"), **facts})
            self.send_json({"id": f"{org}/{name}", "sha": commit, "siblings": siblings})

        def resolve(self, org: str, name: str, _: str, revision: str, *rest: str) -> None:
            found = self.commit(f"{org}/{name}", revision)
            if found is None:
                return
            commit, files = found
            file = "/".join(rest)
            if hub.repositories[f"{org}/{name}"].gated:
                self.send(403, {"X-Error-Code": "GatedRepo"}, b"")
                return
            if file not in files:
                self.send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"")
                return
            facts = listed(file, files[file])
            etag = facts["lfs"]["sha256"] if "lfs" in facts else facts["blob_id"]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
            headers["X-Linked-Size"] = str(facts["size"])
            self.send(200, headers, hub.sends_instead.get(file, files[file]), file == hub.holds)

        def commit(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
            """A commit and its files; None after an error is sent."""
            repository = hub.repositories.get(name)
            if repository is None:
                self.send(401, {"X-Error-Code": "RepoNotFound"}, b"")
                return None
            commit = repository.refs.get(revision, revision)
            if commit not in repository.commits:
                self.send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
                return None
            return commit, repository.commits[commit]

        def send_json(self, content: Any) -> None:
            headers = {"Content-Type": "application/json"}
            self.send(200, headers, json.dumps(content).encode())

        def send(
            self, status: int, headers: dict[str, str], content: bytes, held: bool = False
        ) -> None:
            with suppress(ConnectionError):
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                half = len(content) // 2 if held else len(content)
                self.wfile.write(content[:half])
                if held:
                    self.wfile.flush()
                    hub.holding.set()
                    hub.release.wait(60)
                    self.wfile.write(content[half:])

        def handle(self) -> None:
            hub.connections.add(self.connection)
            with suppress(ConnectionError):
                super().handle()
            hub.connections.discard(self.connection)

        def log_message(self, format: str, *values: object) -> None:
            """Nothing: a test's output is for what fails."""

    return Handler
