"""A proxy in front of an S3 server that fails for a share of the requests, as real storage does.

::

    with FlakyS3("http://127.0.0.1:5000", share=0.05, seed=0) as flaky:
        client = boto3.client("s3", endpoint_url=flaky.endpoint)
        ...
    flaky.counts.slow_downs  # Counter({"GET": 3, "PUT": 1})
"""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

# Those that speak of one connection only (RFC 9110, 7.6.1), and those set anew.
NOT_PASSED_ON = {
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"),
    *("expect", "transfer-encoding", "content-length"),
}

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message>"
    b"<RequestId>flaky</RequestId><HostId>flaky</HostId></Error>"
)


class Fault(StrEnum):
    """How a request fails."""

    SLOW_DOWN = "slow_downs"
    """It is answered with 503 and S3's SlowDown, and has done nothing."""
    TIME_OUT = "time_outs"
    """It gets no answer until the connection is closed, and has done nothing."""
    LOST_ANSWER = "lost_answers"
    """The same, but it has done its work: what is tried again finds its own traces."""


@dataclass
class Counts:
    """Requests by verb, those that failed among them; a fault adds to its own counter."""

    requests: Counter[str] = field(default_factory=Counter)
    slow_downs: Counter[str] = field(default_factory=Counter)
    time_outs: Counter[str] = field(default_factory=Counter)
    lost_answers: Counter[str] = field(default_factory=Counter)

    @property
    def faults(self) -> Counter[str]:
        """Requests that failed in any way, by verb."""
        return self.slow_downs + self.time_outs + self.lost_answers


class FlakyS3:
    """An HTTP server on this machine that passes requests on, or fails them.

    Parameters
    ----------
    upstream : endpoint of the S3 server, ``http://host:port``
    share : of the requests that fail, from 0 to 1
    seed : of the sequence of faults; which request meets which is up to the client's threads
    faults : kinds of failure, one as likely as the other
    hold : seconds for which a request without an answer is held before its connection is closed;
        a client with a shorter read time-out sees that, another one a closed connection
    """

    def __init__(
        self,
        upstream: str,
        share: float = 0.05,
        seed: int = 0,
        faults: tuple[Fault, ...] = tuple(Fault),
        hold: float = 1.0,
    ) -> None:
        self.counts = Counts()
        self._share = share
        self._faults = faults
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._hold = hold
        self._closing = threading.Event()
        host = urlsplit(upstream).netloc
        self._server = _Server(("127.0.0.1", 0), _handler(host, self._drawn, self._wait))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """Where clients find it."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> FlakyS3:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _drawn(self, verb: str) -> Fault | None:
        """The fate of the next request, which is counted."""
        with self._lock:
            self.counts.requests[verb] += 1
            if self._random.random() >= self._share:
                return None
            fault = self._random.choice(self._faults)
            getattr(self.counts, fault)[verb] += 1
            return fault

    def _wait(self) -> None:
        self._closing.wait(self._hold)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def _handler(
    upstream: str, drawn: Callable[[str], Fault | None], wait: Callable[[], None]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            body = self.body()
            fault = drawn(self.command)
            if fault == Fault.SLOW_DOWN:
                headers = [("Content-Type", "application/xml")]
                self.send(503, headers, SLOW_DOWN, len(SLOW_DOWN))
                return
            if fault != Fault.TIME_OUT:
                status, headers, content, length = self.passed_on(body)
            if fault:
                wait()
                self.close_connection = True
                return
            self.send(status, headers, content, length)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunks = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
            return b"".join(chunks)

        def passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes, int]:
            """Status, headers, content and its length (which HEAD has without content)."""
            connection = http.client.HTTPConnection(upstream, timeout=60)
            try:
                # With the client's own Host: a server that took part of it for a bucket's
                # name would read the path in another way.
                connection.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in _kept(self.headers.items()):
                    connection.putheader(name, value)
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
                response = connection.getresponse()
                content = response.read()
                length = response.headers.get("Content-Length", len(content))
                return response.status, _kept(response.getheaders()), content, int(length)
            finally:
                connection.close()

        def send(
            self, status: int, headers: list[tuple[str, str]], content: bytes, length: int
        ) -> None:
            # A client that has given up in the meantime is no fault of this server.
            with suppress(ConnectionError):
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                if status not in (204, 304):
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def log_message(self, format: str, *values: object) -> None:
            """Nothing: a test's output is for what fails."""

    return Handler


def _kept(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in NOT_PASSED_ON]
