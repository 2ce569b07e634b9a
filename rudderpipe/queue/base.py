"""One queue in Redis: what anybody may do with it, and how its scripts are called."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from redis import Redis, ResponseError

from rudderpipe.errors import AnotherDataPlane, QueueBehind, QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.queue.active_job import QueueCounts
from rudderpipe.queue.connection import Connection
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.scripts import OTHER_PLANE, Scripts
from rudderpipe.settings import Settings

RING_KEEP_MS = 30 * 24 * 3600 * 1000
MEASURE_SAMPLE = 200
# Text, never bytes: the msgpack in Redis 6 does not know the type for binary data.
pack = msgspec.msgpack.Encoder().encode


def new_token() -> str:
    """Return a token that no other process has: a random UUID, whatever was seeded."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


class QueueBase:
    """Every method raises ``QueueUnavailable`` when Redis does not answer or refuses."""

    def __init__(self, settings: Settings, clock: Clock, token: str | None = None) -> None:
        """``token`` names whose locks are taken; a random one unless given."""
        self.keys = Keys(settings.prefix, settings.queue_name)
        self.name = settings.queue_name
        self.plane = settings.plane_id
        """The data plane that our jobs are for."""
        self._connection = Connection(settings.redis_address, self.keys.wait)
        self.place = self._connection.place
        self.clock = clock
        self._scripts = Scripts()
        self.token = token or new_token()
        self._line = [self.keys.wait, self.keys.paused, self.keys.meta_paused]

    def ping(self) -> None:
        """Whether Redis is there and lets us in."""
        with self._connection.client() as client:
            client.ping()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def add(
        self,
        epoch: int,
        batches: Sequence[tuple[str, int]],
        marks: dict[int, tuple[int, int]],
        freed: Sequence[int],
        term: int = 0,
    ) -> None:
        """Add job data (with their numbers of events), oldest first, and how far they bring the ring.

        ``term`` counts the ring's flushers: what a dead one had sent is not added once a later one has added something.
        Raises ``QueueBehind`` and adds nothing when an earlier call had run though its answer was lost. Raises
        ``AnotherDataPlane`` while the queue has jobs for another one.
        """
        keys = self.keys
        answer = self.call(
            "add_jobs",
            [
                *(keys.id, *self._line, keys.ring(epoch), keys.account, keys.failed_events, keys.plane),
                *(keys.active, keys.delayed, keys.failed),
            ],
            keys.base,
            self.token,
            self.clock.time_ms(),
            RING_KEEP_MS,
            pack([(sequence, start, end) for sequence, (start, end) in marks.items()]),
            pack(freed),
            pack(batches),
            term,
            self.plane,
        )
        if answer[0] is None:
            raise QueueBehind(dict(zip(answer[1::2], answer[2::2], strict=True)))

    def counts(self, epoch: int | None = None) -> QueueCounts:
        """The queue at one moment; the events are those of one ring when its epoch is given."""
        keys = self.keys
        *numbers, paused, fields = self.call(
            "count_jobs",
            [
                *self._line,
                keys.active,
                keys.delayed,
                keys.failed,
                keys.completed,
                keys.account,
                keys.failed_events,
                keys.account if epoch is None else keys.ring(epoch),
            ],
        )
        return QueueCounts.of(numbers, bool(paused), fields)

    def restore(self, epoch: int, handed: int, over: int, since: int) -> int:
        """Write down that Redis has lost events of a ring, as ``QueueCounts.with_losses`` says; return how many."""
        keys = [self.keys.ring(epoch), self.keys.account]
        return int(self.call("restore_account", keys, handed, over, since, RING_KEEP_MS))

    def size_bytes(self) -> int:
        """How much of Redis's memory the jobs take, in whatever state; an estimate when there are thousands."""
        keys = self.keys
        lists = [keys.wait, keys.paused, keys.active, keys.delayed, keys.failed, keys.completed]
        return int(self.call("measure_jobs", lists, keys.base, MEASURE_SAMPLE)[1])

    def end_ring(self, epoch: int) -> bool:
        """The ring has ended: forget its positions once its events are delivered; True when they are."""
        return bool(self.call("end_ring", [self.keys.ring(epoch)], RING_KEEP_MS))

    def call(self, name: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        """Run one script."""
        with self._client() as client:
            return self._scripts.call(client, name, keys, *arguments)

    @contextmanager
    def _client(self) -> Iterator[Redis]:
        """Yield a client for scripts. Raise ``AnotherDataPlane`` when one of them says that the queue is another's."""
        with self._connection.client() as client:
            try:
                yield client
            except ResponseError as error:
                if not str(error).startswith(OTHER_PLANE):
                    raise
                raise AnotherDataPlane(self.place, self.name, str(error).removeprefix(OTHER_PLANE)) from None

    def owner(self) -> str:
        """Return the data plane that the queue's jobs are for; "" when it is not known."""
        (known,) = self.ask(lambda pipe: pipe.get(self.keys.plane))
        return known.decode(errors="replace") if known else ""

    def check_owner(self) -> None:
        """Raise ``AnotherDataPlane`` while the queue has jobs for another one; an empty queue may change hands."""
        keys = self.keys

        def fill(pipe: Any) -> None:
            pipe.get(keys.plane)
            for name in (keys.wait, keys.paused, keys.active):
                pipe.llen(name)
            for name in (keys.delayed, keys.failed):
                pipe.zcard(name)

        known, *jobs = self.ask(fill)
        if known and self.plane and known.decode(errors="replace") != self.plane and any(jobs):
            raise AnotherDataPlane(self.place, self.name, known.decode(errors="replace"))

    def adopt(self) -> None:
        """Make the queue ours, with whatever jobs are in it: the one sender of the other data plane loses its lease."""

        def fill(pipe: Any) -> None:
            pipe.set(self.keys.plane, self.plane)
            pipe.delete(self.keys.lease)  # Order: that sender then looks whose the queue is

        self.ask(fill)

    def eviction(self) -> str:
        """Return what is wrong with Redis's ``maxmemory-policy``; "" when nothing is, or when we may not know it."""
        try:
            (memory,) = self.ask(lambda pipe: pipe.info("memory"))
        except QueueUnavailable as error:
            if not error.answered:
                raise
            return ""
        policy = memory.get("maxmemory_policy", "noeviction")
        return "" if policy == "noeviction" else f"maxmemory-policy is {policy}, which evicts queued events: noeviction"

    def try_publish(self) -> str:
        """Return why Redis refuses to tell Bull's listeners; "" when it does not."""
        try:
            self.ask(lambda pipe: pipe.publish(f"{self.keys.base}rudderpipe-check", ""))
        except QueueUnavailable as error:
            if not error.answered:
                raise
            return error.reason
        return ""

    def ask(self, fill: Callable[[Any], object]) -> list[Any]:
        """Return the answers to the commands that ``fill`` puts into a pipeline; one round trip, no transaction."""
        with self._connection.client() as client, client.pipeline(transaction=False) as pipe:
            fill(pipe)
            return pipe.execute()
