"""What came of jobs, until Redis knows it."""

from __future__ import annotations

import logging

from rudderpipe.queue.queue import Queue
from rudderpipe.queue.taken import Taken

logger = logging.getLogger("rudderpipe.sender")


class Ledger:
    """Each method may be repeated when Redis was away: nothing is written twice, nothing is forgotten before."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.delivered: list[Taken] = []
        self.failed: list[tuple[Taken, str]] = []
        """With the reason."""

    @property
    def is_empty(self) -> bool:
        """Redis knows it all."""
        return not self.delivered and not self.failed

    def forget(self) -> None:
        """The jobs are another sender's now."""
        self.delivered, self.failed = [], []

    def write(self) -> int:
        """How many jobs were settled. Raises ``QueueUnavailable`` and ``LeaseLost``."""
        done = len(self.delivered) + len(self.failed)
        if self.delivered:
            self._completed(self._queue.complete(self.delivered))
        while self.failed:
            taken, reason = self.failed[0]
            if not self._queue.fail(taken, reason):
                logger.warning("failed, but no longer ours to say so job=%s", taken.id)
            self.failed.pop(0)
        return done

    def write_and_take(self, max_jobs: int, max_bytes: int) -> tuple[int, list[Taken]]:
        """How many jobs were settled, and the next ones; over one round trip where that can be."""
        if self.failed or not self.delivered:
            return self.write(), self._queue.take(max_jobs, max_bytes)
        done = len(self.delivered)
        kept, taken = self._queue.complete_and_take(self.delivered, max_jobs, max_bytes)
        self._completed(kept)
        return done, taken

    def _completed(self, kept: int) -> None:
        if kept < len(self.delivered):
            logger.warning("delivered, but no longer ours to complete jobs=%d", len(self.delivered) - kept)
        self.delivered = []
