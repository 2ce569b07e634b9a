"""What network and server can do to an attempt to deliver, and the outcome of the attempt."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest
from urllib3.util import wait_for_read

from native_tests.faulty_plane import FaultyPlane, RawServer, Request, Step, answer, depends, drip, head_of, raw, whole
from native_tests.posting import BODY, KEY, OK, checked, close_all, data_plane, post, towards
from rudderpipe.delivery.outcome import Outcome


@pytest.fixture(name="plane")
def _plane() -> Iterator[FaultyPlane]:
    with FaultyPlane() as plane:
        yield plane


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    close_all()


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_success_is_a_delivery(plane: FaultyPlane, status: int) -> None:
    """The request carries the write key and the content type, and the connection is kept for the next one."""
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
def test_the_gzip_setting_decides_about_compression(plane: FaultyPlane, gzip: bool) -> None:
    """The content encoding of the request follows the setting ``gzip``."""
    assert post(plane, gzip=gzip).kind == "delivered"
    assert plane.requests[0].headers.get("content-encoding") == ("gzip" if gzip else None)


def refuses_gzip(status: int, body: bytes) -> Step:
    """Return a step of an intermediary that refuses every compressed request."""
    return depends(
        lambda request: answer(status, body) if request.headers.get("content-encoding") == "gzip" else answer()
    )


@pytest.mark.parametrize(
    ("status", "body"), [(415, b"no such type"), (400, b"unknown Content-Encoding"), (501, b"gzip is not implemented")]
)
def test_requests_go_uncompressed_after_a_refusal_of_gzip(
    plane: FaultyPlane, status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The refused request is repeated within the same attempt, and the log says once that gzip is off."""
    plane.then(refuses_gzip(status, body))
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(4)] == ["delivered"] * 4
    assert [request.headers.get("content-encoding") for request in plane.requests] == ["gzip", None, None, None, None]
    (line,) = caplog.messages
    assert "without gzip" in line


def test_the_reason_names_a_refusal_with_and_without_gzip(plane: FaultyPlane) -> None:
    """Compression was not the reason, so the next request is compressed again."""
    plane.then(answer(415, b"never"))
    ours = data_plane(plane)
    for _ in range(2):
        outcome = checked(ours.post(BODY, KEY))
        assert (outcome.kind, outcome.status) == ("refused", 415)
        assert "with gzip and without" in outcome.reason
    assert [request.headers.get("content-encoding") for request in plane.requests] == ["gzip", None, "gzip", None]


def test_a_refusal_that_does_not_mention_gzip_is_not_repeated(plane: FaultyPlane) -> None:
    """A data plane refuses bad events with 400 too."""
    assert post(plane, answer(400, b"invalid json")).status == 400
    assert len(plane.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_a_temporary_status_is_retried(plane: FaultyPlane, status: int) -> None:
    """The reason holds the status and the server's text."""
    outcome = post(plane, answer(status, b"busy\nnow"))
    assert (outcome.kind, outcome.status, outcome.reason) == ("retry", status, f"status {status}: busy now")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 304])
def test_a_permanent_status_is_refused(plane: FaultyPlane, status: int) -> None:
    """A repetition of the same request would get the same response."""
    outcome = post(plane, answer(status, b"" if status == 304 else b"no " * 1000))
    assert (outcome.kind, outcome.status) == ("refused", status)


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), ("0", 0.0), ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0), ("x", None)]
)
def test_retry_after_sets_the_wait(plane: FaultyPlane, text: str, seconds: float | None) -> None:
    """The header holds seconds or a date. An unreadable value is ignored."""
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
    "a version that is none": raw(b"HTTP/1. 200 OK\r\ncontent-length: 0\r\n\r\n"),
    "two lengths": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 2\r\n\r\nok", end="keep"),
    "a chunk size of another base": raw(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n", end="keep"
    ),
    "a coding that is not ours": raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "interim answers without an end": raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, end="silent"),
    "trailers without an end": raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 1000),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_response_is_no_response(plane: FaultyPlane, kind: str) -> None:
    """The attempt is retried over another connection, because nothing says whether the events were taken."""
    plane.then(BROKEN[kind], OK)
    ours = data_plane(plane)

    first = checked(ours.post(BODY, KEY))

    assert (first.kind, first.status) == ("retry", 0)
    assert ours.post(BODY, KEY).kind == "delivered"
    assert (plane.connections, len(plane.requests)) == (2, 2)


WHOLE = whole(200, b"okay", x="y")


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_response_cut_off_at_any_byte_is_no_response(plane: FaultyPlane, end: str) -> None:
    """A response counts only when all of it has come, however the connection ends."""
    for count in range(len(WHOLE)):
        outcome = post(plane, raw(WHOLE[:count], end=end))
        assert (outcome.kind, outcome.status) == ("retry", 0), WHOLE[:count]


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
def test_an_endless_response_is_retried_after_timeout_s(plane: FaultyPlane, step: Step) -> None:
    """The limit ``timeout_s`` is for the whole response and not for each byte."""
    outcome = post(plane, step, timeout_s=0.3)
    assert (outcome.kind, outcome.reason) == ("retry", "no whole response in time")


def test_a_jobs_own_timeout_replaces_the_setting(plane: FaultyPlane) -> None:
    """The Node SDK stores a timeout in each job."""
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
def test_responses_of_many_forms_are_understood(plane: FaultyPlane, data: bytes) -> None:
    """The connection can serve the next request afterwards."""
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
def test_a_connection_that_cannot_be_kept_is_closed(plane: FaultyPlane, data: bytes) -> None:
    """The response counts, and the next request goes over a new connection."""
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
def test_a_connection_that_the_server_will_close_is_not_used_again(plane: FaultyPlane, data: bytes) -> None:
    """The server has announced the close and not done it yet."""
    plane.then(raw(data, end="keep"), OK)
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(2)] == ["delivered", "delivered"]
    assert plane.connections == 2


def test_an_unrequested_response_is_ignored(plane: FaultyPlane) -> None:
    """Many servers send a 408 before they close an idle connection.

    The client must not take it for the response to the next request.
    """
    idle = threading.Event()

    def impatient(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(whole())
        idle.wait(30)
        sock.sendall(whole(408, b"too slow"))
        return False

    plane.then(impatient, OK)
    ours = data_plane(plane)
    assert ours.post(BODY, KEY).kind == "delivered"
    (wire,) = ours._wires.values()  # noqa: SLF001  # only its socket shows that the bytes have come
    assert wire.sock is not None
    idle.set()
    assert wait_for_read(wire.sock, timeout=30)

    assert ours.post(BODY, KEY).status == 200
    assert len(plane.requests) == 2


BIG = b"x" * 32_000_000
"""More bytes than the kernel buffers for a server that reads nothing."""


@pytest.mark.parametrize("keeps_open", [False, True])
@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (whole(200), "retry", 0),
        (whole(204, b""), "retry", 0),
        (whole(413, b"too large"), "refused", 413),
        (whole(503, b"busy", Retry_After="7"), "retry", 503),
    ],
    ids=["200", "204", "413", "503"],
)
def test_a_response_to_half_a_request_is_no_delivery(data: bytes, kind: str, status: int, keeps_open: bool) -> None:
    """A success counts as no response, because the server cannot have read all events.

    A refusal counts. The connection is not used again.
    """
    gone = threading.Event()

    def serve(sock: socket.socket) -> None:
        head_of(sock)
        sock.recv(2000)
        sock.sendall(data)
        if keeps_open:
            gone.wait(30)

    with RawServer(serve) as server:
        ours = towards(f"http://{server.address}", gzip=False, timeout_s=20)
        for connections in (1, 2):
            outcome = checked(ours.post(BIG, KEY))
            assert (outcome.kind, outcome.status) == (kind, status)
            assert server.connections == connections
        gone.set()


def test_an_endless_chunked_response_is_not_read_to_its_end(plane: FaultyPlane) -> None:
    """Only the status of a long response counts."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert post(plane, raw(head + b"fffffff\r\nx", end="silent")).kind == "delivered"


def test_a_long_response_is_not_read_to_its_end(plane: FaultyPlane) -> None:
    """Only the status of a long response counts."""
    assert post(plane, raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n" + b"x" * 10_000)).kind == "delivered"


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_connection_closed_while_idle_costs_no_attempt(plane: FaultyPlane, end: str) -> None:
    """The request goes over a new connection at once, within the same attempt."""
    plane.then(raw(whole(), end=end), OK)
    ours = data_plane(plane)
    assert ours.post(BODY, KEY).kind == "delivered"

    assert ours.post(BODY, KEY).kind == "delivered"

    assert (plane.connections, len(plane.requests)) == (2, 2)


def test_a_connection_idle_for_long_is_replaced(plane: FaultyPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that has forgotten the connection would drop the next request, which would cost ``timeout_s``."""
    ours = data_plane(plane)
    assert ours.post(BODY, KEY).kind == "delivered"
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 50)
    assert ours.post(BODY, KEY).kind == "delivered"
    assert plane.connections == 1
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 120)
    assert ours.post(BODY, KEY).kind == "delivered"
    assert plane.connections == 2


def test_a_request_on_a_dying_kept_connection_is_repeated_once(plane: FaultyPlane) -> None:
    """No byte of a response came. If a new connection dies in the same way, the attempt has failed."""
    plane.then(OK, raw(b""), OK, raw(b""), raw(b""))
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(2)] == ["delivered", "delivered"]
    assert len(plane.requests) == 3

    assert checked(ours.post(BODY, KEY)).kind == "retry"
    assert len(plane.requests) == 5


def test_a_request_is_not_repeated_after_part_of_a_response(plane: FaultyPlane) -> None:
    """The server has already taken the request."""
    plane.then(OK, BROKEN["cut in the head"], OK)
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(2)] == ["delivered", "retry"]
    assert len(plane.requests) == 2


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_method_is_followed(plane: FaultyPlane, status: int) -> None:
    """The target is another path or another port of the same host, and it gets the same body and write key."""
    with FaultyPlane() as there:
        plane.then(
            answer(status, b"", location="/moved"), answer(status, b"", location=f"{there.url}/v1/batch?token=t")
        )
        ours = data_plane(plane)
        assert checked(ours.post(BODY, KEY)).kind == "delivered"
        assert [request.line.split()[1] for request in plane.requests] == ["/v1/batch", "/moved"]
        assert there.requests[0].line == "POST /v1/batch?token=t HTTP/1.1"
        assert there.requests[0].headers["authorization"] == plane.requests[0].headers["authorization"]
        assert there.accepted == ["m"]


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_drops_the_body_is_refused(plane: FaultyPlane, status: int) -> None:
    """A client would have to send a GET there, and no event would arrive."""
    outcome = post(plane, answer(status, b"", location="https://new.example/x?token=t"))
    assert (outcome.kind, outcome.status) == ("refused", status)
    assert "new.example" in outcome.reason
    assert "data_plane_url" in outcome.reason
    assert len(plane.requests) == 1


@pytest.mark.parametrize(
    "location", ["http://localhost:1/v1/batch", "https://evil.example/", "ftp://127.0.0.1/", "", "http://[x"]
)
def test_the_write_key_goes_to_no_other_host(plane: FaultyPlane, location: str) -> None:
    """A redirect to another host, or to something that is no URL, is refused."""
    assert post(plane, answer(307, b"", location=location)).kind == "refused"
    assert len(plane.requests) == 1


def test_a_redirects_target_is_escaped(plane: FaultyPlane) -> None:
    """Blanks and other characters would end the request's first line."""
    plane.then(raw(b"HTTP/1.1 307 x\r\nlocation: /a b\x0b\xc3\xa4\r\ncontent-length: 0\r\n\r\n", end="keep"), OK)
    assert checked(data_plane(plane).post(BODY, KEY)).kind == "delivered"
    assert plane.requests[1].line == "POST /a%20b%0B%C3%A4 HTTP/1.1"


def test_an_attempt_follows_at_most_three_redirects(plane: FaultyPlane) -> None:
    """The attempt makes four requests in all."""
    assert post(plane, answer(308, b"", location="/again")).kind == "refused"
    assert len(plane.requests) == 4


def test_redirects_to_many_places_keep_few_connections(plane: FaultyPlane) -> None:
    """Connections of old targets would use up the descriptors of the process."""
    with ExitStack() as stack:
        places = [stack.enter_context(FaultyPlane()) for _ in range(12)]
        plane.then(*(answer(307, b"", location=f"{place.url}/") for place in places), OK)
        ours = data_plane(plane)
        assert [ours.post(BODY, KEY).kind for _ in places] == ["delivered"] * len(places)
        ports = {place.port for place in places}
        kept = [
            connection
            for connection in psutil.Process().net_connections("tcp")
            if connection.raddr and connection.raddr.port in ports and connection.status == psutil.CONN_ESTABLISHED
        ]
        assert len(kept) <= 3


def test_redirects_share_the_time_limit_of_one_attempt(plane: FaultyPlane) -> None:
    """Each of four responses comes just in time by itself, and together they are too late."""

    def slow(sock: socket.socket, _request: Request) -> bool:
        sock.settimeout(1.2)
        try:
            return bool(sock.recv(1))
        except TimeoutError:
            sock.sendall(whole(307, b"", location="/again"))
            return True

    outcome = post(plane, slow, timeout_s=2, connect_timeout_s=0.1)
    assert (outcome.kind, outcome.reason) == ("retry", "no whole response in time")


def test_another_thread_can_abort_an_attempt(plane: FaultyPlane) -> None:
    """No other attempt is made afterwards."""
    plane.hold()
    ours = data_plane(plane, timeout_s=600)
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(ours.post(BODY, KEY)))
    thread.start()
    plane.wait_for(lambda: plane.requests)

    ours.abort()
    thread.join(10)

    assert [(outcome.kind, outcome.reason) for outcome in found] == [("stopped", "stopped")]
    plane.let_go()
    assert ours.post(BODY, KEY).reason == "stopped"
    assert len(plane.requests) == 1
