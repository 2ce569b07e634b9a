"""What the network and the server can do to an attempt, and what the attempt makes of it."""

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
from native_tests.posting import BODY, KEY, OK, close_all, data_plane, post, told, towards
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


def refuses_gzip(status: int, body: bytes) -> Step:
    """An intermediary that lets nothing pass that is packed."""
    return depends(
        lambda request: answer(status, body) if request.headers.get("content-encoding") == "gzip" else answer()
    )


@pytest.mark.parametrize(
    ("status", "body"), [(415, b"no such type"), (400, b"unknown Content-Encoding"), (501, b"gzip is not implemented")]
)
def test_where_gzip_is_refused_requests_go_without_it(
    plane: FaultyPlane, status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The same attempt, and all that follow; the log says so once."""
    plane.then(refuses_gzip(status, body))
    ours = data_plane(plane)
    assert [ours.post(BODY, KEY).kind for _ in range(4)] == ["delivered"] * 4
    assert [request.headers.get("content-encoding") for request in plane.requests] == ["gzip", None, None, None, None]
    (line,) = caplog.messages
    assert "without gzip" in line


def test_what_is_refused_with_gzip_and_without_says_both(plane: FaultyPlane) -> None:
    """Gzip was not to blame: it is tried again with the next request."""
    plane.then(answer(415, b"never"))
    ours = data_plane(plane)
    for _ in range(2):
        outcome = told(ours.post(BODY, KEY))
        assert (outcome.kind, outcome.status) == ("refused", 415)
        assert "with gzip and without" in outcome.reason
    assert [request.headers.get("content-encoding") for request in plane.requests] == ["gzip", None, "gzip", None]


def test_a_refusal_without_a_word_of_gzip_is_none_of_it(plane: FaultyPlane) -> None:
    """Bad events are refused with 400 too."""
    assert post(plane, answer(400, b"invalid json")).status == 400
    assert len(plane.requests) == 1


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
def test_half_an_answer_is_none(plane: FaultyPlane, kind: str) -> None:
    """It is tried again later, over another connection, and says what was wrong."""
    plane.then(BROKEN[kind], OK)
    ours = data_plane(plane)

    first = told(ours.post(BODY, KEY))

    assert (first.kind, first.status) == ("retry", 0)
    assert ours.post(BODY, KEY).kind == "delivered"
    assert (plane.connections, len(plane.requests)) == (2, 2)


WHOLE = whole(200, b"okay", x="y")


@pytest.mark.parametrize("end", ["close", "reset"])
def test_an_answer_that_is_cut_off_at_any_byte_is_none(plane: FaultyPlane, end: str) -> None:
    """Whatever came before, and however the connection ends."""
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
def test_a_server_that_does_not_come_to_an_end_is_retried(plane: FaultyPlane, step: Step) -> None:
    """``timeout_s`` is for the whole answer, not for each byte."""
    outcome = post(plane, step, timeout_s=0.3)
    assert (outcome.kind, outcome.reason) == ("retry", "no whole response in time")


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


BIG = b"x" * 32_000_000
"""More than the kernel takes for a server that reads nothing."""


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
def test_an_answer_to_half_a_request_delivers_nothing(data: bytes, kind: str, status: int, keeps_open: bool) -> None:
    """A success counts as no answer, a refusal as what it says; the connection is not used again."""
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
            outcome = told(ours.post(BIG, KEY))
            assert (outcome.kind, outcome.status) == (kind, status)
            assert server.connections == connections
        gone.set()


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


def test_a_connection_that_was_idle_for_long_is_made_anew(plane: FaultyPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that has forgotten it would let the next request vanish, and cost ``timeout_s``."""
    ours = data_plane(plane)
    assert ours.post(BODY, KEY).kind == "delivered"
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 50)
    assert ours.post(BODY, KEY).kind == "delivered"
    assert plane.connections == 1
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 120)
    assert ours.post(BODY, KEY).kind == "delivered"
    assert plane.connections == 2


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


def test_a_redirect_to_what_no_head_may_hold_is_written_as_it_must_be(plane: FaultyPlane) -> None:
    """Blanks and other characters would end the request's first line."""
    plane.then(raw(b"HTTP/1.1 307 x\r\nlocation: /a b\x0b\xc3\xa4\r\ncontent-length: 0\r\n\r\n", end="keep"), OK)
    assert told(data_plane(plane).post(BODY, KEY)).kind == "delivered"
    assert plane.requests[1].line == "POST /a%20b%0B%C3%A4 HTTP/1.1"


def test_redirects_end(plane: FaultyPlane) -> None:
    """After three."""
    assert post(plane, answer(308, b"", location="/again")).kind == "refused"
    assert len(plane.requests) == 4


def test_redirects_to_ever_new_places_do_not_keep_a_connection_each(plane: FaultyPlane) -> None:
    """Only those of the last few."""
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


def test_redirects_share_the_time_of_one_attempt(plane: FaultyPlane) -> None:
    """Four answers that each come just in time are not in time together."""

    def slow(sock: socket.socket, _request: Request) -> bool:
        sock.settimeout(1.2)
        try:
            return bool(sock.recv(1))
        except TimeoutError:
            sock.sendall(whole(307, b"", location="/again"))
            return True

    outcome = post(plane, slow, timeout_s=2, connect_timeout_s=0.1)
    assert (outcome.kind, outcome.reason) == ("retry", "no whole response in time")


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

    assert [(outcome.kind, outcome.reason) for outcome in found] == [("stopped", "stopped")]
    plane.let_go()
    assert ours.post(BODY, KEY).reason == "stopped"
    assert len(plane.requests) == 1
