"""A pipe's ring as this process sees it: its segment, its locks, and how to find and open it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rudderpipe.errors import RingUnavailable
from rudderpipe.process import locks
from rudderpipe.process.clock import Clock
from rudderpipe.process.identity import Identity
from rudderpipe.process.locks import LockFile
from rudderpipe.ring import block_header, location, memory, wake_pipe
from rudderpipe.ring import layout as at
from rudderpipe.ring.fence import fence
from rudderpipe.ring.location import RingLocation
from rudderpipe.ring.memory import Segment
from rudderpipe.settings import Settings

OPEN_TIMEOUT_S = 5.0


class RingView:
    """What can be read from a ring's memory without its locks."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.layout = segment.layout
        self.words = segment.words

    @property
    def slots_used(self) -> int:
        """Slots that ever had a producer; all slots if the word is damaged, or has no complement (layout 3)."""
        words = self.words
        used: int = words[at.H_SLOTS_USED]
        if used + words[at.H_SLOTS_USED_CHECK] == at.ALL_BITS and used <= self.layout.slots:
            return used
        return self.layout.slots

    def owner(self, slot: int) -> Identity:
        """Return the identity of the slot's producer, or of its last one."""
        mine = self.layout.slot(slot)
        return self._identity(mine + at.S_PID, mine + at.S_START, mine + at.S_NAMESPACE)

    def flusher(self) -> Identity:
        """Return the identity of the process that has the flusher's lock, or had it last."""
        return self._identity(at.H_PID, at.H_PID_START, at.H_NAMESPACE)

    def heartbeat_ms(self, clock: Clock) -> int:
        """Return when the flusher last stored its heartbeat, on the monotonic clock; 0 if it never did."""
        at_ms: int = self.words[at.H_HEARTBEAT_MS]
        if at_ms and not self.layout.format.has_starts:
            return at_ms - clock.time_ms() + clock.monotonic_ms()
        return at_ms

    def _identity(self, pid: int, start: int, namespace: int) -> Identity:
        words = self.words
        return Identity(words[pid], words[start] if self.layout.format.has_starts else 0, words[namespace])

    def drained(self) -> int:
        """Return how many events ever left the ring, modulo 2**64 because damaged words may add up to more."""
        start = self.layout.drained
        return sum(self.words[start : start + self.slots_used].tolist()) & at.ALL_BITS

    def room(self) -> int:
        """Return the credits that are left: events that may still be granted. Below 0 if damage exceeded the cap."""
        layout, used = self.layout, self.slots_used
        granted = self.words[layout.granted : layout.granted + used].tolist()
        drained = self.words[layout.drained : layout.drained + used].tolist()
        # Slot by slot, because a damaged DRAINED of one slot must not make room for the others.
        return self.segment.cap - sum([out - back for out, back in zip(granted, drained, strict=True) if out > back])

    def asked(self, word: int) -> int:
        """Return the sum of a slot's word over all slots. It changes with each request that a producer makes by it."""
        layout = self.layout
        end = layout.slot(self.slots_used)
        return sum(self.words[layout.slot0 + word : end : at.SLOT_WORDS].tolist()) & at.ALL_BITS

    def slots_in_use(self) -> list[int]:
        """Return the slots that have a producer, dead or alive."""
        words, layout = self.words, self.layout
        return [slot for slot in range(self.slots_used) if words[layout.slot(slot) + at.S_PID]]

    def left(self) -> dict[int, int]:
        """Return, for each tenure of a block that is not free, how many of its events have left the ring."""
        words, layout, bits = self.words, self.layout, at.READ_BITS
        found = {}
        for tenure, block in self.blocks_in_use():
            word = words[layout.read + block]
            found[tenure] = int(word & ((1 << bits) - 1)) if word >> bits == tenure else 0
        return found

    def blocks_in_use(self) -> list[tuple[int, int]]:
        """Return (sequence, block) of every block that is not free, oldest first."""
        layout = self.layout
        sequences = block_header.tenures(self.words, layout)
        released = self.words[layout.released : layout.read].tolist()
        if sequences == released:
            return []
        fence()  # Order: load SEQUENCE before the header, because the claimer stores the header first
        return sorted(
            (sequence, block)
            for block, (sequence, gone) in enumerate(zip(sequences, released, strict=True))
            if sequence != gone
        )


class Ring(RingView):
    """A ring with its locks, which producer, consumer and observers share."""

    def __init__(self, segment: Segment, lock_file: LockFile) -> None:
        super().__init__(segment)
        self.locks = lock_file
        self.fifo = str(wake_pipe.path_of(lock_file.path))
        """The path of the FIFO through which producers wake the flusher."""

    @property
    def is_current(self) -> bool:
        """False if the flusher has closed this ring, or if its segment or lock file was removed.

        Such a ring is drained, but takes no more events.
        """
        return not self.words[at.H_CLOSED] and self.segment.is_linked() and self.locks.is_current()

    def see_slot(self, slot: int) -> None:
        """Count a slot among those that ever had a producer. Only under the claim lock."""
        used = max(self.words[at.H_SLOTS_USED], slot + 1)
        # Order: a kill in between leaves a pair that does not fit, and then all slots are looked at.
        self.words[at.H_SLOTS_USED_CHECK] = used ^ at.ALL_BITS
        self.words[at.H_SLOTS_USED] = used

    def try_close(self, wait_s: float = OPEN_TIMEOUT_S) -> bool:
        """End the ring and remove segment and lock file; return False if it is in use. Only with the flusher's lock.

        A ring is in use while it has a producer or a block that is not free. False is also returned if the claim lock
        timed out.
        """
        try:
            if not self.locks.lock(at.LOCK_CLAIM, wait_s):
                return False
            if self.slots_in_use() or self.blocks_in_use():
                return False
            # Order: closed first, because a process that takes a slot after us sees it and opens another ring.
            self.words[at.H_CLOSED] = 1
            if self.segment.is_linked():
                memory.remove(self.segment.name)
            if self.locks.is_current():
                self.locks.remove()
                wake_pipe.path_of(self.locks.path).unlink(missing_ok=True)
            return True
        finally:
            self.locks.release(at.LOCK_CLAIM)


@contextmanager
def _claimed(path: Path, wait_s: float = OPEN_TIMEOUT_S) -> Iterator[LockFile]:
    """Hold the claim lock of the lock file that is at the path now."""
    while True:
        lock_file = locks.shared(path)
        try:
            if not lock_file.lock(at.LOCK_CLAIM, wait_s):
                raise RingUnavailable(path.stem, f"another process has held its lock for {wait_s:g} s")
            if lock_file.is_current():
                try:
                    yield lock_file
                except RingUnavailable:
                    if lock_file.is_fresh():  # no ring could be made or opened: the file would stay forever
                        lock_file.remove()
                    raise
                return
        finally:
            try:
                lock_file.release(at.LOCK_CLAIM)
            except BaseException:
                lock_file.release(at.LOCK_CLAIM)  # a signal handler may raise before the first line of the call
                raise


def find(settings: Settings) -> Ring | None:
    """Return this interpreter's ring of the pipe, or None. At most runtime directory and lock file are made for it."""
    return find_at(location.own(settings))


def find_all(settings: Settings) -> list[Ring]:
    """Return every ring of the pipe: of all interpreters, and of the layout before. Raises ``RingUnavailable``."""
    return [ring for each in location.of_pipe(settings) if (ring := find_at(each)) is not None]


def find_at(where: RingLocation, wait_s: float = OPEN_TIMEOUT_S) -> Ring | None:
    """Return the ring at a place, or None if there is none. Raises ``RingUnavailable``."""
    if where.segment not in memory.names() and not where.lock_file.exists():
        return None
    with _claimed(where.lock_file, wait_s) as lock_file:
        ring = _attached(where, lock_file)
        if ring is None:
            lock_file.remove()
        return ring


def open_ring(settings: Settings, clock: Clock, *, wait_s: float = OPEN_TIMEOUT_S) -> Ring:
    """Return this interpreter's ring of the pipe, made if it does not exist.

    Its size is that of its first maker. Its cap is the largest ``max_internal_queue_size`` that it was ever opened
    with. ``wait_s`` bounds the wait for the claim lock. Raises ``RingUnavailable``.
    """
    where = location.own(settings)
    while True:
        with _claimed(where.lock_file, wait_s) as lock_file:
            ring = _attached(where, lock_file)
            if ring is not None:
                ring.segment.raise_cap(settings.max_internal_queue_size)
                return ring
            if lock_file.is_fresh():
                segment = memory.create(
                    where.segment, settings.ring_bytes, settings.max_internal_queue_size, lock_file.inode, clock
                )
                ring = Ring(segment, lock_file)
                try:
                    _mark(ring, where)
                except RingUnavailable:
                    memory.remove(where.segment)
                    raise
                return ring
            # The users of a ring whose segment was removed still hold locks of this file, so the new ring gets another.
            lock_file.remove()


def _attached(where: RingLocation, lock_file: LockFile) -> Ring | None:
    """Return the ring that is at the place, or None.

    A ring whose flusher died while closing it is removed. Otherwise every process would forever open it, find it closed
    and open it again.
    """
    segment = memory.attach(where.segment)
    if segment is None:
        return None
    ring = Ring(segment, lock_file)
    if ring.layout.format.version != where.layout:
        raise RingUnavailable(where.segment, f"is not a ring of layout {where.layout}: choose another pipe")
    if ring.words[at.H_CLOSED]:
        if not (ring.slots_in_use() or ring.blocks_in_use()):
            memory.remove(where.segment)
            return None
        ring.words[at.H_CLOSED] = 0  # a damaged word, because a closed ring is empty
    return _adopted(ring, where, lock_file)


def _adopted(ring: Ring, where: RingLocation, lock_file: LockFile) -> Ring:
    """Let a ring whose lock file was removed go on with the new one.

    Raises ``RingUnavailable`` while a process lives that knows only the old lock file.
    """
    words = ring.words
    if words[at.H_LOCK_INODE] == lock_file.inode:
        _mark(ring, where)  # the ring's maker may have died before it did this
        return ring
    owners = [ring.flusher()]
    stay = [slot for slot in range(ring.slots_used) if not words[ring.layout.slot(slot) + at.S_LEFT]]
    owners += [ring.owner(slot) for slot in stay]
    if any(owner.pid and not owner.is_gone() for owner in owners):
        reason = (
            f"is in use, but its lock file {lock_file.path} was removed or runtime_dir differs: restart the processes "
            "that use it"
        )
        raise RingUnavailable(ring.segment.name, reason)
    words[at.H_LOCK_INODE] = lock_file.inode
    _mark(ring, where)
    return ring


def _mark(ring: Ring, where: RingLocation) -> None:
    """Record in the lock file which ring it belongs to."""
    ring.locks.mark(where.record(ring.segment.epoch))
