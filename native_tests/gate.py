"""A proxy before Redis that holds one call or one answer, so that a test can kill a process at that moment."""

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
    """A proxy from a port of loopback to a server's Unix socket.

    After ``stop("take_jobs", before=True)`` the next call of that script does not reach Redis until ``open()``. With
    ``before=False`` Redis executes the call, and its answer does not come back until ``open()``. ``reached`` is set as
    soon as a call or an answer is held.
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
        """The caller had reset its connection before ``open()``. After a plain close the kernel sends what is left."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Return the address for the setting ``redis``."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self, script: str, *, before: bool) -> None:
        """Hold the next call of this script."""
        self.reached.clear()
        self._opened.clear()
        self._passed.clear()
        self._before = before
        self._script = self._digests[script].encode()

    def open(self) -> None:
        """Let held and later calls pass."""
        self._script = None
        self._opened.set()

    def release(self, client: Any) -> None:
        """Let held and later calls pass, and wait until Redis has executed the held one."""
        self.open()
        assert self._passed.wait(PATIENCE_S)
        client.ping()  # Redis executes earlier calls first

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
        """Accept no more connections."""
        self.open()
        self._listener.close()
