"""The ways in which Redis is deployed: behind TLS, with replicas and sentinels, as a cluster.

Also a proxy that drops answers.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import redis

from native_tests.processes import free_port, wait_until
from rudderpipe.testing.redis_server import RedisServer, executable

SERVICE = "main"
SLOTS = 16_384


CLUSTER_BUS = 10_000
"""The nodes of a cluster talk to each other on the port of a node plus this number."""


class Wire:
    """A proxy between a port of loopback and a server's unix socket, which speaks TLS when it gets a context."""

    def __init__(self, server: RedisServer, context: ssl.SSLContext | None = None) -> None:
        self._server = server
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._cut = 0
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def lead_to(self, server: RedisServer) -> None:
        """Carry later connections to this server."""
        self._server = server

    def cut_answer(self, number: int = 1) -> None:
        """End the connection in place of the ``number``-th answer from now on."""
        self._cut = number

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=[connection], daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            with client:
                server.connect(str(self._server.socket))
                while self._pass_on(client, server):
                    pass

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        held = isinstance(client, ssl.SSLSocket) and client.pending()
        ready = [client] if held else select.select([client, server], [], [])[0]
        for source in ready:
            data = source.recv(65_536)
            if not data:
                return False
            if source is client:
                server.sendall(data)
                continue
            if self._cut:
                self._cut -= 1
                if not self._cut:
                    self.cuts += 1
                    return False
            client.sendall(data)
        return True

    def close(self) -> None:
        """Close the listener, so that no more connections are accepted."""
        self._listener.close()


class Replicated:
    """A master, a replica and three sentinels."""

    def __init__(self, directory: Path) -> None:
        self.ports = [free_port(), free_port()]
        self.sentinel_ports = [free_port() for _ in range(3)]
        self.servers = []
        self._sentinels: list[subprocess.Popen[bytes]] = []
        for port in self.ports:
            place = directory / f"redis-{port}"
            place.mkdir()
            options = ["--port", str(port), "--bind", "127.0.0.1"]
            if port != self.ports[0]:
                options += ["--replicaof", "127.0.0.1", str(self.ports[0])]
            self.servers.append(RedisServer(place, *options))
            self.servers[-1].start()
        wait_until(lambda: self.servers[0].text_client().info("replication")["connected_slaves"] == 1)
        for port in self.sentinel_ports:
            self._sentinels.append(self._sentinel(directory / f"sentinel-{port}", port))
        for port in self.sentinel_ports:
            wait_until(partial(self._sees_all, port))

    def _sentinel(self, place: Path, port: int) -> subprocess.Popen[bytes]:
        place.mkdir()
        settings = place / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {place}\nsentinel monitor {SERVICE} 127.0.0.1 {self.ports[0]} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n"
        )
        with (place / "log").open("wb") as log:
            return subprocess.Popen([executable(), str(settings), "--sentinel"], stdout=log, stderr=log)

    @staticmethod
    def _sees_all(port: int) -> bool:
        with contextlib.suppress(redis.RedisError), redis.Redis(port=port, decode_responses=True) as client:
            found: Any = client.sentinel_master(SERVICE)
            return int(found["num-other-sentinels"]) == 2 and int(found["num-slaves"]) == 1
        return False

    def sentinel(self) -> Any:
        """Return a client of the first sentinel."""
        return redis.Redis(port=self.sentinel_ports[0], decode_responses=True)

    @property
    def url(self) -> str:
        """Return the value of the setting ``redis``."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.sentinel_ports)}/{SERVICE}/2"

    def end(self) -> None:
        """Kill every sentinel and every server."""
        for sentinel in self._sentinels:
            sentinel.kill()
            sentinel.wait()
        for server in self.servers:
            server.kill()


class Cluster:
    """Three masters, each with a third of the slots, with more ``options`` of redis-server.

    With ``persistent`` each keeps its data over a restart.
    """

    def __init__(self, directory: Path, *options: str, persistent: bool = False) -> None:
        self._options = options
        self._directory = directory
        self._persistent = persistent
        self.ports = [free_port(CLUSTER_BUS) for _ in range(3)]
        self.servers: list[RedisServer] = []
        for number, port in enumerate(self.ports):
            self._start(port)
            slots = range(number * SLOTS // 3, (number + 1) * SLOTS // 3)
            self.ask(number, "CLUSTER", "ADDSLOTS", *slots)
        for port in self.ports[1:]:
            self.ask(0, "CLUSTER", "MEET", "127.0.0.1", port)
        for number in range(3):
            wait_until(partial(self._is_whole, number))

    def _is_whole(self, number: int) -> bool:
        information = self.ask(number, "CLUSTER", "INFO")
        return "cluster_state:ok" in information and f"cluster_known_nodes:{len(self.ports)}" in information

    def _start(self, port: int) -> RedisServer:
        place = self._directory / f"node-{port}"
        place.mkdir()
        options: tuple[str, ...] = ("--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes")
        options += ("--repl-diskless-sync-delay", "0", *self._options)
        self.servers.append(RedisServer(place, *options, persistent=self._persistent))
        self.servers[-1].start()
        return self.servers[-1]

    def add_replica(self, number: int) -> int:
        """Start a replica of a node, and return its number when every node knows it and it has the data."""
        self.ports.append(free_port(CLUSTER_BUS))
        replica = self._start(self.ports[-1])
        self.ask(0, "CLUSTER", "MEET", "127.0.0.1", self.ports[-1])
        for each in range(len(self.ports)):
            wait_until(partial(self._is_whole, each))
        self.ask(-1, "CLUSTER", "REPLICATE", self.ask(number, "CLUSTER", "MYID"))
        wait_until(lambda: replica.text_client().info("replication")["master_link_status"] == "up")
        return len(self.ports) - 1

    def ask(self, number: int, *command: Any) -> Any:
        """Return the answer of one node, without following a redirection."""
        with redis.Redis(port=self.ports[number], decode_responses=True) as client:
            answer = client.connection_pool.get_connection()
            try:
                answer.send_command(*command)
                return answer.read_response()
            finally:
                client.connection_pool.release(answer)

    def holder(self, slot: int) -> int:
        """Return the number of the node that holds a slot, as the first node reports it."""
        for start, end, node, *_ in self.ask(0, "CLUSTER", "SLOTS"):
            if start <= slot <= end:
                return self.ports.index(node[1])
        raise AssertionError(slot)

    def move(self, slot: int, target: int) -> None:
        """Give a slot with its keys to another node, as an operator's resharding does."""
        source = self.holder(slot)
        ids = [self.ask(number, "CLUSTER", "MYID") for number in range(3)]
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        keys = self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        if keys:
            self.ask(source, "MIGRATE", "127.0.0.1", self.ports[target], "", 0, 5000, "KEYS", *keys)
        for number in (target, source, *range(3)):
            self.ask(number, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        wait_until(lambda: self.holder(slot) == target)

    @property
    def url(self) -> str:
        """Return the value of the setting ``redis``."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{port}' for port in self.ports)}"

    def end(self) -> None:
        """Kill every node."""
        for server in self.servers:
            server.kill()


@contextlib.contextmanager
def ending(owner: Any) -> Iterator[Any]:
    """Yield the object, and call its ``end`` afterwards."""
    try:
        yield owner
    finally:
        owner.end()
