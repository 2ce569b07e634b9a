"""The results of jobs that are not yet stored in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rudderpipe import log_text
from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.queue import Queue

logger = log_text.logger("rudderpipe.sender")


class FailedJob(NamedTuple):
    """A job that is not sent again, and why; ``status`` is that of the data plane's response, 0 without one."""

    job: ActiveJob
    reason: str
    status: int


class PendingAcks:
    """The delivered and failed jobs of which Redis does not know yet.

    Each method may be called again after ``QueueUnavailable``: no result is written twice, and none is forgotten
    before it is written.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.delivered: list[ActiveJob] = []
        self.failed: list[FailedJob] = []
        """The failed jobs, each with the reason."""
        self._repeats = False
        """True if Redis may have executed the last call, so jobs that are no longer this sender's are expected."""

    @property
    def is_empty(self) -> bool:
        """True if every result is in Redis."""
        return not self.delivered and not self.failed

    def forget(self) -> None:
        """Drop all results, because the jobs are another sender's now."""
        self.delivered, self.failed, self._repeats = [], [], False

    def write(self) -> int:
        """Write the results to Redis. Return how many jobs. Raises ``QueueUnavailable`` and ``LeaseLost``."""
        done = len(self.delivered) + len(self.failed)
        if self.delivered:
            with self._asking():
                kept = self._queue.complete(self.delivered)
            self._completed(kept)
        while self.failed:
            taken, reason, status = self.failed[0]
            with self._asking():
                kept = self._queue.fail(taken, reason, status)
            if not kept and not self._repeats:
                logger.warning("a job failed but is no longer this sender's, its new holder decides job=%s", taken.id)
            self._repeats = False
            self.failed.pop(0)
        return done

    def write_and_take(self, max_jobs: int, max_bytes: int) -> tuple[int, list[ActiveJob]]:
        """Write the results and take the next jobs, in one round trip where possible.

        Return how many results were written, and the next jobs. Raises ``QueueUnavailable`` and ``LeaseLost``.
        """
        if self.failed or not self.delivered:
            return self.write(), self._queue.take(max_jobs, max_bytes)
        done = len(self.delivered)
        with self._asking(several=True):
            kept, taken = self._queue.complete_and_take(self.delivered, max_jobs, max_bytes)
        self._completed(kept)
        return done, taken

    def _completed(self, kept: int) -> None:
        if kept < len(self.delivered) and not self._repeats:
            lost = len(self.delivered) - kept
            logger.warning("delivered jobs are no longer this sender's, their events may arrive twice jobs=%d", lost)
        self.delivered, self._repeats = [], False

    @contextmanager
    def _asking(self, *, several: bool = False) -> Iterator[None]:
        try:
            yield
        except QueueUnavailable as error:
            # One of several calls may have been refused and another one executed.
            self._repeats = self._repeats or several or not error.answered
            raise
