"""The ring's side of a producer: its slot, its credits, and the block that it fills.

``docs/ring.md``, "A claim", says when it needs the claim lock, and how long it waits for it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from rudderpipe.errors import RingUnavailable
from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.ring import block_header
from rudderpipe.ring import layout as at
from rudderpipe.ring import slot as claims
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring

CREDITS_MAX = 64
CLAIM_TIMEOUT_S = 0.02
"""Claim-lock timeout.

A running holder keeps the lock for microseconds; only a stopped or descheduled one keeps it longer.
"""
ENTER_TIMEOUT_S = 0.25
"""The same for opening the ring and taking a slot, once in a process's life.

It is longer because many processes may begin together.
"""
RETRY_S = 1.0
"""How long a ring that failed to open is not opened, and a claim lock that timed out is not waited for."""
SLOW_S = 1.0
"""A grant that lasted longer is followed by one of 1.

A slow producer then holds few credits back, and checks the ring often.
"""


Position = tuple[Ring | None, int, int]
"""A ring, a slot, and how many events were appended in that slot."""


class Seat:
    """The ring's side of a ``Producer``. Only used under that producer's lock."""

    def __init__(self, open_ring: Callable[[], Ring], clock: Clock) -> None:
        self._open_ring = open_ring
        self._clock = clock
        self._is_within = False
        self.ring: Ring | None = None
        self.trouble: RingUnavailable | None = None
        """The error of the last attempt to open or use the ring; None if the attempt worked."""
        self._stand_up()

    def _stand_up(self) -> None:
        """Forget slot and block, as in a forked child, where they are the parent's."""
        self._refused_at = -1
        self._open_again_at_s = self._granted_at_s = self._impatient_until_s = float("-inf")
        self._credit_size = 1
        self._kept_out = "ring"
        self._uncounted: Counter[str] = Counter()
        """Refusals that are not in the ring's counters yet."""
        self._told: deque[str] = deque()
        """The reasons of the latest refusals, which are not in ``_uncounted`` yet."""
        self._drop_slot()

    def _drop_ring(self) -> None:
        """Drop every reference to the ring, so that its descriptors are given back."""
        self.ring = None
        self._memory = self._entries = self._words = memoryview(b"")

    def _drop_slot(self) -> None:
        self._slot = -1
        self._block = -1
        self._sequence = 0
        self._base = 0
        self._at = self._limit = 0
        """The next event's byte. The block is full when ``_at`` would pass ``_limit`` less its end offsets."""
        self._claiming = False
        self._counted = 0
        self._count = self._count_limit = 0
        """Events in the block, and how many there may be before more credits are needed."""

    def _make_room(self, size: int, now_s: float) -> str | None:
        """Get a slot, credits and a block with room; return the reason if one of them fails."""
        try:
            return self._make_room_in(size, now_s)
        except RingUnavailable as error:  # no locks or descriptors are left, or the disk of runtime_dir is full
            self._say(error)
            return "ring"

    def _say(self, error: RingUnavailable) -> None:
        self.trouble = RingUnavailable(*error.args)  # a copy, because a traceback would keep the ring in use

    def _make_room_in(self, size: int, now_s: float) -> str | None:
        if self._slot < 0 and (reason := self._enter(now_s)) is not None:
            return reason
        ring = self.ring
        assert ring is not None
        needs_grant = self._count >= self._count_limit
        if needs_grant and self._words[at.H_ROOM] + self._words[at.H_CAP] == self._refused_at:
            return "full"
        if not needs_grant and self._at + size + at.ENTRY * self._count < self._limit:
            return None
        try:
            if not self._lock_claim(ring, now_s):
                return "busy"
            if self._claiming:
                self._find_out(ring)
            reason = None
            if self._count >= self._count_limit and not self._take_credits(ring, now_s):
                reason = "full"
            elif self._at + size + at.ENTRY * self._count >= self._limit and not self._claim(ring, size):
                reason = "no_block"
            if reason is not None:
                at.bump(self._words, self._slot_at + at.S_STARVED)
                return reason
        finally:
            ring.locks.release(at.LOCK_CLAIM)
        return None

    @property
    def _is_refused(self) -> bool:
        """True if there was no room the last time, and nothing has moved since."""
        return self._slot >= 0 and bool(self._words[at.H_ROOM] + self._words[at.H_CAP] == self._refused_at)

    def _lock_claim(self, ring: Ring, now_s: float) -> bool:
        """Take the claim lock, and return whether it was taken; wait for it at most once a second.

        Call it inside the ``try`` whose ``finally`` releases the lock. Its holder may have been stopped. Then the
        events that follow must not wait again one by one.
        """
        patience_s = CLAIM_TIMEOUT_S if now_s >= self._impatient_until_s else 0.0
        if ring.locks.lock(at.LOCK_CLAIM, patience_s):
            return True
        if patience_s:
            self._impatient_until_s = now_s + RETRY_S
        return False

    def _count_refusals(self, *, last: bool = False) -> None:
        """Move the counts into the ring; ``last`` means that no later call could do it."""
        # Order: reasons are added up here alone, where no call from within can come between a load and its store.
        while self._told:
            self._uncounted[self._told.popleft()] += 1
        ring = self.ring
        if ring is None or not self._uncounted:
            return
        if self._slot >= 0:
            self._count_at(ring, self._slot_at + at.S_REFUSED)
            return
        try:
            if (last and ring.locks.lock(at.LOCK_CLAIM, ENTER_TIMEOUT_S)) or (
                not last and self._lock_claim(ring, self._clock.monotonic_s())
            ):
                self._count_at(ring, at.H_REFUSED)
        except RingUnavailable:
            pass  # no locks are left: a later call stores the counts
        finally:
            ring.locks.release(at.LOCK_CLAIM)

    def _count_at(self, ring: Ring, counters: int) -> None:
        for reason in list(self._uncounted):
            at.bump(ring.words, counters + at.REFUSALS.index(reason), self._uncounted.pop(reason, 0))

    def _enter(self, now_s: float) -> str | None:
        """Open the ring and take a slot; return the reason if that fails."""
        if now_s < self._open_again_at_s:
            return self._kept_out
        try:
            slot = self._take_slot()
        except RingUnavailable as error:
            self._say(error)
            self._kept_out = "ring"
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
        self._base = ring.words[self._slot_at + at.S_ENTERED]
        self._refused_at = -1
        self._count_refusals()
        return None

    def _take_slot(self) -> int | None:
        """Return the slot: -1 if all are taken, None if the claim lock timed out.

        Raises ``RingUnavailable``.
        """
        while True:
            if self.ring is not None and not self.ring.is_current:
                self._retire(self.ring)
                self.ring = None
            if self.ring is None:
                self.ring = self._open_ring()
            ring, me = self.ring, identity.me()
            try:
                if not ring.locks.lock(at.LOCK_CLAIM, ENTER_TIMEOUT_S):
                    return None
                if not ring.is_current:
                    continue  # it was closed after we opened it
                return claims.take_slot(ring, me, within=self._is_within)
            finally:
                ring.locks.release(at.LOCK_CLAIM)

    def _retire(self, ring: Ring) -> None:
        """Remember a ring that this process leaves because it is closed or was removed."""

    def _take_credits(self, ring: Ring, now_s: float) -> bool:
        self._credit_size = min(CREDITS_MAX, self._credit_size * 2) if now_s - self._granted_at_s < SLOW_S else 1
        # Order: load before the sums, so that a drain in between is seen as a move.
        moves = self._words[at.H_ROOM] + self._words[at.H_CAP]
        granted_at, mine = ring.layout.granted + self._slot, self._base + self._count_limit
        if self._words[granted_at] != mine:
            self._words[granted_at] = mine  # the word is damaged, or an exception interrupted a grant
        granted = claims.take_credits(ring, self._slot, self._credit_size)
        if granted == 0:
            self._refused_at = moves
            return False
        self._granted_at_s = now_s
        self._count_limit += granted
        return True

    def _claim(self, ring: Ring, size: int) -> bool:
        words, layout, base = self._words, ring.layout, self._base + self._count
        self._claiming = True
        if self._block >= 0:
            # Order: the count before the next block can be seen. An exception may have interrupted an append before its
            # count; if that were still missing, the next event would overtake this one (tests/test_store_order.py).
            words[self._counted] = self._count
        claimed = claims.claim_blocks(ring, self._slot, base, size + 1 + at.ENTRY, self._clock.monotonic_ms())
        if claimed is None:
            self._claiming = False
            return False
        first, sequence, run = claimed
        counted, start = layout.block(first) + at.B_COUNT, layout.start(first)
        end = start + run * at.BLOCK_BYTES
        # Order: no call from here on, because a signal handler could raise at a call. If it raises all the same (Python
        # 3.10), the limit of 0 leads the next append to a claim, where _find_out puts this state right.
        self._limit = 0
        if self._block >= 0:
            words[self._counted + at.B_SEALED - at.B_COUNT] = self._sequence
        self._count_limit -= self._count
        self._block, self._sequence, self._base, self._count = first, sequence, base, 0
        self._counted, self._at, self._entry = counted, start, end // at.ENTRY - 1
        self._limit = end - at.ENTRY
        self._claiming = False
        return True

    def place(self) -> Position:
        """Return where this process appends. Read without the lock, so it holds for that moment only."""
        return self.ring, self._slot, self._base + self._count

    def _find_out(self, ring: Ring) -> None:
        """Recover from a claim that an exception interrupted.

        Seal the blocks of this slot, and read from the ring how many events it has accepted.
        """
        words, layout = self._words, ring.layout
        if self._block >= 0:
            words[self._counted] = self._count  # Order: as in _claim
        accepted = words[self._slot_at + at.S_ENTERED]
        for sequence, block in ring.blocks_in_use():
            header = block_header.read(words, layout, block)
            if header.slot == self._slot and not header.head:
                accepted = max(accepted, header.base + words[layout.block(block) + at.B_COUNT])
                words[layout.block(block) + at.B_SEALED] = sequence
        self._block, self._sequence, self._base, self._count, self._at, self._limit = -1, 0, accepted, 0, 0, 0
        self._count_limit = words[layout.granted + self._slot] - accepted
        self._claiming = False

    def _seal(self) -> None:
        """Mark the block as one that gets no more events."""
        if self._block >= 0:
            self._words[self._counted] = self._count
            fence()  # Order: the count before the seal, because a sealed block's count is final
            self._words[self._counted - at.B_COUNT + at.B_SEALED] = self._sequence

    def quit_ring(self) -> None:
        """Leave the ring, and forget it; the events that were put into it stay there."""
        if self.ring is not None and self._slot >= 0:
            self._give_up_slot(self.ring)
        self._drop_ring()

    def _give_up_slot(self, ring: Ring) -> None:
        """Give up the slot and its unused credits.

        The flusher drains its events without this process, and then their room is free.
        """
        self._seal()
        granted_at = ring.layout.granted + self._slot
        self._words[granted_at] = max(0, self._words[granted_at] - (self._count_limit - self._count))
        try:
            # Order: the lock goes last. Another thread that took the slot earlier would have a slot without its lock.
            with ring.locks.alone(at.LOCK_SLOT + self._slot, had=True):
                self._words[self._slot_at + at.S_LEFT] = 1
        except RingUnavailable:
            pass  # the end of this process gives it back
        self._drop_slot()
