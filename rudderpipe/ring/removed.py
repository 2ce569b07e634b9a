"""A ring whose segment was removed.

No new process finds it, so the processes that have it mapped move its events. ``docs/ring.md``, "When the segment or
the lock file is removed", has the whole story.
"""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.reclaim import Reclaimer
from rudderpipe.ring.ring import Ring


def move(ring: Ring, put: Callable[[bytes], bool]) -> bool:
    """Hand every event that no flusher drains to ``put``, in order; return False if ``put`` refused one.

    ``put`` refuses an event by returning False. Nothing is moved while a flusher that has the ring mapped drains it, or
    another thread moves its events, because either holds the flusher's lock. Events of all producers are moved, also of
    those that have not noticed the removal.
    """
    with ring.locks.alone(at.LOCK_FLUSHER) as taken:
        if not taken:
            return True
        consumer = Consumer(ring)
        consumer.refresh(whole=True)
        while cut := consumer.next_batch(1, 0):
            if not put(cut.data):
                return False
            consumer.release([cut])
        Reclaimer(ring).work()
        consumer.refresh(whole=True)
        consumer.tidy()
        return True


def is_stranded(ring: Ring) -> bool:
    """Return whether the ring holds events that no flusher drains."""
    return counters.read(ring).in_ring > 0 and not ring.locks.is_held(at.LOCK_FLUSHER)


def is_over(ring: Ring) -> bool:
    """Return whether the ring is empty, and no producer is left that could put something in."""
    return not (ring.slots_in_use() or ring.blocks_in_use())
