"""What real servers answer: each costs one row, lasting or passing, and none ends the run."""

from __future__ import annotations

import datetime
import gzip
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.storage import web
from pipelines.storage.access import HttpStatusError, ReadError, RefusedError
from pipelines.storage.configuration import Storage
from pipelines.storage.retries import take_retries
from pipelines.storage.web import TooLongError, fetch_http

PICTURE = bytes(range(256)) * 40
QUICK = {"connect_timeout": 5.0, "read_timeout": 5.0}
ONCE = Storage(retries=0, **QUICK)

Answer = list[bytes | float]
"""What a server sends, and the seconds that it waits between."""


class Server(socketserver.ThreadingTCPServer):
    """Answers by path with raw bytes: the last of a path's answers for ever."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self.connections = 0
        self.context: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetch(self, *answers: Answer, storage: Storage = ONCE, limit: int = 1 << 20) -> bytes:
        """Fetch a file that is answered with one after the other of `answers`."""
        self.answers["/a.jpg"] = list(answers)
        self.asked.clear()
        return fetch_http(f"{self.url}/a.jpg", storage, limit)

    def handle_error(self, *_: object) -> None:
        """Nothing: clients may hang up."""


class _Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.connections += 1
        if self.server.context is not None:
            with suppress(OSError), self.server.context.wrap_socket(self.request, True):
                pass
            return
        while self.answer():
            pass

    def answer(self) -> bool:
        """Answer one request; return whether the connection stays open."""
        request = self.rfile.readline().split()
        if len(request) < 2:
            return False
        while self.rfile.readline().strip():
            pass
        path = request[1].decode()
        self.server.asked.append(path)
        answers = self.server.answers[path]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        for part in answer:
            if isinstance(part, float):
                time.sleep(part)
            else:
                self.wfile.write(part)
                self.wfile.flush()
        return b"keep-alive" in answer[0] if isinstance(answer[0], bytes) else False


ALIVE = "Connection: keep-alive"


def http(
    status: int = 200, body: bytes = PICTURE, *headers: str, length: int | None = None
) -> Answer:
    length = len(body) if length is None else length
    close = [] if ALIVE in headers else ["Connection: close"]
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {length}", *close, *headers]
    return ["\r\n".join([*lines, "", ""]).encode() + body]


CHUNKED = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("http_proxy", "https_proxy", "all_proxy"):
                patch.delenv(name, raising=False)
                patch.delenv(name.upper(), raising=False)
            patch.setenv("NO_PROXY", "127.0.0.1,localhost")
            yield server
        server.shutdown()


WELL: dict[str, Answer] = {
    "with its length": http(),
    "in chunks": [CHUNKED + b"%x\r\n" % len(PICTURE) + PICTURE + b"\r\n0\r\n\r\n"],
    "until the connection ends": [b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE],
    "gzipped": http(200, gzip.compress(PICTURE, mtime=0), "Content-Encoding: gzip"),
    "in two pieces": [http()[0][:-100], 0.1, PICTURE[-100:]],  # type: ignore[index]
    "after an interim answer": [b"HTTP/1.1 100 Continue\r\n\r\n", *http()],
}


@pytest.mark.parametrize("how", WELL)
def test_a_whole_answer_is_the_file(how: str, server: Server) -> None:
    assert server.fetch(WELL[how]) == PICTURE


BROKEN: dict[str, tuple[Answer, str]] = {
    "shorter than its length": (http(length=2 * len(PICTURE)), "shorter than was said"),
    "no body at all": (http(body=b"", length=9), "shorter than was said"),
    "half a chunk": ([CHUNKED + b"%x\r\n" % len(PICTURE) + PICTURE[:99]], "broke off|shorter"),
    "no last chunk": ([CHUNKED + b"3\r\nabc\r\n"], "broke off|shorter"),
    "a chunk without a size": ([CHUNKED + b"zz\r\nabc\r\n"], "broke off|shorter"),
    "a nonsense status line": ([b"garbage nonsense\r\n\r\n"], "not HTTP"),
    "a nonsense status": ([b"HTTP/1.1 abc OK\r\n\r\n"], "not HTTP"),
    "nothing": ([b""], "broke off"),
    "a length and no body's end": (http(body=b"x", length=9), "shorter than was said"),
    "half a header": ([b"HTTP/1.1 200 OK\r\nContent-Le"], "broke off|shorter"),
    "an endless header": ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000], "broke off"),
    "too many headers": ([b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"], "broke off"),
    "two lengths": (http(200, PICTURE, "Content-Length: 7"), "InvalidHeader"),
    "gzip that is none": (http(200, PICTURE, "Content-Encoding: gzip"), "not encoded"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_answer_may_pass_and_is_repeated(how: str, server: Server) -> None:
    answer, words = BROKEN[how]
    with pytest.raises(ReadError, match=words):
        server.fetch(answer)
    take_retries()
    assert server.fetch(answer, http(), storage=ONCE.model_copy(update={"retries": 1})) == PICTURE
    assert len(server.asked) == 2 and take_retries() == 1


def test_silence_is_waited_for_no_longer_than_is_set(server: Server) -> None:
    storage = Storage(retries=0, read_timeout=0.3)
    begun = http(length=2 * len(PICTURE))
    for answer in ([4.0, b""], [*begun, 4.0]):
        started = time.monotonic()
        with pytest.raises(ReadError, match="no answer in time"):
            server.fetch(answer, storage=storage)
        assert time.monotonic() - started < 3


def test_a_broken_header_shows_no_url(server: Server, capsys, caplog) -> None:
    with pytest.raises(ReadError):
        server.fetch(BROKEN["half a header"][0])
    assert not caplog.records and capsys.readouterr() == ("", "")


def test_all_kinds_of_trouble_share_the_repetitions(server: Server) -> None:
    answers = [BROKEN["nothing"][0], http(503), BROKEN["no body at all"][0], http()]
    storage = Storage(retries=2, **QUICK)
    with pytest.raises(ReadError, match="shorter"):
        server.fetch(*answers, storage=storage)
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_gone_is_not_asked_for_again(status: int, server: Server) -> None:
    with pytest.raises(FileNotFoundError):
        server.fetch(http(status), storage=Storage(retries=3, **QUICK))
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [300, 301, 304, 308, 400, 402, 405, 406, 414, 418, 451])
def test_a_refusal_for_good_lasts(status: int, server: Server) -> None:
    with pytest.raises(RefusedError, match=f"HTTP {status}"):
        server.fetch(http(status), storage=Storage(retries=3, **QUICK))
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [201, 202, 204, 206, 302, 303, 307, 401, 403, 407, 423, 600])
def test_what_may_be_otherwise_another_day_passes_unrepeated(status: int, server: Server) -> None:
    body = b"" if status == 204 else PICTURE
    with pytest.raises(HttpStatusError, match=f"HTTP {status}"):
        server.fetch(http(status, body), storage=Storage(retries=3, **QUICK))
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
def test_what_may_be_otherwise_soon_is_repeated(status: int, server: Server) -> None:
    with pytest.raises(HttpStatusError, match=f"HTTP {status}"):
        server.fetch(http(status), storage=Storage(retries=1, **QUICK))
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(status: int, server: Server) -> None:
    server.answers["/secret"] = [http()]
    with pytest.raises(OSError, match=f"HTTP {status}"):
        server.fetch(http(status, b"", f"Location: {server.url}/secret"))
    assert server.asked == ["/a.jpg"]


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_respected(date: bool, server: Server) -> None:
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    header = f"Retry-After: {then:%a, %d %b %Y %H:%M:%S GMT}" if date else "Retry-After: 1"
    started = time.monotonic()
    storage = Storage(retries=1, **QUICK)
    assert server.fetch(http(429, b"", header), http(), storage=storage) == PICTURE
    assert 0.9 < time.monotonic() - started < 3


def test_a_server_that_wants_to_be_left_alone_for_long_is(server: Server) -> None:
    started = time.monotonic()
    with pytest.raises(HttpStatusError, match="429"):
        server.fetch(http(429, b"", "Retry-After: 3600"), storage=Storage(retries=5, **QUICK))
    assert len(server.asked) == 1 and time.monotonic() - started < 1


@pytest.mark.parametrize("header", ["soon", "9" * 5000, "-1", "Fri, 31 Dec 99999 23:59:59 GMT"])
def test_a_nonsense_retry_after_is_none(header: str, server: Server) -> None:
    storage = Storage(retries=1, **QUICK)
    assert server.fetch(http(503, b"", f"Retry-After: {header}"), http(), storage=storage)


def test_a_body_is_bounded_whatever_is_said_of_it(server: Server) -> None:
    bomb = gzip.compress(bytes(50 << 20), mtime=0)
    for answer in (http(), WELL["in chunks"], http(200, bomb, "Content-Encoding: gzip")):
        with pytest.raises(TooLongError):
            server.fetch(answer, limit=len(PICTURE) - 1)
    assert server.fetch(http(), limit=len(PICTURE)) == PICTURE
    # Nobody reads what a server says beside an error.
    with pytest.raises(HttpStatusError):
        server.fetch([CHUNKED.replace(b"200", b"503"), *([b"3\r\nabc\r\n", 0.05] * 100)])


def test_a_body_that_drips_is_given_up(server: Server, monkeypatch) -> None:
    monkeypatch.setattr(web, "_SLOWEST", 0.1)
    started = time.monotonic()
    with pytest.raises(ReadError, match="no answer in time"):
        server.fetch([*http(body=b"", length=99), *([b"x", 0.1] * 99)])
    assert time.monotonic() - started < 5


def test_a_connection_is_used_again_after_a_short_refusal(server: Server) -> None:
    server.connections = 0
    for answer in (http(404, b"gone", ALIVE), http(200, PICTURE, ALIVE), http(200, PICTURE, ALIVE)):
        with suppress(FileNotFoundError):
            server.fetch(answer)
    assert server.connections == 1


def test_no_server_and_no_address() -> None:
    with pytest.raises(ReadError, match="no connection to the server"):
        fetch_http("http://127.0.0.1:9/x", Storage(retries=1, **QUICK), 9)
    with pytest.raises(RefusedError, match="not valid"):
        fetch_http(f"http://{'a' * 64}.example/x", ONCE, 9)


@pytest.mark.parametrize(("code", "tries"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 3)])
def test_a_host_that_does_not_resolve_may_pass(code: int, tries: int, monkeypatch) -> None:
    hosts = []

    def unknown(host: str, *_: object, **__: object) -> None:
        hosts.append(host)
        raise socket.gaierror(code, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ReadError, match="the host is not known"):
        fetch_http("http://nowhere.example/x", Storage(retries=2, **QUICK), 9)
    assert hosts == ["nowhere.example"] * tries


def test_a_proxy_that_is_not_there_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for proxy in ("http://127.0.0.1:9", "nonsense://127.0.0.1:9"):
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises((ReadError, RefusedError)):
            fetch_http("http://pictures.example/x", ONCE, 9)


def _self_signed(folder: Path) -> ssl.SSLContext:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_a_wrong_certificate_may_pass_and_is_asked_for_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url.replace("http:", "https:") + "/a.jpg"
    monkeypatch.setattr(server, "context", _self_signed(tmp_path))
    server.connections = 0
    with pytest.raises(ReadError, match="TLS"):
        fetch_http(url, Storage(retries=3, **QUICK), 9)
    assert server.connections == 1


heads = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
        b"HTTP/1.1 302 F\r\n",
        b"HTTP/0.9 1 1\r\n",
        b"HTTP/1.1 999 \r\n",
        b"",
    ]
)
lines = st.sampled_from(
    [
        *(b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip, deflate\r\n"),
        *(b"Content-Length: 3\r\n", b"Content-Length: -3\r\n", b"Content-Length: x\r\n"),
        *(b"Location: //[\r\n", b"Retry-After: \xff\r\n", b": \r\n", b"\xff\r\n", b"\r\n"),
    ]
)


@given(heads, st.lists(lines, max_size=4), st.binary(max_size=40), st.binary(max_size=40))
def test_no_answer_raises_anything_else(
    server: Server, head: bytes, headers: list[bytes], tail: bytes, body: bytes
) -> None:
    with suppress(TooLongError, FileNotFoundError, RefusedError, ReadError):
        server.fetch([b"".join([head, *headers, tail, b"\r\n\r\n", body])], limit=20)
