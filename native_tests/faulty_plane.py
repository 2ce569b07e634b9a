"""A data plane that does with each request what a test prescribes."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec

PATIENCE_S = 30.0


class Request(msgspec.Struct):
    """One request: the number of its connection, its first line, its headers and its events."""

    connection: int
    line: str
    headers: dict[str, str]
    events: list[dict[str, Any]]

    @property
    def ids(self) -> list[str]:
        """Return the events' message ids."""
        return [event["messageId"] for event in self.events]


Step = Callable[[socket.socket, Request], bool]
"""Acts on the connection and returns False to end it. With a true ``taken`` the request's events count as accepted."""


def answer(status: int = 200, body: bytes = b"ok", **headers: str) -> Step:
    """Return a step that sends a whole response; header names have ``_`` for ``-``."""

    def step(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(whole(status, body, **headers))
        return True

    step.taken = 200 <= status < 300  # type: ignore[attr-defined]  # read by FaultyPlane
    return step


def whole(status: int = 200, body: bytes = b"ok", **headers: str) -> bytes:
    """Return a response's bytes."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} x\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def raw(data: bytes, *, end: str = "close") -> Step:
    """Return a step that sends these bytes.

    Then the connection is closed, ``reset``, kept, or ``silent`` until the other side ends it.
    """

    def step(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(data)
        if end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif end == "silent":
            sock.recv(1)
        return end == "keep"

    return step


def drip(data: bytes, every_s: float = 0.02) -> Step:
    """Return a step that sends one byte after the other until the other side hangs up."""

    def step(sock: socket.socket, _request: Request) -> bool:
        drip_on(sock, data, every_s)
        return False

    return step


def depends(judge: Callable[[Request], Step]) -> Step:
    """Return a step that ``judge`` chooses for each request."""

    def step(sock: socket.socket, request: Request) -> bool:
        return judge(request)(sock, request)

    step.judge = judge  # type: ignore[attr-defined]  # read by FaultyPlane
    return step


class FaultyPlane:
    """A data plane on loopback that plays one step for each request, and the last step again and again.

    After ``hold()`` no request gets a response before ``let_go()``. All methods are safe from any thread.
    """

    def __init__(self, *steps: Step, context: ssl.SSLContext | None = None) -> None:
        self._steps = list(steps) or [answer()]
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._open = threading.Event()
        self._open.set()
        self.requests: list[Request] = []
        self.accepted: list[str] = []
        """Message ids, in the order in which they were accepted. An event that came twice is here twice."""
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Return the URL for the setting ``data_plane_url``."""
        scheme = "https" if self._context else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Return the listener's port."""
        number: int = self._listener.getsockname()[1]
        return number

    def then(self, *steps: Step) -> None:
        """Replace the steps that are left."""
        self._steps = list(steps)

    def hold(self) -> None:
        """Hold requests from now on until ``let_go``; ``requests`` counts them already."""
        self._open.clear()

    def let_go(self) -> None:
        """Hold requests no more."""
        self._open.set()

    def wait_for(self, what: Callable[[], Any]) -> None:
        """Wait until the condition is true, which is checked after every request and every response."""
        with self._changed:
            if not self._changed.wait_for(what, PATIENCE_S):
                raise AssertionError(f"not within {PATIENCE_S} s: {what}, {len(self.requests)} requests")

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with sock:
                while (request := _read(sock, number)) and self._play(sock, request):
                    pass
        except (OSError, ValueError):
            pass  # the other side was killed, or closed the connection

    def _play(self, sock: socket.socket, request: Request) -> bool:
        with self._changed:
            self.requests.append(request)
            step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
            self._changed.notify_all()
        self._open.wait(PATIENCE_S)
        if judge := getattr(step, "judge", None):
            step = judge(request)
        if getattr(step, "taken", False):
            with self._changed:
                self.accepted += request.ids
                self._changed.notify_all()
        return step(sock, request)

    def __enter__(self) -> FaultyPlane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.set()
        self._listener.close()


class RawServer:
    """A server on loopback that calls ``serve`` with each connection, in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None], receive_bytes: int | None = None) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        if receive_bytes is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.connections = 0
        self.ended = threading.Event()
        """Set as soon as one connection has been served to its end."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Return host and port."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock: socket.socket) -> None:
        try:
            with sock:
                self._serve(sock)
        except OSError:
            pass  # the other side closed the connection
        finally:
            self.ended.set()

    def __enter__(self) -> RawServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()


def head_of(sock: socket.socket) -> bytes:
    """Read a request's head, and not a byte after it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        if not data:
            raise OSError("closed")
        head += data
    return head


def drip_on(sock: socket.socket, data: bytes, every_s: float = 0.02) -> None:
    """Send one byte after the other until the other side hangs up."""
    for byte in data:
        sock.sendall(bytes([byte]))
        sock.settimeout(every_s)
        try:
            if not sock.recv(1):
                return
        except TimeoutError:
            pass


def _read(sock: socket.socket, number: int) -> Request | None:
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(65_536)
        if not data:
            return None
        head += data
    head, _, body = head.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (entry.split(": ", 1) for entry in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += sock.recv(65_536)
    plain = zlib.decompress(body, 31) if headers.get("content-encoding") == "gzip" else body
    return Request(number, line, headers, msgspec.json.decode(plain)["batch"] if plain else [])
