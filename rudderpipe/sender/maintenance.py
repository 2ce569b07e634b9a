"""The regular maintenance of a queue."""

from __future__ import annotations

from rudderpipe import log_text
from rudderpipe.process.clock import Every
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
        self._sweeping, self._promoting, self._trimming = Every(SWEEP_S), Every(PROMOTE_S), Every(TRIM_S)

    def rest_s(self, now_s: float) -> float:
        """Return the seconds until delayed jobs may be due."""
        return self._promoting.rest_s(now_s)

    def work(self, now_s: float) -> None:
        """Do what is due. A step that raises is due again later. Raises ``QueueUnavailable`` and ``LeaseLost``."""
        if self._promoting.is_due(now_s):
            self._promoting.seconds = PROMOTE_S
            next_ms = self._queue.promote()
            if next_ms >= 0:
                self._promoting.seconds = min(PROMOTE_S, (next_ms - self._queue.clock.time_ms()) / 1000)
        if self._settings.is_multi_processor and self._sweeping.is_due(now_s) and (swept := self._queue.sweep()):
            logger.warning("stalled jobs of another sender are next in line again, may arrive twice jobs=%d", swept)
        keep, keep_s = self._settings.keep_failed, self._settings.keep_failed_s
        if (keep is not None or keep_s is not None) and self._trimming.is_due(now_s):
            jobs, events = self._failed.trim(keep, keep_s)
            if jobs == TRIM_AT_ONCE:
                self._trimming.at_once()
            if jobs:
                said = "deleted the oldest failed jobs, see keep_failed and keep_failed_s jobs=%d events=%d"
                logger.warning(said, jobs, events)
        if not self._has_seen_redis:
            self._has_seen_redis = True
            if policy := self._queue.evicting_policy():
                logger.warning(
                    "redis evicts queued events when its memory is full, set noeviction maxmemory_policy=%s", policy
                )
