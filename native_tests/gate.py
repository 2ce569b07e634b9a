"""A wire to Redis that holds what passes at a named place, so that a test can kill just then."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from typing import Any

from rudderpipe.queue.scripts import Scripts
from rudderpipe.testing.redis_server import RedisServer

PATIENCE_S = 30.0


class Gate:
    """Between a port of loopback and a server's unix socket.

    ``stop("take_jobs", before=True)``: the next call of that script does not reach Redis, ``before=False``: it is done
    and its answer does not come, until ``open()``. ``reached`` is set as soon as one is held.
    """

    def __init__(self, server: RedisServer) -> None:
        self._path = str(server.socket)
        self._digests = Scripts().digests
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._script: bytes | None = None
        self._before = True
        self._opened = threading.Event()
        self._passed = threading.Event()
        self.reached = threading.Event()
        self.was_reset = False
        """The caller had reset its connection by then; one that closes it has its kernel send what is left."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """What a sender takes as ``redis``."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self, script: str, *, before: bool) -> None:
        """Hold the next call of it."""
        self.reached.clear()
        self._opened.clear()
        self._passed.clear()
        self._before = before
        self._script = self._digests[script].encode()

    def open(self) -> None:
        """Hold nothing any more."""
        self._script = None
        self._opened.set()

    def release(self, client: Any) -> None:
        """Hold nothing any more, and wait until Redis has done what was held."""
        self.open()
        assert self._passed.wait(PATIENCE_S)
        client.ping()  # Redis answers it after what had arrived before

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._path)
            threading.Thread(target=self._answers, args=(server, client), daemon=True).start()
            while data := client.recv(1 << 20):
                held = self._script is not None and self._script in data
                if held:
                    self._script = None
                    if self._before:
                        self._hold()
                        error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                        self.was_reset = error in (errno.ECONNRESET, errno.EPIPE)  # EPIPE: after a shutdown
                    else:
                        self._holding = server
                server.sendall(data)
                if held:
                    self._passed.set()

    _holding: socket.socket | None = None
    """The connection whose next answer is held."""

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                if self._holding is server:
                    self._holding = None
                    self._hold()
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def _hold(self) -> None:
        self.reached.set()
        self._opened.wait(PATIENCE_S)

    def close(self) -> None:
        """Take no more connections."""
        self.open()
        self._listener.close()
