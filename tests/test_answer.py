"""Responses as they come from a socket, compared with those of h11, which follows RFC 9112 strictly."""

from __future__ import annotations

import random
import socket
import time

import h11
import pytest

from rudderpipe.delivery.response import KEPT_BYTES, MAX_BYTES, MAX_INTERIM, NoResponse, Reader, Response, read

CORPUS = 4_000
STATUS_LINES = (
    *[b"HTTP/1.1 200 OK\r\n"] * 50,
    *(b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n", b"HTTP/1.1 404 Not Found\r\n", b"HTTP/1.1 204 No Content\r\n"),
    *(b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\n", b"HTTP/1.1 503 x\r\n", b"HTTP/1.1 304 Not Modified\r\n"),
    *(b"HTTP/1. 200 OK\r\n", b"HTTP/1.11 200 OK\r\n", b"HTTP/2.0 200 OK\r\n", b"HTTP/1.1 099 x\r\n"),
    *(b"HTTP/1.1  200 OK\r\n", b"HTTP/1.1 200OK\r\n", b"HTTP/1.1 20 OK\r\n", b"HTTP/1.1 2000 OK\r\n"),
    *(b"http/1.1 200 OK\r\n", b"HTTP/1.1\t200 OK\r\n", b" HTTP/1.1 200 OK\r\n", b"HTTP/1.1 \xb2\xb0\xb0 OK\r\n"),
    *(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n"),
)
LENGTHS = (
    *["2"] * 30,
    *("02", " 2 ", "2, 2", "2,2", "2, 3", "+2", "-2", "0x2", "2_0", "", "two", "2 2", "\xb2"),
    *("3", "1", "0", "99999999999999999999", "999999999999999999999"),
)
CHUNK_SIZES = (
    *["2"] * 40,
    "02",
    "2;a=b",
    "2 ;a",
    "2\t",
    "0x2",
    "+2",
    " 2",
    "-2",
    "2_",
    "2 2",
    "",
    "g",
    "\xb2",
    "3",
    "1",
)
ENDS = (*[b"\r\n"] * 80, b"\n", b"\r", b"", b"x\r\n", b"\r\r\n")
FIELDS = (
    *(b"x: y\r\n", b"connection: close\r\n", b"Connection: Keep-Alive\r\n", b"connection: upgrade, close\r\n"),
    *(b"x : y\r\n", b" x: y\r\n", b"x\r\n", b": y\r\n", b"x: \x00\r\n", b"x: a\rb\r\n", b"x: a\r\n b\r\n", b"x:\r\n"),
    *(b"content-length: 2\r\n", b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"\x00: y\r\n"),
)
CODINGS = (*["chunked"] * 20, "Chunked", "identity", "gzip, chunked", "chunked, chunked", "xchunked", "")


def one_of(random_: random.Random) -> bytes:
    """Return a random response, which is often a wrong one."""
    fields = [random_.choice(FIELDS) for _ in range(random_.choice((0, 0, 0, 0, 1, 2)))]
    kind = random_.random()
    if kind < 0.45:
        fields.append(f"Content-Length: {random_.choice(LENGTHS)}\r\n".encode("latin-1"))
        body = b"ok"
    elif kind < 0.9:
        fields.append(f"Transfer-Encoding: {random_.choice(CODINGS)}\r\n".encode("latin-1"))
        body = b""
        for _ in range(random_.randrange(4)):
            body += random_.choice(CHUNK_SIZES).encode("latin-1") + random_.choice(ENDS) + b"ok" + random_.choice(ENDS)
        body += b"0" + random_.choice(ENDS) + random_.choice((b"", b"", b"t: u\r\n")) + random_.choice(ENDS)
    else:
        body = b"ok"
    random_.shuffle(fields)
    data = random_.choice(STATUS_LINES) + b"".join(fields) + random_.choice(ENDS) + body
    if random_.random() < 0.1:
        data = data[: random_.randrange(1, len(data))]
    if random_.random() < 0.1:
        data += random_.choice((b"x", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n"))
    if random_.random() < 0.1:
        at = random_.randrange(len(data))
        data = data[:at] + bytes([random_.randrange(256)]) + data[at + 1 :]
    return data


def ours(data: bytes) -> Response | None:
    """Return our reading of the bytes, or None if they are no response."""
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        try:
            return read(Reader(near, time.monotonic() + 30))
        except NoResponse:
            return None


def h11s(data: bytes) -> Response | None:
    """Return h11's reading of the bytes, or None if they are no response."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    response, body = None, b""
    connection.receive_data(data)
    ended = False
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if ended:
                    return None
                connection.receive_data(b"")
                ended = True
            elif isinstance(event, h11.Response):
                response = Response(event.status_code, {})
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                break
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None
    response.body = body[:KEPT_BYTES]
    response.reusable = connection.their_state is h11.DONE and not connection.trailing_data[0]
    return response


def test_no_response_is_accepted_that_h11_refuses() -> None:
    """Status and body must be equal, and no connection may be kept that h11 closes. Most responses must be read."""
    random_ = random.Random(20_260_101)
    alike = refused = kept = 0
    for _ in range(CORPUS):
        data = one_of(random_)
        mine, reference = ours(data), h11s(data)
        if reference is None:
            assert mine is None, data
            refused += 1
        elif mine is not None:
            assert (mine.status, mine.body) == (reference.status, reference.body), data
            # h11 keeps no connection of HTTP/1.0, but we keep one whose server announces it
            assert reference.reusable or not mine.reusable or b"HTTP/1.0" in data, data
            alike += 1
            kept += mine.reusable
    assert refused > CORPUS / 4
    assert alike > CORPUS / 4
    assert kept > CORPUS / 20


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (MAX_BYTES + 1) + b"x" * KEPT_BYTES,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n" % (MAX_BYTES + 1),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
    ],
    ids=["long", "long chunk", "two lengths", "chunks in 1.0", "more than announced", "close among others"],
)
def test_a_connection_is_not_kept_if_the_end_of_a_response_is_in_doubt(data: bytes) -> None:
    """The rest of this response could be taken for the next one. The status still counts."""
    response = ours(data)
    assert response is not None
    assert (response.status, response.reusable) == (200, False)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1) + b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000 + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;" + b"y" * 20_000 + b"\r\nok\r\n0\r\n\r\n",
    ],
    ids=["interim responses", "headers", "a long header", "trailers", "a chunk's extension"],
)
def test_a_response_without_bounds_is_refused(data: bytes) -> None:
    """A server must not decide how much memory and time its response takes."""
    assert ours(data) is None


def test_a_folded_line_continues_the_header_before_it() -> None:
    """Old servers fold headers. A first line that is folded continues no header, so it is refused."""
    response = ours(b"HTTP/1.1 503 x\r\nretry-after:\r\n\t7\r\ncontent-length: 0\r\n\r\n")
    assert response is not None
    assert response.headers["retry-after"].strip() == "7"
    assert ours(b"HTTP/1.1 503 x\r\n retry-after: 7\r\ncontent-length: 0\r\n\r\n") is None
