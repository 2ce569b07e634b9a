"""``redis_replicas``: events leave the ring only when replicas of Redis have them, so that a failover forgets none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from rudderpipe import log_text
from rudderpipe.errors import NotReplicated, QueueBehind, QueueUnavailable
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.queue.queue import NewJob, Queue
from rudderpipe.settings import Settings

WAIT_MS = 1000
"""How long one call waits for the replicas. It ends as soon as they have the events."""
LOOK_MS = 20
"""How long a flusher that has no events waits, to see whether the replicas have the last ones by now."""
LENIENT_MS = 5000
"""How long events wait for replicas if ``redis_replicas_strict`` is false, and the interval of the tries after that."""
logger = log_text.logger("rudderpipe.flusher")


class Replicas:
    """The replicas of one queue's Redis, as one flusher asks them.

    Redis sends its writes to replicas after it has responded. So a replica that becomes the master may lack the last
    jobs, and the offsets that were stored with them. Events stay in the ring until enough replicas have them. They are
    offered again until then, and whichever server is the master adds them if it lacks them.
    """

    def __init__(self, queue: Queue, settings: Settings) -> None:
        self._queue = queue
        self._wanted = settings.redis_replicas
        self._strict = settings.redis_replicas_strict
        self._added = 0
        """How many events Redis has added that replicas lack."""
        self.since_ms = 0
        """The moment of the monotonic clock since which replicas lack the last events; 0 if they have them."""
        self._asks_at_ms = 0
        """The moment before which replicas are not waited for."""
        self._log = ThrottledLog(logger, queue.clock, RARELY_S)

    def add(
        self,
        epoch: int,
        batches: Sequence[NewJob],
        offsets: dict[int, tuple[int, int]],
        freed: Sequence[int],
        term: int,
    ) -> None:
        """Add jobs as ``Queue.add`` does, and return when enough replicas have them, whichever call has added them.

        Raise ``NotReplicated`` if they do not have them in time. ``QueueBehind`` has only offsets that they have too.
        """
        try:
            found = self._queue.add(epoch, batches, offsets, freed, term, self._wait)
        except QueueBehind as behind:
            if 0 in behind.read:  # a later term
                raise
            # Order: a write before the WAIT, which waits only for writes of its own connection.
            known, found = self._queue.raise_term(epoch, term, freed, self._wait)
            self._check(found)
            self._added = 0
            if any(known.get(sequence, 0) < end for sequence, (_, end) in offsets.items()):
                raise QueueBehind(known) from None
        else:
            if self._added:
                said = "redis has failed over and forgot events that it had taken, they were added again events=%d"
                logger.warning(said, self._added)
            self._added = sum(job[1] for job in batches)
            self._check(found)
            self._added = 0

    def raise_term(self, epoch: int, term: int, freed: Sequence[int]) -> dict[int, int]:
        """Raise the ring's term as ``Queue.raise_term`` does. Return the offsets when enough replicas have them.

        Raise ``NotReplicated`` if they do not have them in time.
        """
        known, found = self._queue.raise_term(epoch, term, freed, self._wait)
        self._check(found)
        return known

    def look(self, epoch: int, term: int) -> None:
        """See whether replicas have by now what has left the ring without them. Otherwise only new events find out.

        Raise nothing, because nothing waits for it.
        """
        if not self.since_ms or self._strict or self._queue.clock.monotonic_ms() < self._asks_at_ms:
            return
        with suppress(QueueUnavailable):
            _, found = self._queue.raise_term(epoch, term, (), (self._wanted, LOOK_MS))
            if found >= self._wanted:
                self._note_confirmed()

    def _note_confirmed(self) -> None:
        self.since_ms = 0
        self._log.over("lenient", "replicas have all events again")

    @property
    def _wait(self) -> tuple[int, int] | None:
        return None if self._queue.clock.monotonic_ms() < self._asks_at_ms else (self._wanted, WAIT_MS)

    def _check(self, found: int) -> None:
        """Raise ``NotReplicated`` if fewer replicas have all writes than must have them."""
        now_ms = self._queue.clock.monotonic_ms()
        if found >= self._wanted:
            self._note_confirmed()
        elif now_ms >= self._asks_at_ms:
            self.since_ms = self.since_ms or now_ms
            if self._strict or now_ms - self.since_ms < LENIENT_MS:
                raise NotReplicated(self._queue.place, found, self._wanted)
            said = "events leave the ring although replicas lack them, a failover now loses them found=%d wanted=%d"
            self._log.warning("lenient", said, found, self._wanted)
            self._asks_at_ms = now_ms + LENIENT_MS
