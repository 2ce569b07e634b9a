"""What the queue answers: jobs that were taken, and counts."""

from __future__ import annotations

import msgspec

from rudderpipe.errors import JobUnreadable
from rudderpipe.queue import job as jobs
from rudderpipe.queue.job import Job


class Taken(msgspec.Struct, frozen=True):
    """A job that this sender holds the lock of; ``job`` is None when its data cannot be read, for ``trouble``."""

    id: str
    data: bytes
    attempts_made: int
    job: Job | None
    trouble: str = ""

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
    positions: dict[int, int]
    """How many events of each tenancy of a block it has; of one ring only."""


def all_taken(answer: list[tuple[bytes, list[bytes]]]) -> list[Taken]:
    """The jobs in what ``take_jobs`` answered."""
    return [_taken(job_id.decode(), fields) for job_id, fields in answer]


def _taken(job_id: str, fields: list[bytes]) -> Taken:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    made = values.get(b"attemptsMade", b"0")
    attempts_made = int(made) if made.isdigit() else 0
    data = values.get(b"data")
    if data is None:
        return Taken(job_id, b"", attempts_made, None, "the job has no data")
    try:
        return Taken(job_id, data, attempts_made, jobs.read(data))
    except JobUnreadable as error:
        return Taken(job_id, data, attempts_made, None, error.reason)
