"""The contract's ``QueueServer`` over a real Redis. It acts as Bull's tools do, with Bull's own commands."""

from __future__ import annotations

from typing import Any

from rudderpipe import settings as settings_module
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer
from tests.fakes import FakeClock
from tests.queue_contract import View

P = "{rudder}:rudderEventsQueue:"


class RedisQueueServer:
    """An empty Redis, and queues on it with different tokens."""

    def __init__(self, server: RedisServer) -> None:
        self.clock = FakeClock()
        self.server = server
        self.client: Any = server.text_client()
        self.client.flushall()
        self._queues: list[Queue] = []

    def close(self) -> None:
        for queue in self._queues:
            queue.close()
        self.client.close()

    def queue(self, token: str | None = None, **settings: Any) -> Queue:
        loaded = settings_module.load({"redis": self.server.url, **settings}, environment={})
        self._queues.append(Queue(loaded, self.clock, token))
        return self._queues[-1]

    def view(self) -> View:
        client = self.client
        wait, paused = client.lrange(f"{P}wait", 0, -1), client.lrange(f"{P}paused", 0, -1)
        assert not (wait and paused)
        delayed, failed, completed = (client.zrange(f"{P}{name}", 0, -1) for name in ("delayed", "failed", "completed"))
        return View(
            (wait or paused)[::-1], client.lrange(f"{P}active", 0, -1)[::-1], delayed, failed, completed, self.locks()
        )

    def locks(self) -> dict[str, str]:
        """Return the token of each job lock, by the id of its job."""
        names = sorted(self.client.keys(f"{P}*:lock"))
        return {name.removeprefix(P).removesuffix(":lock"): self.client.get(name) for name in names}

    def fields(self, name: str) -> dict[str, str]:
        fields: dict[str, str] = self.client.hgetall(P + name)
        return fields

    @property
    def line(self) -> str:
        """Return the key of the list in which jobs wait now."""
        return f"{P}paused" if self.client.exists(f"{P}meta-paused") else f"{P}wait"

    def put(self, name: str, fields: dict[str, str] | None) -> None:
        if fields:
            self.client.hset(P + name, mapping=fields)
        self.client.lpush(self.line, name)

    def put_no_hash(self, name: str) -> None:
        self.client.set(P + name, "text")
        self.client.lpush(self.line, name)

    def spoil(self, name: str) -> None:
        self.client.delete(P + name)
        self.client.set(P + name, "text")

    def delay(self, name: str, due_ms: int, fields: dict[str, str]) -> None:
        self.client.hset(P + name, mapping=fields)
        self.client.zadd(f"{P}delayed", {name: due_ms * 4096})

    def pause(self) -> None:
        if self.client.exists(f"{P}wait"):
            self.client.rename(f"{P}wait", f"{P}paused")
        self.client.set(f"{P}meta-paused", "1")
        self.client.hset(f"{P}meta", "paused", "1")

    def resume(self) -> None:
        if self.client.exists(f"{P}paused"):
            self.client.rename(f"{P}paused", f"{P}wait")
        self.client.delete(f"{P}meta-paused")
        self.client.hdel(f"{P}meta", "paused")

    def delete(self, name: str) -> None:
        for names in ("active", "wait", "paused"):
            self.client.lrem(P + names, 0, name)
        for names in ("delayed", "completed", "failed", "priority"):
            self.client.zrem(P + names, name)
        self.client.delete(P + name, f"{P}{name}:logs", f"{P}{name}:lock")

    def forget_ring(self, epoch: int) -> None:
        self.client.delete(f"{{rudder}}:rudderpipe:rudderEventsQueue:account:{epoch:016x}")

    def retry(self, name: str) -> None:
        self.client.hdel(P + name, "finishedOn", "processedOn", "failedReason")
        self.client.hset(P + name, "retriedOn", self.clock.time_ms())
        assert self.client.zrem(f"{P}failed", name)
        self.client.lpush(self.line, name)

    def lapse(self, *names: str) -> None:
        for name in names:
            self.client.delete(f"{P}{name}:lock")

    def lapse_lease(self) -> None:
        self.client.delete("{rudder}:rudderpipe:rudderEventsQueue:lease")

    def set_clock_back(self, ms: int) -> None:
        """Let the lease lapse so much later, as it does when the clock of Redis is set back."""
        self.client.pexpire("{rudder}:rudderpipe:rudderEventsQueue:lease", ms)

    def set_member(self, name: str, until_ms: int) -> None:
        self.client.zadd("{rudder}:rudderpipe:rudderEventsQueue:members", {self._member(name)[0]: until_ms})

    def member_until_ms(self, name: str) -> int:
        return int(self._member(name)[1])

    def _member(self, name: str) -> tuple[str, float]:
        found = self.client.zrange("{rudder}:rudderpipe:rudderEventsQueue:members", 0, -1, withscores=True)
        return next((member, until_ms) for member, until_ms in found if member.split()[2] == name)

    def interval_passes(self) -> None:
        self.client.delete(f"{P}stalled-check")
