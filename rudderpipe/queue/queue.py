"""The queue's operations, typed: each is one script, and so one step that cannot be cut in two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rudderpipe.clock import Clock
from rudderpipe.queue import job as jobs
from rudderpipe.queue.base import QueueBase, pack
from rudderpipe.queue.scripts import Call
from rudderpipe.queue.taken import Taken, all_taken, half
from rudderpipe.settings import Settings

LOCK_MS = 30_000
SWEEP_MS = 30_000
RECOVER_AT_ONCE = 1000
PROMOTE_AT_ONCE = 1000


class Queue(QueueBase):
    """One Bull queue as its senders see it.

    While ``fence`` holds a lease, every method that changes something raises ``LeaseLost``, and changes nothing, when
    another sender may have the queue; every method raises ``QueueUnavailable`` when Redis does not answer or refuses.
    """

    def __init__(self, settings: Settings, clock: Clock, token: str | None = None) -> None:
        super().__init__(settings, clock, token)
        self.fence = ""
        self._lease_ms = settings.lease_ms
        self._keep_completed = settings.keep_completed
        self._found = False
        """Whether the last take found something."""

    def _fenced(self, name: str, keys: list[str], *arguments: str | bytes | int) -> Call:
        return name, [*keys, self.keys.lease], (*arguments, self.fence)

    def _run(self, name: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        return self.call(name, [*keys, self.keys.lease], *arguments, self.fence)

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
        return self._fenced(
            "take_jobs",
            [
                *(keys.wait, keys.active, keys.meta_paused, keys.stalled, keys.priority, keys.account),
                *(keys.failed_events, keys.delayed, keys.failed),
            ],
            *(keys.base, self.token, LOCK_MS, self.clock.time_ms(), max_jobs, max_bytes, int(self._found)),
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
        """Two jobs of one, each with half of its events, in their order; None when it was not ours any more."""
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
        )
        if new_id is None:
            return None
        return half(taken, taken.id, first, 0, middle), half(taken, new_id.decode(), second, middle, taken.events)

    def retry_later(self, tried: Sequence[Taken]) -> int:
        """Count an attempt of each and keep them locked; how many are still ours."""
        return self._hold("retry_later", tried)

    def renew(self, held: Sequence[Taken]) -> int:
        """Keep the lease, and jobs locked; how many are still ours."""
        return self._hold("renew_locks", held, self._lease_ms)

    def _hold(self, name: str, held: Sequence[Taken], *more: int) -> int:
        ids = pack([taken.id for taken in held])
        keys = [self.keys.stalled, self.keys.active]
        return int(sum(self._run(name, keys, self.keys.base, self.token, LOCK_MS, ids, *more)))

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

    def recover(self) -> int:
        """Jobs that a dead sender left active are first in line again. Only for the one sender of a queue."""
        keys = self.keys
        total = 0
        while True:
            recovered: int = self._run(
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
        _, next_ms = self._run(
            "promote_delayed",
            [keys.delayed, *self._line, keys.active],
            keys.base,
            self.token,
            self.clock.time_ms(),
            PROMOTE_AT_ONCE,
        )
        return int(next_ms)
