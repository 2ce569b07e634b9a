"""A new connection to a data plane: TCP, CONNECT through a proxy, TLS; all of it before one deadline."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from rudderpipe.delivery.response import NoAnswer, NotHttp, Reader, read

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
"""What this host refuses, whatever the other side does."""


class Obstacle(Exception):
    """This host, a setting or the proxy prevents every attempt, until somebody mends it."""


class Server(msgspec.Struct, frozen=True):
    """Where to connect to; ``tls`` from there on."""

    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        """Host and port as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Proxy(msgspec.Struct, frozen=True):
    """A server between, and the headers that tell it who we are."""

    server: Server
    headers: Mapping[str, str]


class _Paced:
    """A socket of which all reads and writes together end after the time that was set last; 0 waits for nothing."""

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
    """Connect. Raises ``NoAnswer`` (an attempt that failed) and ``Obstacle``.

    ``context`` is that of all TLS that is needed; ``opened`` gets each socket as soon as it is there, so that another
    thread can shut it down. ``timeout_s`` begins when the name is known: its lookup has the resolver's own limits.
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
        raise NoAnswer(f"no connection in time{_through(proxy)}", begun=True) from None
    except ssl.SSLCertVerificationError as error:
        raise NoAnswer(f"certificate verify failed: {error.verify_message}", begun=True) from error
    except ssl.SSLError as error:
        raise NoAnswer(f"TLS failed: {error.reason or error}", begun=True) from error
    except OSError as error:
        said = f"no connection: {error.strerror or error}{_through(proxy)}"
        if error.errno in _LOCAL_ERRORS and not isinstance(error, socket.gaierror):
            raise Obstacle(said) from error
        raise NoAnswer(said, begun=True) from error
    return sock


def _through(proxy: Proxy | None) -> str:
    """Name the proxy: it may be the one who refused, and may come from a variable of the environment."""
    return "" if proxy is None else f" (through the proxy {proxy.server.authority})"


_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


def _addresses(to: Server) -> Sequence[_Address]:
    try:
        return socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise Obstacle(f"no connection: {to.host} is no name of a host") from None
    except socket.gaierror:
        socket.socket().close()  # a host without descriptors cannot look up names, and this call says so
        raise


def _tcp(addresses: Sequence[_Address], deadline_s: float, opened: Callable[[socket.socket], None]) -> socket.socket:
    """Connect to the first address that can be reached; each has its share of the time."""
    failure: OSError | None = None
    for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            return _connected(socket.socket(family, kind, protocol), address, _left_s(deadline_s) / left, opened)
        except OSError as error:  # also where this host does not know the family
            if failure is None or failure.errno in _LOCAL_ERRORS:
                failure = error  # what the other side did says more than what this host lacks
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
        wrapped.do_handshake()  # its time limit is for the whole of it
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def _tls_within(sock: socket.socket, to: Server, context: ssl.SSLContext, deadline_s: float) -> socket.socket:
    from urllib3.util.ssltransport import SSLTransport  # here, as it costs every process what few need

    paced = cast(socket.socket, _Paced(sock, deadline_s))
    return cast(socket.socket, SSLTransport(paced, context, server_hostname=to.host.rstrip(".")))


def _tunnel(sock: socket.socket, to: Server, proxy: Proxy, deadline_s: float) -> None:
    """Have the proxy connect to the data plane."""
    lines = {"host": to.authority, **proxy.headers}
    head = f"CONNECT {to.authority} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    _Paced(sock, deadline_s).sendall(f"{head}\r\n".encode())
    reader = Reader(sock, deadline_s, step=1)  # what is behind the head is the data plane's
    try:
        answer = read(reader, head_only=True)
    except NotHttp:
        raise Obstacle(f"no connection: {proxy.server.authority} is no HTTP proxy") from None
    except NoAnswer as error:
        if time.monotonic() >= deadline_s:
            raise TimeoutError from None
        raise NoAnswer(f"no connection: the proxy did not connect, {error}", begun=True) from None
    if answer.status == 407:
        raise Obstacle(f"no connection: the proxy {proxy.server.authority} refuses user and password (status 407)")
    if not 200 <= answer.status < 300:
        raise NoAnswer(f"no connection: the proxy refused to connect, status {answer.status}", begun=True)


def _left_s(deadline_s: float) -> float:
    """Return the time that is left. Raises ``TimeoutError`` when there is none."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
