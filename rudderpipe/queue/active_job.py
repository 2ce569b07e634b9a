"""What the queue returns: active jobs and counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from rudderpipe.errors import JobUnreadable
from rudderpipe.queue import job as jobs
from rudderpipe.queue.job import Job
from rudderpipe.queue.keys import is_a_jobs

MAX_DIGITS = 10
FIELDS = frozenset(
    ("queued", "delivered", "failed", "removed", "elsewhere", "lost", "unsure", "added", "term", "ended")
)
"""The fields of an account that hold a number, except the offsets."""
_FAILURE = (b"failedReason", b"failedStatus", b"failedAt")
"""The fields of a ring's account that say why its events failed last."""
_INTEGER = re.compile(rb"-?\d{1,19}")


class ActiveJob(msgspec.Struct, frozen=True):
    """An active job whose lock this sender holds.

    ``job`` is None when the data cannot be read; ``trouble`` is then the reason.
    """

    id: str
    data: bytes
    attempts_made: int
    job: Job | None
    trouble: str = ""
    displaced: bool = False
    """True when the id's key in Redis does not belong to a job and must not be written to."""
    lane: str = ""
    """The number of the job's lane, and of how many lanes, such as ``3/8``; empty for a job without a lane."""

    @property
    def attempts(self) -> int:
        """The attempts made so far, by this SDK and by others."""
        return self.attempts_made + (self.job.attempts if self.job else 0)

    @property
    def events(self) -> int:
        """The number of events in the job; 0 when its data cannot be read."""
        return len(self.job.events) if self.job else 0

    @property
    def epoch(self) -> str:
        """The epoch, in hexadecimal, of the ring that the events came from; empty when another SDK made the job."""
        return f"{self.job.epoch:016x}" if self.job and self.job.epoch else ""


class Recovered(NamedTuple):
    """The number of jobs that are in line again, and how many of their locks belonged to another worker."""

    jobs: int
    broken_locks: int


class LastFailure(msgspec.Struct, frozen=True):
    """Why events of a ring failed last.

    ``status`` is that of the data plane's response, 0 without one. ``at_ms`` is in milliseconds since 1970.
    """

    text: str
    status: int
    at_ms: int


EVENT_STATES = (
    *("events_queued", "events_delivered", "events_failed"),
    *("events_removed", "events_elsewhere", "events_lost"),
)
"""The states of an event that was added to a queue, as fields. Each event is in one of them."""


def events_of(counts: object) -> int:
    """Return the sum of the events in all states, which is the number of events that were ever added."""
    return sum(int(getattr(counts, name)) for name in EVENT_STATES)


class QueueCounts(msgspec.Struct, frozen=True):
    """Jobs by state, and the events of one account (of one ring, or of all rings)."""

    waiting: int
    active: int
    delayed: int
    failed: int
    completed: int
    paused: bool
    events_queued: int
    events_delivered: int
    events_failed: int
    """Events of failed jobs that still exist."""
    events_removed: int
    """Events of failed jobs that rudderpipe deleted, on request or because of a bound."""
    events_elsewhere: int
    """Events that were queued, and that another SDK's worker or a tool of Bull then took or deleted."""
    events_lost: int
    """Events that were in the queue when Redis lost its data."""
    events_added: int
    """All events that were ever added, counted independently of the states; of one ring only."""
    odd_fields: int
    """Fields of the account that another program added, or set to a value that is not a number; they count as 0."""
    offsets: dict[int, int]
    """The number of events added from each tenure of a block (its offset); of one ring only."""
    last_failure: LastFailure | None = None
    """Of one ring only; None if no event of it failed."""

    @property
    def events_gone(self) -> int:
        """The number of events that were ever added, by their states."""
        return events_of(self)

    @property
    def events_known(self) -> int:
        """The number of events that were ever added, also where their states are forgotten; of one ring only."""
        return max(self.events_gone, self.events_added)

    @property
    def events_over(self) -> int:
        """The events that are known to be finished without having failed."""
        return self.events_delivered + self.events_removed + self.events_elsewhere

    def with_losses(self, handed: int, over: int, since: int, *, is_restored_soon: bool = False) -> QueueCounts:
        """Return the counts of a ring, corrected for the events that Redis has lost.

        Redis had accepted ``handed`` events. ``over`` of them are known to be finished without having failed; those
        that are missing among them count as delivered. ``since`` events were handed over after ``over`` was read. The
        other missing events count as queued while a job waits, is active or delayed, and as lost after that.
        ``is_restored_soon`` counts them as queued for now, because a flusher is about to find out more exactly.
        """
        missing = handed - self.events_known
        restored = max(0, min(missing, over - max(0, self.events_over - since)))
        unsure = max(0, missing) - restored
        may_be_there = is_restored_soon or self.waiting + self.active + self.delayed > 0
        return msgspec.structs.replace(
            self,
            events_delivered=self.events_delivered + restored,
            events_queued=self.events_queued + (unsure if may_be_there else 0),
            events_lost=self.events_lost + (0 if may_be_there else unsure),
        )

    @staticmethod
    def merged(counts: Sequence[QueueCounts]) -> QueueCounts:
        """Return the counts of several queues as those of one. Their offset is that of the queue that has most."""
        if len(counts) == 1:
            return counts[0]
        own = ("paused", "offsets", "last_failure")
        names = [name for name in QueueCounts.__struct_fields__ if name not in own]
        offsets: dict[int, int] = {}
        for each in counts:
            offsets.update((tenure, max(end, offsets.get(tenure, 0))) for tenure, end in each.offsets.items())
        failures = [each.last_failure for each in counts if each.last_failure is not None]
        return QueueCounts(
            **{name: sum(getattr(each, name) for each in counts) for name in names},
            paused=any(each.paused for each in counts),
            offsets=offsets,
            last_failure=max(failures, key=lambda failure: failure.at_ms, default=None),
        )

    @property
    def is_sound(self) -> bool:
        """True when no count is below 0. Another program's job that claims to be ours can make a count negative."""
        return all(getattr(self, name) >= 0 for name in EVENT_STATES)

    @classmethod
    def of(cls, numbers: list[int], paused: bool, fields: list[bytes]) -> QueueCounts:  # one caller
        """Return the counts that ``count_jobs`` returned. A field that another tool put into the hash is ignored."""
        events = {
            name.decode(errors="replace"): int(number)
            for name, number in zip(fields[::2], fields[1::2], strict=True)
            if _INTEGER.fullmatch(number) and name not in _FAILURE
        }
        waiting, active, delayed, failed, completed = numbers
        texts = dict(zip(fields[::2], fields[1::2], strict=True))
        return cls(
            waiting=waiting,
            active=active,
            delayed=delayed,
            failed=failed,
            completed=completed,
            paused=paused,
            events_queued=events.get("queued", 0),
            events_delivered=events.get("delivered", 0),
            events_failed=events.get("failed", 0),
            events_removed=events.get("removed", 0),
            events_elsewhere=events.get("elsewhere", 0),
            events_lost=events.get("lost", 0),
            events_added=events.get("added", 0),
            odd_fields=len(texts.keys() - _FAILURE) - sum(name in FIELDS or _is_offset(name) for name in events),
            offsets={int(name): number for name, number in events.items() if _is_offset(name)},
            last_failure=_last_failure(texts),
        )


def _last_failure(texts: dict[bytes, bytes]) -> LastFailure | None:
    text, status, at = (texts.get(name, b"") for name in _FAILURE)
    if not (text and _INTEGER.fullmatch(status) and _INTEGER.fullmatch(at)):
        return None
    return LastFailure(text.decode(errors="replace"), int(status), int(at))


def _is_offset(name: str) -> bool:
    return name.isascii() and name.isdigit()


def active_jobs(answer: list[tuple[bytes, list[bytes] | None]]) -> list[ActiveJob]:
    """Return the active jobs that are in the result of ``take_jobs``."""
    return [_taken(name.decode(errors="surrogateescape"), fields) for name, fields in answer]


def _taken(job_id: str, fields: list[bytes] | None) -> ActiveJob:
    if fields is None or not is_a_jobs(job_id):
        trouble = f"the queue held the id {job_id[:80]!r}, but the key of that id in Redis does not belong to a job"
        return ActiveJob(job_id, b"", 0, None, trouble, displaced=True)
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    made = values.get(b"attemptsMade", b"0")
    attempts_made = int(made) if made.isdigit() and len(made) < MAX_DIGITS else 0
    data, lane = values.get(b"data", b""), values.get(b"lane", b"").decode()
    try:
        if b"data" not in values:
            raise JobUnreadable(f"the job has no {'data' if fields else 'hash in Redis; only its id was in the queue'}")
        if not job_id.isprintable():
            raise JobUnreadable("the job's id is not text")
        return ActiveJob(job_id, data, attempts_made, jobs.read(data), lane=lane)
    except JobUnreadable as error:
        return ActiveJob(job_id, data, attempts_made, None, error.reason)


def half(taken: ActiveJob, name: str, data: str, start: int, end: int) -> ActiveJob:
    """Return the job ``name``, which holds the events ``start`` to ``end`` of ``taken``."""
    assert taken.job is not None
    job = msgspec.structs.replace(taken.job, events=taken.job.events[start:end])
    return msgspec.structs.replace(taken, id=name, data=data.encode(), job=job)
