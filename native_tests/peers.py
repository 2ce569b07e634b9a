"""One queue that our side and Node's work on: what a test adds to it, takes out of it and reads of it."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

from native_tests.node_programs import NodeProgram, NodePrograms
from native_tests.processes import Processes, wait_until
from rudderpipe import settings as settings_module
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Dispatcher
from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.sender import Sender
from rudderpipe.testing.data_plane import DataPlaneServer
from rudderpipe.testing.redis_server import RedisServer

P = "{rudder}:rudderEventsQueue:"
EPOCH = 0x1111_1111_1111_4111
SENT_AT = "2026-01-02T03:04:05.678Z"
LISTS = ("wait", "active", "paused")
NODES_TYPE = "application/x-www-form-urlencoded"
"""The content type of the Node SDK's gzipped requests, by which a test knows its deliveries."""


class Seen(NamedTuple):
    """One request that reached the data plane, refused or not."""

    path: str
    headers: dict[str, str]

    @property
    def write_key(self) -> str:
        """Return the user of basic auth; the password must be empty."""
        user, _, password = base64.b64decode(self.headers["authorization"].removeprefix("Basic ")).partition(b":")
        assert password == b""
        return user.decode()

    @property
    def by_node(self) -> bool:
        """Return True if the Node SDK made the request."""
        return self.headers["content-type"] == NODES_TYPE


def watch(plane: DataPlaneServer) -> list[Seen]:
    """Return a list that grows by each request that the data plane gets from now on."""
    seen: list[Seen] = []
    usual: Any = plane.RequestHandlerClass

    class Watching(usual):  # type: ignore[misc]  # mypy does not know the server's class
        def do_POST(self) -> None:  # noqa: N802  # http.server calls it by this name
            handler: BaseHTTPRequestHandler = self
            seen.append(Seen(handler.path, {name.lower(): value for name, value in handler.headers.items()}))
            super().do_POST()

    plane.RequestHandlerClass = Watching
    return seen


class Peers:
    """The queue of one test, which several processes of both sides work on."""

    def __init__(self, processes: Processes, server: RedisServer, node: NodePrograms) -> None:
        processes.explicit |= {"redis": server.url, "is_multi_processor": True, "flush_interval_ms": 20}
        self.processes = processes
        self.plane = processes.plane
        self.server = server
        self.redis = server.text_client()
        self.node = node
        self.seen = watch(processes.plane)
        self._numbers = itertools.count()
        self._queue = Queue(processes.settings, Clock())
        self._senders: list[Sender] = []
        self._planes: list[DataPlane] = []

    def sdk(self, write_key: str = "NODE_KEY", **settings: Any) -> NodeProgram:
        """Start the Node SDK, which produces and works, and wait until it is ready."""
        return self.node.start("sdk", data_plane_url=self.plane.url, write_key=write_key, **settings)

    def kill(self, *workers: NodeProgram) -> None:
        """Kill all workers, and wait until Redis knows.

        Redis gives the next job to a dead worker's connection while it has not read the end of that connection. The job
        is then active without a lock, until a sweep for stalled jobs half a minute later.
        """
        for worker in workers:
            worker.kill()
        # Twice, because Redis may read the last command of a dead worker after the first question.
        wait_until(lambda: not any(self.redis.info("clients")["blocked_clients"] for _ in range(2)))

    def add(self, jobs: int, events: int = 2, write_key: str = "OUR_KEY") -> list[str]:
        """Add jobs of ours as a flusher does, and return their ids."""
        self.add_built([(job.build(self._batch(events), write_key, SENT_AT, EPOCH), events) for _ in range(jobs)])
        last = int(self.redis.get(f"{P}id"))
        return [str(number) for number in range(last - jobs + 1, last + 1)]

    def add_built(self, batches: list[tuple[str, int]]) -> None:
        """Add built jobs with their numbers of events."""
        self._queue.add(EPOCH, batches, {}, [])

    def _batch(self, events: int) -> bytes:
        numbers = itertools.islice(self._numbers, events)
        return b",".join(
            b'{"userId":"p%d","messageId":"ours-%d","type":"track","event":"Item Viewed","properties":{"n":%d}}'
            % (number, number, number)
            for number in numbers
        )

    def add_data(self, data: bytes | str, job_id: str | None = None, **fields: Any) -> str:
        """Add a job with these bytes as its data, as another program would, and return its id."""
        job_id = job_id or str(self.redis.incr(f"{P}id"))
        usual = {"name": "__default__", "opts": '{"attempts":1}', "timestamp": 1, "delay": 0, "priority": 0}
        self.redis.hset(f"{P}{job_id}", mapping={**usual, "data": data, **fields})
        self.redis.lpush(f"{P}wait", job_id)
        return job_id

    def sender(self, **settings: Any) -> Sender:
        """Return a sender of ours in this process."""
        own = settings_module.load({**self.processes.explicit, **settings}, environment={})
        clock = Clock()
        queue = Queue(own, clock)
        lease = None if own.is_multi_processor else Lease(queue, own.lease_ms, identity.address(), lambda _: False)
        plane = DataPlane(own)
        sender = Sender(queue, [Dispatcher(plane, own, clock)], lease, own, clock)
        self._senders.append(sender)
        self._planes.append(plane)
        return sender

    def send_all(self, **settings: Any) -> Sender:
        """Let a sender of ours work until no job waits and none is active."""
        sender = self.sender(**settings)

        def worked() -> bool:
            sender.work()
            return not self.redis.llen(f"{P}wait") and not self.redis.llen(f"{P}active")

        def state() -> str:
            lists = {name: self.redis.lrange(f"{P}{name}", 0, -1) for name in ("wait", "paused", "active")}
            return f"{lists} {sender._state.state} {vars(sender._state)}"  # noqa: SLF001  # to find out what it waits for

        wait_until(worked, describe=state)
        return sender

    def sender_process(self) -> subprocess.Popen[bytes]:
        """Start ``python -m rudderpipe.sender``."""
        return self.processes.start("-m", "rudderpipe.sender")

    def hash(self, job_id: str) -> dict[str, str]:
        """Return a job's fields."""
        fields: dict[str, str] = self.redis.hgetall(f"{P}{job_id}")
        return fields

    def raw(self, job_id: str) -> dict[bytes, bytes]:
        """Return a job's fields, byte for byte."""
        client: Any = self.server.client()
        fields: dict[bytes, bytes] = client.hgetall(f"{P}{job_id}")
        client.close()
        return fields

    def ids(self, state: str) -> list[str]:
        """Return the ids in a list or a sorted set, in the order in which Redis keeps them."""
        key = f"{P}{state}"
        # The name decides, because the type of the key may change between two calls of Redis.
        found: list[str] = self.redis.lrange(key, 0, -1) if state in LISTS else self.redis.zrange(key, 0, -1)
        return found

    def settled(self) -> bool:
        """Return True if no job waits, is active, delayed or paused, and no lock is left."""
        states = ("wait", "active", "delayed", "paused")
        return not any(map(self.ids, states)) and not self.redis.keys(f"{P}*:lock")

    def sent(self) -> list[Any]:
        """Return the events that the data plane took, in order."""
        return [event for body in self.plane.last_events() for event in json.loads(body)["batch"]]

    def let_time_pass(self) -> None:
        """Delete what half a minute makes lapse after a worker's death: its locks and the sweep's throttle."""
        for key in [*self.redis.keys(f"{P}*:lock"), f"{P}stalled-check"]:
            self.redis.delete(key)

    def take(self) -> list[str]:
        """Take all waiting jobs with a sender of ours that does nothing with them yet, and return their ids."""
        return [taken.id for taken in self._queue.take(1000, 1_000_000)]

    def sweep(self) -> int:
        """Sweep twice for stalled jobs, at least an interval apart, and return how many jobs are next in line again."""
        back = 0
        for _ in range(2):
            self.redis.delete(f"{P}stalled-check")
            back += self._queue.sweep()
        return back

    def end(self) -> None:
        """Close the connections."""
        for sender, plane in zip(self._senders, self._planes, strict=True):
            sender.close()
            plane.close()
        self._queue.close()
        self.redis.close()


def inner(fields: dict[str, str]) -> dict[str, Any]:
    """Return a job's eventData."""
    found: dict[str, Any] = json.loads(json.loads(fields["data"])["eventData"])
    return found


@contextmanager
def paused(calls: NodeProgram) -> Iterator[None]:
    """Pause the queue by Bull for the block."""
    calls.call("pause")
    yield
    calls.call("resume")
