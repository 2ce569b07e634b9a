"""What the queue answers: jobs that were taken, and counts."""

from __future__ import annotations

import re

import msgspec

from rudderpipe.errors import JobUnreadable
from rudderpipe.queue import job as jobs
from rudderpipe.queue.job import Job
from rudderpipe.queue.keys import is_a_jobs

MAX_DIGITS = 10
FIELDS = frozenset(
    ("queued", "delivered", "failed", "removed", "elsewhere", "lost", "unsure", "added", "term", "ended")
)
"""Of an account, besides positions."""
_INTEGER = re.compile(rb"-?\d{1,19}")


class Taken(msgspec.Struct, frozen=True):
    """A job that this sender holds the lock of; ``job`` is None when its data cannot be read, for ``trouble``."""

    id: str
    data: bytes
    attempts_made: int
    job: Job | None
    trouble: str = ""
    displaced: bool = False
    """The id's key is not a job's and must not be written to."""

    @property
    def attempts(self) -> int:
        """Attempts made so far, by whichever SDK."""
        return self.attempts_made + (self.job.attempts if self.job else 0)

    @property
    def events(self) -> int:
        """How many events it holds, as far as that can be read."""
        return len(self.job.events) if self.job else 0

    @property
    def epoch(self) -> str:
        """Its ring's epoch in hexadecimal; empty when no ring of ours made it."""
        return f"{self.job.epoch:016x}" if self.job and self.job.epoch else ""


class QueueCounts(msgspec.Struct, frozen=True):
    """Jobs by state, and events as the account has them (of one ring, or of all)."""

    waiting: int
    active: int
    delayed: int
    failed: int
    completed: int
    paused: bool
    events_queued: int
    events_delivered: int
    events_failed: int
    """Of failed jobs that are still there."""
    events_removed: int
    """Of failed jobs that were deleted by us, asked to or as a bound says."""
    events_elsewhere: int
    """Were queued, and another SDK's worker or a tool of Bull saw to them."""
    events_lost: int
    """Were in the queue when Redis lost its data."""
    events_added: int
    """All that were ever added, counted apart from the states; of one ring only."""
    odd_fields: int
    """Fields of the account that another program has put there, or made no number; they count as 0."""
    positions: dict[int, int]
    """How many events of each tenancy of a block it has; of one ring only."""

    @property
    def events_gone(self) -> int:
        """All that were ever added."""
        return (
            self.events_queued
            + self.events_delivered
            + self.events_failed
            + self.events_removed
            + self.events_elsewhere
            + self.events_lost
        )

    def with_losses(self, handed: int, over: int, since: int) -> QueueCounts:
        """Return the counts of a ring with what Redis has lost: it had taken ``handed`` events, and has fewer.

        ``over`` of them are known to have come to an end other than by failing: those count as delivered; ``since``
        were handed over after that was known. The others are lost, but queued as long as their jobs may still be there.
        """
        missing = handed - max(self.events_gone, self.events_added)
        known = self.events_delivered + self.events_removed + self.events_elsewhere
        restored = max(0, min(missing, over - max(0, known - since)))
        unsure = max(0, missing) - restored
        may_be_there = self.waiting + self.active + self.delayed > 0
        return msgspec.structs.replace(
            self,
            events_delivered=self.events_delivered + restored,
            events_queued=self.events_queued + (unsure if may_be_there else 0),
            events_lost=self.events_lost + (0 if may_be_there else unsure),
        )

    @property
    def is_sound(self) -> bool:
        """Whether no count is below 0, as one is when another program's job says that it is ours."""
        counts = (self.events_queued, self.events_delivered, self.events_failed, self.events_removed)
        return min(*counts, self.events_elsewhere, self.events_lost) >= 0

    @classmethod
    def of(cls, numbers: list[int], paused: bool, fields: list[bytes]) -> QueueCounts:  # one caller
        """What ``count_jobs`` answered; a field that another tool has put into the hash does not count."""
        events = {
            name.decode(errors="replace"): int(number)
            for name, number in zip(fields[::2], fields[1::2], strict=True)
            if _INTEGER.fullmatch(number)
        }
        waiting, active, delayed, failed, completed = numbers
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
            odd_fields=len(fields) // 2 - sum(name in FIELDS or _is_position(name) for name in events),
            positions={int(name): number for name, number in events.items() if _is_position(name)},
        )


def _is_position(name: str) -> bool:
    return name.isascii() and name.isdigit()


def all_taken(answer: list[tuple[bytes, list[bytes] | None]]) -> list[Taken]:
    """The jobs in what ``take_jobs`` answered."""
    return [_taken(name.decode(errors="surrogateescape"), fields) for name, fields in answer]


def _taken(job_id: str, fields: list[bytes] | None) -> Taken:
    if fields is None or not is_a_jobs(job_id):
        trouble = f"the queue held the id {job_id[:80]!r}, whose key in Redis is not that of a job"
        return Taken(job_id, b"", 0, None, trouble, displaced=True)
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    made = values.get(b"attemptsMade", b"0")
    attempts_made = int(made) if made.isdigit() and len(made) < MAX_DIGITS else 0
    data = values.get(b"data", b"")
    try:
        if b"data" not in values:
            raise JobUnreadable(f"the job has no {'data' if fields else 'hash in Redis, only its id was in the queue'}")
        if not job_id.isprintable():
            raise JobUnreadable("the job's id is not text")
        return Taken(job_id, data, attempts_made, jobs.read(data))
    except JobUnreadable as error:
        return Taken(job_id, data, attempts_made, None, error.reason)


def half(taken: Taken, name: str, data: str, start: int, end: int) -> Taken:
    """The job that holds those of a job's events."""
    assert taken.job is not None
    job = msgspec.structs.replace(taken.job, events=taken.job.events[start:end])
    return msgspec.structs.replace(taken, id=name, data=data.encode(), job=job)
