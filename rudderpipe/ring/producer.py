"""The appending side of the ring, for one process: for calls of any thread, and calls from within calls."""

from __future__ import annotations

from _thread import RLock
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from rudderpipe.errors import RingUnavailable
from rudderpipe.process import fork
from rudderpipe.process.clock import Clock
from rudderpipe.ring import fence
from rudderpipe.ring import layout as at
from rudderpipe.ring.claims import Refused
from rudderpipe.ring.layout import COMMA, H_ASLEEP, LARGE_BYTES
from rudderpipe.ring.removed import RemovedRings
from rudderpipe.ring.ring import Ring
from rudderpipe.ring.slot import Position, Slot
from rudderpipe.ring.waker import Waker

LOOK_S = 1.0
"""How often the ring and its flusher are checked while there are events."""


class Producer:
    """The producer of one process, for any of its threads; a forked child becomes a producer of its own.

    A call from within a call (a signal handler, a destructor) goes to a second producer, ``inner``, with a slot and a
    block of its own. ``outer`` is only given to the second one: it is the producer whose calls from within calls come
    there.

    ``open_ring`` finds or makes the ring. ``look_around`` is called with the ring at the first event, and then about
    once a second while there are events, so that the caller can check for a flusher. ``tell_large`` is called with the
    size of an event of more than ``LARGE_BYTES``.

    ``docs/ring.md``, "An append" and "Threads", says what orders the stores, and which calls may come within others.
    """

    # In a slot, where eventlet does not find it. Eventlet replaces locks that were made before its patching.
    __slots__ = ("__dict__", "__weakref__", "_lock")

    def __init__(
        self,
        open_ring: Callable[[], Ring],
        look_around: Callable[[Ring], None],
        clock: Clock,
        tell_large: Callable[[int], None] = lambda _size_bytes: None,
        *,
        outer: Producer | None = None,
    ) -> None:
        self._open_ring = open_ring
        self._look_around = look_around
        self._clock = clock
        self._tell_large = tell_large
        self._outer = outer
        self.fence: Callable[[], object] | None = fence.fence if fence.NEEDED else None
        """What runs between an event and its count: nothing where the processor keeps stores in order."""
        self._after: deque[Callable[[], object]] = deque()
        """Tasks for the end of the call, because they may log, start a process, or call this producer."""
        self._closed = False
        self.removed: RemovedRings = RemovedRings() if outer is None else outer.removed
        """Rings that this process was in, whose events may have to be moved."""
        self.slot = Slot(open_ring, clock, self.removed, is_inner=outer is not None)
        self.forget()
        fork.forget_in_children(self)

    def forget(self) -> None:
        """Forget slot, block and lock in a forked child, because they are the parent's."""
        self._lock = RLock()
        self._busy = self._defers = False
        self._after.clear()
        self._look_at_s = float("inf" if self._outer else "-inf")
        self._waker = Waker(self.slot)
        self.slot.forget()
        self.inner: Producer | None = None
        if self._outer is None:
            self.removed.forget()
            # Order: before any call. A call from within the making of the second producer could otherwise make another.
            self.inner = self._make_inner()

    def _make_inner(self) -> Producer:
        def tell_large(size_bytes: int) -> None:
            self._after.append(partial(self._tell_large, size_bytes))

        return Producer(self._open_inner, lambda _ring: None, self._clock, tell_large, outer=self)

    def _open_inner(self) -> Ring:
        ring = self.ring
        return ring if ring is not None and ring.is_current else self._open_ring()

    @property
    def ring(self) -> Ring | None:
        """The ring that this process appends to; None before the first event."""
        return self.slot.ring

    @property
    def trouble(self) -> RingUnavailable | None:
        """The error of the last attempt to open or use the ring; None if the attempt worked."""
        return self.slot.trouble

    def append(self, data: bytes | bytearray) -> str | None:
        """Append one event's JSON. Return None if it was accepted, else the reason (one of ``REFUSALS``).

        It never waits for another process, except for the claim lock: ``CLAIM_TIMEOUT_S`` at the most when it needs
        credits or a block, and ``ENTER_TIMEOUT_S`` when it enters the ring.

        A signal handler or a destructor may call it in the middle of itself. That call is refused as ``busy`` if it
        needs credits or a block in the middle of a claim, or if it comes from within another such call.
        """
        if not fork.PAGE[0]:
            fork.renew()
        lock = self._lock
        size = len(data)
        try:
            # Order: try before acquire, because a signal handler may raise between the two. If it raises before the
            # lock is taken, release raises RuntimeError, which is ignored below.
            lock.acquire()
            if self._busy:
                return self._append_within(data)
            self._busy = True
            try:
                block = self.slot.block
                count = block.count
                end = block.at + size
                if (
                    count >= block.count_limit
                    or end + 8 * count >= block.limit
                    or size > LARGE_BYTES
                    or (not count & 15 and self._clock.monotonic_s() >= self._look_at_s)  # at every 16th event
                ):
                    try:
                        self._prepare(size)
                    except Refused as refusal:
                        return refusal.reason
                    block = self.slot.block
                    count = block.count
                    end = block.at + size
                block.memory[block.at : end] = data
                block.memory[end] = COMMA
                block.entries[block.entry - count] = end = end + 1
                block.at = end
                block.count = count = count + 1
                if self.fence is not None:
                    self.fence()  # Order: the event before its count (tests/test_store_order.py)
                # If a signal handler raises before this store, the next append, claim or leave makes it
                # (tests/test_between.py).
                block.words[block.count_at] = count
                if block.words[H_ASLEEP] != self._waker.seen:  # Order: after the count, which the flusher then finds
                    self._after.append(self._waker.see)
            finally:
                self._busy = False
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass
            if self._after:
                self._finish()
        return None

    def _append_within(self, data: bytes | bytearray) -> str | None:
        if self.inner is None:
            return "busy"
        if self._closed:
            return "closed"
        return self.inner.append(data)

    def append_chunk(self, events: Sequence[bytes | bytearray]) -> tuple[int, str | None]:
        """Append the first events of a chunk, and return how many; if none, then also the reason as ``append`` does.

        It appends those for which the block has room and the producer has credits, after one claim at the most. Their
        count is stored once, so a kill leaves all of them or none. An event of more than ``LARGE_BYTES`` must come
        alone. All else is as in ``append``.
        """
        if not fork.PAGE[0]:
            fork.renew()
        try:
            with self._lock:
                if self._busy:
                    return self._append_chunk_within(events)
                self._busy = True
                try:
                    return self._append_chunk(events), None
                except Refused as refusal:
                    return 0, refusal.reason
                finally:
                    self._busy = False
        finally:
            if self._after:
                self._finish()

    def _append_chunk(self, events: Sequence[bytes | bytearray]) -> int:
        block = self.slot.block
        ends = block.ends_of(events)
        if not ends or len(events[0]) > LARGE_BYTES or self._clock.monotonic_s() >= self._look_at_s:
            self._prepare(len(events[0]))
            block = self.slot.block
            ends = block.ends_of(events)
        block.put(events, ends)
        if self.fence is not None:
            self.fence()  # Order: the events before their count, as in append
        block.words[block.count_at] = block.count
        if block.words[H_ASLEEP] != self._waker.seen:  # Order: as in append
            self._after.append(self._waker.see)
        return len(ends)

    def _append_chunk_within(self, events: Sequence[bytes | bytearray]) -> tuple[int, str | None]:
        reason = self._append_within(events[0])
        return int(reason is None), reason

    @property
    def is_in_a_call(self) -> bool:
        """True if this thread is in the middle of a call, so that its next call comes from within that one."""
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]  # noqa: SLF001  # no public name for it

    def append_placed(self, data: bytes | bytearray) -> tuple[str | None, Position | None, Position | None]:
        """Append, and return the reason, the position before the event and the position after it.

        Both are positions of the producer that took the event.
        """
        if not fork.PAGE[0]:
            fork.renew()
        with self._lock:
            target = self.inner if self._busy and self.inner is not None else self
            defers, self._defers = self._defers, True
            try:
                before = target.slot.position()
                reason = target.append(data)
                after = target.slot.position()
            finally:
                self._defers = defers
        self._finish()
        return reason, before, after

    def _finish(self) -> None:
        """Run the tasks that had to wait for the end of the call, unless this call is within another one."""
        while self._after and not (self._busy or self._defers):
            try:
                task = self._after.popleft()
            except IndexError:
                return  # another thread took the task
            task()

    def _prepare(self, size: int) -> None:
        """Make room for an event. Raises ``Refused``."""
        if self._closed:
            raise Refused("closed")
        if size > at.EVENT_MAX_BYTES:
            raise Refused("too_large")
        outer = self._outer
        if outer is not None and (outer.ring is None or outer.ring.locks.is_ours):
            raise Refused("busy")  # the outer call is in the middle of a claim
        if size > LARGE_BYTES:
            self._after.append(partial(self._tell_large, size))
        slot = self.slot
        now_s = self._clock.monotonic_s()
        looks = now_s >= self._look_at_s
        if looks or not (slot.block.has_room(size) or slot.is_refused):
            self._enter_current(now_s, moves=looks)
        try:
            slot.make_room(size, now_s)
        except Refused:
            self._after.append(self._waker.wake)
            raise
        if looks and slot.ring is not None:
            self._look_at_s = now_s + LOOK_S
            self._after.append(partial(self._look_around, slot.ring))

    def _enter_current(self, now_s: float, *, moves: bool) -> None:
        """Enter a ring that exists, and move what a removed ring still holds. Raises ``Refused``.

        ``moves`` checks again whether processes that have not noticed the removal put something into it.
        """
        # A claim checks the segment alone, which is one system call.
        if self._outer is None and self._leave_removed(looks_closer=moves):
            moves = True
        if not self.slot.is_taken:
            self.slot.enter(now_s)
        if self._outer is None and self.removed and (moves or self.removed.owes):
            try:
                self._move()
            except RingUnavailable as error:
                self.slot.note_trouble(error)
                raise Refused("ring") from None

    def _leave_removed(self, *, looks_closer: bool = True) -> bool:
        """Give up the slots in a ring that was removed; return whether it was.

        ``looks_closer`` also checks its lock file, and whether the flusher has closed the ring.
        """
        ring = self.ring
        if ring is None or (ring.is_current if looks_closer else ring.segment.is_linked()):
            return False
        self._quit_ring()
        self.removed.add(ring)
        return True

    def _quit_ring(self) -> None:
        self.slot.quit_ring()
        if self.inner is not None:
            self.inner.slot.quit_ring()

    def _move(self) -> None:
        """Move events of removed rings ahead of the next event. Raises ``Refused`` if there is no room for all."""
        inner = self.inner
        assert inner is not None
        moved: list[bytes] = []

        def put(data: bytes) -> bool:
            # Order: the second producer appends, because this one is in the middle of a call. Its block is claimed, and
            # so drained, before our next one.
            if inner.append(data) is not None:
                return False
            moved.append(data[:0])
            return True

        moved_all = self.removed.move(put)
        if moved and self.ring is not None:
            self._after.append(partial(self._look_around, self.ring))
        if not moved_all:
            raise Refused("full")

    def count_refused(self, reason: str) -> None:
        """Count an event that was refused: in the slot, or without a slot under the claim lock.

        Without a ring, or if the claim lock times out, the count waits in the process until a later call can store it.
        """
        self.slot.note_refusal(reason)
        with self._lock:
            if self._busy:
                self._after.append(self._count_late)
                return
        self._count_late()

    def _count_late(self) -> None:
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                self.slot.count_refusals()
            finally:
                self._busy = False

    def look(self) -> None:
        """Check whether the ring was removed, and move the events that no flusher would drain."""
        self._quietly(self._look)

    def _look(self) -> None:
        self._leave_removed()
        if not self._closed and self.removed.are_stranded():
            self._enter_current(self._clock.monotonic_s(), moves=True)

    def enter(self) -> Ring | None:
        """Claim a slot as the first event would; return the ring, or None if that fails."""
        return self._quietly(self._enter_now)

    def _enter_now(self) -> None:
        if not self._closed:
            self._enter_current(self._clock.monotonic_s(), moves=True)

    def ask_flush(self) -> Ring | None:
        """Ask the flusher to take what is in the ring now; return the ring, or None if there is none to ask."""
        ring = self._quietly(self._enter_now, self.slot.ask_flush)
        self._waker.wake()
        return ring

    def _quietly(self, enter: Callable[[], None], then: Callable[[], None] = lambda: None) -> Ring | None:
        """Run a task that enters the ring, and another one; return the ring, or None if this process is in none.

        Events of calls from within go to the second producer meanwhile.
        """
        if not fork.PAGE[0]:
            fork.renew()
        try:
            with self._lock:
                if self._busy:  # a call from within cannot enter the ring
                    then()
                    return self.ring
                self._busy = True
                try:
                    try:
                        enter()
                    except Refused:
                        pass  # the trouble is kept
                    then()
                    return self.ring if self.slot.is_taken or self._closed else None
                finally:
                    self._busy = False
        finally:
            self._finish()

    def await_queue(self) -> None:
        """Ask the flusher to keep track, for about a second, of what becomes of events in the queue."""
        if fork.PAGE[0]:
            self.slot.await_queue()
            self._waker.wake()

    def positions(self) -> list[Position]:
        """Return where this process appends, and where its calls from within calls do."""
        slots = [producer.slot for producer in (self, self.inner) if producer is not None]
        return [position for slot in slots if (position := slot.position()) is not None]

    def abandon(self) -> None:
        """Give the slots up from a destructor, without a lock, because nothing uses this producer any more.

        Do nothing in a forked child, because its parent has the slot.
        """
        if fork.PAGE[0]:
            self._quit_ring()

    def leave(self) -> None:
        """Give the slots up; the flusher takes what is left. Later appends are refused."""
        if not fork.PAGE[0]:
            fork.renew()
        with self._lock:
            if self._busy:  # in a signal handler in the middle of an append: leave when that has ended
                self._after.append(self.leave)
                return
            self._busy = True  # Order: before the seal, so that a signal handler's append in between is refused
            try:
                self._leave()
            finally:
                self._busy = False
        self._finish()

    def _leave(self) -> None:
        try:
            self._look()
        except Refused:
            pass  # another process moves what is left
        self._closed = True
        self.slot.block.limit = 0
        self.slot.count_refusals(last=True)
        self.slot.quit_ring()
        if self.inner is not None:
            self.inner.leave()
            self.removed.forget()
