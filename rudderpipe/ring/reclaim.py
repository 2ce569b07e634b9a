"""Give back what a dead producer held: its block once it is drained, its grant, its slot."""

from __future__ import annotations

from rudderpipe.ring import block_header
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring


class Reclaimer:
    """Only for the process that holds the flusher's lock."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._dead: set[int] = set()
        """Slots whose lock we hold, so that nobody takes them before they are drained."""

    def work(self) -> int:
        """Look at every slot once; how many were freed."""
        self._mend()
        freed = 0
        for slot in self._ring.slots_in_use():
            if slot in self._dead or self._is_dead(slot):
                self._dead.add(slot)
                freed += self._bury(slot)
        return freed

    def living(self) -> int:
        """Producers that are there."""
        return len(set(self._ring.slots_in_use()) - self._dead)

    def _mend(self) -> None:
        ring, layout = self._ring, self._ring.layout
        if ring.words[layout.sequence : layout.released].tolist() == block_header.tenures(ring.words, layout):
            return
        try:
            if ring.locks.lock(at.LOCK_CLAIM, 0.001):
                block_header.mend(ring.words, layout)
        finally:
            ring.locks.release(at.LOCK_CLAIM)

    def _is_dead(self, slot: int) -> bool:
        words, lock = self._ring.words, at.LOCK_SLOT + slot
        if not self._ring.locks.try_lock(lock):
            return False
        owner = self._ring.owner(slot)
        # Of a process in another pid namespace the lock alone tells.
        if words[self._ring.layout.slot(slot) + at.S_LEFT] or owner.is_foreign or owner.is_gone():
            return True
        self._ring.locks.unlock(lock)
        return False

    def _bury(self, slot: int) -> bool:
        ring, words, layout = self._ring, self._ring.words, self._ring.layout
        left = False
        for sequence, block in ring.blocks_in_use():
            if block_header.read(words, layout, block).slot == slot:
                words[layout.block(block) + at.B_SEALED] = sequence
                left = True
        if left:
            return False
        try:
            if not ring.locks.lock(at.LOCK_CLAIM, 0.001):
                return False
            if words[layout.drained + slot] > words[layout.granted + slot]:
                words[layout.drained + slot] = words[layout.granted + slot]  # damage would be the next one's start
            words[layout.granted + slot] = words[layout.drained + slot]
            at.bump(words, at.H_ROOM)
            words[layout.slot(slot) + at.S_PID] = 0
        finally:
            ring.locks.release(at.LOCK_CLAIM)
        ring.locks.unlock(at.LOCK_SLOT + slot)
        self._dead.discard(slot)
        return True
