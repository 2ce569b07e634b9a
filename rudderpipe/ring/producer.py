"""A process's side of the ring: claim a slot and blocks, append events."""

from __future__ import annotations

from _thread import RLock
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from rudderpipe import forks, liveness
from rudderpipe.clock import Clock
from rudderpipe.errors import RingUnavailable
from rudderpipe.ring import claims
from rudderpipe.ring import layout as at
from rudderpipe.ring.layout import COMMA, LARGE_BYTES
from rudderpipe.ring.ring import Ring

GRANT_MAX = 64
CLAIM_TIMEOUT_S = 0.02
"""How long to wait for the claim lock, which is held for microseconds by whoever is not stopped or without a core."""
ENTER_TIMEOUT_S = 0.25
"""The same for opening the ring and taking a slot, once in a process's life, when many begin together."""
RETRY_S = 1.0
"""How long a ring that could not be opened is left alone, and how long a claim lock that was held is not waited for."""
LOOK_S = 1.0
"""How often to look around. A grant that lasted longer is followed by one of 1, so that a slow producer looks too."""
ASIDE_MAX = 1024
"""How many calls from within one call are kept until its end."""


class Producer:
    """Appends events for one process, from any of its threads; a forked child becomes a producer of its own.

    ``open_ring`` finds or makes the ring; ``look_around`` is called with the ring at the first event and then about
    once a second while there are events: the place for seeing whether there is a flusher. ``tell_large`` is called with
    the size of an event of more than ``LARGE_BYTES``.
    """

    # In a slot, where eventlet does not find it when it replaces the locks that were made before its patching.
    __slots__ = ("__dict__", "__weakref__", "_lock")

    def __init__(
        self,
        open_ring: Callable[[], Ring],
        look_around: Callable[[Ring], None],
        clock: Clock,
        tell_large: Callable[[int], None] = lambda _size_bytes: None,
    ) -> None:
        self._open_ring = open_ring
        self._look_around = look_around
        self._tell_large = tell_large
        self._clock = clock
        self._aside: deque[bytes | Callable[[], None]] = deque()
        self.ring: Ring | None = None
        self.trouble: RingUnavailable | None = None
        """Why the ring could not be opened the last time; None when it could."""
        self._closed = False
        self.forget()
        forks.forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: slot, block and lock are the parent's."""
        self._lock = RLock()
        self._busy = self._catching_up = False
        self._aside.clear()
        self._refused_at_room = -1
        self._open_again_at_s = self._granted_at_s = self._looked_at_s = self._impatient_until_s = float("-inf")
        self._appetite = 1
        self._kept_out = "ring"
        self._uncounted: Counter[str] = Counter()
        self._drop_slot()

    def _drop_slot(self) -> None:
        self._slot = -1
        self._block = -1
        self._sequence = 0
        self._base = 0
        self._at = self._limit = 0
        """The next event's byte; a block is full when ``_at`` would pass ``_limit`` less its end offsets."""
        self._claiming = False
        self._counted = 0
        self._count = self._count_limit = 0
        """Events in the block; how many there may be before more must be granted."""

    def append(self, data: bytes) -> str | None:
        """Append one event's JSON; None when it was accepted, else the reason why not (one of ``REFUSALS``).

        Never waits for another process, but for a few ms at the most when it has to claim a block. May be called
        from a signal handler or a destructor in the middle of itself.
        """
        if not forks.PAGE[0]:
            forks.renew()
        lock = self._lock
        size = len(data)
        try:
            # Order: try before acquire, as an exception raised by a signal handler may fall between the two; release
            # then raises RuntimeError if it fell before.
            lock.acquire()
            if self._busy:
                return self._set_aside(data)
            self._busy = True
            try:
                at_byte, count = self._at, self._count
                end = at_byte + size
                if count >= self._count_limit or end + 4 * count >= self._limit or size > LARGE_BYTES:
                    reason = self._prepare(size)
                    if reason is not None:
                        return reason
                    at_byte, count = self._at, self._count
                    end = at_byte + size
                self._memory[at_byte:end] = data
                self._memory[end] = COMMA
                self._entries[self._entry - count] = end = end + 1
                self._at = end
                self._count = count + 1
            finally:
                self._busy = False
            # Order: release and acquire are the fence between the event and the count that shows it. Another thread
            # may append in between: what it wrote is whole too, and the count stored is the one of all of them.
            lock.release()
            lock.acquire()
            self._words[self._counted] = self._count
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass
            if self._aside:
                self.catch_up()
        return None

    def _set_aside(self, data: bytes) -> str | None:
        # Only in a call from within a call. It is kept here until the outer one has ended.
        if len(self._aside) >= ASIDE_MAX:
            return "busy"
        self._aside.append(data)
        return None

    def catch_up(self) -> None:
        """Do what had to wait for the end of an append: calls from within it, and looking around, which may log."""
        # Whoever is in the middle of an append, or of this, does it at its end.
        while self._aside and not self._busy and not self._catching_up:
            self._catching_up = True
            try:
                if not self._do_next():
                    return
            finally:
                self._catching_up = False

    def _do_next(self) -> bool:
        try:
            task = self._aside.popleft()
        except IndexError:
            return True  # another thread has done it
        if not isinstance(task, bytes):
            task()
        elif self.append(task) is not None:
            self._aside.appendleft(task)
            return False
        return True

    def _prepare(self, size: int) -> str | None:
        """Slot, grant and a block with room; a reason when one of them cannot be had."""
        if self._closed:
            return "closed"
        if size > at.EVENT_MAX_BYTES:
            return "too_large"
        if size > LARGE_BYTES:
            self._aside.append(partial(self._tell_large, size))
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_at_s >= LOOK_S and self._slot >= 0 and self.ring and not self.ring.is_current:
            self._give_up_slot(self.ring)  # it was removed: its flusher drains it, and we go on in another
            self.ring = None
        if self._slot < 0 and (reason := self._enter(now_s)) is not None:
            return reason
        ring = self.ring
        assert ring is not None
        if now_s - self._looked_at_s >= LOOK_S:
            self._looked_at_s = now_s
            self._aside.append(partial(self._look_around, ring))
        needs_grant = self._count >= self._count_limit
        if needs_grant and self._words[at.H_ROOM] == self._refused_at_room:
            return "full"
        if not needs_grant and self._at + size + 4 * self._count < self._limit:
            return None
        patience_s = CLAIM_TIMEOUT_S if now_s >= self._impatient_until_s else 0.0
        try:
            if not ring.locks.lock(at.LOCK_CLAIM, patience_s):
                # Its holder may have been stopped: the wait is not to be had again by each event that follows.
                self._impatient_until_s = now_s + RETRY_S
                return "busy"
            if self._claiming:
                self._find_out(ring)
            if self._count >= self._count_limit and not self._grant(ring, now_s):
                return "full"
            if self._at + size + 4 * self._count >= self._limit and not self._claim(ring, size):
                return "no_block"
        finally:
            ring.locks.release(at.LOCK_CLAIM)
        return None

    def count_refused(self, reason: str) -> None:
        """Count an event that its caller was told is refused: in the slot, or without one under the claim lock.

        Without a ring, or while the lock is not to be had, the count waits in the process for the next one.
        """
        with self._lock:
            if self._busy and not self._uncounted:
                self._aside.append(self._count_late)
            self._uncounted[reason] += 1
        self._count_late()

    def _count_late(self) -> None:
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                self._count_refusals()
            finally:
                self._busy = False

    def _count_refusals(self) -> None:
        ring = self.ring
        if ring is None or not self._uncounted:
            return
        if self._slot >= 0:
            self._count_at(ring, self._slot_at + at.S_REFUSED)
            return
        try:
            if ring.locks.lock(at.LOCK_CLAIM, CLAIM_TIMEOUT_S):
                self._count_at(ring, at.H_REFUSED)
        finally:
            ring.locks.release(at.LOCK_CLAIM)

    def _count_at(self, ring: Ring, counters: int) -> None:
        for reason in list(self._uncounted):
            at.bump(ring.words, counters + at.REFUSALS.index(reason), self._uncounted.pop(reason, 0))

    def _enter(self, now_s: float) -> str | None:
        """Open the ring and take a slot; a reason when that cannot be."""
        if now_s < self._open_again_at_s:
            return self._kept_out
        try:
            slot = self._take_slot()
        except RingUnavailable as error:
            self.trouble, self._kept_out = error, "ring"
            self._open_again_at_s = now_s + RETRY_S
            return "ring"
        ring = self.ring
        assert ring is not None
        self.trouble = None
        if slot is None or slot < 0:
            self._open_again_at_s, self._kept_out = now_s + RETRY_S, "busy"
            if slot is not None:
                self.trouble = RingUnavailable(ring.segment.name, f"all of its {ring.layout.slots} slots are taken")
                self._kept_out = "no_slot"
            return self._kept_out
        self._slot = slot
        self._slot_at = ring.layout.slot(slot)
        self._memory, self._words, self._entries = ring.segment.memory, ring.words, ring.segment.entries
        self._base = ring.words[ring.layout.drained + slot]
        self._refused_at_room = -1
        self._count_refusals()
        return None

    def _take_slot(self) -> int | None:
        """-1 when there is none, None when the claim lock is not to be had; raises ``RingUnavailable``."""
        while True:
            if self.ring is None or not self.ring.is_current:
                self.ring = self._open_ring()
            ring, me = self.ring, liveness.me()
            try:
                if not ring.locks.lock(at.LOCK_CLAIM, ENTER_TIMEOUT_S):
                    return None
                if not ring.is_current:
                    continue  # closed since we opened it
                return claims.take_slot(ring, me)
            finally:
                ring.locks.release(at.LOCK_CLAIM)

    def _grant(self, ring: Ring, now_s: float) -> bool:
        self._appetite = min(GRANT_MAX, self._appetite * 2) if now_s - self._granted_at_s < LOOK_S else 1
        room = self._words[at.H_ROOM]  # Order: read before the sums, so that what drains meanwhile is seen as a move
        granted_at, mine = ring.layout.granted + self._slot, self._base + self._count_limit
        if self._words[granted_at] != mine:
            self._words[granted_at] = mine  # damage, or a grant that an exception interrupted
        granted = claims.grant(ring, self._slot, self._appetite)
        if granted == 0:
            self._refused_at_room = room
            return False
        self._granted_at_s = now_s
        self._count_limit += granted
        return True

    def _claim(self, ring: Ring, size: int) -> bool:
        words, layout, base = self._words, ring.layout, self._base + self._count
        self._claiming = True
        if self._block >= 0:
            # Order: before the next block can be seen. Another thread may stand between its event and its count; were
            # that count still missing, what it appends next would overtake it.
            words[self._counted] = self._count
        claimed = claims.claim_blocks(ring, self._slot, base, size + 1 + at.ENTRY)
        if claimed is None:
            self._claiming = False
            return False
        first, sequence, run = claimed
        counted, start = layout.block(first) + at.B_COUNT, layout.start(first)
        end = start + run * at.BLOCK_BYTES
        # Order: no call from here on, at which a signal handler could raise; and were it to raise all the same
        # (Python 3.10), a limit of 0 leads here again, and _find_out puts things right.
        self._limit = 0
        if self._block >= 0:
            words[self._counted] = self._count
            words[self._counted + at.B_SEALED - at.B_COUNT] = self._sequence
        self._count_limit -= self._count
        self._block, self._sequence, self._base, self._count = first, sequence, base, 0
        self._counted, self._at, self._entry = counted, start, end // at.ENTRY - 1
        self._limit = end - at.ENTRY
        self._claiming = False
        return True

    def _find_out(self, ring: Ring) -> None:
        """A claim was interrupted by an exception: seal what is ours, and learn from the ring where we are."""
        words, layout = self._words, ring.layout
        accepted = words[layout.drained + self._slot]
        for sequence, block in ring.blocks_in_use():
            header = layout.block(block)
            if words[header + at.B_SLOT] == self._slot and not words[header + at.B_HEAD]:
                accepted = max(accepted, words[header + at.B_BASE] + words[header + at.B_COUNT])
                words[header + at.B_SEALED] = sequence
        self._block, self._sequence, self._base, self._count, self._at, self._limit = -1, 0, accepted, 0, 0, 0
        self._count_limit = words[layout.granted + self._slot] - accepted
        self._claiming = False

    def _seal(self) -> None:
        """Say that the block gets no more events."""
        if self._block >= 0:
            self._words[self._counted] = self._count
            self._words[self._counted - at.B_COUNT + at.B_SEALED] = self._sequence

    def ask_flush(self) -> Ring | None:
        """Have the flusher take what is in the ring now; the ring, or None when there is none to ask."""
        if not forks.PAGE[0]:
            forks.renew()
        with self._lock:
            if self._busy:
                return None
            if self._slot < 0 and not self._closed and self._enter(self._clock.monotonic_s()) is not None:
                return None
            if self._slot >= 0:
                at.bump(self._words, self._slot_at + at.S_TICKET)
            return self.ring

    def leave(self) -> None:
        """Give the slot up; the flusher takes what is left. Later appends are refused."""
        if not forks.PAGE[0]:
            forks.renew()
        self.catch_up()
        with self._lock:
            if self._busy:  # a signal handler in the middle of an append: when that has ended
                self._aside.append(self.leave)
                return
            self._closed = True
            self._limit = 0  # Order: before the seal; an append from a signal handler in between is refused
            if left := sum(isinstance(task, bytes) for task in self._aside):
                self._uncounted["closed"] += left  # calls from within calls that found no room to the end
                self._aside.clear()
            self._count_refusals()
            if self._slot >= 0 and self.ring is not None:
                self._give_up_slot(self.ring)

    def _give_up_slot(self, ring: Ring) -> None:
        """What is in it is drained without us, and then its room is free."""
        self._seal()
        granted_at = ring.layout.granted + self._slot
        self._words[granted_at] = max(0, self._words[granted_at] - (self._count_limit - self._count))
        self._words[self._slot_at + at.S_LEFT] = 1
        ring.locks.unlock(at.LOCK_SLOT + self._slot)
        self._drop_slot()
