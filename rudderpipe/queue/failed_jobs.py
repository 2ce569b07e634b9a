"""The failed set: find, retry and delete failed jobs, and keep the set within its bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from rudderpipe.errors import JobUnreadable
from rudderpipe.queue import job as jobs
from rudderpipe.queue.job import Job
from rudderpipe.queue.queue import Queue, pack

AT_ONCE = 100
"""Jobs in one round trip. The number is small because each job comes with its data."""
TRIM_AT_ONCE = 1000


class FailedJob(msgspec.Struct, frozen=True):
    """One job of the failed set; ``job`` is None when ``data`` cannot be read."""

    id: str
    failed_at_ms: int
    reason: str
    data: bytes
    job: Job | None

    @property
    def events(self) -> int:
        """The number of events in the job; 0 when its data cannot be read."""
        return len(self.job.events) if self.job else 0


class Selection(msgspec.Struct, frozen=True):
    """A filter for failed jobs. A job is selected when it fits every field that is not None."""

    ids: frozenset[str] | None = None
    since_ms: int | None = None
    reason: str | None = None
    """A case-insensitive substring of the failure reason."""

    def takes(self, failed: FailedJob) -> bool:
        """Return True if the selection includes this job."""
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
        """Yield the selected jobs, oldest first. Jobs that fail after the call began are not included."""
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
        # Jobs of the same millisecond are sorted by number, because Redis sorts "10" before "9".
        in_order = sorted(known, key=lambda pair: (pair[1], len(pair[0]), pair[0]))
        return [(name, int(score)) for name, score in in_order]

    def _since(self, names: Sequence[bytes]) -> list[tuple[bytes, float]]:
        """Return the names that are in the failed set, each with the time at which its job failed."""
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

    def retry(self, chosen: Sequence[FailedJob], *, first: bool = False, write_key: str | None = None) -> int:
        """Put jobs in line again, in this order and with no attempt counted; return how many were put in line.

        At most ``AT_ONCE`` jobs in one call. A job that has failed again since it was read is left alone. With
        ``write_key``, the jobs are sent with this key, and a job whose data cannot be read is left alone. With
        ``first``, they go ahead of the jobs that wait; a caller with more than ``AT_ONCE`` jobs must then pass the last
        group first.
        """
        queue, keys = self._queue, self._queue.keys
        answer = queue.call(
            "retry_failed",
            [keys.failed, keys.wait, keys.paused, keys.meta_paused, keys.account, keys.failed_events],
            keys.base,
            queue.token,
            queue.clock.time_ms(),
            int(first),
            pack(
                [
                    (job.id, job.failed_at_ms, _retried(job, write_key), _digest(job))
                    for job in chosen
                    if _is_text(job.id) and (job.job or write_key is None)
                ]
            ),
        )
        return int(sum(answer))

    def remove(self, ids: Sequence[str]) -> tuple[int, int]:
        """Delete failed jobs forever, at most 1,000; return how many jobs and how many events of ours were deleted."""
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
        """Delete the oldest jobs: those beyond the newest ``keep``, and those that failed more than ``keep_s`` ago.

        At most 1,000 jobs in one call. Return how many jobs and how many events of ours were deleted.
        """
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
    """Return False if the id is not valid UTF-8. Such an id cannot be passed to a script; its job is left alone."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def _retried(failed: FailedJob, write_key: str | None) -> str:
    """Return the job's data with its attempts at 0 and with the write key, or "" if it needs no change.

    The attempts that a Node SDK counts inside the data would make a retry fail at once.
    """
    return jobs.retried(failed.data, write_key) if failed.job else ""


def _digest(failed: FailedJob) -> str:
    return hashlib.sha1(failed.data, usedforsecurity=False).hexdigest()
