"""An HTTP/1.1 answer, read from a socket until a deadline."""

from __future__ import annotations

import io
import socket
import time
from typing import BinaryIO

import msgspec

KEPT_BYTES = 4096
MAX_BYTES = 1 << 20
"""A longer body is not read to its end."""
MAX_LINE_BYTES = 16_384
MAX_LINES = 200


class NoAnswer(Exception):
    """The server sent none, or half of one, or something else; ``begun`` says whether any byte came."""

    def __init__(self, reason: str, *, begun: bool) -> None:
        super().__init__(reason)
        self.begun = begun


class Answer(msgspec.Struct):
    """``headers`` have lower-case names; ``body`` is its beginning, ``reusable`` whether the connection is."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    reusable: bool = True


class _Raw(io.RawIOBase):
    """A socket whose reads end together at one moment, however slowly bytes drip."""

    def __init__(self, sock: socket.socket, deadline_s: float) -> None:
        self._sock = sock
        self._deadline_s = deadline_s
        self.begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        count = self._sock.recv_into(buffer)  # type: ignore[arg-type]  # RawIOBase has no name for a writable buffer
        self.begun = self.begun or count > 0
        return count


def read(sock: socket.socket, deadline_s: float) -> Answer:
    """The next final answer. Raises ``NoAnswer``; ``deadline_s`` is of ``time.monotonic``."""
    raw = _Raw(sock, deadline_s)
    stream: BinaryIO = io.BufferedReader(raw, 65_536)
    try:
        while (answer := _head(stream)).status < 200:
            if answer.status == 101:
                raise ValueError
        _read_body(stream, answer)
    except TimeoutError:
        raise NoAnswer("no whole answer in time", begun=True) from None
    except EOFError:
        reason = "the answer was cut off" if raw.begun else "the server closed the connection without an answer"
        raise NoAnswer(reason, begun=raw.begun) from None
    except ValueError:
        raise NoAnswer("the answer is not HTTP", begun=True) from None
    except OSError as error:
        raise NoAnswer(f"the connection broke: {error.strerror or error}", begun=raw.begun) from error
    return answer


def _head(stream: BinaryIO) -> Answer:
    version, _, rest = _line(stream).partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit()) or rest[3:4].strip():
        raise ValueError
    headers: dict[str, str] = {}
    for _ in range(MAX_LINES):
        line = _line(stream)
        if not line:
            break
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError
        headers[name.strip().lower()] = value.strip()
    else:
        raise ValueError
    keeps = headers.get("connection", "keep-alive" if version != "HTTP/1.0" else "close").lower()
    return Answer(int(status), headers, reusable="close" not in keeps)


def _line(stream: BinaryIO) -> str:
    line = stream.readline(MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError if len(line) < MAX_LINE_BYTES else ValueError
    return line.rstrip(b"\r\n").decode("latin-1")


def _read_body(stream: BinaryIO, answer: Answer) -> None:
    length = answer.headers.get("content-length")
    if answer.status in (204, 304):
        return
    if "chunked" in answer.headers.get("transfer-encoding", "").lower():
        total = 0
        while size := int(_line(stream).partition(";")[0], 16):
            total += size
            if size < 0 or total > MAX_BYTES:
                answer.reusable = False
                return
            answer.body = (answer.body + _exactly(stream, size))[:KEPT_BYTES]
            _line(stream)
        while _line(stream):
            pass  # trailers
    elif length is None:
        answer.reusable = False
        answer.body = stream.read(KEPT_BYTES)
    elif not (length.isascii() and length.isdigit()):
        raise ValueError
    elif int(length) > MAX_BYTES:
        answer.reusable = False
        answer.body = _exactly(stream, KEPT_BYTES)
    else:
        answer.body = _exactly(stream, int(length))[:KEPT_BYTES]


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data
