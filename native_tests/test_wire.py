"""What the network and the server can do to an attempt, and what the attempt makes of it."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from urllib3.util import wait_for_read

from native_tests.faulty_plane import FaultyPlane, Request, Step, answer, drip, raw, whole
from native_tests.world import wait_until
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.delivery.post import DataPlane
from rudderpipe.settings import Settings

BODY = b'{"batch":[{"messageId":"m","userId":"secret-user"}]}'
KEY = "SECRET-KEY"
OK = answer()


@pytest.fixture(name="plane")
def _plane() -> Iterator[FaultyPlane]:
    with FaultyPlane() as plane:
        yield plane


_made: list[DataPlane] = []


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    while _made:
        _made.pop().close()


def towards(url: str, **settings: Any) -> DataPlane:
    """Ours, closed after the test."""
    _made.append(DataPlane(Settings(**{"data_plane_url": url, "timeout_s": 5, **settings})))
    return _made[-1]


def data_plane(plane: FaultyPlane, **settings: Any) -> DataPlane:
    """Ours, towards that one."""
    return towards(plane.url, **settings)


def post(plane: FaultyPlane, *steps: Step, **settings: Any) -> Outcome:
    """One attempt; nothing secret is in what it says."""
    if steps:
        plane.then(*steps)
    return told(data_plane(plane, **settings).post(BODY, KEY))


def told(outcome: Outcome) -> Outcome:
    """Its reason is one line, bounded, and holds nothing of what was sent."""
    assert len(outcome.reason) <= 250
    assert "\n" not in outcome.reason
    for secret in (KEY, base64.b64encode(f"{KEY}:".encode()).decode(), "secret-user", "proxy-password", "?token"):
        assert secret not in outcome.reason
    return outcome


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_success_is_a_delivery(plane: FaultyPlane, status: int) -> None:
    """The events arrive with key and type; the connection is kept."""
    plane.then(answer(status, b"" if status == 204 else b"ok"))
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(3)] == ["delivered"] * 3

    assert plane.connections == 1
    request = plane.requests[0]
    assert request.line == "POST /v1/batch HTTP/1.1"
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"SECRET-KEY:").decode()
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == f"127.0.0.1:{plane.port}"
    assert request.ids == ["m"]


@pytest.mark.parametrize("gzip", [True, False])
def test_a_request_is_packed_or_not(plane: FaultyPlane, gzip: bool) -> None:
    """As ``gzip`` says."""
    assert post(plane, gzip=gzip).kind == "delivered"
    assert plane.requests[0].headers.get("content-encoding") == ("gzip" if gzip else None)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_what_may_succeed_later_is_retried(plane: FaultyPlane, status: int) -> None:
    """With what the server said."""
    outcome = post(plane, answer(status, b"busy\nnow"))
    assert (outcome.kind, outcome.status, outcome.reason) == ("retry", status, f"status {status}: busy now")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 304])
def test_what_never_will_is_refused(plane: FaultyPlane, status: int) -> None:
    """At once; a long answer is cut."""
    outcome = post(plane, answer(status, b"" if status == 304 else b"no " * 1000))
    assert (outcome.kind, outcome.status) == ("refused", status)


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), ("0", 0.0), ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0), ("x", None)]
)
def test_the_server_says_how_long_to_wait(plane: FaultyPlane, text: str, seconds: float | None) -> None:
    """In seconds or as a date."""
    assert post(plane, answer(503, b"", Retry_After=text)).retry_after_s == seconds


BROKEN: dict[str, Step] = {
    "closed before the answer": raw(b""),
    "reset before the answer": raw(b"", end="reset"),
    "cut in the status line": raw(b"HTTP/1.1 2"),
    "cut in the head": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"),
    "cut in the body": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok"),
    "reset in the body": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok", end="reset"),
    "cut in a chunk": raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok"),
    "chunks without their end": raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"),
    "another protocol": raw(b"220 smtp.example.org ESMTP\r\n"),
    "a status that is none": raw(b"HTTP/1.1 abc\r\n\r\n"),
    "a length that is none": raw(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n"),
    "a negative length": raw(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
    "a line without a colon": raw(b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"),
    "a chunk size that is none": raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxx\r\n"),
    "a line without an end": raw(b"HTTP/1.1 200 " + b"x" * 100_000),
    "headers without an end": raw(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000),
    "another protocol asked for": raw(b"HTTP/1.1 101 Switching\r\n\r\n"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_half_an_answer_is_none(plane: FaultyPlane, kind: str) -> None:
    """It is tried again later, over another connection, and says what was wrong."""
    plane.then(BROKEN[kind], OK)
    ours = data_plane(plane)

    first = told(ours.post(BODY, KEY))

    assert (first.kind, first.status) == ("retry", 0)
    assert ours.post(BODY, KEY).kind == "delivered"
    assert (plane.connections, len(plane.requests)) == (2, 2)


@pytest.mark.parametrize(
    "step",
    [
        raw(b"", end="silent"),
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok", end="silent"),
        drip(whole(200, b"x" * 3000)),
        drip(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000),
    ],
    ids=["silent", "silent in the body", "a body that drips", "a head that drips"],
)
def test_a_server_that_does_not_come_to_an_end_is_retried(plane: FaultyPlane, step: Step) -> None:
    """``timeout_s`` is for the whole answer, not for each byte."""
    outcome = post(plane, step, timeout_s=0.3)
    assert (outcome.kind, outcome.reason) == ("retry", "no whole answer in time")


def test_a_jobs_own_timeout_counts(plane: FaultyPlane) -> None:
    """In place of the setting."""
    plane.then(raw(b"", end="silent"))
    assert data_plane(plane, timeout_s=600).post(BODY, KEY, 0.2).kind == "retry"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + whole(),
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + whole(),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\ntrailer: t\r\n\r\n",
        b"HTTP/1.1 200\r\nContent-Length:2\r\n\r\nok",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    ],
    ids=["100", "103", "chunked", "no reason", "bare newlines"],
)
def test_answers_of_many_forms_are_understood(plane: FaultyPlane, data: bytes) -> None:
    """And leave the connection in order for the next."""
    plane.then(raw(data, end="keep"), raw(data, end="keep"))
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(2)] == ["delivered", "delivered"]
    assert plane.connections == 1


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nup to the end",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more than was said",
    ],
    ids=["1.0", "close", "no length", "longer than its length"],
)
def test_a_connection_that_cannot_be_kept_is_not(plane: FaultyPlane, data: bytes) -> None:
    """What was answered counts, and the next request has one of its own."""
    plane.then(raw(data), OK)
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(2)] == ["delivered", "delivered"]
    assert plane.connections == 2


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 2\r\n\r\nok",
    ],
)
def test_a_server_that_wants_to_close_need_not_hurry(plane: FaultyPlane, data: bytes) -> None:
    """What it has not closed yet is not used any more either."""
    plane.then(raw(data, end="keep"), OK)
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(2)] == ["delivered", "delivered"]
    assert plane.connections == 2


def test_what_a_server_says_unasked_answers_nothing(plane: FaultyPlane) -> None:
    """Many send a 408 before they close an idle connection: the next request is not what it is about."""
    idle = threading.Event()

    def bored(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(whole())
        idle.wait(30)
        sock.sendall(whole(408, b"too slow"))
        return False

    plane.then(bored, OK)
    ours = data_plane(plane)
    assert ours.post(BODY, KEY).kind == "delivered"
    (wire,) = ours._wires.values()  # noqa: SLF001  # only it can tell that the bytes have come
    assert wire.sock is not None
    idle.set()
    assert wait_for_read(wire.sock, timeout=30)

    assert ours.post(BODY, KEY).status == 200
    assert len(plane.requests) == 2


def test_an_answer_of_endless_chunks_is_not_read_to_its_end(plane: FaultyPlane) -> None:
    """Nor is a long one: its status is what counts."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert post(plane, raw(head + b"fffffff\r\nx", end="silent")).kind == "delivered"


def test_a_long_answer_is_not_read_to_its_end(plane: FaultyPlane) -> None:
    """Its status is what counts."""
    assert post(plane, raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n" + b"x" * 10_000)).kind == "delivered"


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_connection_that_was_closed_while_idle_is_no_attempt(plane: FaultyPlane, end: str) -> None:
    """The request goes over a new one at once: one post, one delivery."""
    plane.then(raw(whole(), end=end), OK)
    ours = data_plane(plane)
    assert ours.post(BODY, KEY).kind == "delivered"

    assert ours.post(BODY, KEY).kind == "delivered"

    assert (plane.connections, len(plane.requests)) == (2, 2)


def test_a_kept_connection_that_dies_with_the_request_is_tried_once_more(plane: FaultyPlane) -> None:
    """When no byte of an answer came; a new connection that does the same is a failed attempt."""
    plane.then(OK, raw(b""), OK, raw(b""), raw(b""))
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(2)] == ["delivered", "delivered"]
    assert len(plane.requests) == 3

    assert told(ours.post(BODY, KEY)).kind == "retry"
    assert len(plane.requests) == 5


def test_a_kept_connection_that_dies_within_the_answer_is_not(plane: FaultyPlane) -> None:
    """Somebody has taken the request."""
    plane.then(OK, BROKEN["cut in the head"], OK)
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(2)] == ["delivered", "retry"]
    assert len(plane.requests) == 2


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_method_is_followed(plane: FaultyPlane, status: int) -> None:
    """To another path and another port of the same host, with the same body."""
    with FaultyPlane() as there:
        plane.then(
            answer(status, b"", location="/moved"), answer(status, b"", location=f"{there.url}/v1/batch?token=t")
        )
        ours = data_plane(plane)
        assert told(ours.post(BODY, KEY)).kind == "delivered"
        assert [request.line.split()[1] for request in plane.requests] == ["/v1/batch", "/moved"]
        assert there.requests[0].line == "POST /v1/batch?token=t HTTP/1.1"
        assert there.requests[0].headers["authorization"] == plane.requests[0].headers["authorization"]
        assert there.accepted == ["m"]


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_drops_the_body_is_an_error(plane: FaultyPlane, status: int) -> None:
    """Nothing is asked for there."""
    outcome = post(plane, answer(status, b"", location="https://new.example/x?token=t"))
    assert (outcome.kind, outcome.status) == ("refused", status)
    assert "new.example" in outcome.reason
    assert "data_plane_url" in outcome.reason
    assert len(plane.requests) == 1


@pytest.mark.parametrize(
    "location", ["http://localhost:1/v1/batch", "https://evil.example/", "ftp://127.0.0.1/", "", "http://[x"]
)
def test_the_write_key_goes_to_no_other_host(plane: FaultyPlane, location: str) -> None:
    """Nor to what is no URL."""
    assert post(plane, answer(307, b"", location=location)).kind == "refused"
    assert len(plane.requests) == 1


def test_redirects_end(plane: FaultyPlane) -> None:
    """After three."""
    assert post(plane, answer(308, b"", location="/again")).kind == "refused"
    assert len(plane.requests) == 4


def test_nobody_listens() -> None:
    """It is tried again later."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    outcome = told(towards(f"http://127.0.0.1:{port}").post(BODY, KEY))
    assert (outcome.kind, outcome.reason) == ("retry", "no connection: Connection refused")


def test_a_name_that_nobody_knows() -> None:
    """The same; the reason says so."""
    outcome = told(towards("http://no-such-host.invalid").post(BODY, KEY))
    assert outcome.kind == "retry"
    assert outcome.reason.startswith("no connection")


def test_a_connection_that_does_not_come_about() -> None:
    """``connect_timeout_s`` bounds it: a listener whose queue is full lets nobody in."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        url = f"127.0.0.1:{address[1]}"
        for scheme in ("http", "https"):
            ours = towards(f"{scheme}://{url}", connect_timeout_s=0.3, timeout_s=0.3)
            assert told(ours.post(BODY, KEY)).kind == "retry"
        for each in waiting:
            each.close()


def test_an_attempt_can_be_aborted(plane: FaultyPlane) -> None:
    """From another thread; no other attempt is made afterwards."""
    plane.hold()
    ours = data_plane(plane, timeout_s=600)
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(ours.post(BODY, KEY)))
    thread.start()
    plane.wait_for(lambda: plane.requests)

    ours.abort()
    thread.join(10)

    assert [(outcome.kind, outcome.reason) for outcome in found] == [("retry", "stopped")]
    plane.let_go()
    assert ours.post(BODY, KEY).reason == "stopped"
    assert len(plane.requests) == 1


# TLS


@pytest.fixture(name="authority", scope="module")
def _authority() -> trustme.CA:
    return trustme.CA()


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """A server's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def test_tls_with_an_authority_of_ones_own(authority: trustme.CA, tmp_path: Path) -> None:
    """``ca_file`` names it; the connection is kept and can be aborted as any other."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FaultyPlane(context=context_of(authority.issue_cert("127.0.0.1"))) as plane:
        ours = data_plane(plane, ca_file=str(tmp_path / "ca.pem"))
        assert [ours.post(BODY, KEY).kind for _ in range(3)] == ["delivered"] * 3
        assert plane.connections == 1
        plane.hold()
        thread = threading.Thread(target=lambda: ours.post(BODY, KEY))
        thread.start()
        plane.wait_for(lambda: len(plane.requests) == 4)
        ours.abort()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(("names", "trusted"), [("127.0.0.1", False), ("other.example", True)])
def test_tls_that_is_not_trusted(authority: trustme.CA, tmp_path: Path, names: str, trusted: bool) -> None:
    """Neither an authority that nobody knows nor another host's certificate: it is told, and the events never leave."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FaultyPlane(context=context_of(authority.issue_cert(names))) as plane:
        outcome = post(plane, **({"ca_file": str(tmp_path / "ca.pem")} if trusted else {}))
        assert outcome.kind == "retry"
        assert outcome.reason.startswith("certificate verify failed")
        assert plane.requests == []


def test_tls_with_a_server_that_speaks_none(plane: FaultyPlane) -> None:
    """A retry, not a hang."""
    ours = towards(f"https://127.0.0.1:{plane.port}", connect_timeout_s=0.5)
    assert told(ours.post(BODY, KEY)).kind == "retry"


# Proxies


class Proxy:
    """Takes CONNECT and whole URLs; remembers the heads it was sent."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heads: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            self._carry(client)

    def _carry(self, client: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(65_536)
        head = data.partition(b"\r\n\r\n")[0].decode()
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        where = target if method == "CONNECT" else target.split("/")[2]
        with socket.create_connection((where.split(":")[0], int(where.split(":")[1]))) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                server.sendall(data)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    def close(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
    except OSError:
        pass


@pytest.fixture(name="proxy")
def _proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


def test_a_plain_proxy_is_asked_for_the_whole_url(plane: FaultyPlane, proxy: Proxy) -> None:
    """With user and password of its own; the connection is kept."""
    ours = data_plane(plane, proxy_url=f"http://user:proxy-password@127.0.0.1:{proxy.port}")
    assert [told(ours.post(BODY, KEY)).kind for _ in range(2)] == ["delivered", "delivered"]

    assert len(proxy.heads) == 1
    assert proxy.heads[0].startswith(f"POST {plane.url}/v1/batch HTTP/1.1\r\n")
    assert "proxy-authorization: Basic " + base64.b64encode(b"user:proxy-password").decode() in proxy.heads[0]


def test_a_proxy_carries_tls_without_reading_it(proxy: Proxy, authority: trustme.CA, tmp_path: Path) -> None:
    """By CONNECT; the write key is not in what it sees."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FaultyPlane(context=context_of(authority.issue_cert("127.0.0.1"))) as plane:
        settings = {
            "ca_file": str(tmp_path / "ca.pem"),
            "proxy_url": f"http://user:proxy-password@127.0.0.1:{proxy.port}",
        }
        assert post(plane, **settings).kind == "delivered"
        (head,) = proxy.heads
        assert head.startswith(f"CONNECT 127.0.0.1:{plane.port} HTTP/1.")
    assert base64.b64encode(b"user:proxy-password").decode() in head
    assert base64.b64encode(f"{KEY}:".encode()).decode() not in head


def test_a_proxy_that_is_not_there(plane: FaultyPlane) -> None:
    """A retry that says so, without its password."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    outcome = post(plane, proxy_url=f"http://user:proxy-password@127.0.0.1:{port}")
    assert outcome.kind == "retry"
    wait_until(lambda: plane.requests == [])
