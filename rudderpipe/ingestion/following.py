"""What becomes of an ingestion's events after the ring accepted them, and what holds them up."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rudderpipe import log_text
from rudderpipe.errors import QueueUnavailable, RingUnavailable
from rudderpipe.ingestion.destination import RingDestination
from rudderpipe.observe import account
from rudderpipe.observe.account import Events
from rudderpipe.process import runtime_dir
from rudderpipe.process.clock import Clock
from rudderpipe.ring import flusher_lock
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring

if TYPE_CHECKING:
    from rudderpipe.queue.queue_set import QueueSet

_LOG_BYTES = 4096
_LOG_FRESH_S = 40.0
"""A longer pause between two attempts does not occur."""
_LOG_REASON = " reason="
_SHOWN = 160
_WORDS = {"busy": "another process holds the ring's lock", "no_slot": "all slots of the ring are taken"}


class Progressed(NamedTuple):
    """Where the events of this run are."""

    delivered: int = 0
    failed: int = 0
    under_way: int = 0
    """In the ring or in the queue."""


class Following:
    """The account of a ring since this run began. Redis may be away: then the last known numbers stay."""

    def __init__(self, destination: RingDestination, clock: Clock) -> None:
        self._destination = destination
        self._settings = destination.pipe.settings
        self._clock = clock
        self._queues = self._new_queues()
        self._first_ring = destination.ring
        self._before = self._read(self._first_ring)
        self._last = self._before
        self._gone: list[Events] = []
        """The accounts of rings that were removed meanwhile."""
        self._ring = self._first_ring
        self.redis_trouble = ""

    @property
    def left_over(self) -> int:
        """Events of earlier runs that were still under way when this run began."""
        return _under_way(self._before)

    def look(self) -> Progressed:
        """Return the numbers of this moment, as far as they are known."""
        ring = self._destination.pipe.producer.ring or self._ring
        try:
            if ring is not self._ring:
                self._gone.append(self._read(self._ring))
                self._ring = ring
            self._last = self._read(ring)
            self.redis_trouble = ""
        except QueueUnavailable as error:
            self.redis_trouble = str(error)
            return self._counted(self._last)._replace(under_way=max(1, _under_way(self._last)))
        return self._counted(self._last)

    def _counted(self, last: Events) -> Progressed:
        delivered = last.delivered + sum(each.delivered for each in self._gone) - self._before.delivered
        failed = last.failed + sum(each.failed for each in self._gone) - self._before.failed
        # Events are delivered in order, so those of the earlier run come first.
        earlier = min(self.left_over, max(0, delivered + failed))
        return Progressed(max(0, delivered - earlier), max(0, failed), _under_way(last))

    def obstacle(self, refused: str = "") -> str:
        """Return what holds the events up now, in words; empty if they move. ``refused`` is why the ring took none."""
        ring = self._ring
        words = ring.words
        cause = ""
        if not flusher_lock.is_kept(ring, self._clock):
            cause = "no flusher serves the ring"
        elif down_ms := words[at.H_DOWN_MS]:
            seconds = max(0, self._clock.time_ms() - down_ms) // 1000
            if self._settings.redis is not None:
                cause = f"Redis away for {seconds} s"
            else:
                cause = self._reason_in_log() or f"the data plane has taken no event for {seconds} s"
        elif self.redis_trouble:
            cause = "Redis does not respond"
        else:
            cause = self._of_queue() if self._queues is not None else self._reason_in_log()
        if refused in ("full", "no_block"):
            return f"the ring is full: {cause}" if cause else "the ring is full"
        return cause or _WORDS.get(refused, refused)

    def _of_queue(self) -> str:
        assert self._queues is not None
        try:
            counts = self._queues.counts()
            if counts.paused:
                return "the queue is paused"
            is_multi = self._settings.is_multi_processor
            if counts.waiting + counts.active and not is_multi and not self._has_sender():
                return "no sender serves the queue"
        except QueueUnavailable:
            return "Redis does not respond"
        return self._reason_in_log()

    def _has_sender(self) -> bool:
        assert self._queues is not None
        return any(queue.ask(lambda pipe: pipe.get(queue.keys.lease))[0] for queue in self._queues.all())  # noqa: B023  # asked at once

    def _reason_in_log(self) -> str:
        """Return the reason of the last failed attempt, which the processes of this pipe have logged just now."""
        try:
            path = runtime_dir.log_file(self._settings)
            if time.time() - path.stat().st_mtime > _LOG_FRESH_S:
                return ""
            last = _last_line(path)
        except (OSError, RingUnavailable):
            return ""
        _, found, reason = last.partition(_LOG_REASON)
        return log_text.one_line(f"the data plane does not take events: {reason}", _SHOWN) if found else ""

    def close(self) -> None:
        """Close the connection to Redis."""
        if self._queues is not None:
            with suppress(QueueUnavailable):
                self._queues.close()

    def _new_queues(self) -> QueueSet | None:
        if self._settings.redis is None:
            return None
        from rudderpipe.queue.queue_set import QueueSet  # imported here, because direct mode needs no Redis client

        return QueueSet(self._settings, self._clock)

    def _read(self, ring: Ring) -> Events:
        if self._queues is None:
            return account.of_ring(ring).events
        try:
            return account.of_queues(self._queues, ring).events
        except QueueUnavailable:
            if not hasattr(self, "_last"):
                return account.of_ring(ring).events
            raise


def _last_line(path: Path) -> str:
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _LOG_BYTES))
        lines = log.read().decode("utf-8", "replace").splitlines()
    return lines[-1] if lines else ""


def _under_way(events: Events) -> int:
    return events.in_ring + events.spilled + events.queued
