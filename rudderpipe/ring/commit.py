"""The commit, by which events leave the ring, so that each of them is counted once even if the flusher is killed.

READ, DRAINED and a counter cannot be stored in one instant. So the values before are stored first, then the commit
intent (SETTLING), which makes them valid, and the counter only when all events have left. A successor sees in DRAINED
how many left, and counts them. ``docs/ring.md``, "A drain", and ``tests/test_kill_points.py`` go through every store.
"""

from __future__ import annotations

from rudderpipe.ring import layout as at
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring


def begin(ring: Ring, counter: int) -> None:
    """Begin a commit whose events are counted under this word of the header."""
    words = ring.words
    words[at.H_DRAINED_BEFORE] = ring.drained()
    words[at.H_COMMITTED_BEFORE] = words[counter]
    words[at.H_COMMIT_INTENT] = counter  # Order: when the values before are stored
    fence()


def store_read(ring: Ring, block: int, sequence: int, slot: int, base: int, read: int) -> None:
    """Store that ``read`` events of this tenure of a block have left.

    ``base`` is the number of the slot's events before this block.
    """
    words, layout = ring.words, ring.layout
    # Order: READ before DRAINED, which is made from it. A successor repeats the second store.
    words[layout.read + block] = sequence << at.READ_BITS | read
    if slot < layout.slots:
        granted, before = words[layout.granted + slot], words[layout.drained + slot]
        drained = min(base + read, granted)  # damage must not void the cap
        words[layout.drained + slot] = max(drained, before) if before <= granted else drained


def finish(ring: Ring) -> None:
    """End the commit: count what has left under its counter, and announce the room.

    Nothing is counted if no commit is under way.
    """
    words = ring.words
    counter = words[at.H_COMMIT_INTENT]
    if counter in at.COUNTERS:
        count = words[at.H_COMMITTED_BEFORE] + ring.drained() - words[at.H_DRAINED_BEFORE]
        words[counter] = count & at.ALL_BITS
    fence()  # Order: a reader that sees DRAINED moved, and no commit intent, must see the counter moved
    words[at.H_COMMIT_INTENT] = 0
    fence()
    at.bump(words, at.H_ROOM)  # Order: after DRAINED, because it makes refused producers look at the sums again
