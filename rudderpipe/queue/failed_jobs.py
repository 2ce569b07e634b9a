"""The failed set: look at it, retry or delete what is in it, keep it within bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from rudderpipe.errors import JobUnreadable
from rudderpipe.queue import job as jobs
from rudderpipe.queue.job import Job
from rudderpipe.queue.queue import Queue, pack

AT_ONCE = 100
"""Jobs in one round trip: their data come with them."""
TRIM_AT_ONCE = 1000


class FailedJob(msgspec.Struct, frozen=True):
    """One job of the failed set; ``job`` is None when its data cannot be read."""

    id: str
    failed_at_ms: int
    reason: str
    data: bytes
    job: Job | None

    @property
    def events(self) -> int:
        """How many events it holds, as far as that can be read."""
        return len(self.job.events) if self.job else 0


class Selection(msgspec.Struct, frozen=True):
    """Which failed jobs are meant: all that fit every given field."""

    ids: frozenset[str] | None = None
    since_ms: int | None = None
    reason: str | None = None
    """A part of the reason, in upper or lower case."""

    def takes(self, failed: FailedJob) -> bool:
        """Whether it is one of them."""
        return (
            (self.ids is None or failed.id in self.ids)
            and (self.since_ms is None or failed.failed_at_ms >= self.since_ms)
            and (self.reason is None or self.reason.lower() in failed.reason.lower())
        )


class FailedJobs:
    """The failed set of one queue. Every method raises ``QueueUnavailable`` when Redis does not answer or refuses."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def __iter__(self) -> Iterator[FailedJob]:
        return self.find(Selection())

    def find(self, selection: Selection, *, newest_first: bool = False) -> Iterator[FailedJob]:
        """Those of the selection, oldest first; jobs that fail meanwhile are not among them."""
        names = self._names(selection)[:: -1 if newest_first else 1]
        for start in range(0, len(names), AT_ONCE):
            yield from filter(selection.takes, self._read(names[start : start + AT_ONCE]))

    def _names(self, selection: Selection) -> list[tuple[bytes, int]]:
        failed = self._queue.keys.failed
        if selection.ids is None:
            since: int | str = "-inf" if selection.since_ms is None else selection.since_ms
            (known,) = self._queue.ask(lambda pipe: pipe.zrangebyscore(failed, since, "+inf", withscores=True))
        else:
            known = self._since([name.encode(errors="surrogateescape") for name in selection.ids])
        # Those of one millisecond by number: Redis has 10 before 9.
        in_order = sorted(known, key=lambda pair: (pair[1], len(pair[0]), pair[0]))
        return [(name, int(score)) for name, score in in_order]

    def _since(self, names: Sequence[bytes]) -> list[tuple[bytes, float]]:
        """Return those that are in the failed set, each with when it failed."""
        failed = self._queue.keys.failed
        scores = self._queue.ask(lambda pipe: [pipe.zscore(failed, name) for name in names])
        return [(name, score) for name, score in zip(names, scores, strict=True) if score is not None]

    def _read(self, names: Sequence[tuple[bytes, int]]) -> Iterator[FailedJob]:
        base = self._queue.keys.base.encode()

        def fill(pipe: Any) -> None:
            for name, _ in names:
                pipe.hmget(base + name, "failedReason", "data")

        for (name, failed_at_ms), (reason, data) in zip(names, self._queue.ask(fill), strict=True):
            try:
                job = jobs.read(data or b"")
            except JobUnreadable:
                job = None
            yield FailedJob(
                id=name.decode(errors="surrogateescape"),
                failed_at_ms=failed_at_ms,
                reason=(reason or b"no reason was given").decode(errors="replace"),
                data=data or b"",
                job=job,
            )

    def retry(self, chosen: Sequence[FailedJob], *, first: bool = False) -> int:
        """Put at most ``AT_ONCE`` in line again, in this order, with no attempt counted; return how many really are.

        A job that has failed again since it was read is left alone.

        ``first``: ahead of what waits. More than ``AT_ONCE`` are then given from the last piece to the first.
        """
        queue, keys = self._queue, self._queue.keys
        answer = queue.call(
            "retry_failed",
            [keys.failed, keys.wait, keys.paused, keys.meta_paused, keys.account, keys.failed_events],
            keys.base,
            queue.token,
            queue.clock.time_ms(),
            int(first),
            pack([(job.id, job.failed_at_ms, _without_attempts(job)) for job in chosen if _is_text(job.id)]),
        )
        return int(sum(answer))

    def remove(self, ids: Sequence[str]) -> tuple[int, int]:
        """Delete at most 1,000 failed jobs for good; how many jobs and how many events of ours that were."""
        keys = self._queue.keys
        known = self._since([name.encode() for name in ids if _is_text(name)])
        removed, events = self._queue.call(
            "remove_jobs",
            [keys.failed, keys.account, keys.failed_events],
            keys.base,
            pack([(name.decode(), int(failed_at_ms)) for name, failed_at_ms in known]),
        )
        return removed, events

    def trim(self, keep: int | None, keep_s: float | None) -> tuple[int, int]:
        """Delete the oldest of those that are more than ``keep`` or older than ``keep_s``; jobs and events deleted."""
        failed, at_most = self._queue.keys.failed, TRIM_AT_ONCE
        names: set[bytes] = set()
        if keep is not None:
            (count,) = self._queue.ask(lambda pipe: pipe.zcard(failed))
            if count > keep:
                (oldest,) = self._queue.ask(lambda pipe: pipe.zrange(failed, 0, min(count - keep, at_most) - 1))
                names.update(oldest)
        if keep_s is not None:
            before = self._queue.clock.time_ms() - int(keep_s * 1000)
            (old,) = self._queue.ask(lambda pipe: pipe.zrangebyscore(failed, "-inf", before, start=0, num=at_most))
            names.update(old)
        if not names:
            return 0, 0
        return self.remove([name.decode(errors="surrogateescape") for name in sorted(names)[:at_most]])


def _is_text(name: str) -> bool:
    """An id of bytes that are no text cannot be told to a script: such a job is left alone."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def _without_attempts(failed: FailedJob) -> str:
    """Data to store when the attempts in it would make a retry fail at once, as those of a Node SDK's job do."""
    return jobs.without_attempts(failed.data).decode() if failed.job and failed.job.attempts else ""
