"""One kept-alive connection to a data plane: plain or TLS, direct or through a proxy."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from rudderpipe.delivery.outcome import Cause
from rudderpipe.delivery.response import NoResponse, NotHttp, Reader, Response, read
from rudderpipe.settings import Settings

_LOCAL_ERRORS = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOBUFS,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EACCES,
    errno.EPERM,
)
"""Errors that come from this host, not from the other side."""


class Obstacle(Exception):
    """A cause on this host, in a setting or in the proxy that prevents every attempt until it is repaired."""


class Server(msgspec.Struct, frozen=True):
    """The server to connect to; ``tls`` says whether the connection to it uses TLS."""

    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        """The host and the port, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Proxy(msgspec.Struct, frozen=True):
    """A proxy server, and the headers that carry our user and password."""

    server: Server
    headers: Mapping[str, str]


class _Paced:
    """A socket with one deadline for all its reads and writes together; ``settimeout`` moves it, and 0 never waits."""

    def __init__(self, sock: socket.socket, deadline_s: float) -> None:
        self._sock = sock
        self._deadline_s = deadline_s
        self._waits = True
        self.fileno = sock.fileno
        self.close = sock.close

    def settimeout(self, value: float) -> None:
        self._deadline_s = time.monotonic() + value
        self._waits = value > 0

    def recv(self, count: int) -> bytes:
        self._sock.settimeout(_left_s(self._deadline_s) if self._waits else 0)
        return self._sock.recv(count)

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._sock.settimeout(_left_s(self._deadline_s))
            view = view[self._sock.send(view) :]


def dial(
    to: Server,
    proxy: Proxy | None,
    context: ssl.SSLContext | None,
    timeout_s: float,
    until_s: float,
    opened: Callable[[socket.socket], None],
) -> socket.socket:
    """Return a connected socket. Raise ``NoResponse`` if the attempt failed, or ``Obstacle``.

    ``context`` is used for every TLS connection. ``opened`` gets each socket as soon as it exists, so that another
    thread can shut it down. ``timeout_s`` starts after the name lookup, because the lookup has the limits of the
    resolver; the connection must be ready before ``until_s`` all the same.
    """
    near = to if proxy is None else proxy.server
    try:
        addresses = _addresses(near)
        deadline_s = min(until_s, time.monotonic() + timeout_s)
        sock = _tcp(addresses, deadline_s, opened)
        try:
            if near.tls:
                assert context is not None
                sock = _tls(sock, near, context, deadline_s, opened)
            if proxy is not None and to.tls:
                assert context is not None
                _tunnel(sock, to, proxy, deadline_s)
                if near.tls:
                    sock = _tls_within(sock, to, context, deadline_s)
                else:
                    sock = _tls(sock, to, context, deadline_s, opened)
        except BaseException:
            sock.close()
            raise
    except TimeoutError:
        raise NoResponse(f"no connection in time{_through(proxy)}", begun=True, cause="timeout") from None
    except ssl.SSLCertVerificationError as error:
        raise NoResponse(f"certificate verify failed: {error.verify_message}", begun=True, cause="tls") from error
    except ssl.SSLError as error:
        raise NoResponse(f"TLS failed: {error.reason or error}", begun=True, cause="tls") from error
    except OSError as error:
        said = f"no connection: {error.strerror or error}{_through(proxy)}"
        if error.errno in _LOCAL_ERRORS and not isinstance(error, socket.gaierror):
            raise Obstacle(said) from error
        cause: Cause = "dns" if isinstance(error, socket.gaierror) else "connect"
        raise NoResponse(said, begun=True, cause=cause) from error
    return sock


def _through(proxy: Proxy | None) -> str:
    """Return a text that names the proxy, because the proxy may have refused and may come from the environment."""
    return "" if proxy is None else f" (through the proxy {proxy.server.authority})"


_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


def _addresses(to: Server) -> Sequence[_Address]:
    try:
        return socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise Obstacle(f"no connection: {to.host} is not a valid host name") from None
    except OSError:  # a gaierror, or with some plug-ins of the lookup an error with any number
        socket.socket().close()  # raises EMFILE when the cause is that no descriptor is left for the lookup
        raise


def _tcp(addresses: Sequence[_Address], deadline_s: float, opened: Callable[[socket.socket], None]) -> socket.socket:
    """Connect to the first address that can be reached; each address gets an equal share of the time left."""
    failure: OSError | None = None
    for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            return _connected(socket.socket(family, kind, protocol), address, _left_s(deadline_s) / left, opened)
        except OSError as error:  # also raised when this host does not support the address family
            if failure is None or failure.errno in _LOCAL_ERRORS:
                failure = error  # an error from the other side says more than an error of this host
    raise failure or OSError("the host has no address")


def _connected(
    sock: socket.socket, address: Any, timeout_s: float, opened: Callable[[socket.socket], None]
) -> socket.socket:
    try:
        opened(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(timeout_s)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _tls(
    sock: socket.socket,
    to: Server,
    context: ssl.SSLContext,
    deadline_s: float,
    opened: Callable[[socket.socket], None],
) -> ssl.SSLSocket:
    wrapped = context.wrap_socket(sock, server_hostname=to.host.rstrip("."), do_handshake_on_connect=False)
    try:
        opened(wrapped)
        wrapped.settimeout(_left_s(deadline_s))
        wrapped.do_handshake()  # the timeout covers the whole handshake
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def _tls_within(sock: socket.socket, to: Server, context: ssl.SSLContext, deadline_s: float) -> socket.socket:
    from urllib3.util.ssltransport import SSLTransport  # here, because it slows every start and few processes need it

    paced = cast(socket.socket, _Paced(sock, deadline_s))
    return cast(socket.socket, SSLTransport(paced, context, server_hostname=to.host.rstrip(".")))


def _tunnel(sock: socket.socket, to: Server, proxy: Proxy, deadline_s: float) -> None:
    """Send CONNECT, so that the proxy connects to the data plane."""
    lines = {"host": to.authority, **proxy.headers}
    head = f"CONNECT {to.authority} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    _Paced(sock, deadline_s).sendall(f"{head}\r\n".encode())
    reader = Reader(sock, deadline_s, step=1)  # the bytes behind the head belong to the data plane
    try:
        answer = read(reader, head_only=True)
    except NotHttp:
        raise Obstacle(f"no connection: {proxy.server.authority} is not an HTTP proxy") from None
    except NoResponse as error:
        if time.monotonic() >= deadline_s:
            raise TimeoutError from None
        raise NoResponse(f"no connection: the proxy did not connect, {error}", begun=True, cause="connect") from None
    if answer.status == 407:
        raise Obstacle(f"no connection: the proxy {proxy.server.authority} refuses our user and password (status 407)")
    if not 200 <= answer.status < 300:
        raise NoResponse(
            f"no connection: the proxy refused to connect, status {answer.status}", begun=True, cause="connect"
        )


def _left_s(deadline_s: float) -> float:
    """Return the seconds that are left. Raise ``TimeoutError`` if there are none."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


PORTS = {"http": 80, "https": 443}
MAX_IDLE_S = 60.0
"""A connection that was idle for longer is replaced, because routers drop idle connections without notice."""
STALL_S = 0.25
"""How long the server may accept no byte of a request before we check for an early response."""


class Wire:
    """A connection to one server. It is kept only after a complete exchange of one request and one response.

    A request is sent in one piece. An HTTP library costs twice as much, and sends head and body separately, which wakes
    the server twice.
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
        """The innermost socket; set before it is connected, so that ``abort`` can shut it down."""
        self._aborted = False
        self._fresh_until_s = float("-inf")
        self.sock: socket.socket | None = None
        """The open connection, or None."""

    def target(self, url: SplitResult) -> str:
        """Return the target in a request's first line: the path, or the whole URL for a plain proxy."""
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        return f"{url.scheme}://{url.netloc}{path}" if self._proxy and not self._to.tls else path

    def proxy_headers(self) -> dict[str, str]:
        """Return the headers of a plain request that are for the proxy."""
        return {} if self._proxy is None or self._to.tls else dict(self._proxy.headers)

    def exchange(self, head: bytes, body: bytes, timeout_s: float, until_s: float) -> Response:
        """Send a request and return its response, within ``timeout_s`` of the connection and before ``until_s``.

        If the server has closed a kept connection, the request is sent once more over a new connection, at once.
        Raise ``NoResponse`` or ``Obstacle``.
        """
        if self.sock is not None and (time.monotonic() > self._fresh_until_s or Reader(self.sock, 0).look()):
            self.close()  # too old, closed by the server, or with bytes that belong to no request
        kept = self.sock is not None
        try:
            return self._try(head, body, timeout_s, until_s)
        except NoResponse as error:
            if not kept or error.begun:
                raise
        return self._try(head, body, timeout_s, until_s)

    def _try(self, head: bytes, body: bytes, timeout_s: float, until_s: float) -> Response:
        try:
            sock = self.sock or self._connect(until_s)
            deadline_s = min(until_s, time.monotonic() + timeout_s)
            reader = Reader(sock, deadline_s)
            whole = _send(sock, reader, memoryview(head + body), deadline_s)
            answer = read(reader)
            if not whole and 200 <= answer.status < 300:
                raise NoResponse("the server responded before it received the whole request", begun=True)
        except BaseException:
            self.close()  # also for a signal's exception, because the rest of a response may still come
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
        except NoResponse as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                self._context = None  # ca_file may have been corrected since it was read
            raise
        if self._aborted:
            raise NoResponse("stopped", begun=True)
        return self.sock

    def _opened(self, sock: socket.socket) -> None:
        self._raw = sock
        if self._aborted:
            raise NoResponse("stopped", begun=True)

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                context = ssl.create_default_context(cafile=self._settings.ca_file)
            except (OSError, ValueError) as error:
                said = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
                raise Obstacle(f"ca_file cannot be used: {said or 'it contains no certificate'}") from error
            context.set_alpn_protocols(["http/1.1"])
            self._context = context
        return self._context

    def abort(self) -> None:
        """End the exchange under way and prevent every new connection. Any thread may call this."""
        self._aborted = True
        raw = self._raw
        if raw is not None:
            try:
                socket.socket.shutdown(raw, socket.SHUT_RDWR)  # not the shutdown of TLS, which would wait
            except OSError:
                pass  # the socket is closed already

    def close(self) -> None:
        """Close the connection; the next exchange opens a new one."""
        sock, self.sock, self._raw = self.sock, None, None
        if sock is not None:
            sock.close()


def _send(sock: socket.socket, reader: Reader, data: memoryview, deadline_s: float) -> bool:
    """Send all data. Return False if the server responded or closed the connection before it received them all."""
    plain = isinstance(sock, socket.socket)  # TLS within TLS cannot continue a write that timed out
    while data:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise NoResponse("the server did not accept the request in time", begun=True, cause="timeout")
        sock.settimeout(min(left_s, STALL_S) if plain else left_s)
        try:
            data = data[sock.send(data) :]
        except TimeoutError:
            if plain and reader.look():
                return False
        except OSError:
            return False  # a response may exist, because servers may refuse a body before they have read it
    return True


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    """Return the header with our user and password for the proxy; no header without a user."""
    if not proxy.username:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"proxy-authorization": f"Basic {b64encode(user.encode()).decode()}"}
