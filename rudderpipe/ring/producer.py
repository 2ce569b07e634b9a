"""A process's side of the ring: append events, from any thread, and from within each other."""

from __future__ import annotations

from _thread import RLock
from collections import deque
from collections.abc import Callable
from functools import partial

from rudderpipe import forks
from rudderpipe.clock import Clock
from rudderpipe.ring import layout as at
from rudderpipe.ring.layout import COMMA, LARGE_BYTES
from rudderpipe.ring.ring import Ring
from rudderpipe.ring.seat import Seat

LOOK_S = 1.0
"""How often to look around while there are events."""
ASIDE_MAX = 1024
"""How many calls from within one call are kept until its end."""


class Producer(Seat):
    """Appends events for one process, from any of its threads; a forked child becomes a producer of its own.

    ``open_ring`` finds or makes the ring; ``look_around`` is called with the ring at the first event and then about
    once a second while there are events: the place for seeing whether there is a flusher. ``tell_large`` is called with
    the size of an event of more than ``LARGE_BYTES``.
    """

    # In a slot, where eventlet does not find it when it replaces the locks that were made before its patching.
    __slots__ = ("_lock",)

    def __init__(
        self,
        open_ring: Callable[[], Ring],
        look_around: Callable[[Ring], None],
        clock: Clock,
        tell_large: Callable[[int], None] = lambda _size_bytes: None,
    ) -> None:
        super().__init__(open_ring, clock)
        self._look_around = look_around
        self._tell_large = tell_large
        self._aside: deque[bytes | Callable[[], None]] = deque()
        self._closed = False
        self.forget()
        forks.forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: slot, block and lock are the parent's."""
        self._lock = RLock()
        self._busy = self._catching_up = self._holds_up = False
        self._aside.clear()
        self._looked_at_s = float("-inf")
        self._stand_up()

    def append(self, data: bytes | bytearray) -> str | None:
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
                if count >= self._count_limit or end + 8 * count >= self._limit or size > LARGE_BYTES:
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

    def _set_aside(self, data: bytes | bytearray) -> str | None:
        # Only in a call from within a call. It is kept here until the outer one has ended.
        if (reason := self._never(len(data))) is not None:
            return reason
        if len(self._aside) >= ASIDE_MAX:
            return "busy"
        self._aside.append(bytes(data))
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
            self._do_tasks()  # a flusher may have to be started before there is room
            self._aside.appendleft(task)
            self._holds_up = True
            return False
        else:
            self._holds_up = False
        return True

    def _do_tasks(self) -> None:
        for task in tuple(self._aside):
            if isinstance(task, bytes):
                continue
            try:
                self._aside.remove(task)
            except ValueError:
                continue  # another thread has done it
            task()

    def _never(self, size: int) -> str | None:
        """Why an event of that size is refused however much room there is."""
        if self._closed:
            return "closed"
        return "too_large" if size > at.EVENT_MAX_BYTES else None

    def _prepare(self, size: int) -> str | None:
        """Room for an event; a reason when there is none. What can wait is set aside until the append has ended."""
        if (reason := self._never(size)) is not None:
            return reason
        if self._holds_up and not self._catching_up:
            return "full"  # what was told that it is accepted, and found no room, comes first
        if size > LARGE_BYTES:
            self._aside.append(partial(self._tell_large, size))
        now_s, ring = self._clock.monotonic_s(), self.ring
        looks = now_s - self._looked_at_s >= LOOK_S
        if looks and ring is not None and self._slot >= 0 and not ring.is_current:
            self._give_up_slot(ring)  # it was removed: its flusher drains it, and we go on in another
            self.ring = None
        reason = self._make_room(size, now_s)
        if looks and self._slot >= 0 and self.ring is not None:
            self._looked_at_s = now_s
            self._aside.append(partial(self._look_around, self.ring))
        return reason

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

    def ask_flush(self) -> Ring | None:
        """Have the flusher take what is in the ring now; the ring, or None when there is none to ask."""
        if not forks.PAGE[0]:
            forks.renew()
        try:
            with self._lock:
                if self._busy:
                    return None
                self._busy = True  # a call from within would take a slot of its own
                try:
                    return self._ask_flush()
                finally:
                    self._busy = False
        finally:
            self.catch_up()

    def await_queue(self) -> None:
        """Have the flusher tell for about a second what becomes of events in the queue."""
        ring, slot = self.ring, self._slot
        if ring is not None and slot >= 0 and forks.PAGE[0]:
            at.bump(ring.words, ring.layout.slot(slot) + at.S_AWAITED)

    def _ask_flush(self) -> Ring | None:
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
            if left := sum(isinstance(task, bytes) for task in tuple(self._aside)):
                self._uncounted["closed"] += left  # calls from within calls that found no room to the end
                self._aside.clear()
            self._count_refusals(last=True)
            if self._slot >= 0 and self.ring is not None:
                self._give_up_slot(self.ring)
            self._drop_ring()
