"""The return of what a dead producer held: its unused credits and its slot.

Its blocks are drained like any other. ``docs/ring.md``, "Dead producers", says when a producer counts as dead.
"""

from __future__ import annotations

from rudderpipe.ring import block_header, claims
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring

CLAIM_TIMEOUT_S = 0.005
"""Claim-lock timeout. Hundreds of processes that begin together may want the lock at once."""


class Reclaimer:
    """The search for dead producers of one ring. Only for the process that holds the flusher's lock."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def work(self) -> int:
        """Check every slot once; return how many were freed."""
        ring = self._ring
        dead = [slot for slot in ring.slots_in_use() if claims.lock_dead(ring, slot)]
        try:
            if dead or self._unsettled() or self._is_damaged():
                return self._free(dead)
        finally:
            for slot in dead:
                ring.locks.unlock(at.LOCK_SLOT + slot)
        return 0

    def _free(self, dead: list[int]) -> int:
        locks = self._ring.locks
        try:
            if not locks.lock(at.LOCK_CLAIM, CLAIM_TIMEOUT_S):
                return 0
            self._reclaim(dead)
        finally:
            locks.release(at.LOCK_CLAIM)
        return len(dead)

    def _reclaim(self, dead: list[int]) -> None:
        ring = self._ring
        block_header.mend(ring.words, ring.layout)
        room = ring.room()
        claims.reclaim(ring, {*dead, *self._unsettled()})
        if ring.room() != room:
            at.bump(ring.words, at.H_ROOM)
        for slot in dead:
            ring.words[ring.layout.slot(slot) + at.S_PID] = 0

    def living(self) -> int:
        """Return how many slots have a producer that ``work`` has not found dead."""
        return len(self._ring.slots_in_use())

    def _unsettled(self) -> list[int]:
        """Return the free slots whose events are still in the ring, or whose GRANTED is damaged."""
        ring, words, layout = self._ring, self._ring.words, self._ring.layout
        used = ring.slots_used
        granted = words[layout.granted : layout.granted + used].tolist()
        drained = words[layout.drained : layout.drained + used].tolist()
        found = (slot for slot in range(used) if granted[slot] != drained[slot])
        return [slot for slot in found if not words[layout.slot(slot) + at.S_PID]]

    def _is_damaged(self) -> bool:
        words, layout = self._ring.words, self._ring.layout
        return bool(words[layout.sequence : layout.released].tolist() != block_header.tenures(words, layout))
