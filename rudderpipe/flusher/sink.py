"""Where the flusher puts batches: into the queue, or, in direct mode, to the data plane."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec

from rudderpipe.clock import Clock, iso_ms
from rudderpipe.flusher.spool import Spool
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Cut
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings

logger = logging.getLogger("rudderpipe.flusher")


class Sink(Protocol):
    """Takes batches for good, in order."""

    def settle(self, cuts: Sequence[Cut], freed: Sequence[int]) -> list[int]:
        """Take the first of these; for each that was taken, the counter of the ring under which its events now belong.

        Those that were not taken are offered again. Raises ``QueueUnavailable``, or ``QueueBehind`` when some were
        taken before without our knowing.
        """

    def ended(self, ring: Ring) -> None:
        """The ring is empty and gone."""

    def close(self) -> None:
        """Give connections back."""


def _pass_over(cut: Cut) -> int:
    """What becomes of a batch that is not what a producer wrote: it must not stop those behind it."""
    logger.error("the ring holds a batch that is not JSON, passing over it events=%d", cut.count)
    return at.H_CORRUPT


class QueueSink:
    """Every batch becomes a job."""

    def __init__(self, settings: Settings, ring: Ring, clock: Clock) -> None:
        from rudderpipe.queue import job
        from rudderpipe.queue.budget import Budget
        from rudderpipe.queue.queue import Queue

        self._build = job.build
        self._queue = Queue(settings, clock)
        self._budget = Budget(self._queue, settings.max_queue_bytes)
        self._write_key = settings.write_key
        self._ring = ring
        self._clock = clock

    def settle(self, cuts: Sequence[Cut], freed: Sequence[int]) -> list[int]:
        """All or none, in one script."""
        epoch, sent_at = self._ring.segment.epoch, iso_ms(self._clock.time_ms())
        marks: dict[int, tuple[int, int]] = {}
        for cut in cuts:
            for mark in cut.marks:
                start, _ = marks.get(mark.sequence, (mark.start, 0))
                marks[mark.sequence] = (start, mark.end)
        batches = []
        settled = []
        for cut in cuts:
            try:
                batches.append((self._build(cut.data, self._write_key, sent_at, epoch), cut.count))
                settled.append(at.H_QUEUED)
            except UnicodeDecodeError:
                settled.append(_pass_over(cut))
        self._budget.check(sum(len(data) for data, _ in batches))
        self._queue.add(epoch, batches, marks, freed, self._ring.words[at.H_TERM])
        return settled

    def ended(self, ring: Ring) -> None:
        """Its positions in Redis go with the last of its jobs."""
        self._queue.end_ring(ring.segment.epoch)

    def close(self) -> None:
        """Close the connections."""
        self._queue.close()


class DirectSink:
    """Every batch is delivered from here, with the sender's rules; what is refused goes to the spool."""

    def __init__(self, settings: Settings, spool: Spool, clock: Clock) -> None:
        from rudderpipe.delivery import backoff, request
        from rudderpipe.delivery.post import DataPlane

        self._plane = DataPlane(settings)
        self._body = request.body
        self._before_retry_s = backoff.before_retry_s
        self._settings = settings
        self._spool = spool
        self._clock = clock
        self._attempts = 0
        self._not_before_s = float("-inf")

    def settle(self, cuts: Sequence[Cut], freed: Sequence[int]) -> list[int]:  # noqa: ARG002  # nothing to forget here
        """One attempt to deliver the first."""
        if self._clock.monotonic_s() < self._not_before_s:
            return []
        try:
            events = self._spool.split(cuts[0].data)
        except msgspec.MsgspecError:
            return [_pass_over(cuts[0])]
        outcome = self._plane.post(self._body(events, iso_ms(self._clock.time_ms())), self._settings.write_key)
        self._attempts += 1
        if outcome.kind == "retry" and self._attempts < self._settings.max_attempts:
            wait_s = self._before_retry_s(self._attempts)
            self._not_before_s = self._clock.monotonic_s() + wait_s
            logger.warning("attempt failed attempt=%d next_in_s=%g %s", self._attempts, wait_s, outcome.reason)
            return []
        attempts, self._attempts = self._attempts, 0
        if outcome.kind == "delivered":
            return [at.H_DELIVERED]
        logger.error(
            "batch failed events=%d attempts=%d %s spool=%s",
            cuts[0].count,
            attempts,
            outcome.reason,
            self._spool.path,
        )
        self._spool.keep(cuts[0].data)
        return [at.H_FAILED]

    def ended(self, ring: Ring) -> None:
        """Nothing is kept elsewhere."""

    def close(self) -> None:
        """Close the connection."""
        self._plane.close()
