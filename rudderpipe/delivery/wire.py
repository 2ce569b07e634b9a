"""One kept connection to a data plane, plain or TLS, straight or through a proxy."""

from __future__ import annotations

import socket
import ssl
import time
from base64 import b64encode
from urllib.parse import SplitResult, unquote, urlsplit

from urllib3 import connection
from urllib3.exceptions import HTTPError
from urllib3.util import wait_for_read

from rudderpipe.delivery.answer import Answer, NoAnswer, read
from rudderpipe.settings import Settings

PORTS = {"http": 80, "https": 443}


class Wire:
    """urllib3 makes the connection; what goes over it is one packet there and one answer back.

    urllib3's own way of a request costs twice as much as this one and sends head and body apart, which wakes the server
    twice.
    """

    def __init__(self, scheme: str, host: str, port: int, settings: Settings) -> None:
        self._tls = scheme == "https"
        self._host = host
        self._port = port
        self._settings = settings
        self._proxy = urlsplit(settings.proxy_url) if settings.proxy_url else None
        self._context: ssl.SSLContext | None = None
        self._connection: connection.HTTPConnection | None = None
        self.sock: socket.socket | None = None
        """While there is a connection."""

    def target(self, url: SplitResult) -> str:
        """What a request's first line asks for: the path, or through a plain proxy the whole URL."""
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        return f"{url.scheme}://{url.netloc}{path}" if self._proxy and not self._tls else path

    def proxy_headers(self) -> dict[str, str]:
        """Who we are to the proxy; empty without user."""
        if self._proxy is None or not self._proxy.username:
            return {}
        user = f"{unquote(self._proxy.username)}:{unquote(self._proxy.password or '')}"
        return {"proxy-authorization": f"Basic {b64encode(user.encode()).decode()}"}

    def exchange(self, head: bytes, body: bytes, timeout_s: float) -> Answer:
        """Send a request and read its answer. Raises ``NoAnswer``.

        A kept connection that the server has closed meanwhile is followed by a new one, at once.
        """
        if self.sock is not None and wait_for_read(self.sock, timeout=0.0):
            self.close()
        kept = self.sock is not None
        try:
            return self._try(head, body, timeout_s)
        except NoAnswer as error:
            if not kept or error.begun:
                raise
        return self._try(head, body, timeout_s)

    def _try(self, head: bytes, body: bytes, timeout_s: float) -> Answer:
        sock = self.sock or self._connect()
        deadline_s = time.monotonic() + timeout_s
        try:
            sock.settimeout(timeout_s)
            sock.sendall(head + body)
        except TimeoutError:
            self.close()
            raise NoAnswer("the request was not taken in time", begun=True) from None
        except OSError:
            pass  # the answer may be there all the same: servers refuse a body before they have read it
        try:
            answer = read(sock, deadline_s)
        except NoAnswer:
            self.close()
            raise
        if not answer.reusable:
            self.close()
        return answer

    def _connect(self) -> socket.socket:
        near = self._proxy
        host, port = self._host, self._port
        if near is not None:
            host, port = near.hostname or "", near.port or PORTS[near.scheme]
        timeout_s = self._settings.connect_timeout_s
        if self._tls or (near is not None and near.scheme == "https"):
            self._context = self._context or ssl.create_default_context(cafile=self._settings.ca_file)
            config = connection.ProxyConfig(self._context, False, None, None)
            made: connection.HTTPConnection = connection.HTTPSConnection(
                host, port, timeout=timeout_s, ssl_context=self._context, proxy_config=config
            )
        else:
            made = connection.HTTPConnection(host, port, timeout=timeout_s)
        if near is not None and self._tls:
            made.set_tunnel(self._host, self._port, headers=self.proxy_headers(), scheme=near.scheme)
        try:
            made.connect()
        except (HTTPError, OSError) as error:
            made.close()
            raise NoAnswer(_reason(error), begun=True) from error
        assert made.sock is not None
        self._connection, self.sock = made, made.sock
        return self.sock

    def close(self) -> None:
        """The next exchange makes a new connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self.sock = None


def _reason(error: Exception) -> str:
    """What the system said, without the objects' addresses that urllib3 puts before it."""
    cause = error.__cause__ or error.__context__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {cause.verify_message}"
    if isinstance(cause, TimeoutError) or isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or cause}"
    if isinstance(cause, OSError):
        return f"no connection: {cause.strerror or cause}"
    return f"no connection: {type(cause).__name__}"
