"""A proxy for HTTP and for tunnels, plain or behind TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress

import trustme


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Return a server's TLS context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


class Proxy:
    """A proxy for CONNECT and whole URLs, over TLS with a ``context``, which keeps the heads of the requests."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heads: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            with client:
                self._carry(client)
        except OSError:
            pass  # the other side closed, or is no client of the test

    def _carry(self, client: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(65_536)
        head = data.partition(b"\r\n\r\n")[0].decode()
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        where = target if method == "CONNECT" else target.split("/")[2]
        with socket.create_connection((where.split(":")[0], int(where.split(":")[1]))) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                server.sendall(data)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()

    def close(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
    except OSError:
        pass
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
