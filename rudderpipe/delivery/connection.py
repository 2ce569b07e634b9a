"""One kept connection to a data plane, plain or TLS, straight or through a proxy."""

from __future__ import annotations

import socket
import ssl
import time
from base64 import b64encode
from urllib.parse import SplitResult, unquote, urlsplit

from rudderpipe.delivery.dial import Obstacle, Proxy, Server, dial
from rudderpipe.delivery.response import Answer, NoAnswer, Reader, read
from rudderpipe.settings import Settings

PORTS = {"http": 80, "https": 443}
MAX_IDLE_S = 60.0
"""A connection that was idle for longer is made anew: routers forget such connections, and tell neither side."""
STALL_S = 0.25
"""How long a server may take nothing of a request before we look whether it has answered already."""


class Wire:
    """What goes over it is one packet there and one answer back; only a whole exchange is followed by another.

    An HTTP library's way of a request costs twice as much and sends head and body apart, which wakes the server twice.
    """

    def __init__(self, scheme: str, host: str, port: int, settings: Settings) -> None:
        self._to = Server(host, port, scheme == "https")
        self._settings = settings
        self._proxy: Proxy | None = None
        if settings.proxy_url:
            url = urlsplit(settings.proxy_url)
            near = Server(url.hostname or "", url.port or PORTS[url.scheme], url.scheme == "https")
            self._proxy = Proxy(near, _proxy_headers(url))
        self._context: ssl.SSLContext | None = None
        self._raw: socket.socket | None = None
        """The socket below, already while it is being connected."""
        self._aborted = False
        self._fresh_until_s = float("-inf")
        self.sock: socket.socket | None = None
        """While there is a connection."""

    def target(self, url: SplitResult) -> str:
        """What a request's first line asks for: the path, or through a plain proxy the whole URL."""
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        return f"{url.scheme}://{url.netloc}{path}" if self._proxy and not self._to.tls else path

    def proxy_headers(self) -> dict[str, str]:
        """Return what a plain request says to the proxy that reads it."""
        return {} if self._proxy is None or self._to.tls else dict(self._proxy.headers)

    def exchange(self, head: bytes, body: bytes, timeout_s: float, until_s: float) -> Answer:
        """Send a request and read its answer, within ``timeout_s`` of the connection and before ``until_s``.

        A kept connection that the server has closed meanwhile is followed by a new one, at once.
        Raises ``NoAnswer`` and ``Obstacle``.
        """
        if self.sock is not None and (time.monotonic() > self._fresh_until_s or Reader(self.sock, 0).look()):
            self.close()  # too old, ended by the server, or with something that answers no request of ours
        kept = self.sock is not None
        try:
            return self._try(head, body, timeout_s, until_s)
        except NoAnswer as error:
            if not kept or error.begun:
                raise
        return self._try(head, body, timeout_s, until_s)

    def _try(self, head: bytes, body: bytes, timeout_s: float, until_s: float) -> Answer:
        try:
            sock = self.sock or self._connect(until_s)
            deadline_s = min(until_s, time.monotonic() + timeout_s)
            reader = Reader(sock, deadline_s)
            whole = _send(sock, reader, memoryview(head + body), deadline_s)
            answer = read(reader)
            if not whole and 200 <= answer.status < 300:
                raise NoAnswer("the server answered before it had the whole request", begun=True)
        except BaseException:
            self.close()  # whatever it was, a signal's exception included: the rest of an answer may still come
            raise
        if not (whole and answer.reusable):
            self.close()
        self._fresh_until_s = time.monotonic() + MAX_IDLE_S
        return answer

    def _connect(self, until_s: float) -> socket.socket:
        timeout_s = self._settings.connect_timeout_s
        near = self._to if self._proxy is None else self._proxy.server
        context = self._tls_context() if self._to.tls or near.tls else None
        try:
            self.sock = dial(self._to, self._proxy, context, timeout_s, until_s, self._opened)
        except NoAnswer as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                self._context = None  # ca_file may have been mended since it was read
            raise
        if self._aborted:
            raise NoAnswer("stopped", begun=True)
        return self.sock

    def _opened(self, sock: socket.socket) -> None:
        self._raw = sock
        if self._aborted:
            raise NoAnswer("stopped", begun=True)

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                context = ssl.create_default_context(cafile=self._settings.ca_file)
            except (OSError, ValueError) as error:
                said = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
                raise Obstacle(f"ca_file cannot be used: {said or 'it holds no certificate'}") from error
            context.set_alpn_protocols(["http/1.1"])
            self._context = context
        return self._context

    def abort(self) -> None:
        """From any thread: end the exchange under way, and make no connection any more."""
        self._aborted = True
        raw = self._raw
        if raw is not None:
            try:
                socket.socket.shutdown(raw, socket.SHUT_RDWR)  # not TLS's own, which would wait
            except OSError:
                pass  # closed already

    def close(self) -> None:
        """The next exchange makes a new connection."""
        sock, self.sock, self._raw = self.sock, None, None
        if sock is not None:
            sock.close()


def _send(sock: socket.socket, reader: Reader, data: memoryview, deadline_s: float) -> bool:
    """Send all, or return False when the server has answered, or hung up, before it had it."""
    plain = isinstance(sock, socket.socket)  # TLS within TLS cannot go on with a write that was cut off
    while data:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise NoAnswer("the request was not taken in time", begun=True)
        sock.settimeout(min(left_s, STALL_S) if plain else left_s)
        try:
            data = data[sock.send(data) :]
        except TimeoutError:
            if plain and reader.look():
                return False
        except OSError:
            return False  # the answer may be there all the same: servers refuse a body before they have read it
    return True


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    """Return who we are to the proxy; nothing without a user."""
    if not proxy.username:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"proxy-authorization": f"Basic {b64encode(user.encode()).decode()}"}
