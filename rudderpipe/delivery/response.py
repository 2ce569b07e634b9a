"""An HTTP/1.1 response, read from a socket before a deadline."""

from __future__ import annotations

import re
import socket
import ssl
import time

import msgspec

from rudderpipe.delivery.outcome import Cause

KEPT_BYTES = 4096
MAX_BYTES = 1 << 20
"""The longest body that is read to its end."""
MAX_LINE_BYTES = 16_384
MAX_LINES = 200
MAX_INTERIM = 20
"""How many responses with status 1xx may precede the final one."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [^\0\r]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\0\r]*)")
_FOLDED = re.compile(rb"[ \t][^\0\r]*")
_LENGTH = re.compile(r"[0-9]{1,20}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;.*|[ \t]*)")


class NoResponse(Exception):
    """No whole response was received; ``begun`` is False only if the connection ended before its first byte."""

    def __init__(self, reason: str, *, begun: bool, cause: Cause = "broken") -> None:
        super().__init__(reason)
        self.begun = begun
        self.cause = cause


class NotHttp(NoResponse):
    """The other side sent something that is not HTTP, or HTTP that can be read in more than one way."""

    def __init__(self) -> None:
        super().__init__("the response is not HTTP", begun=True)


class Response(msgspec.Struct):
    """A response. The names in ``headers`` are in lower case, and ``body`` has at most the first 4,096 bytes.

    ``reusable`` says whether the connection may be used for another request.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""
    reusable: bool = True


class Reader:
    """Reads from a connection. All reads end at one deadline, even if the bytes arrive slowly.

    With ``step`` 1, no byte is read from the connection beyond the requested ones.
    """

    def __init__(self, sock: socket.socket, deadline_s: float, step: int = 65_536) -> None:
        self._sock = sock
        self._deadline_s = deadline_s
        self._step = step
        self._data = b""
        self._at = 0
        self.begun = False

    @property
    def has_more(self) -> bool:
        """True if received bytes have not been read yet."""
        return self._at < len(self._data)

    def look(self) -> bool:
        """Return True if bytes or the end of the connection have arrived, without waiting for them."""
        if not self.has_more:
            try:
                self._receive(0)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except TimeoutError as error:
                return error.errno is not None  # without an errno, eventlet means that nothing has arrived
            except (EOFError, OSError):
                pass  # the next read raises it again
        return True

    def line(self) -> bytes:
        """Return the next line without its newline. Raise ``ValueError`` if it is too long."""
        at = self._at
        end = self._data.find(b"\n", at)
        while end < 0:
            if len(self._data) - at >= MAX_LINE_BYTES:
                raise ValueError
            self._fill()
            at, end = 0, self._data.find(b"\n")
        if end - at >= MAX_LINE_BYTES:
            raise ValueError
        self._at = end + 1
        return self._data[at:end]

    def take(self, count: int) -> bytes:
        """Return the next bytes: at least one, at most ``count``."""
        if not self.has_more:
            self._fill()
        data = self._data[self._at : self._at + count]
        self._at += len(data)
        return data

    def exactly(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        if 0 < count <= len(self._data) - self._at:
            return self.take(count)
        parts = []
        while count > 0:
            parts.append(self.take(count))
            count -= len(parts[-1])
        return b"".join(parts)

    def _fill(self) -> None:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._receive(left_s)

    def _receive(self, timeout_s: float) -> None:
        self._sock.settimeout(timeout_s)
        data = self._sock.recv(self._step)
        if not data:
            raise EOFError
        self.begun = True
        self._data = self._data[self._at :] + data
        self._at = 0


def read(reader: Reader, *, head_only: bool = False) -> Response:
    """Return the next final response, without its body if ``head_only`` (for CONNECT). Raise ``NoResponse``."""
    try:
        answer = _final_head(reader)
        if not head_only:
            _read_body(reader, answer)
            answer.reusable = answer.reusable and not reader.has_more
    except TimeoutError:
        raise NoResponse("no whole response in time", begun=True, cause="timeout") from None
    except EOFError:
        reason = "the response was cut off" if reader.begun else "the server closed the connection without a response"
        raise NoResponse(reason, begun=reader.begun) from None
    except ValueError:
        raise NotHttp from None
    except OSError as error:
        raise NoResponse(f"the connection broke: {error.strerror or error}", begun=reader.begun) from error
    return answer


def _final_head(reader: Reader) -> Response:
    for _ in range(MAX_INTERIM + 1):
        answer = _head(reader)
        if answer.status >= 200:
            return answer
        if answer.status == 101:
            raise ValueError
    raise ValueError


def _head(reader: Reader) -> Response:
    found = _STATUS_LINE.fullmatch(reader.line().removesuffix(b"\r"))
    if found is None:
        raise ValueError
    headers: dict[str, str] = {}
    for name, value in _fields(reader):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    reusable = found[1] != b"0"
    if "connection" in headers:
        tokens = {token.strip().lower() for token in headers["connection"].split(",")}
        reusable = "close" not in tokens and (reusable or "keep-alive" in tokens)
    if "transfer-encoding" in headers and (found[1] == b"0" or "content-length" in headers):
        reusable = False  # two lengths, or one that HTTP/1.0 does not have: another reader may see another end
    return Response(int(found[2]), headers, reusable=reusable)


def _fields(reader: Reader) -> list[tuple[str, str]]:
    """Return the headers or trailers up to the empty line, as pairs of a lower-case name and a value."""
    fields: list[tuple[str, str]] = []
    for _ in range(MAX_LINES):
        line = reader.line().removesuffix(b"\r")
        if not line:
            return fields
        if found := _FIELD.fullmatch(line):
            name, value = found.groups()
            fields.append((name.lower().decode(), value.decode("latin-1").rstrip(" \t")))
        elif fields and _FOLDED.fullmatch(line):  # a folded line continues the header before it
            before, text = fields.pop()
            fields.append((before, f"{text} {line.decode('latin-1').strip()}"))
        else:
            raise ValueError
    raise ValueError


def _read_body(reader: Reader, answer: Response) -> None:
    length = _length(answer.headers.get("content-length"))
    coding = answer.headers.get("transfer-encoding", "chunked").lower()
    if coding != "chunked":
        raise ValueError
    if answer.status in (204, 304):
        return
    if "transfer-encoding" in answer.headers:
        _read_chunks(reader, answer)
    elif length is None:
        answer.reusable = False
        answer.body = _to_the_end(reader)
    elif length > MAX_BYTES:
        answer.reusable = False
        answer.body = reader.exactly(KEPT_BYTES)
    else:
        answer.body = reader.exactly(length)[:KEPT_BYTES]


def _length(text: str | None) -> int | None:
    """Return the value of Content-Length, or None without one. Several equal values are accepted."""
    if text is None:
        return None
    if text.isdecimal() and text.isascii() and len(text) < 20:
        return int(text)
    lengths = {length.strip(" \t") for length in text.split(",")}
    if len(lengths) > 1 or not _LENGTH.fullmatch(length := lengths.pop()):
        raise ValueError
    return int(length)


def _read_chunks(reader: Reader, answer: Response) -> None:
    total = 0
    while size := _chunk_size(reader):
        total += size
        if total > MAX_BYTES:
            answer.reusable = False
            return
        answer.body = (answer.body + reader.exactly(size))[:KEPT_BYTES]
        if reader.exactly(2) != b"\r\n":
            raise ValueError
    _fields(reader)  # trailers


def _chunk_size(reader: Reader) -> int:
    line = reader.line()
    found = _CHUNK_SIZE.fullmatch(line[:-1])
    if found is None or not line.endswith(b"\r"):
        raise ValueError
    return int(found[1], 16)


def _to_the_end(reader: Reader) -> bytes:
    data = b""
    try:
        while len(data) < KEPT_BYTES:
            data += reader.take(KEPT_BYTES - len(data))
    except EOFError:
        pass
    return data
