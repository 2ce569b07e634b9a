"""What the producers of a ring learn of the delivery of its events."""

from __future__ import annotations

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import QueueUnavailable
from rudderpipe.flusher.queue_sink import Sink
from rudderpipe.process.clock import Clock, Every
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.ring import layout as at
from rudderpipe.ring import reasons
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring

ACKNOWLEDGE_S = 0.02
"""The interval at which the acknowledged events are read from the queue while a producer waits for them."""
LOOK_S = 5.0
"""The interval while no producer waits. Events known as delivered do not count as lost when Redis loses its data."""
AWAITED_S = 1.0
"""How long a producer counts as waiting after its last request."""

logger = log_text.logger("rudderpipe.flusher")


class Acknowledging:
    """Stores in one ring how many of its events are acknowledged, for the producers that wait for delivery."""

    def __init__(self, ring: Ring, clock: Clock) -> None:
        self._ring = ring
        self._clock = clock
        self._log = ThrottledLog(logger, clock, RARELY_S)
        self._awaited, self._awaited_until_s = ring.asked(at.S_AWAITED), float("-inf")
        self._reading = Every(ACKNOWLEDGE_S)
        self._looking = Every(LOOK_S)

    def is_awaited(self, now_s: float) -> bool:
        """Return True while a producer waits."""
        return now_s < self._awaited_until_s

    def work(self, sink: Sink) -> None:
        """Store what the sink has acknowledged, if that is due. Raise ``QueueSealed`` as the sink does."""
        words, now_s = self._ring.words, self._clock.monotonic_s()
        if not self._reading.is_due(now_s):
            return
        awaited = self._ring.asked(at.S_AWAITED)
        if awaited != self._awaited:
            self._awaited, self._awaited_until_s = awaited, now_s + AWAITED_S
        looks = words[at.H_ACKED] < words[at.H_QUEUED] and self._looking.is_due(now_s)
        if not self.is_awaited(now_s) and not looks:
            return
        self._looking.restart(now_s)
        try:
            seen = sink.acknowledged()
        except QueueUnavailable as error:
            said = "cannot read from redis what was delivered, trying again, producers keep waiting error=%s"
            self._log.warning("acknowledged", said, error)
            return
        self._log.over("acknowledged", "redis says again what was delivered")
        if seen is not None:
            more = seen.failed - words[at.H_ACKED_FAILED]
            if more > 0 and seen.reason is not None:
                reasons.record(self._ring, msgspec.structs.replace(seen.reason, count=more))
            words[at.H_ACKED_FAILED] = seen.failed
            fence()  # Order: the failed ones first, so that none of them counts as delivered
            words[at.H_ACKED] = seen.events
            fence()
            at.bump(words, at.H_ACKED_TIMES)
