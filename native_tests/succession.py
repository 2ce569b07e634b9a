"""A Redis master with one replica, which lags when a test wants it to, and takes over when the master is killed."""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from native_tests.processes import free_port, wait_until
from native_tests.redis_forms import Wire
from rudderpipe.queue import job
from rudderpipe.testing.redis_server import RedisServer

WAITING = "{rudder}:rudderEventsQueue:wait"


class Link:
    """A proxy between a replica and its master. While it is held, what the master writes does not reach the replica."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._flows = threading.Event()
        self._flows.set()
        self._is_cut = False
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """Keep back what the master writes from now on."""
        self._flows.clear()

    def flow(self) -> None:
        """Let the replica have what was kept back."""
        self._flows.set()

    def cut(self) -> None:
        """End the link. What was kept back is lost."""
        self._is_cut = True
        self._flows.set()
        self._listener.close()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                replica, _ = self._listener.accept()
                self._ends.append(replica)
                try:
                    master = socket.create_connection(("127.0.0.1", self._to))
                except OSError:  # the master was killed
                    replica.close()
                    continue
                self._ends.append(master)
                for source, sink in ((replica, master), (master, replica)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(65_536):
                self._flows.wait()
                if self._is_cut:
                    return
                sink.sendall(data)


class Succession:
    """The master, its replica, and the address that leads to the master."""

    def __init__(self, directory: Path, program: str | None = None) -> None:
        self._directory = directory
        self._program = program
        self._numbers = itertools.count()
        self._servers: list[RedisServer] = []
        self.master, self._port = self._start()
        self.wire = Wire(self.master)
        self.follow()

    def _start(self, *options: str) -> tuple[RedisServer, int]:
        place, port = self._directory / f"redis-{next(self._numbers)}", free_port()
        place.mkdir()
        own = ("--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
        server = RedisServer(place, *own, *options, program=self._program)
        self._servers.append(server)
        server.start()
        return server, port

    def follow(self) -> None:
        """Start a replica of the master, and wait until it has all data."""
        self.link = Link(self._port)
        self.replica, self._replica_port = self._start("--replicaof", "127.0.0.1", str(self.link.port))
        wait_until(lambda: self.replica.text_client().info("replication")["master_link_status"] == "up")
        wait_until(lambda: self._states() == ["online"])

    def _states(self) -> list[str]:
        """Return the states of the replicas as the master sees them; it waits only for those that are online."""
        found: dict[str, Any] = self.master.text_client().info("replication")
        return [found[name]["state"] for name in found if name.startswith("slave") and isinstance(found[name], dict)]

    def fail_over(self) -> None:
        """Kill the master, and let the replica take over with what it has."""
        self.master.kill()
        self.link.cut()
        self.replica.text_client().replicaof("NO", "ONE")
        self.master, self._port = self.replica, self._replica_port
        self.wire.lead_to(self.master)

    @property
    def url(self) -> str:
        """Return the value of the setting ``redis``."""
        return f"redis://127.0.0.1:{self.wire.port}"

    def users(self) -> list[str]:
        """Return the users of all events that wait in the master, in their order."""
        return users_in(self.master.text_client())

    def end(self) -> None:
        """Kill every server."""
        self.wire.close()
        self.link.cut()
        for server in self._servers:
            server.kill()


def users_in(redis: Any, tag: str = "{rudder}") -> list[str]:
    """Return the users of all events that wait in a queue, in their order. ``tag`` is the hash tag of its keys."""
    base = f"{tag}:rudderEventsQueue:"
    ids = redis.lrange(f"{base}wait", 0, -1)
    read = [job.read(redis.hget(f"{base}{each}", "data").encode()) for each in reversed(ids)]
    return [msgspec.json.decode(event)["userId"] for each in read for event in each.events]
