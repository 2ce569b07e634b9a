"""A flush of one ring: the events that it waits for, and the counts of what became of them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from rudderpipe.process.clock import Clock
from rudderpipe.ring import counters, flusher_lock, reasons
from rudderpipe.ring import layout as at
from rudderpipe.ring.fence import fence
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring
from rudderpipe.transports.flush import FlushResult, Until


class Since:
    """The ring's counters at the last complete flush, or when this process entered the ring."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.failed = _failed(ring)
        self.delivered = ring.words[at.H_DELIVERED]
        self.queued = ring.words[at.H_QUEUED]
        self.seen: tuple[int, int] | None = None if self.queued else (0, 0)
        """Events of the queue that were acknowledged, and failed events among them.

        None while it is not known, because other processes had put events into the queue before.
        """


def _failed(ring: Ring) -> int:
    return int(ring.words[at.H_FAILED] + ring.words[at.H_CORRUPT])


class RingFlush:
    """A flush of all events that the ring holds when the flush begins.

    With ``until="delivered"`` it also covers the ring's events in Redis. The moment of completion is exact, except if
    the queue has several senders, because then an event from elsewhere may count for one of this ring. Once the flush
    is complete, ``since`` is set to the counters of that moment.
    """

    trouble = None

    def __init__(
        self,
        since: Since,
        producer: Producer,
        look_around: Callable[[Ring], None],
        until: Until,
        clock: Clock,
        *,
        queue: bool,
    ) -> None:
        self._clock = clock
        self._since = since
        self._ring = since.ring
        self._producer = producer
        self._look_around = look_around
        self._queue = queue
        self._sees_off = queue and until == "delivered"
        self._targets = counters.accepted_by_slot(self._ring)
        self._seen_times = self._ring.words[at.H_ACKED_TIMES]
        self._handed: int | None = None

    def poll(self) -> FlushResult:
        """Return the counts at this moment; the result is complete once the flush is."""
        if self._sees_off:
            self._producer.await_queue()
        drained = counters.drained_by_slot(self._ring)
        pending = sum(max(0, target - drained.get(slot, 0)) for slot, target in self._targets.items())
        fence()  # Order: read DRAINED, SETTLING, then the counters, because events leave before they are counted
        counted = self._ring.words[at.H_COMMIT_INTENT] not in at.COUNTERS
        fence()
        over = counted and not pending
        result = self._seen_off(pending, over=over) if self._sees_off else self._settled(pending, over=over)
        self._look_around(self._ring)
        if result.failed:
            latest = reasons.latest(self._ring)
            return msgspec.structs.replace(result, reason="" if latest is None else latest.text)
        return msgspec.structs.replace(result, reason=self._obstacle()) if result.pending else result

    def _obstacle(self) -> str:
        """Return why events stay in the ring, as far as the ring's words show it; empty if they move."""
        words = self._ring.words
        if words[at.H_DOWN_MS]:
            cannot = "add to the queue" if self._queue else "reach the data plane"
            return f"the flusher cannot {cannot}, and its log has the reason"
        if not flusher_lock.is_kept(self._ring, self._clock):
            return "no flusher serves the ring"
        return ""

    def _settled(self, pending: int, *, over: bool) -> FlushResult:
        since, words = self._since, self._ring.words
        queued, delivered, failed = words[at.H_QUEUED], words[at.H_DELIVERED], _failed(self._ring)
        result = FlushResult(queued - since.queued, delivered - since.delivered, failed - since.failed, pending, over)
        if result.complete:
            since.queued, since.delivered, since.failed = queued, delivered, failed
        return result

    def _seen_off(self, pending: int, *, over: bool) -> FlushResult:
        since, words = self._since, self._ring.words
        if words[at.H_ACKED_TIMES] == self._seen_times:
            return FlushResult(pending=pending, complete=False)
        fence()
        seen = words[at.H_ACKED]
        fence()  # Order: read failed last, because it is stored first; else a failed event could count as delivered
        failed = words[at.H_ACKED_FAILED]
        if since.seen is None:
            since.seen = seen, failed
        if self._handed is None and over:
            self._handed = words[at.H_QUEUED]  # Order: read once no event is pending, so that it includes all of them
        handed = words[at.H_QUEUED] if self._handed is None else self._handed
        ended, lost = seen - since.seen[0], max(0, failed - since.seen[1])
        # One of these may be in the spill although as many events as they were acknowledged, because others were later.
        queued = max(0, handed - seen, words[at.H_SPILLED])
        corrupt = _failed(self._ring) - since.failed
        result = FlushResult(queued, max(0, ended - lost), lost + corrupt, pending, over and queued == 0)
        if result.complete:
            since.seen, since.failed, since.queued = (seen, failed), since.failed + corrupt, words[at.H_QUEUED]
        return result
