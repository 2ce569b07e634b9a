"""A ring that somebody removed: no new process finds it, so those that have it mapped move what is in it."""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.reclaim import Reclaimer
from rudderpipe.ring.ring import Ring


def move(ring: Ring, put: Callable[[bytes], bool]) -> bool:
    """Hand every event that no flusher drains to ``put``, in order; False when ``put`` refused one by returning False.

    A flusher that has the ring mapped holds its lock, and drains it; so does another thread that is at this. Events of
    all producers are moved, also of those that have not noticed yet.
    """
    with ring.locks.alone(at.LOCK_FLUSHER) as taken:
        if not taken:
            return True
        consumer = Consumer(ring)
        consumer.refresh(whole=True)
        while cut := consumer.cut(1, 0):
            if not put(cut.data):
                return False
            consumer.release([cut])
        Reclaimer(ring).work()
        consumer.refresh(whole=True)
        consumer.tidy()
        return True


def is_stranded(ring: Ring) -> bool:
    """Whether there are events in it that no flusher drains."""
    return counters.read(ring).in_ring > 0 and not ring.locks.is_held(at.LOCK_FLUSHER)


def is_over(ring: Ring) -> bool:
    """Whether nothing is in it, and nobody is left who could put something in."""
    return not (ring.slots_in_use() or ring.blocks_in_use())
