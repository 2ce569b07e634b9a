"""A producer's place in the ring: its slot, its credits, and the block that it fills.

``docs/ring.md``, "A claim", says when it needs the claim lock, and how long it waits for it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

import msgspec

from rudderpipe.errors import RingUnavailable
from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.ring import block_header, claims
from rudderpipe.ring import layout as at
from rudderpipe.ring.claims import Refused
from rudderpipe.ring.open_block import OpenBlock
from rudderpipe.ring.removed import RemovedRings
from rudderpipe.ring.ring import Ring

CREDITS_MAX = 256
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


class Position(msgspec.Struct, frozen=True):
    """A ring, one of its slots, and how many events were appended in that slot."""

    ring: Ring
    slot: int
    end: int


class Slot:
    """The slot of one producer, in the ring that it is in now. Only used under the producer's lock.

    ``open_ring`` finds or makes the ring. A ring that was left because it had ended is added to ``removed``. The second
    slot of a process, for calls from within calls, is marked ``is_inner``.
    """

    def __init__(
        self, open_ring: Callable[[], Ring], clock: Clock, removed: RemovedRings, *, is_inner: bool = False
    ) -> None:
        self.open_ring = open_ring
        self._clock = clock
        self._removed = removed
        self._is_inner = is_inner
        self.ring: Ring | None = None
        self.trouble: RingUnavailable | None = None
        """The error of the last attempt to open or use the ring; None if the attempt worked."""
        self.forget()

    def forget(self) -> None:
        """Forget slot and block, as in a forked child, where they are the parent's."""
        self._refused_at: int | None = None
        """ROOM and cap when credits were refused; None if they were not."""
        self._enter_again_at_s = self._granted_at_s = self._impatient_until_s = float("-inf")
        self._credit_size = 1
        self._kept_out = "ring"
        self._uncounted: Counter[str] = Counter()
        """Refusals that are not in the ring's counters yet."""
        self._latest: deque[str] = deque()
        """The reasons of the latest refusals, which are not in ``_uncounted`` yet."""
        self._drop_slot()

    def _drop_slot(self) -> None:
        self._number: int | None = None
        self._words_at = 0
        """The index of the slot's first word."""
        self._is_claiming = False
        """True from the beginning of a claim to its end, so also after a claim that an exception interrupted."""
        self.block = OpenBlock()

    def drop_ring(self) -> None:
        """Drop every reference to the ring, so that its descriptors are given back."""
        self.ring = None
        self._drop_slot()

    @property
    def is_taken(self) -> bool:
        """True if this process has a slot in the ring."""
        return self._number is not None

    @property
    def number(self) -> int:
        """The slot's number in the ring; only with a slot."""
        assert self._number is not None
        return self._number

    def position(self) -> Position | None:
        """Return where this process appends; None without a slot.

        Read without the lock, so it holds for that moment only.
        """
        ring, number = self.ring, self._number
        return None if ring is None or number is None else Position(ring, number, self.block.end)

    def note_trouble(self, error: RingUnavailable) -> None:
        """Keep the error as ``trouble``."""
        self.trouble = RingUnavailable(*error.args)  # a copy, because a traceback would keep the ring in use

    def enter(self, now_s: float) -> None:
        """Open the ring and take a slot. Raises ``Refused``."""
        if now_s < self._enter_again_at_s:
            raise Refused(self._kept_out)
        try:
            self._take_slot()
        except RingUnavailable as error:
            self.note_trouble(error)
            self._kept_out = "ring"
        except Refused as refusal:
            self.trouble = None
            self._kept_out = refusal.reason
            if refusal.reason == "no_slot" and self.ring is not None:
                reason = f"all of its {self.ring.layout.slots} slots are taken"
                self.trouble = RingUnavailable(self.ring.segment.name, reason)
        else:
            self.trouble = None
            self.count_refusals()
            return
        self._enter_again_at_s = now_s + RETRY_S
        raise Refused(self._kept_out)

    def _take_slot(self) -> None:
        """Take a slot. Raises ``RingUnavailable``, or ``Refused`` if all are taken or the claim lock timed out."""
        while True:
            if self.ring is not None and not self.ring.is_current:
                self._removed.add(self.ring)
                self.ring = None
            if self.ring is None:
                self.ring = self.open_ring()
            ring, me = self.ring, identity.me()
            try:
                if not ring.locks.lock(at.LOCK_CLAIM, ENTER_TIMEOUT_S):
                    raise Refused("busy")
                if not ring.is_current:
                    continue  # it was closed after we opened it
                number = claims.take_slot(ring, me, is_inner=self._is_inner)
            finally:
                try:
                    ring.locks.release(at.LOCK_CLAIM)
                except BaseException:
                    ring.locks.release(at.LOCK_CLAIM)  # a signal handler may raise before the first line of the call
                    raise
            self._words_at = ring.layout.slot(number)
            self._refused_at = None
            self.block = OpenBlock(ring.words[self._words_at + at.S_ENTERED])
            self._number = number
            return

    def make_room(self, size: int, now_s: float) -> None:
        """Get a slot, credits, and a block with room for an event of so many bytes. Raises ``Refused``."""
        try:
            if self._number is None:
                self.enter(now_s)
            self._make_room(size, now_s)
        except RingUnavailable as error:  # no locks or descriptors are left, or the disk of runtime_dir is full
            self.note_trouble(error)
            raise Refused("ring") from None

    def _make_room(self, size: int, now_s: float) -> None:
        ring, slot = self.ring, self.number
        assert ring is not None
        needs_credits = self.block.count >= self.block.count_limit
        if needs_credits and self.is_refused:
            raise Refused("full")
        if not needs_credits and self.block.has_room(size):
            return
        try:
            if not self._lock_claim(ring, now_s):
                raise Refused("busy")
            if self._is_claiming:
                self._find_out(ring, slot)
            try:
                if self.block.count >= self.block.count_limit:
                    self._take_credits(ring, slot, now_s)
                if not self.block.has_room(size):
                    self._claim(ring, slot, size, now_s)
            except Refused:
                at.bump(ring.words, self._words_at + at.S_STARVED)
                raise
        finally:
            try:
                ring.locks.release(at.LOCK_CLAIM)
            except BaseException:
                ring.locks.release(at.LOCK_CLAIM)  # a signal handler may raise before the first line of the call
                raise

    @property
    def is_refused(self) -> bool:
        """True if there were no credits the last time, and nothing has moved since."""
        return self.ring is not None and self._refused_at == _moves(self.ring)

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

    def _take_credits(self, ring: Ring, slot: int, now_s: float) -> None:
        """Take credits. Only under the claim lock. Raises ``Refused`` if there are none."""
        self._credit_size = min(CREDITS_MAX, self._credit_size * 2) if now_s - self._granted_at_s < SLOW_S else 1
        # Order: load before the sums, so that a drain in between is seen as a move.
        moves = _moves(ring)
        granted_at, mine = ring.layout.granted + slot, self.block.base + self.block.count_limit
        if ring.words[granted_at] != mine:
            ring.words[granted_at] = mine  # the word is damaged, or an exception interrupted a grant
        granted = claims.take_credits(ring, slot, self._credit_size)
        if granted == 0:
            self._refused_at = moves
            raise Refused("full")
        self._granted_at_s = now_s
        self.block.count_limit += granted

    def _claim(self, ring: Ring, slot: int, size: int, now_s: float) -> None:
        """Claim a block with room for the event. Only under the claim lock. Raises ``Refused`` if none is free."""
        old = self.block
        self._is_claiming = True
        # Order: the count before the next block can be seen. An exception may have interrupted an append before its
        # count; if that were still missing, the next event would overtake this one (tests/test_store_order.py).
        old.store_count()
        new = OpenBlock(old.base + old.count, old.count_limit - old.count)
        try:
            claim = claims.claim_blocks(ring, slot, new.base, size + 1 + at.ENTRY, int(now_s * 1000))
        except Refused:
            self._is_claiming = False
            raise
        new.begin(ring, claim)
        self.block = new
        old.seal()  # Order: when no append goes to it any more
        self._is_claiming = False

    def _find_out(self, ring: Ring, slot: int) -> None:
        """Recover from a claim that an exception interrupted. Only under the claim lock.

        Seal the blocks of this slot, and read from the ring how many events it has accepted.
        """
        words, layout = ring.words, ring.layout
        self.block.seal()
        accepted = words[self._words_at + at.S_ENTERED]
        for sequence, block in ring.blocks_in_use():
            header = block_header.read(words, layout, block)
            if header.slot == slot and not header.head:
                accepted = max(accepted, header.base + words[layout.block(block) + at.B_COUNT])
                words[layout.block(block) + at.B_SEALED] = sequence
        self.block = OpenBlock(accepted, words[layout.granted + slot] - accepted)
        self._is_claiming = False

    def note_refusal(self, reason: str) -> None:
        """Note a refusal for ``count_refusals``. Any thread may call it at any time."""
        self._latest.append(reason)

    def count_refusals(self, *, last: bool = False) -> None:
        """Move the counts into the ring; ``last`` means that no later call could do it."""
        # Order: reasons are added up here alone, where no call from within can come between a load and its store.
        while self._latest:
            self._uncounted[self._latest.popleft()] += 1
        ring = self.ring
        if ring is None or not self._uncounted:
            return
        if self.is_taken:
            self._count_at(ring, self._words_at + at.S_REFUSED)
            return
        try:
            if (last and ring.locks.lock(at.LOCK_CLAIM, ENTER_TIMEOUT_S)) or (
                not last and self._lock_claim(ring, self._clock.monotonic_s())
            ):
                self._count_at(ring, at.H_REFUSED)
        except RingUnavailable:
            pass  # no locks are left: a later call stores the counts
        finally:
            try:
                ring.locks.release(at.LOCK_CLAIM)
            except BaseException:
                ring.locks.release(at.LOCK_CLAIM)  # a signal handler may raise before the first line of the call
                raise

    def _count_at(self, ring: Ring, counters: int) -> None:
        for reason in list(self._uncounted):
            at.bump(ring.words, counters + at.REFUSALS.index(reason), self._uncounted.pop(reason, 0))

    def ask_flush(self) -> None:
        """Raise the flush ticket, if there is a slot."""
        self._bump(at.S_TICKET)

    def await_queue(self) -> None:
        """Ask the flusher to keep track, for about a second, of what becomes of events in the queue."""
        self._bump(at.S_AWAITED)

    def _bump(self, word: int) -> None:
        ring = self.ring
        if ring is not None and self.is_taken:
            at.bump(ring.words, self._words_at + word)

    def quit_ring(self) -> None:
        """Leave the ring, and forget it; the events that were put into it stay there."""
        if self.ring is not None and self._number is not None:
            self._give_up(self.ring, self._number)
        self.drop_ring()

    def _give_up(self, ring: Ring, slot: int) -> None:
        """Give up the slot and its unused credits.

        The flusher drains its events without this process, and then their room is free.
        """
        block = self.block
        block.seal()
        granted_at = ring.layout.granted + slot
        ring.words[granted_at] = max(0, ring.words[granted_at] - (block.count_limit - block.count))
        try:
            # Order: the lock goes last. Another thread that took the slot earlier would have a slot without its lock.
            with ring.locks.alone(at.LOCK_SLOT + slot, had=True):
                ring.words[self._words_at + at.S_LEFT] = 1
        except RingUnavailable:
            pass  # the end of this process gives it back


def _moves(ring: Ring) -> int:
    """Return a number that moves whenever a producer that was refused may find credits."""
    moves: int = ring.words[at.H_ROOM] + ring.words[at.H_CAP]
    return moves
