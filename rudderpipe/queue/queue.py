"""The queue's operations, typed: each is one script, and so one step that cannot be cut in two."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rudderpipe.clock import Clock
from rudderpipe.errors import QueueBehind
from rudderpipe.queue import job as jobs
from rudderpipe.queue.connect import Connection
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.scripts import Call, Scripts
from rudderpipe.queue.taken import QueueCounts, Taken, all_taken
from rudderpipe.settings import Settings

LOCK_MS = 30_000
SWEEP_MS = 30_000
RING_KEEP_MS = 30 * 24 * 3600 * 1000
RECOVER_AT_ONCE = 1000
PROMOTE_AT_ONCE = 1000
MEASURE_SAMPLE = 200
# Text, never bytes: the msgpack in Redis 6 does not know the type for binary data.
pack = msgspec.msgpack.Encoder().encode


class Queue:
    """One Bull queue. Every method raises ``QueueUnavailable`` when Redis does not answer or refuses."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.keys = Keys(settings.prefix, settings.queue_name)
        self._connection = Connection(settings.redis_address, self.keys.wait)
        self.place = self._connection.place
        self.clock = clock
        self._scripts = Scripts()
        self.token = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        self._keep_completed = settings.keep_completed
        self._line = [self.keys.wait, self.keys.paused, self.keys.meta_paused]
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
        Raises ``QueueBehind`` and adds nothing when an earlier call had run though its answer was lost.
        """
        keys = self.keys
        answer = self.call(
            "add_jobs",
            [keys.id, *self._line, keys.ring(epoch), keys.account, keys.failed_events],
            keys.base,
            self.token,
            self.clock.time_ms(),
            RING_KEEP_MS,
            pack([(sequence, start, end) for sequence, (start, end) in marks.items()]),
            pack(freed),
            pack(batches),
            term,
        )
        if answer[0] is None:
            raise QueueBehind(dict(zip(answer[1::2], answer[2::2], strict=True)))

    def take(self, max_jobs: int, max_bytes: int) -> list[Taken]:
        """The next jobs, locked for us for ``LOCK_MS``; none when nothing waits or the queue is paused."""
        name, keys, arguments = self._take_call(max_jobs, max_bytes)
        return self._taken(self.call(name, keys, *arguments))

    def complete(self, done: Sequence[Taken]) -> int:
        """Delivered jobs are done with, but for the last ``keep_completed``; how many were still ours."""
        name, keys, arguments = self._complete_call(done)
        return int(sum(self.call(name, keys, *arguments)))

    def complete_and_take(self, done: Sequence[Taken], max_jobs: int, max_bytes: int) -> tuple[int, list[Taken]]:
        """``complete`` and then ``take``, two steps over one round trip."""
        with self._connection.client() as client:
            completed, answer = self._scripts.call_together(
                client, self._complete_call(done), self._take_call(max_jobs, max_bytes)
            )
        return int(sum(completed)), self._taken(answer)

    def _taken(self, answer: list[Any]) -> list[Taken]:
        self._found = bool(answer)
        return all_taken(answer)

    def _take_call(self, max_jobs: int, max_bytes: int) -> Call:
        keys = self.keys
        return (
            "take_jobs",
            [keys.wait, keys.active, keys.meta_paused, keys.stalled, keys.priority, keys.account, keys.failed_events],
            (keys.base, self.token, LOCK_MS, self.clock.time_ms(), max_jobs, max_bytes, int(self._found)),
        )

    def _complete_call(self, done: Sequence[Taken]) -> Call:
        keys = self.keys
        jobs_ = pack([(taken.id, taken.epoch, taken.events) for taken in done])
        return (
            "complete_jobs",
            [keys.active, keys.stalled, keys.completed, keys.account],
            (keys.base, self.token, self.clock.time_ms(), self._keep_completed, jobs_),
        )

    def fail(self, taken: Taken, reason: str) -> bool:
        """Put a job into the failed set; False when it was not ours any more."""
        keys = self.keys
        inner = taken.job is not None and taken.job.attempts
        reason = reason.encode(errors="replace").decode()
        answer = self.call(
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

    def retry_later(self, tried: Sequence[Taken]) -> int:
        """Count an attempt of each and keep them locked; how many are still ours."""
        return self._hold("retry_later", tried)

    def renew(self, held: Sequence[Taken]) -> int:
        """Keep jobs locked; how many are still ours."""
        return self._hold("renew_locks", held)

    def _hold(self, name: str, held: Sequence[Taken]) -> int:
        ids = pack([taken.id for taken in held])
        return int(
            sum(self.call(name, [self.keys.stalled, self.keys.active], self.keys.base, self.token, LOCK_MS, ids))
        )

    def put_back(self, held: Sequence[Taken]) -> int:
        """Jobs not finished are first in line again, in their order; how many were still ours."""
        keys = self.keys
        return int(
            self.call(
                "put_back",
                [*self._line, keys.active, keys.stalled],
                keys.base,
                self.token,
                pack([taken.id for taken in held]),
            )
        )

    def recover(self) -> int:
        """Jobs that a dead sender left active are first in line again. Only for the one sender of a queue."""
        keys = self.keys
        total = 0
        while True:
            recovered: int = self.call(
                "recover_active",
                [*self._line, keys.active, keys.stalled],
                keys.base,
                self.token,
                RECOVER_AT_ONCE,
            )
            total += recovered
            if recovered < RECOVER_AT_ONCE:
                return total

    def sweep(self, every_ms: int = SWEEP_MS) -> int:
        """Jobs whose sender died are next in line again; how many. For a queue with several senders."""
        keys = self.keys
        answer = self.call(
            "sweep_stalled",
            [keys.stalled, keys.wait, keys.paused, keys.meta_paused, keys.active, keys.failed, keys.stalled_check],
            keys.base,
            self.clock.time_ms(),
            every_ms,
        )
        return int(answer)

    def promote(self) -> int:
        """Delayed jobs that are due wait in line; when the next one is due, in milliseconds since 1970, -1 if none."""
        keys = self.keys
        _, next_ms = self.call(
            "promote_delayed",
            [keys.delayed, *self._line, keys.active],
            keys.base,
            self.token,
            self.clock.time_ms(),
            PROMOTE_AT_ONCE,
        )
        return int(next_ms)

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
        with self._connection.client() as client:
            return self._scripts.call(client, name, keys, *arguments)

    def ask(self, fill: Callable[[Any], object]) -> list[Any]:
        """The answers to the commands that only read which ``fill`` puts into a pipeline; one round trip."""
        with self._connection.client() as client, client.pipeline(transaction=False) as pipe:
            fill(pipe)
            return pipe.execute()
