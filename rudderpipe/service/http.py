"""A small HTTP server that runs on its own threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any

import msgspec

from rudderpipe.errors import SettingsError

JSON = "application/json"


class Response(msgspec.Struct, frozen=True):
    """An HTTP response. A dict is sent as JSON, bytes as ``content_type``."""

    status: int
    body: bytes | dict[str, Any]
    content_type: str = JSON

    def content(self) -> bytes:
        """Return the body as bytes."""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body) + b"\n"


Responses = Mapping[str, Callable[[], Response]]


def response_of(path: str, answers: Responses) -> Response:
    """Return the response for ``path``. For an unknown path it is a 404 that lists the known paths."""
    answer = answers.get(path)
    return answer() if answer else wrong(HTTPStatus.NOT_FOUND, paths=sorted(answers))


def wrong(status: HTTPStatus, **vitals: Any) -> Response:
    """Return an error response with ``vitals`` in its JSON."""
    return Response(int(status), {"error": status.phrase.lower(), **vitals})


LOOPBACK = "127.0.0.1"
FORMS = "8080, :8080, 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080"


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``. Without a host it is loopback, so that no other machine has access.

    Port 0 lets the system choose. Raises ``SettingsError``.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        raise SettingsError("--admin", f"has no valid port, write it as {FORMS}")
    if bracketed != (":" in host):
        raise SettingsError("--admin", f"is ambiguous, because only an IPv6 address has brackets, write it as {FORMS}")
    if (bracketed and not host) or any(character <= " " or character in "/@[]" for character in host):
        raise SettingsError("--admin", f"has no valid host, write it as {FORMS}")
    return (host if colon and host else LOOPBACK), int(port)


def text_of(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


CONNECTION_S = 5.0
"""How long a client may send nothing before its connection is closed."""


class _Handler(BaseHTTPRequestHandler):
    timeout = CONNECTION_S
    server_version = "rudderpipe"
    sys_version = ""
    answers: Responses = MappingProxyType({})

    def do_GET(self) -> None:
        """Send the response for the path."""
        self._send(body=True)

    def do_HEAD(self) -> None:
        """Send the response for the path without its body."""
        self._send(body=False)

    def _send(self, *, body: bool) -> None:
        answer = response_of(self.path.partition("?")[0], self.answers)
        content = answer.content()
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("content-length", str(len(content)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002  # http.server's signature
        """Send an error of ``http.server`` as JSON, because its own form is an HTML page."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        content = wrong(status).content()
        self.send_response(int(status))
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing, because probes come every few seconds."""


class AdminServer:
    """A server for GET and HEAD of the given paths. It calls their callables on its threads, so they must not wait."""

    def __init__(self, address: tuple[str, int], answers: Responses) -> None:
        self._wanted = address
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
            raise SettingsError("--admin", f"cannot listen on {text_of(host, port)}: {error.strerror}") from None
        threading.Thread(target=self._server.serve_forever, name="rudderpipe-admin", daemon=True).start()

    def close(self) -> None:
        """Stop the server. May be called again."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing, because a probe that closes its connection early is normal."""
