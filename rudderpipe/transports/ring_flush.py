"""A flush of one ring: whose events it waits for, and what became of them."""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.fence import fence
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring
from rudderpipe.transports.flush import FlushResult, Until


class Since:
    """What the ring had counted when a receipt was last given, or when this process came."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.failed = _failed(ring)
        self.delivered = ring.words[at.H_DELIVERED]
        self.queued = ring.words[at.H_QUEUED]
        self.seen: tuple[int, int] | None = None if self.queued else (0, 0)
        """Of the events in the queue: seen off, and failed. Not known of those that others put in before us."""


def _failed(ring: Ring) -> int:
    return int(ring.words[at.H_FAILED] + ring.words[at.H_CORRUPT])


class RingFlush:
    """Of everything that the ring holds when it begins; with ``until="delivered"`` also of what it had put into Redis.

    Exact in when it is complete, but for a queue with several senders, where an event of somebody else's may stand for
    one of ours. Once complete, ``since`` is now.
    """

    trouble = None

    def __init__(
        self,
        since: Since,
        producer: Producer,
        look_around: Callable[[Ring], None],
        until: Until,
        *,
        queue: bool,
    ) -> None:
        self._since = since
        self._ring = since.ring
        self._producer = producer
        self._look_around = look_around
        self._queue = queue
        self._sees_off = queue and until == "delivered"
        self._targets = counters.accepted_by_slot(self._ring)
        self._seen_times = self._ring.words[at.H_SEEN_TIMES]
        self._handed: int | None = None

    def poll(self) -> FlushResult:
        """How far it is; complete once it is at its end."""
        self._look_around(self._ring)
        if self._sees_off:
            self._producer.await_queue()
        drained = counters.drained_by_slot(self._ring)
        pending = sum(max(0, target - drained.get(slot, 0)) for slot, target in self._targets.items())
        fence()  # Order: DRAINED, then SETTLING, then the counters: what has left may not have been counted yet
        counted = self._ring.words[at.H_SETTLING] not in at.COUNTERS
        fence()
        over = counted and not pending
        return self._seen_off(pending, over=over) if self._sees_off else self._settled(pending, over=over)

    def _settled(self, pending: int, *, over: bool) -> FlushResult:
        since, words = self._since, self._ring.words
        queued, delivered, failed = words[at.H_QUEUED], words[at.H_DELIVERED], _failed(self._ring)
        result = FlushResult(queued - since.queued, delivered - since.delivered, failed - since.failed, pending, over)
        if result.complete:
            since.queued, since.delivered, since.failed = queued, delivered, failed
        return result

    def _seen_off(self, pending: int, *, over: bool) -> FlushResult:
        since, words = self._since, self._ring.words
        if words[at.H_SEEN_TIMES] == self._seen_times:
            return FlushResult(pending=pending, complete=False)
        fence()
        seen = words[at.H_SEEN_OFF]
        fence()  # Order: those that failed last, which are stored first: none may be taken for delivered
        failed = words[at.H_SEEN_FAILED]
        if since.seen is None:
            since.seen = seen, failed
        if self._handed is None and over:
            self._handed = words[at.H_QUEUED]  # Order: after nothing of ours is pending; all of ours are in it
        handed = words[at.H_QUEUED] if self._handed is None else self._handed
        ended, lost = seen - since.seen[0], max(0, failed - since.seen[1])
        queued = max(0, handed - seen)
        corrupt = _failed(self._ring) - since.failed
        result = FlushResult(queued, max(0, ended - lost), lost + corrupt, pending, over and queued == 0)
        if result.complete:
            since.seen, since.failed, since.queued = (seen, failed), since.failed + corrupt, words[at.H_QUEUED]
        return result
