"""The regular maintenance of a queue."""

from __future__ import annotations

from rudderpipe import log_text
from rudderpipe.queue.failed_jobs import TRIM_AT_ONCE, FailedJobs
from rudderpipe.queue.queue import SWEEP_MS, Queue
from rudderpipe.settings import Settings

SWEEP_S = SWEEP_MS / 1000
PROMOTE_S = 5.0
TRIM_S = 30.0

logger = log_text.logger("rudderpipe.sender")


class Upkeep:
    """The maintenance of delayed jobs that are due, stalled jobs of other senders, and the bounds of the failed set."""

    def __init__(self, queue: Queue, settings: Settings) -> None:
        self._queue = queue
        self._failed = FailedJobs(queue)
        self._settings = settings
        self._has_seen_redis = False
        self._sweep_at_s = self._promote_at_s = self._trim_at_s = float("-inf")

    def work(self, now_s: float) -> None:
        """Do what is due. A step that raises is due again later. Raises ``QueueUnavailable`` and ``LeaseLost``."""
        if now_s >= self._promote_at_s:
            self._promote_at_s = now_s + PROMOTE_S
            next_ms = self._queue.promote()
            if next_ms >= 0:
                due_in_s = (next_ms - self._queue.clock.time_ms()) / 1000
                self._promote_at_s = now_s + min(PROMOTE_S, max(0.0, due_in_s))
        if self._settings.is_multi_processor and now_s >= self._sweep_at_s:
            self._sweep_at_s = now_s + SWEEP_S
            if swept := self._queue.sweep():
                logger.warning("stalled jobs of another sender are next in line again, may arrive twice jobs=%d", swept)
        keep, keep_s = self._settings.keep_failed, self._settings.keep_failed_s
        if (keep is not None or keep_s is not None) and now_s >= self._trim_at_s:
            self._trim_at_s = now_s + TRIM_S
            jobs, events = self._failed.trim(keep, keep_s)
            if jobs == TRIM_AT_ONCE:
                self._trim_at_s = now_s
            if jobs:
                said = "deleted the oldest failed jobs, see keep_failed and keep_failed_s jobs=%d events=%d"
                logger.warning(said, jobs, events)
        if not self._has_seen_redis:
            self._has_seen_redis = True
            if trouble := self._queue.eviction():
                logger.warning("redis %s must be set", trouble)
