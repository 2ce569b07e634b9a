"""A flush of one ring: whose events it waits for, and where they are."""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.clock import Clock
from rudderpipe.receipts import FlushResult, Until
from rudderpipe.ring import account
from rudderpipe.ring import layout as at
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring

AWAIT_MS = 1_000


class RingFlush:
    """Of everything that the ring holds when it begins; with ``until="delivered"`` also of what it had put into Redis.

    ``seen``: settling is not the end, there is a queue. Exact in what is pending. Of the events that left meanwhile it
    is counted how many were delivered and how many failed, not which; with several senders at one queue an event of
    somebody else's may stand for one of ours.
    """

    def __init__(
        self,
        ring: Ring,
        producer: Producer,
        look_around: Callable[[Ring], None],
        clock: Clock,
        until: Until,
        *,
        queue: bool,
    ) -> None:
        self._ring = ring
        self._producer = producer
        self._look_around = look_around
        self._clock = clock
        self._queue = queue
        self._sees_off = queue and until == "delivered"
        self._targets = account.accepted_by_slot(ring)
        self._total = self._left_of(account.drained_by_slot(ring))
        self._failed_before = self._failed()
        self._seen_times = ring.words[at.H_SEEN_TIMES]
        self._seen_before: tuple[int, int] | None = None
        self._handed: int | None = None

    def _left_of(self, drained: dict[int, int]) -> int:
        return sum(max(0, target - drained.get(slot, 0)) for slot, target in self._targets.items())

    def _failed(self) -> int:
        return int(self._ring.words[at.H_FAILED] + self._ring.words[at.H_CORRUPT])

    def poll(self) -> FlushResult:
        """How far it is; complete once it is at its end."""
        self._look_around(self._ring)
        if self._sees_off:
            self._producer.await_queue(self._clock.time_ms() + AWAIT_MS)
        pending = self._left_of(account.drained_by_slot(self._ring))
        left = self._total - pending
        if not self._sees_off:
            failed = min(left, self._failed() - self._failed_before)
            if self._queue:
                return FlushResult(left - failed, 0, failed, pending, pending == 0)
            return FlushResult(0, left - failed, failed, pending, pending == 0)
        return self._seen_off(left, pending)

    def _seen_off(self, left: int, pending: int) -> FlushResult:
        words = self._ring.words
        if words[at.H_SEEN_TIMES] == self._seen_times:
            return FlushResult(left, 0, 0, pending, complete=False)
        seen, failed = words[at.H_SEEN_OFF], words[at.H_SEEN_FAILED]
        if self._seen_before is None:
            self._seen_before = seen, failed
        if pending:
            return FlushResult(left, 0, 0, pending, complete=False)
        if self._handed is None:
            self._handed = words[at.H_QUEUED]  # Order: after nothing of ours is pending: it has all of ours
        total = max(0, self._handed - self._seen_before[0])
        over = min(total, max(0, seen - self._seen_before[0]))
        failed = min(over, max(0, failed - self._seen_before[1]))
        return FlushResult(total - over, over - failed, failed, 0, over == total)
