"""The queue's operations. Most are one Lua script, which Redis runs as one step."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec
from redis import Redis, ResponseError

from rudderpipe.errors import AnotherDataPlane, QueueBehind, QueueSealed, QueueUnavailable
from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job as jobs
from rudderpipe.queue.active_job import ActiveJob, QueueCounts, Recovered, active_jobs, half
from rudderpipe.queue.connection import Connection
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.meter import TOGETHER, RedisMeter
from rudderpipe.queue.scripts import OTHER_PLANE, Call, Scripts
from rudderpipe.settings import Settings

RING_KEEP_MS = 30 * 24 * 3600 * 1000
MEASURE_SAMPLE = 200
# Pack only text, never bytes, because the msgpack in Redis 6 does not know the type for binary data.
pack = msgspec.msgpack.Encoder().encode
LOCK_MS = 30_000
SWEEP_MS = 30_000
RECOVER_AT_ONCE = 1000
PROMOTE_AT_ONCE = 1000
PROTOCOL = 2
"""What our flushers know of the state of a queue, as a number that only grows: those below 2 do not see a seal."""
SEALED = -1
"""What ``add_jobs`` returns in place of a tenure when the queue is sealed."""
REPEATABLE = frozenset({"renew_locks", "promote_delayed", "report_sender"})
"""Scripts that may run late, or a second time, without harm."""
Whose = Literal["all", "free", "ours"]
NewJob = tuple[str, int] | tuple[str, int, str]
"""A job's data, its number of events, and its lane if it has one, such as ``3/8``."""
Wait = tuple[int, int]
"""How many replicas a call waits for, and for how many milliseconds at the most."""


def new_token() -> str:
    """Return a token that no other process has: a random UUID that does not depend on the seed of ``random``."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


class Queue:
    """One Bull queue, with the operations of flushers, senders and operators.

    ``fencing_token`` is the sender's lease; "" where several senders work. While it is set, every method of a sender
    that changes something raises ``LeaseLost``, and changes nothing, if another sender may have the queue.
    Every method raises ``QueueUnavailable`` when Redis does not answer or refuses a command.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        token: str | None = None,
        *,
        answer_s: float | None = None,
        meter: RedisMeter | None = None,
    ) -> None:
        """Prepare the queue without connecting. ``token`` identifies the owner of the locks (default: random)."""
        self.keys = Keys(settings.prefix, settings.queue_name)
        self.name = settings.queue_name
        self.plane = settings.plane_id
        """The id of the data plane that our jobs are for."""
        self._meter = meter or RedisMeter()
        self._connection = Connection(settings, self.keys.wait, answer_s, self._meter.failed)
        self.place = self._connection.place
        self.clock = clock
        self._scripts = Scripts()
        self.token = token or new_token()
        self._line = [self.keys.wait, self.keys.paused, self.keys.meta_paused]
        self.fencing_token = ""
        self.unsure = False
        """True after a call without an answer: it may have run, or may still run. Only the caller resets it."""
        self._lease_ms = settings.lease_ms
        self._keep_completed = settings.keep_completed
        self._found = False
        """True if the last take found a job."""

    def ping(self) -> None:
        """Check that Redis can be reached and accepts our user and password."""
        with self._connection.client() as client:
            client.ping()

    def certificate_ends_s(self) -> float | None:
        """Return when the certificate of Redis ends, in seconds since 1970; None without TLS."""
        return self._connection.certificate_ends_s()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def add(
        self,
        epoch: int,
        batches: Sequence[NewJob],
        offsets: dict[int, tuple[int, int]],
        freed: Sequence[int],
        term: int = 0,
        wait: Wait | None = None,
    ) -> int:
        """Add jobs, oldest first, and store the ring's new offsets. With ``wait``, return how many replicas have them.

        ``offsets`` are the offsets from and to in each tenure of a block, and ``freed`` the tenures whose offsets may
        go. ``term`` rises with each flusher of the ring: once a later flusher has added jobs, a call of an earlier one
        adds nothing.

        Raise ``QueueBehind``, and add nothing, if an earlier call had run although its answer was lost, and
        ``QueueSealed`` if a later generation has taken the queue's place. Raise ``AnotherDataPlane`` while the queue
        has jobs for another data plane.
        """
        keys = self.keys
        hashes = [
            *(keys.id, *self._line, keys.ring(epoch), keys.account, keys.failed_events, keys.plane),
            *(keys.active, keys.delayed, keys.failed, keys.sealed, keys.added),
        ]
        marks = pack([(sequence, start, end) for sequence, (start, end) in offsets.items()])
        answer, replicas = self._call(
            wait,
            "add_jobs",
            hashes,
            *(keys.base, self.token, self.clock.time_ms(), RING_KEEP_MS),
            *(marks, pack(freed), pack(batches), term, self.plane),
        )
        if answer[0] is None and answer[1] == SEALED:
            raise QueueSealed(self.name, answer[2])
        if answer[0] is None:
            raise QueueBehind(dict(zip(answer[1::2], answer[2::2], strict=True)))
        return replicas

    def raise_term(
        self, epoch: int, term: int, freed: Sequence[int], wait: Wait | None = None
    ) -> tuple[dict[int, int], int]:
        """Make Redis refuse every call of an earlier term; return the ring's offsets, and the replicas as ``add`` does.

        Redis then also knows our protocol and our host. Raise ``QueueBehind`` if a call had a later term.
        """
        keys = [self.keys.ring(epoch), self.keys.rings, self.keys.added]
        now_ms = self.clock.time_ms()
        flusher = f"{PROTOCOL} {identity.host()}"
        answer, replicas = self._call(wait, "fence_ring", keys, RING_KEEP_MS, pack(freed), term, now_ms, flusher)
        known = dict(zip(answer[1::2], answer[2::2], strict=True))
        if answer[0] is None:
            raise QueueBehind(known)
        return known, replicas

    def counts(self, epoch: int | None = None) -> QueueCounts:
        """Return the queue's counts at one moment; the events are those of one ring if its epoch is given."""
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
        """Store in the account that Redis has lost events of a ring; return how many.

        The arguments are those of ``QueueCounts.with_losses``.
        """
        keys = [self.keys.ring(epoch), self.keys.account, self.keys.added]
        return int(self.call("restore_account", keys, handed, over, since, RING_KEEP_MS))

    def size_bytes(self) -> int:
        """Return the memory in Redis of the jobs in all states; an estimate when there are more than 200 in a state."""
        keys = self.keys
        lists = [keys.wait, keys.paused, keys.active, keys.delayed, keys.failed, keys.completed]
        return int(self.call("measure_jobs", lists, keys.base, MEASURE_SAMPLE)[1])

    def end_ring(self, epoch: int) -> bool:
        """Store that the ring has ended. Return True if its events are delivered and its offsets were deleted.

        Otherwise the offsets are deleted with the last job of the ring.
        """
        return bool(self.call("end_ring", [self.keys.ring(epoch)], RING_KEEP_MS))

    def call(self, name: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        """Run one script and return its result."""
        return self._call(None, name, keys, *arguments)[0]

    def _call(self, wait: Wait | None, name: str, keys: list[str], *arguments: str | bytes | int) -> tuple[Any, int]:
        with self._client() as client, self._meter.timed(name, self.clock):
            if wait is None:
                return self._scripts.call(client, name, keys, *arguments), 0
            return self._scripts.call_and_wait(client, (name, keys, arguments), *wait)

    @contextmanager
    def _client(self) -> Iterator[Redis]:
        """Yield a client for scripts. Raise ``AnotherDataPlane`` if a script finds jobs for another data plane."""
        with self._connection.client() as client:
            try:
                yield client
            except ResponseError as error:
                if not str(error).startswith(OTHER_PLANE):
                    raise
                raise AnotherDataPlane(self.place, self.name, str(error).removeprefix(OTHER_PLANE)) from None

    def owner(self) -> str:
        """Return the id of the data plane that the queue's jobs are for; "" when it is not known."""
        (known,) = self.ask(lambda pipe: pipe.get(self.keys.plane))
        return known.decode(errors="replace") if known else ""

    def check_owner(self) -> None:
        """Raise ``AnotherDataPlane`` while the queue has jobs for another data plane.

        An empty queue may change to another data plane, so it raises nothing.
        """
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
        """Assign the queue, with all jobs in it, to our data plane. The other data plane's sender loses its lease."""

        def fill(pipe: Any) -> None:
            pipe.set(self.keys.plane, self.plane)
            pipe.delete(self.keys.lease)  # Order: plane first, because the sender that loses its lease then reads it

        self.ask(fill)

    def evicting_policy(self) -> str:
        """Return Redis's ``maxmemory-policy`` if it evicts queued events; "" if it does not, or if it is hidden."""
        try:
            (memory,) = self.ask(lambda pipe: pipe.info("memory"))
        except QueueUnavailable as error:
            if not error.answered:
                raise
            return ""
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        return "" if policy == "noeviction" else policy

    def try_publish(self) -> str:
        """Return why Redis refuses to publish to Bull's listeners; "" if it publishes."""
        try:
            self.ask(lambda pipe: pipe.publish(f"{self.keys.base}rudderpipe-check", ""))
        except QueueUnavailable as error:
            if not error.answered:
                raise
            return error.reason
        return ""

    def ask(self, fill: Callable[[Any], object]) -> list[Any]:
        """Return the results of the commands that ``fill`` puts into a pipeline; one round trip, no transaction."""
        with self._connection.client() as client, client.pipeline(transaction=False) as pipe:
            fill(pipe)
            results = pipe.execute(raise_on_error=False)  # redis-py would put the command into the error's text
            for error in results:
                if isinstance(error, Exception):
                    raise error
            return results

    def _fenced(self, name: str, keys: list[str], *arguments: str | bytes | int) -> Call:
        return name, [*keys, self.keys.lease], (*arguments, self.fencing_token)

    def _run(self, name: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        with self._answered(name):
            return self.call(name, [*keys, self.keys.lease], *arguments, self.fencing_token)

    @contextmanager
    def _answered(self, name: str) -> Iterator[None]:
        try:
            yield
        except QueueUnavailable as error:
            if not error.answered and name not in REPEATABLE:
                self.unsure = True
            raise

    def take(self, max_jobs: int, max_bytes: int) -> list[ActiveJob]:
        """Take the next jobs, each locked for us for ``LOCK_MS``; none if no job waits or the queue is paused.

        Raise ``AnotherDataPlane`` while the jobs that wait are for another data plane.
        """
        name, keys, arguments = self._take_call(max_jobs, max_bytes)
        with self._answered(name):
            return self._taken(self.call(name, keys, *arguments))

    def complete(self, done: Sequence[ActiveJob]) -> int:
        """Remove delivered jobs, except the last ``keep_completed``; return how many were still ours."""
        name, keys, arguments = self._complete_call(done)
        with self._answered(name):
            return int(sum(self.call(name, keys, *arguments)))

    def complete_and_take(
        self, done: Sequence[ActiveJob], max_jobs: int, max_bytes: int
    ) -> tuple[int, list[ActiveJob]]:
        """Run ``complete`` and then ``take``, as two steps in one round trip; return both results."""
        with self._answered("take_jobs"), self._client() as client, self._meter.timed(TOGETHER, self.clock):
            completed, answer = self._scripts.call_together(
                client, self._complete_call(done), self._take_call(max_jobs, max_bytes)
            )
        return int(sum(completed)), self._taken(answer)

    def _taken(self, answer: list[Any]) -> list[ActiveJob]:
        self._found = bool(answer)
        return active_jobs(answer)

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

    def _complete_call(self, done: Sequence[ActiveJob]) -> Call:
        keys = self.keys
        jobs_ = pack([(taken.id, taken.epoch, taken.events) for taken in done])
        return self._fenced(
            "complete_jobs",
            [keys.active, keys.stalled, keys.completed, keys.account],
            *(keys.base, self.token, self.clock.time_ms(), self._keep_completed, jobs_),
        )

    def fail(self, taken: ActiveJob, reason: str, status: int = 0) -> bool:
        """Put a job into the failed set; return False if it was not ours any more.

        ``status`` is that of the data plane's response, 0 without one.
        """
        keys = self.keys
        inner = taken.job is not None and taken.job.attempts
        reason = reason.encode(errors="replace").decode()
        answer = self._run(
            "fail_job",
            [keys.active, keys.failed, keys.stalled, keys.account, keys.failed_events, keys.id],
            *(keys.base, self.token, self.clock.time_ms(), taken.id.encode(errors="surrogateescape"), reason),
            *(jobs.without_attempts(taken.data) if inner else b"", taken.epoch, taken.events),
            *(int(taken.displaced), status),
        )
        return bool(answer)

    def split(self, taken: ActiveJob) -> tuple[ActiveJob, ActiveJob] | None:
        """Split a job into two with half of its events each; return both in order, or None if it was not ours any more.

        Raise ``JobUnreadable`` if its data cannot be rewritten.
        """
        assert taken.job is not None
        keys, middle = self.keys, len(taken.job.events) // 2
        first, second = jobs.with_events(taken.data, 0, middle), jobs.with_events(taken.data, middle, taken.events)
        new_id = self._run(
            "split_job",
            [keys.active, keys.id, keys.stalled, keys.sealed],
            *(keys.base, self.token, LOCK_MS, taken.id, first, second, len(taken.data)),
            hashlib.sha1(taken.data, usedforsecurity=False).hexdigest(),
        )
        if new_id is None:
            return None
        return half(taken, taken.id, first, 0, middle), half(taken, new_id.decode(), second, middle, taken.events)

    def retry_later(self, tried: Sequence[ActiveJob]) -> list[ActiveJob]:
        """Count one attempt for each job and keep them locked; return those that are still ours."""
        return self._hold("retry_later", tried)

    def renew(self, held: Sequence[ActiveJob]) -> list[ActiveJob]:
        """Renew the lease and the locks of jobs; return the jobs that are still ours."""
        return self._hold("renew_locks", held, self._lease_ms)

    def _hold(self, name: str, held: Sequence[ActiveJob], *more: int) -> list[ActiveJob]:
        ids = pack([taken.id for taken in held])
        keys = [self.keys.stalled, self.keys.active]
        ours = self._run(name, keys, self.keys.base, self.token, LOCK_MS, ids, *more)
        return [taken for taken, is_ours in zip(held, ours, strict=True) if is_ours]

    def put_back(self, held: Sequence[ActiveJob]) -> int:
        """Put unfinished jobs first in line again, in their order; return how many were still ours."""
        keys = self.keys
        ids = pack([taken.id for taken in held])
        return int(self._run("put_back", [*self._line, keys.active, keys.stalled], keys.base, self.token, ids))

    def recover(self, keep: Sequence[ActiveJob] = (), whose: Whose = "all") -> Recovered:
        """Put active jobs that are not in ``keep`` first in line again.

        With ``all``, the jobs under any lock are moved, and their attempts start at 0 again. Only the one sender of a
        queue may do that, because a dead sender has left them. With ``free``, the jobs without a lock or under our lock
        are moved. With ``ours``, only the jobs under our lock are moved.
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
        """Return how many jobs are active without a lock."""
        return int(self.call("count_stranded", [self.keys.active], self.keys.base))

    def sweep(self, every_ms: int = SWEEP_MS) -> int:
        """Put the jobs of dead senders next in line again; return how many. For a queue with several senders."""
        keys = self.keys
        lists = [keys.stalled, keys.wait, keys.paused, keys.meta_paused, keys.active, keys.failed]
        answer = self.call(
            "sweep_stalled",
            [*lists, keys.stalled_check, keys.account, keys.failed_events],
            *(keys.base, self.clock.time_ms(), every_ms),
        )
        return int(answer)

    def promote(self) -> int:
        """Move delayed jobs that are due into the line.

        Return when the next one is due, in milliseconds since 1970, or -1 if there is none.
        """
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
