"""A small HTTP server on threads of its own."""

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


class Answer(msgspec.Struct, frozen=True):
    """A dict is sent as JSON, bytes as what ``content_type`` says."""

    status: int
    body: bytes | dict[str, Any]
    content_type: str = JSON

    def content(self) -> bytes:
        """The body as it is sent."""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body) + b"\n"


Answers = Mapping[str, Callable[[], Answer]]


def answer_of(path: str, answers: Answers) -> Answer:
    """That of a path; 404 names those that there are."""
    answer = answers.get(path)
    return answer() if answer else wrong(HTTPStatus.NOT_FOUND, paths=sorted(answers))


def wrong(status: HTTPStatus, **facts: Any) -> Answer:
    """An answer that is an error."""
    return Answer(int(status), {"error": status.phrase.lower(), **facts})


LOOPBACK = "127.0.0.1"
FORMS = "8080, :8080, 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080"


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; without a host it is loopback, as nobody else shall reach it unless told so.

    Port 0 lets the system choose. Raises ``SettingsError``.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        raise SettingsError("admin", f"names no port: write {FORMS}")
    if bracketed != (":" in host):
        raise SettingsError("admin", f"is ambiguous, as only an IPv6 address has brackets: write {FORMS}")
    if (bracketed and not host) or any(character <= " " or character in "/@[]" for character in host):
        raise SettingsError("admin", f"names no host: write {FORMS}")
    return (host if colon and host else LOOPBACK), int(port)


def text_of(host: str, port: int) -> str:
    """The same for people."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


CONNECTION_S = 5.0
"""How long a client may be silent."""


class _Handler(BaseHTTPRequestHandler):
    timeout = CONNECTION_S
    server_version = "rudderpipe"
    sys_version = ""
    answers: Answers = MappingProxyType({})

    def do_GET(self) -> None:
        """Whatever is asked for."""
        self._send(body=True)

    def do_HEAD(self) -> None:
        """The same without its body."""
        self._send(body=False)

    def _send(self, *, body: bool) -> None:
        answer = answer_of(self.path.partition("?")[0], self.answers)
        content = answer.content()
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("content-length", str(len(content)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002  # http.server's signature
        """What http.server does not understand is answered as everything else is; its own way is a page of HTML."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        content = wrong(status).content()
        self.send_response(int(status))
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: Any) -> None:
        """Quiet: probes come every few seconds."""


class AdminServer:
    """Answers GET and HEAD for the paths it is given; their callables are called on its threads and must not wait."""

    def __init__(self, address: tuple[str, int], answers: Answers) -> None:
        self._wanted = address
        self._handler = type("Handler", (_Handler,), {"answers": answers})
        self._server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; after ``start``, with the port that the system chose."""
        assert self._server is not None
        host, port = self._server.server_address[:2]
        return str(host), port

    def start(self) -> None:
        """Listen from now on. Raises ``SettingsError`` when the address cannot be had."""
        host, port = self._wanted
        try:
            family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            kind = type("Server", (_Server,), {"address_family": family})
            self._server = kind((host, port), self._handler)
        except OSError as error:
            raise SettingsError("admin", f"cannot listen on {text_of(host, port)}: {error.strerror}") from None
        threading.Thread(target=self._server.serve_forever, name="rudderpipe-admin", daemon=True).start()

    def close(self) -> None:
        """End it; may be called again."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A probe that gave up is no news."""
