"""Three Redis nodes that a storm kills and stops, one at a time: a list of servers behind proxies, or a cluster."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import redis

from native_tests.processes import wait_until
from native_tests.redis_forms import Cluster
from native_tests.storm_helpers import Helpers
from native_tests.storm_processes import Interruption
from rudderpipe.testing.redis_server import RedisServer

NODES = 3
NODE_TIMEOUT_MS = 1500
"""After this time without a sign of life, a replica takes the place of its master."""
Later = Callable[[float, Callable[[], None]], None]
"""A function that calls another one at a random moment within so many seconds."""


class Nodes(Protocol):
    """What a storm needs of either form."""

    url: str
    """The setting ``redis`` of the pipe."""
    own_url: str
    """The same without proxies."""
    replicas: int
    """The setting ``redis_replicas``."""
    deaths: Counter[str]
    interruptions: list[Interruption]
    """The moments at which Redis may have forgotten what it had acknowledged."""

    @property
    def acts(self) -> Counter[str]:
        """Count everything that was done except kills."""

    def kill(self, chance: random.Random, later: Later) -> None:
        """Kill a node if all are well, and have it back later."""

    def stop(self, chance: random.Random, later: Later) -> None:
        """Stop a node if all are well, and let it go on later."""

    def calm(self) -> None:
        """Let all nodes be well again, and the proxies lose nothing more."""

    def errors(self) -> Iterator[str]:
        """Yield what helpers have written to their standard error."""

    def end(self) -> None:
        """Kill everything."""


class ListOfServers:
    """Three servers. The proxy before each loses answers, and holds calls for ``hold_s`` seconds."""

    replicas = 0

    def __init__(self, directory: Path, seed: int, hold_s: float) -> None:
        self.deaths: Counter[str] = Counter()
        self.interruptions: list[Interruption] = []
        self._acts: Counter[str] = Counter()
        self._away: RedisServer | None = None
        self._servers: list[RedisServer] = []
        self._proxies: list[Helpers] = []
        ports = []
        for number in range(NODES):
            place = directory / f"redis-{number}"
            place.mkdir()
            self._servers.append(RedisServer(place, persistent=True))
            self._servers[-1].start()
            self._proxies.append(Helpers(directory / f"proxy-{number}"))
            ports.append(self._proxies[-1].start("proxy", str(self._servers[-1].socket), f"{seed}", f"{hold_s}"))
        self.url = " ".join(f"redis://127.0.0.1:{port}" for port in ports)
        self.own_url = " ".join(server.url for server in self._servers)

    @property
    def acts(self) -> Counter[str]:
        """Count what was done to nodes, and what the proxies did."""
        said = [each.home / "proxy.json" for each in self._proxies]
        counts = [msgspec.json.decode(path.read_bytes(), type=dict[str, int]) for path in said if path.exists()]
        return sum(map(Counter, counts), self._acts)

    def kill(self, chance: random.Random, later: Later) -> None:
        """Kill a server, which keeps all that it has acknowledged."""
        if self._away is None:
            self._away = chance.choice(self._servers)
            self._away.kill()
            self.deaths["redis"] += 1
            later(1.5, self._back)

    def stop(self, chance: random.Random, later: Later) -> None:
        """Stop a server, so that answers come late or never."""
        if self._away is None:
            self._away = chance.choice(self._servers)
            assert self._away.process is not None
            self._away.process.send_signal(signal.SIGSTOP)
            self._acts["redis stopped"] += 1
            later(3.0, self._back)

    def _back(self) -> None:
        server, self._away = self._away, None
        if server is not None and server.process is not None:
            server.process.send_signal(signal.SIGCONT)
        elif server is not None:
            server.start()

    def calm(self) -> None:
        """Let all servers be well again, and the proxies lose nothing more."""
        self._back()
        for each in self._proxies:
            (each.home / "calm").touch()

    def errors(self) -> Iterator[str]:
        """Yield what the proxies have written to their standard error."""
        for each in self._proxies:
            yield from each.errors()

    def end(self) -> None:
        """Kill the proxies and the servers."""
        for each in self._proxies:
            each.end()
        for server in self._servers:
            server.kill()


class ReplicatedCluster:
    """A cluster of three masters with a replica each, which takes over by itself."""

    def __init__(self, directory: Path, replicas: int) -> None:
        self.replicas = replicas
        self.deaths: Counter[str] = Counter()
        self.acts: Counter[str] = Counter()
        self.interruptions: list[Interruption] = []
        options = ("--cluster-node-timeout", f"{NODE_TIMEOUT_MS}", "--cluster-require-full-coverage", "no")
        self._cluster = Cluster(directory, *options, persistent=True)
        self._pairs = [(number, self._cluster.add_replica(number)) for number in range(NODES)]
        self._hurt: tuple[int, int, float] | None = None
        """The node that was killed or stopped, its partner, and when it was."""
        self.url = self.own_url = self._cluster.url

    def _replication(self, number: int) -> dict[str, str]:
        with suppress(redis.RedisError):
            found: dict[str, str] = self._cluster.servers[number].text_client().info("replication")
            return found
        return {}

    def _hurt_a_master(self, chance: random.Random) -> RedisServer | None:
        if self._hurt is not None:
            return None
        pair = chance.choice(self._pairs)
        roles = [self._replication(number) for number in pair]
        masters = [number for number, role in zip(pair, roles, strict=True) if role.get("role") == "master"]
        if len(masters) != 1 or not all(role.get("master_link_status", "up") == "up" for role in roles):
            return None
        (master,) = masters
        self._hurt = (master, sum(pair) - master, time.time())
        return self._cluster.servers[master]

    def kill(self, chance: random.Random, later: Later) -> None:
        """Kill a master. Once its replica has taken over, the node comes back as the replica of that."""
        if (server := self._hurt_a_master(chance)) is not None:
            server.kill()
            self.deaths["redis"] += 1
            later(1.0, lambda: self._look(later))

    def stop(self, chance: random.Random, later: Later) -> None:
        """Stop a master, for long enough in half of the cases that its replica takes over."""
        if (server := self._hurt_a_master(chance)) is not None:
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)
            self.acts["redis stopped"] += 1
            later(4 * NODE_TIMEOUT_MS / 1000, lambda: self._go_on(later))

    def _go_on(self, later: Later) -> None:
        assert self._hurt is not None
        server = self._cluster.servers[self._hurt[0]]
        assert server.process is not None
        server.process.send_signal(signal.SIGCONT)
        self._look(later)

    def _look(self, later: Later) -> None:
        if not self._is_well():
            later(0.5, lambda: self._look(later))

    def _is_well(self) -> bool:
        """Bring the hurt node back if its partner has taken over. Return True once one of the two follows the other."""
        if self._hurt is None:
            return True
        node, partner, since_s = self._hurt
        took_over = self._replication(partner).get("role") == "master"
        if self._cluster.servers[node].process is None and took_over:
            self._cluster.servers[node].start()
            self.acts["replica took over"] += 1
        states = [self._replication(each) for each in (node, partner)]
        if sorted(each.get("role", "") for each in states) != ["master", "slave"]:
            return False
        if any(each.get("master_link_status", "up") != "up" for each in states):
            return False
        self.interruptions.append(Interruption("redis", 0, since_s, time.time()))
        self._hurt = None
        return True

    def calm(self) -> None:
        """Wait until all nodes are well."""
        if self._hurt is not None and (process := self._cluster.servers[self._hurt[0]].process) is not None:
            process.send_signal(signal.SIGCONT)
        wait_until(self._is_well)

    def errors(self) -> Iterator[str]:
        """Yield nothing, because no helper is here."""
        yield from ()

    def end(self) -> None:
        """Kill all nodes."""
        self._cluster.end()
