"""The queue's operations, typed: each is one script, and so one step that cannot be cut in two."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import msgspec
from redis import Redis, ResponseError

from rudderpipe.errors import AnotherDataPlane, QueueBehind, QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job as jobs
from rudderpipe.queue.active_job import QueueCounts, Taken, all_taken, half
from rudderpipe.queue.connection import Connection
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.scripts import OTHER_PLANE, Call, Scripts
from rudderpipe.settings import Settings

RING_KEEP_MS = 30 * 24 * 3600 * 1000
MEASURE_SAMPLE = 200
# Text, never bytes: the msgpack in Redis 6 does not know the type for binary data.
pack = msgspec.msgpack.Encoder().encode


LOCK_MS = 30_000
SWEEP_MS = 30_000
RECOVER_AT_ONCE = 1000
PROMOTE_AT_ONCE = 1000
REPEATABLE = frozenset({"renew_locks", "promote_delayed"})
"""Scripts that may be executed late, or a second time, without harm."""
Whose = Literal["all", "free", "ours"]


class Recovered(NamedTuple):
    """How many jobs are in line again, and how many of their locks were another's."""

    jobs: int
    broken_locks: int


def new_token() -> str:
    """Return a token that no other process has: a random UUID, whatever was seeded."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


class Queue:
    """One Bull queue, as its flushers add to it, its senders work at it, and its operators look at it.

    While ``fence`` holds a lease, every method of a sender that changes something raises ``LeaseLost``, and changes
    nothing, when another sender may have the queue; every method raises ``QueueUnavailable`` when Redis does not answer
    or refuses.
    """

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
        self.fence = ""
        self.unsure = False
        """A call got no answer: it may have been executed, or may still be. Only the caller sets it back."""
        self._lease_ms = settings.lease_ms
        self._keep_completed = settings.keep_completed
        self._found = False
        """Whether the last take found something."""

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

    def _fenced(self, name: str, keys: list[str], *arguments: str | bytes | int) -> Call:
        return name, [*keys, self.keys.lease], (*arguments, self.fence)

    def _run(self, name: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        with self._answered(name):
            return self.call(name, [*keys, self.keys.lease], *arguments, self.fence)

    @contextmanager
    def _answered(self, name: str) -> Iterator[None]:
        try:
            yield
        except QueueUnavailable as error:
            if not error.answered and name not in REPEATABLE:
                self.unsure = True
            raise

    def take(self, max_jobs: int, max_bytes: int) -> list[Taken]:
        """Return the next jobs, locked for us for ``LOCK_MS``; none when nothing waits or the queue is paused.

        Raise ``AnotherDataPlane`` while what waits is for another one.
        """
        name, keys, arguments = self._take_call(max_jobs, max_bytes)
        with self._answered(name):
            return self._taken(self.call(name, keys, *arguments))

    def complete(self, done: Sequence[Taken]) -> int:
        """Delivered jobs are done with, but for the last ``keep_completed``; how many were still ours."""
        name, keys, arguments = self._complete_call(done)
        with self._answered(name):
            return int(sum(self.call(name, keys, *arguments)))

    def complete_and_take(self, done: Sequence[Taken], max_jobs: int, max_bytes: int) -> tuple[int, list[Taken]]:
        """``complete`` and then ``take``, two steps over one round trip."""
        with self._answered("take_jobs"), self._client() as client:
            completed, answer = self._scripts.call_together(
                client, self._complete_call(done), self._take_call(max_jobs, max_bytes)
            )
        return int(sum(completed)), self._taken(answer)

    def _taken(self, answer: list[Any]) -> list[Taken]:
        self._found = bool(answer)
        return all_taken(answer)

    def _take_call(self, max_jobs: int, max_bytes: int) -> Call:
        keys = self.keys
        return self._fenced(
            "take_jobs",
            [
                *(keys.wait, keys.active, keys.meta_paused, keys.stalled, keys.priority, keys.account),
                *(keys.failed_events, keys.delayed, keys.failed, keys.plane),
            ],
            *(keys.base, self.token, LOCK_MS, self.clock.time_ms(), max_jobs, max_bytes),
            *(int(self._found), self.plane),
        )

    def _complete_call(self, done: Sequence[Taken]) -> Call:
        keys = self.keys
        jobs_ = pack([(taken.id, taken.epoch, taken.events) for taken in done])
        return self._fenced(
            "complete_jobs",
            [keys.active, keys.stalled, keys.completed, keys.account],
            *(keys.base, self.token, self.clock.time_ms(), self._keep_completed, jobs_),
        )

    def fail(self, taken: Taken, reason: str) -> bool:
        """Put a job into the failed set; False when it was not ours any more."""
        keys = self.keys
        inner = taken.job is not None and taken.job.attempts
        reason = reason.encode(errors="replace").decode()
        answer = self._run(
            "fail_job",
            [keys.active, keys.failed, keys.stalled, keys.account, keys.failed_events, keys.id],
            keys.base,
            self.token,
            self.clock.time_ms(),
            taken.id.encode(errors="surrogateescape"),
            reason,
            jobs.without_attempts(taken.data) if inner else b"",
            taken.epoch,
            taken.events,
            int(taken.displaced),
        )
        return bool(answer)

    def split(self, taken: Taken) -> tuple[Taken, Taken] | None:
        """Two jobs of one, each with half of its events, in their order; None when it was not ours any more.

        Raises ``JobUnreadable`` when its data cannot be written anew.
        """
        assert taken.job is not None
        keys, middle = self.keys, len(taken.job.events) // 2
        first, second = jobs.with_events(taken.data, 0, middle), jobs.with_events(taken.data, middle, taken.events)
        new_id = self._run(
            "split_job",
            [keys.active, keys.id, keys.stalled],
            keys.base,
            self.token,
            LOCK_MS,
            taken.id,
            first,
            second,
            len(taken.data),
            hashlib.sha1(taken.data, usedforsecurity=False).hexdigest(),
        )
        if new_id is None:
            return None
        return half(taken, taken.id, first, 0, middle), half(taken, new_id.decode(), second, middle, taken.events)

    def retry_later(self, tried: Sequence[Taken]) -> list[Taken]:
        """Count an attempt of each and keep them locked; those that are still ours."""
        return self._hold("retry_later", tried)

    def renew(self, held: Sequence[Taken]) -> list[Taken]:
        """Keep the lease, and jobs locked; those that are still ours."""
        return self._hold("renew_locks", held, self._lease_ms)

    def _hold(self, name: str, held: Sequence[Taken], *more: int) -> list[Taken]:
        ids = pack([taken.id for taken in held])
        keys = [self.keys.stalled, self.keys.active]
        ours = self._run(name, keys, self.keys.base, self.token, LOCK_MS, ids, *more)
        return [taken for taken, is_ours in zip(held, ours, strict=True) if is_ours]

    def put_back(self, held: Sequence[Taken]) -> int:
        """Jobs not finished are first in line again, in their order; how many were still ours."""
        keys = self.keys
        return int(
            self._run(
                "put_back",
                [*self._line, keys.active, keys.stalled],
                keys.base,
                self.token,
                pack([taken.id for taken in held]),
            )
        )

    def recover(self, keep: Sequence[Taken] = (), whose: Whose = "all") -> Recovered:
        """Jobs that are active and not in ``keep`` are first in line again.

        ``all``: as a dead sender left them, attempts at 0; only for the one sender of a queue. ``free``: those
        without a lock or under ours. ``ours``: those under our lock.
        """
        keys = self.keys
        ids = pack([taken.id for taken in keep])
        total = broken = 0
        while True:
            recovered, foreign = self._run(
                "recover_active",
                [*self._line, keys.active, keys.stalled],
                *(keys.base, self.token, RECOVER_AT_ONCE, ids, whose),
            )
            total += recovered
            broken += foreign
            if recovered < RECOVER_AT_ONCE:
                return Recovered(total, broken)

    def stranded(self) -> int:
        """How many jobs are active without a lock."""
        return int(self.call("count_stranded", [self.keys.active], self.keys.base))

    def sweep(self, every_ms: int = SWEEP_MS) -> int:
        """Jobs whose sender died are next in line again; how many. For a queue with several senders."""
        keys = self.keys
        lists = [keys.stalled, keys.wait, keys.paused, keys.meta_paused, keys.active, keys.failed]
        answer = self.call(
            "sweep_stalled",
            [*lists, keys.stalled_check, keys.account, keys.failed_events],
            *(keys.base, self.clock.time_ms(), every_ms),
        )
        return int(answer)

    def promote(self) -> int:
        """Delayed jobs that are due wait in line; when the next one is due, in milliseconds since 1970, -1 if none."""
        keys = self.keys
        _, next_ms = self._run(
            "promote_delayed",
            [keys.delayed, *self._line, keys.active],
            keys.base,
            self.token,
            self.clock.time_ms(),
            PROMOTE_AT_ONCE,
        )
        return int(next_ms)
