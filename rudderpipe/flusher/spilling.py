"""What a sink does with the spill of its ring: it puts events there, and gives them to the queues later, in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from msgspec import Raw

from rudderpipe import log_text
from rudderpipe.flusher import spill
from rudderpipe.flusher.queue_cursor import QueueCursor
from rudderpipe.flusher.spill import Found, Position, Spill, SpillPlan
from rudderpipe.flusher.spill_record import Record
from rudderpipe.flusher.window import Entry, Offsets, is_in, places_of
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import RingView
from rudderpipe.settings import Settings

RECORD_EVENTS, RECORD_BYTES = 1000, 256 << 10
"""A record gets no more batches once it has so many events or bytes."""
SCAN_BYTES = 4 << 20
"""How much of the log is read at once, because the flusher has other work."""
FREE_PART = 5
"""Events go to the spill when one part in so many of the ring, or less, is free."""
RETRY_S = 1.0
"""The pause after the disk has refused something. It is read while it takes no more, as when it is full."""

logger = log_text.logger("rudderpipe.flusher")


class Spilling:
    """The spill of one ring as its sink uses it; one that is always empty without ``spill_dir``.

    The spill is shared by all queues, and each reads it from a position of its own: first the spill, then the ring.
    """

    def __init__(self, settings: Settings, ring: RingView, clock: Clock) -> None:
        self._ring = ring
        self._clock = clock
        self._log = ThrottledLog(logger, clock, RARELY_S)
        self._spill = Spill(settings, ring.segment.epoch) if spill.directory_of(settings) is not None else None
        self._retry_at_s = self._reads_at_s = self._removes_at_s = float("-inf")
        self.is_readable = True
        """False from the moment when the disk could not be read until it can be."""
        self._left = 0
        """How many events in the spill are not known to be in their queue."""
        self._passed = 0

    @property
    def is_open(self) -> bool:
        """True once it is known what is in the spill. Until then no event may go to a queue."""
        return self._spill.is_open if self._spill is not None else not spill.has_unread(self._ring)

    @property
    def has_events(self) -> bool:
        """True if the spill may have events that a queue lacks."""
        return not self.is_open or (self._spill is not None and self._spill.last_number > 0)

    @property
    def reached(self) -> Offsets:
        """For each tenure, an offset: every event below it has left the ring or will, because it is in the spill."""
        return self._spill.reached if self._spill is not None else {}

    def open(self) -> bool:
        """Read what is in the spill. Return False if it cannot be read now."""
        if self._clock.monotonic_s() < self._retry_at_s:
            return False
        words, self.is_readable = self._ring.words, False
        if self._spill is None:
            said = "events are in a spill, but the setting spill_dir is missing, others stay in the ring events=%d"
            self._log.error("unset", said, words[at.H_SPILLED])
            return self._pause()
        counted = min(words[at.H_SPILLED], words[at.H_QUEUED])  # larger only if a word is damaged, or before a kill
        try:
            is_ours = self._spill.open(counted)
        except OSError as error:
            said = "the spill cannot be read, its events and later ones of its ring wait, trying again error=%s path=%s"
            self._log.error("read", said, error.strerror, self._spill.path)
            return self._pause()
        if not is_ours:
            said = "another process has the spill open, later events of its ring wait, trying again path=%s"
            self._log.error("open", said, self._spill.path)
            return self._pause()
        lacks = counted - self._spill.events
        if lacks > 0 and not self._spill.path.is_dir():
            self._spill.close()
            said = (
                "the spill lacks events, is its disk mounted? events stay in the ring, trying again events=%d path=%s"
            )
            self._log.error("lacks", said, lacks, self._spill.path)
            return self._pause()
        self.is_readable = True
        for reason in ("read", "open", "lacks"):
            self._log.over(reason, "the spill can be read again")
        if lacks > 0:
            logger.error("events of the spill are lost events=%d path=%s", lacks, self._spill.path)
        self.begin_again(())
        if self._left:
            said = "the spill has events, they go to the queue before those of the ring events=%d path=%s"
            logger.info(said, self._left, self._spill.path)
        return True

    def _pause(self) -> bool:
        self._retry_at_s = self._clock.monotonic_s() + RETRY_S
        return False

    def begin_again(self, cursors: Sequence[QueueCursor]) -> None:
        """Have these queues read the spill from its beginning, and count all of its events."""
        for cursor in cursors:
            cursor.spill_at = Position()
        if self._spill is not None and self._spill.is_open:
            self._left = self._spill.events
            self._store_left(self._spill)

    def _store_left(self, spill: Spill) -> None:
        self._left = max(0, self._left) if spill.last_number else 0
        self._ring.words[at.H_SPILLED] = self._left

    # from the ring into the spill

    def is_due(self) -> bool:
        """Return True if the ring is so full that events must go to the spill while a queue does not take them."""
        ring = self._ring
        if self._spill is None or self._clock.monotonic_s() < self._retry_at_s:
            return False
        if ring.room() * FREE_PART <= ring.segment.cap:
            return True
        return (ring.layout.blocks - len(ring.blocks_in_use())) * FREE_PART <= ring.layout.blocks

    def keep(self, entries: Sequence[Entry], queues: Sequence[int]) -> bool:
        """Store the events of these queues in these batches, so that the batches may leave the ring.

        Return False if they cannot be stored now.
        """
        assert self._spill is not None
        records = list(_records(entries, queues))
        words, count = self._ring.words, sum(len(record.events) for record in records)
        number = max(words[at.H_SPILL_SEGMENT] % spill.NUMBERS, self._spill.last_number) + 1  # less: it is damaged
        if self._spill.needs_segment:
            # Order: the number before its segment, because no other segment of this ring may ever have it.
            words[at.H_SPILL_SEGMENT] = number
        try:
            self._spill.append(records, number)
        except OSError as error:
            said = "the spill takes nothing, events stay in the ring, trying again error=%s path=%s"
            self._log.error("append", said, error.strerror, self._spill.path)
            return self._pause()
        self._log.over("append", "the spill takes events again")
        self._left += count
        self._store_left(self._spill)  # Order: before the events leave the ring, or they would look lost
        said = "a queue is away and the ring is nearly full, its oldest events go to the spill events=%d path=%s"
        self._log.warning("spill", said, self._left, self._spill.path)
        return True

    # from the spill into the queues

    def is_ahead(self, cursor: QueueCursor) -> bool:
        """Return True if the spill may have events that a queue must get before those of the ring."""
        return self._spill is not None and self._spill.is_behind(cursor.spill_at)

    def takes_for(self, cursor: QueueCursor, now_s: float) -> bool:
        """Return True if events of a queue may go to the spill: it is away, or must get events of the spill first."""
        return cursor.is_away(now_s) or self.is_ahead(cursor)

    def plan(
        self,
        cursor: QueueCursor,
        number: int,
        queues: int,
        former: Sequence[Sequence[Offsets]],
        max_events: int,
        max_bytes: int,
    ) -> SpillPlan:
        """Return what a queue must get next of the spill, as far as that can be read.

        ``number`` is its place among so many queues. ``former`` are the final offsets of earlier generations, as for a
        ``Window``.
        """
        assert self._spill is not None
        known, marks = cursor.offsets, dict[int, tuple[int, int]]()
        events: list[Raw] = []
        users: list[int] = []
        begin = behind = cursor.spill_at
        passed = size = scanned = 0
        for found in self._read(self._spill, begin):
            tenure, had = spill.tenure_of(found.behind.number), len(events)
            for offset, place, user, data in _events(found.record, found.at.offset):
                if user % queues != number:
                    continue
                passed += 1
                # Each event has two places. A call that was lost may have put it into the queue under the first one.
                places = (place, (tenure, offset))
                if is_in(known, places) or any(is_in(finals[user % len(finals)], places) for finals in former):
                    continue
                events.append(Raw(data))
                users.append(user)
                size += len(data)
            if found.record is None and number == 0:
                passed += found.events
            if len(events) > had:
                marks[tenure] = (known.get(tenure, 0), found.behind.offset)
            scanned += found.behind.byte - found.at.byte
            behind = found.behind
            if len(events) >= max_events or size >= max_bytes or scanned >= SCAN_BYTES:
                break
        return SpillPlan(events, users, marks, behind, passed)

    def _read(self, log: Spill, position: Position) -> Iterator[Found]:
        if self._clock.monotonic_s() < self._reads_at_s:
            return
        try:
            for found in log.read(position):
                self.is_readable = True
                self._log.over("replay", "the spill can be read again")
                yield found
        except OSError as error:
            said = (
                "the spill cannot be read now, its events and later ones of their ring and queue wait, trying again "
                "error=%s path=%s"
            )
            self._log.error("replay", said, error.strerror, error.filename or log.path)
            self._reads_at_s, self.is_readable = self._clock.monotonic_s() + RETRY_S, False

    def passed(self, cursor: QueueCursor, plan: SpillPlan) -> None:
        """Note that a queue has everything of a plan."""
        assert self._spill is not None
        cursor.spill_at = plan.behind
        self._left -= plan.passed
        self._passed += plan.passed
        self._store_left(self._spill)

    def take_passed(self) -> int:
        """Return how many events the queues were given or had since the last call."""
        passed, self._passed = self._passed, 0
        return passed

    def kept_back(self, tenures: Sequence[int]) -> list[int]:
        """Return those of the freed tenures whose offsets in the queues are not needed for the spill."""
        return [tenure for tenure in tenures if not self.needs(tenure)]

    def needs(self, tenure: int) -> bool:
        """Return True if the offsets of a tenure in the queues are needed for the spill."""
        return self._spill is not None and self._spill.holds(tenure)

    def tidy(self, cursors: Sequence[QueueCursor]) -> list[int]:
        """Remove what all these queues have. Return the tenures whose offsets in the queues are not needed any more.

        Nothing is removed before the ring's words say that its events have left.
        """
        if self._spill is None or not cursors or self._clock.monotonic_s() < self._removes_at_s:
            return []
        try:
            freed = self._tidy(self._spill, cursors)
        except OSError as error:
            said = "the disk of the spill refuses a change, old files stay, trying again error=%s path=%s"
            self._log.error("tidy", said, error.strerror, error.filename or self._spill.path)
            self._removes_at_s = self._clock.monotonic_s() + RETRY_S
            return []
        self._log.over("tidy", "the disk of the spill takes changes again")
        return freed

    def _tidy(self, log: Spill, cursors: Sequence[QueueCursor]) -> list[int]:
        log.mend()
        if not log.last_number:
            return []
        position = min(cursor.spill_at for cursor in cursors)
        if not log.has_before(position):
            return []
        left = self._ring.left()
        reached = log.reached
        for tenure in [tenure for tenure, end in reached.items() if left.get(tenure, end) >= end]:
            del reached[tenure]
        if reached:
            return []
        gone = log.remove_before(position)
        self._store_left(log)
        if not log.last_number:
            logger.info("the spill is empty again, the queues have all of its events path=%s", log.path)
        return [tenure for tenure in gone if tenure not in left]

    def close(self) -> None:
        """Let another process have the spill, and remove its directory if it is empty."""
        if self._spill is not None:
            try:
                self._spill.remove()
            except OSError as error:
                said = "the empty directory of a spill cannot be removed, nothing to do error=%s path=%s"
                logger.warning(said, error.strerror, self._spill.path)
            self._spill.close()


def _records(entries: Sequence[Entry], queues: Sequence[int]) -> Iterator[Record]:
    record, size = Record([], [], [], []), 0
    for batch, events, users, parts in entries:
        record.reached.extend((each.sequence, each.end) for each in batch.ranges)
        places = places_of(batch)
        for number in (number for queue in queues for number in parts[queue]):
            tenure, offset = places[number]
            if record.places and record.places[-1][::2] == (tenure, offset):
                record.places[-1] = (tenure, record.places[-1][1], offset + 1)
            else:
                record.places.append((tenure, offset, offset + 1))
            record.users.append(users[number])
            record.events.append(bytes(events[number]))
            size += len(record.events[-1])
        if len(record.events) >= RECORD_EVENTS or size >= RECORD_BYTES:
            yield record
            record, size = Record([], [], [], []), 0
    if record.reached:
        yield record


def _events(record: Record | None, first: int) -> Iterator[tuple[int, tuple[int, int], int, bytes]]:
    """Yield the offset of each event of a record, its place in the ring, the hash of its user, and its JSON."""
    if record is None:
        return
    places = ((each, offset) for each, start, end in record.places for offset in range(start, end))
    yield from zip(itertools.count(first), places, record.users, record.events, strict=False)
