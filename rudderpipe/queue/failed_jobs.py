"""The failed set: find, retry and delete failed jobs, and keep the set within its bounds."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from rudderpipe.errors import JobUnreadable
from rudderpipe.queue import job as jobs
from rudderpipe.queue.job import Job
from rudderpipe.queue.queue import Queue, pack

AT_ONCE = 100
"""Jobs in one round trip. The number is small because each job comes with its data."""
TRIM_AT_ONCE = 1000
SEARCHED_AT_ONCE = 1000
SEARCHED_AT_MOST = 20_000
"""A page by reason looks at so many of the newest jobs, because Redis has no index of reasons."""


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
    until_ms: int | None = None
    reason: str | None = None
    """A case-insensitive substring of the failure reason."""

    def takes(self, failed: FailedJob) -> bool:
        """Return True if the selection includes this job."""
        return (
            (self.ids is None or failed.id in self.ids)
            and (self.since_ms is None or failed.failed_at_ms >= self.since_ms)
            and (self.until_ms is None or failed.failed_at_ms <= self.until_ms)
            and self.takes_reason(failed.reason)
        )

    def takes_reason(self, reason: str) -> bool:
        """Return True if the selection includes jobs with this failure reason."""
        return self.reason is None or self.reason.lower() in reason.lower()


class Page(NamedTuple):
    """Some of the selected jobs, newest first."""

    jobs: list[FailedJob]
    next: str | None
    """Where the next page begins; None for the last page."""
    total: int
    """The number of selected jobs, of the newest ``SEARCHED_AT_MOST`` when they are selected by reason."""


class FailedJobs:
    """The failed set of one queue. Every method raises ``QueueUnavailable`` when Redis does not answer or refuses."""

    away: Mapping[str, str] = {}
    """Queues that cannot be read and are left out: none here."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def __iter__(self) -> Iterator[FailedJob]:
        return self.find(Selection())

    def find(self, selection: Selection, *, newest_first: bool = False) -> Iterator[FailedJob]:
        """Yield the selected jobs, oldest first. Jobs that fail after the call began are not included."""
        names = self._names(selection)[:: -1 if newest_first else 1]
        for start in range(0, len(names), AT_ONCE):
            piece = names[start : start + AT_ONCE]
            if selection.reason is not None:
                piece = self._with_reason(piece, selection)  # before the data of all these jobs is read
            yield from filter(selection.takes, self._read(piece))

    def _names(self, selection: Selection) -> list[tuple[bytes, int]]:
        failed = self._queue.keys.failed
        if selection.ids is None:
            since, until = _bounds(selection)
            (known,) = self._queue.ask(lambda pipe: pipe.zrangebyscore(failed, since, until, withscores=True))
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

    def page(self, selection: Selection, after: str | None, limit: int) -> Page:
        """Return the next ``limit`` selected jobs after the ``next`` of a page, newest first. ``ids`` have no effect.

        Only the page's own jobs are read with their data. Raise ``ValueError`` if ``after`` is no ``next``.
        """
        before = place_of(after) if after is not None else None
        found: list[tuple[bytes, int]] = []
        total = 0
        if selection.reason is None:
            since, until = _bounds(selection)
            (total,) = self._queue.ask(lambda pipe: pipe.zcount(self._queue.keys.failed, since, until))
        for names in self._newest_first(selection, before):
            if selection.reason is None:
                found += _behind(names, before)
                if len(found) > limit:
                    break
                continue
            names_with_it = self._with_reason(names, selection)
            total += len(names_with_it)
            found += _behind(names_with_it, before)
        jobs_ = [
            job for start in range(0, limit, AT_ONCE) for job in self._read(found[start : min(start + AT_ONCE, limit)])
        ]
        last = found[limit - 1] if len(found) > limit else None
        return Page(jobs_, None if last is None else f"{last[1]}:{last[0].decode(errors='surrogateescape')}", total)

    def _newest_first(
        self, selection: Selection, before: tuple[int, bytes] | None
    ) -> Iterator[list[tuple[bytes, int]]]:
        """Yield pieces of the failed set in Redis's own order, newest first.

        A search by reason begins with the newest job, because it counts all jobs, and looks at ``SEARCHED_AT_MOST``.
        """
        keys, (since, until) = self._queue.keys, _bounds(selection)
        if selection.reason is None and before is not None:
            until = before[0]
        end = SEARCHED_AT_MOST if selection.reason is not None else sys.maxsize
        for start in range(0, end, SEARCHED_AT_ONCE):
            (piece,) = self._queue.ask(
                lambda pipe, start=start: pipe.zrevrangebyscore(  # type: ignore[misc]  # mypy does not know the default
                    keys.failed, until, since, start=start, num=SEARCHED_AT_ONCE, withscores=True
                )
            )
            yield [(name, int(score)) for name, score in piece]
            if len(piece) < SEARCHED_AT_ONCE:
                return

    def _with_reason(self, names: Sequence[tuple[bytes, int]], selection: Selection) -> list[tuple[bytes, int]]:
        base = self._queue.keys.base.encode()
        reasons = self._queue.ask(lambda pipe: [pipe.hget(base + name, "failedReason") for name, _ in names])
        return [name for name, reason in zip(names, reasons, strict=True) if selection.takes_reason(_reason(reason))]

    def _read(self, names: Sequence[tuple[bytes, int]]) -> Iterator[FailedJob]:
        base = self._queue.keys.base.encode()

        def fill(pipe: Any) -> None:
            for name, _ in names:
                pipe.hmget(base + name, "failedReason", "data")

        if not names:
            return
        for (name, failed_at_ms), (reason, data) in zip(names, self._queue.ask(fill), strict=True):
            try:
                job = jobs.read(data or b"")
            except JobUnreadable:
                job = None
            yield FailedJob(
                id=name.decode(errors="surrogateescape"),
                failed_at_ms=failed_at_ms,
                reason=_reason(reason),
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


def _bounds(selection: Selection) -> tuple[int | str, int | str]:
    """Return the least and the greatest score of a selection, as Redis reads them."""
    since, until = selection.since_ms, selection.until_ms
    return "-inf" if since is None else since, "+inf" if until is None else until


def place_of(after: str) -> tuple[int, bytes]:
    """Return the failure time and the id in the ``next`` of a page. Raise ``ValueError`` if it is none."""
    moment, colon, name = after.partition(":")
    if not (colon and moment.isascii() and moment.isdecimal()):
        raise ValueError("it is not the end of a page")
    return int(moment), name.encode(errors="surrogateescape")


def _behind(names: Sequence[tuple[bytes, int]], before: tuple[int, bytes] | None) -> list[tuple[bytes, int]]:
    """Return the names behind a place, in Redis's order of a sorted set from its end."""
    return [(name, score) for name, score in names if before is None or (score, name) < before]


def _reason(stored: bytes | None) -> str:
    return (stored or b"no reason was given").decode(errors="replace")


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
