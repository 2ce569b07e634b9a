"""A small HTTP server that runs on its own threads."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import MappingProxyType
from typing import Any

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import SettingsError

logger = log_text.logger("rudderpipe.service.http")
JSON = "application/json"
OPEN_METRICS = "application/openmetrics-text"
"""What Prometheus accepts, and what needs the most modules."""


class Response(msgspec.Struct, frozen=True):
    """An HTTP response. A dict is sent as JSON, bytes as ``content_type``."""

    status: int
    body: bytes | dict[str, Any]
    content_type: str = JSON

    def content(self) -> bytes:
        """Return the body as bytes."""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body) + b"\n"


Responses = Mapping[str, Callable[[str], Response]]
"""For each path the function that returns its response. Its argument is the header Accept of the request."""


def response_of(path: str, answers: Responses, accept: str = "") -> Response:
    """Return the response for ``path``. For an unknown path it is a 404 that lists the known paths."""
    answer = answers.get(path)
    return answer(accept) if answer else wrong(HTTPStatus.NOT_FOUND, paths=sorted(answers))


def wrong(status: HTTPStatus, **vitals: Any) -> Response:
    """Return an error response with ``vitals`` in its JSON."""
    return Response(int(status), {"error": status.phrase.lower(), **vitals})


PATHS = "/healthz, /readyz, /metrics and /status.json"
LOOPBACK = "127.0.0.1"
FORMS = "8080, :8080, 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080"


def parse_address(text: str, option: str = "--admin") -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``. Without a host it is loopback, so that no other machine has access.

    Port 0 lets the system choose. Raises ``SettingsError``, which names the option.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        raise SettingsError(option, f"has no valid port, write it as {FORMS}")
    if bracketed != (":" in host):
        raise SettingsError(option, f"is ambiguous, because only an IPv6 address has brackets, write it as {FORMS}")
    if (bracketed and not host) or any(character <= " " or character in "/@[]" for character in host):
        raise SettingsError(option, f"has no valid host, write it as {FORMS}")
    return (host if colon and host else LOOPBACK), int(port)


def text_of(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


CONNECTION_S = 5.0
"""How long a client has to send its request, and how long to take the response."""
CONNECTIONS = 64
"""How many clients are served at once. For one more, the oldest one is dropped: a good client is never the oldest."""
HEAD_BYTES = 16_384
BACKLOG = 128
PAUSE_S = 0.1
"""The pause after a connection could not be accepted, for example because this process has no descriptor left."""
_HEAD_ENDS = re.compile(rb"\n\r?\n")


class _Handler(BaseHTTPRequestHandler):
    """The handler of one connection, which carries one request. A body is not read."""

    server_version = "rudderpipe"
    sys_version = ""
    answers: Responses = MappingProxyType({})
    requestline, request_version, command = "", "HTTP/1.0", ""

    def handle(self) -> None:
        """Read the head before one deadline, so that no client holds a thread by sending slowly, and respond."""
        head = self._head()
        self.connection.settimeout(CONNECTION_S)
        self.close_connection = True
        if len(head) > HEAD_BYTES:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif head:
            self.rfile = BytesIO(head)
            self.handle_one_request()

    def _head(self) -> bytes:
        """Return the head of the request; nothing if the client sends too slowly, or goes."""
        deadline_s = time.monotonic() + CONNECTION_S
        head = b""
        while len(head) <= HEAD_BYTES:
            self.connection.settimeout(max(0.001, deadline_s - time.monotonic()))
            try:
                received = self.connection.recv(HEAD_BYTES)
            except OSError:
                return b""
            if not received:
                return b""
            head += received
            if _HEAD_ENDS.search(head):
                break
        return head

    def do_GET(self) -> None:
        """Send the response for the path."""
        self._send(body=True)

    def do_HEAD(self) -> None:
        """Send the response for the path without its body."""
        self._send(body=False)

    def _send(self, *, body: bool) -> None:
        try:
            answer = response_of(self.path.partition("?")[0], self.answers, self.headers.get("accept", ""))
            content = answer.content()
        except Exception:
            logger.exception("an admin request failed, events are not affected")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self._write(answer, content if body else b"", len(content))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002  # http.server's signature
        """Send an error of ``http.server`` as JSON, because its own form is an HTML page."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        answer = wrong(status)
        content = answer.content()
        self.request_version = "HTTP/1.0"  # what could not be read leaves 0.9 here, whose responses have no status
        self._write(answer, content, len(content))

    def _write(self, answer: Response, content: bytes, length: int) -> None:
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("content-length", str(length))
        self.send_header("cache-control", "no-store")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing, because probes come every few seconds."""


class AdminServer:
    """A server for GET and HEAD of the given paths. It calls their functions on its threads.

    It calls each function once at the start, so that the first scrape pays for no modules and no connections.
    """

    def __init__(self, address: tuple[str, int], answers: Responses) -> None:
        self._wanted = address
        self._answers = answers
        self._handler = type("Handler", (_Handler,), {"answers": answers})
        self._server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The address on which it listens, with the port that the system chose. Only after ``start``."""
        assert self._server is not None
        host, port = self._server.server_address[:2]
        return str(host), port

    def start(self) -> None:
        """Start to listen. Raises ``SettingsError`` if it cannot listen on the address."""
        host, port = self._wanted
        try:
            family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            kind = type("Server", (_Server,), {"address_family": family})
            self._server = kind((host, port), self._handler)
        except OSError as error:
            said = f"cannot listen on {text_of(host, port)}: {error.strerror}; the program has not started"
            raise SettingsError("--admin", said) from None
        threading.Thread(target=self._server.serve_forever, name="rudderpipe-admin", daemon=True).start()
        # On a thread of its own, because neither a probe nor this program's own work must wait for it.
        threading.Thread(target=self._warm_up, name="rudderpipe-admin-first", daemon=True).start()

    def _warm_up(self) -> None:
        for answer in self._answers.values():
            with suppress(Exception):  # a request meets the same error, and logs it
                answer(OPEN_METRICS)

    def close(self) -> None:
        """Stop the server. May be called again."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = BACKLOG

    def __init__(self, *arguments: Any) -> None:
        self._open: dict[socket.socket, None] = {}
        """The connections, the oldest one first."""
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, or raise ``OSError`` after a pause."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection on a thread of its own."""
        with self._lock:
            while len(self._open) >= CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with suppress(OSError):  # its thread closes it
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing, because a probe that closes its connection early is normal."""
