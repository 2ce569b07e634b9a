"""What came of jobs, until Redis knows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rudderpipe import log_text
from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue.active_job import Taken
from rudderpipe.queue.queue import Queue

logger = log_text.logger("rudderpipe.sender")


class Ledger:
    """Each method may be repeated when Redis was away: nothing is written twice, nothing is forgotten before."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.delivered: list[Taken] = []
        self.failed: list[tuple[Taken, str]] = []
        """With the reason."""
        self._repeats = False
        """The last call may have been executed without our knowing: what is no longer ours then is no surprise."""

    @property
    def is_empty(self) -> bool:
        """Redis knows it all."""
        return not self.delivered and not self.failed

    def forget(self) -> None:
        """The jobs are another sender's now."""
        self.delivered, self.failed, self._repeats = [], [], False

    def write(self) -> int:
        """How many jobs were settled. Raises ``QueueUnavailable`` and ``LeaseLost``."""
        done = len(self.delivered) + len(self.failed)
        if self.delivered:
            with self._asking():
                kept = self._queue.complete(self.delivered)
            self._completed(kept)
        while self.failed:
            taken, reason = self.failed[0]
            with self._asking():
                kept = self._queue.fail(taken, reason)
            if not kept and not self._repeats:
                logger.warning("failed, but no longer ours to say so job=%s", taken.id)
            self._repeats = False
            self.failed.pop(0)
        return done

    def write_and_take(self, max_jobs: int, max_bytes: int) -> tuple[int, list[Taken]]:
        """How many jobs were settled, and the next ones; over one round trip where that can be."""
        if self.failed or not self.delivered:
            return self.write(), self._queue.take(max_jobs, max_bytes)
        done = len(self.delivered)
        with self._asking(several=True):
            kept, taken = self._queue.complete_and_take(self.delivered, max_jobs, max_bytes)
        self._completed(kept)
        return done, taken

    def _completed(self, kept: int) -> None:
        if kept < len(self.delivered) and not self._repeats:
            logger.warning("delivered, but no longer ours to complete jobs=%d", len(self.delivered) - kept)
        self.delivered, self._repeats = [], False

    @contextmanager
    def _asking(self, *, several: bool = False) -> Iterator[None]:
        try:
            yield
        except QueueUnavailable as error:
            # Of several calls one may have been refused when another was executed.
            self._repeats = self._repeats or several or not error.answered
            raise
