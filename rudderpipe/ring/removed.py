"""Rings whose segment was removed.

No new process finds such a ring, so the processes that have it mapped move its events. ``docs/ring.md``, "When the
segment or the lock file is removed", has the whole story.
"""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.reclaim import Reclaimer
from rudderpipe.ring.ring import Ring


class RemovedRings:
    """The removed rings that this process was in, until they are empty."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget all rings, as in a forked child, where they are the parent's."""
        self._rings: list[Ring] = []
        self.owes = False
        """True if some of their events were not moved for want of room."""

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._rings)

    def add(self, ring: Ring) -> None:
        """Remember a ring that this process leaves, if its segment was removed."""
        if not ring.segment.is_linked() and ring not in self._rings:
            self._rings.append(ring)
            self.owes = True

    def are_stranded(self) -> bool:
        """Return whether any of them holds events that no flusher drains."""
        return any(map(is_stranded, self._rings))

    def move(self, put: Callable[[bytes], bool]) -> bool:
        """Hand every event that no flusher drains to ``put``, in order; return False if ``put`` refused one."""
        self.owes = not all(move(ring, put) for ring in self._rings)
        self._rings = [ring for ring in self._rings if ring.slots_in_use() or ring.blocks_in_use()]
        return not self.owes


def move(ring: Ring, put: Callable[[bytes], bool]) -> bool:
    """Hand the ring's events to ``put``; return False if ``put`` refused one.

    Nothing is moved while a flusher that has the ring mapped drains it, or another thread moves its events, because
    either holds the flusher's lock. Events of all producers are moved, also of those that have not noticed the removal.
    """
    with ring.locks.alone(at.LOCK_FLUSHER) as taken:
        if not taken:
            return True
        consumer = Consumer(ring)
        consumer.refresh(whole=True)
        while batch := consumer.next_batch(1, 0):
            if not put(batch.data):
                return False
            consumer.release([batch])
        Reclaimer(ring).work()
        consumer.refresh(whole=True)
        consumer.tidy()
        return True


def is_stranded(ring: Ring) -> bool:
    """Return whether the ring holds events that no flusher drains."""
    return counters.read(ring).in_ring > 0 and not ring.locks.is_held(at.LOCK_FLUSHER)
