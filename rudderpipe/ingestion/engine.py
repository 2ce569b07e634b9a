"""The engine of every ingestion: it makes events of blocks of records, and sends them with back-pressure.

Its steps are generators of waits in seconds, so that one engine serves threads and asyncio.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import datetime, timezone
from typing import Protocol

from rudderpipe.errors import IngestionError, RudderpipeError
from rudderpipe.ingestion.block import Block, Position, Reject
from rudderpipe.ingestion.checkpoint import SourceState
from rudderpipe.ingestion.checkpoint_file import CheckpointFile, Place
from rudderpipe.ingestion.destination import Destination, RingDestination
from rudderpipe.ingestion.events import DROPPED, Events, RecordId
from rudderpipe.ingestion.following import Following, Progressed
from rudderpipe.ingestion.history import History
from rudderpipe.ingestion.pace import Pace
from rudderpipe.ingestion.rejects import Rejects
from rudderpipe.ingestion.result import Ingested, IngestionProgress, Start
from rudderpipe.ingestion.source import Source
from rudderpipe.process.clock import Clock, Every
from rudderpipe.ring.layout import LARGE_BYTES
from rudderpipe.transports.base import Encoded
from rudderpipe.transports.flush import Flush
from rudderpipe.transports.sending import CHUNK_EVENTS

ROOM_WAIT_S = 0.001
END_WAIT_S = 0.005
FOLLOW_WAIT_S = 0.05
TICK_S = 0.1
PLACE_S = 0.25
REPORT_S = 0.25

Warn = Callable[[Source, Reject], None]
"""Is called with each record that was refused."""


class Reading(Protocol):
    """How much of a source has been read."""

    @property
    def read_bytes(self) -> int:
        """The bytes of the file, as it is on the disk, that have been read."""

    @property
    def file_id(self) -> tuple[int, int] | None:
        """Device and inode of the file that is read; None for what is no file."""


class Engine:
    """One run of an ingestion.

    ``from_number`` and ``until_number`` bound the records of each source. ``report`` is called with the progress a few
    times a second, and ``warn`` for each refused record.
    """

    def __init__(
        self,
        destination: Destination,
        events: Events,
        saved: CheckpointFile,
        clock: Clock,
        *,
        pace: Pace | None = None,
        rejects: Rejects | None = None,
        from_number: int = 1,
        until_number: int | None = None,
        size_bytes: int | None = None,
        warn: Warn = lambda *_: None,
        report: Callable[[IngestionProgress], object] | None = None,
    ) -> None:
        self.destination = destination
        self.saved = saved
        self.stopping = False
        """Set by anyone who wants no further record to be read."""
        self.source_over = False
        """True if the source has no further record of interest."""
        self.resumed_from: Start | None = None
        self.rejects_trouble = ""
        self.counts = saved.checkpoint.counts.copy()
        self._before = self.counts.copy()
        self._events = events
        self._clock = clock
        self._pace = pace
        self._step = CHUNK_EVENTS if pace is None else min(CHUNK_EVENTS, pace.most)
        self.rejects = rejects or Rejects(None)
        self.warnings: list[str] = []
        """What is odd about the times of the events, a line for each source."""
        self._from_number, self._until_number = from_number, until_number
        self._size_bytes = size_bytes
        self._warn, self._report = warn, report
        self._refused_for = ""
        self._started_s = clock.monotonic_s()
        self._ticking, self._placing, self._reporting = Every(TICK_S), Every(PLACE_S), Every(REPORT_S)
        self._skips = self._already = 0
        self._source = Source("", "")
        self._dropped = 0
        self._state: SourceState | None = None
        self._reading: Reading | None = None
        self._block: tuple[Block, int] | None = None
        self._start = Position()
        self._done_bytes = self._resumed_bytes = 0
        self._placed = -1, -1
        self.following: Following | None = None
        self.progressed = Progressed()

    def open(self) -> None:
        """Enter the ring, and store the checkpoint's first state. Raises ``RingUnavailable``."""
        self.destination.open()
        if isinstance(self.destination, RingDestination):
            self.following = Following(self.destination, self._clock)
        found = self.saved.checkpoint
        if found.epoch:
            self._skips = self.destination.already(found.epoch, found.accepted)
        if self.rejects.writes and found.rejects_bytes is None:
            found.rejects_bytes = 0
        if not self._skips:
            milestone = self.destination.milestone()
            found.epoch, found.accepted = milestone.epoch, milestone.accepted
        self.saved.save()

    def begin(
        self, source: Source, state: SourceState, start: Position | None, reading: Reading, record_id: RecordId
    ) -> None:
        """Go on with another source, from a place on."""
        self._source, self._state, self._reading, self._record_id = source, state, reading, record_id
        self.saved.begin(state, reading.file_id)
        self._events.history = History(source, datetime.now(timezone.utc))
        self._block, self._start, self.source_over = None, start or Position(), False
        if start is not None:
            self._resumed_bytes += state.read_bytes
        if start is not None and self.resumed_from is None:
            self.resumed_from = Start(state.path, start.number)

    def skip_source(self, size_bytes: int) -> None:
        """Count the bytes of a source of which nothing need be read."""
        self._done_bytes += size_bytes
        self._resumed_bytes += size_bytes

    def feed(self, block: Block) -> Iterator[float]:
        """Send the events of a block; yield the seconds to wait before the next step."""
        low, high = self._bounds(block)
        rejects = [each for each in block.rejects if self._is_wanted(each.number)]
        for first in range(low, high, self._step):
            end = min(first + self._step, high)
            made = self._events.of(block, first, end, self._record_id)
            events = [each for each in made if not isinstance(each, Reject)]
            sent = yield from self._send(events)
            if sent < len(events):
                end = first + _index_of_event(made, sent)
            self.counts.read += end - first
            if len(events) < len(made) or rejects:
                number = block.numbers[end] if end < len(block) else None
                due = [each for each in rejects if number is None or each.number < number]
                del rejects[: len(due)]
                self.counts.read += len(due)
                own = [each for each in made[: end - first] if isinstance(each, Reject)]
                self._refuse(sorted((*due, *own), key=lambda each: each.number))
            self._block = block, end
            now_s = self._clock.monotonic_s()
            if self._placing.is_due(now_s):
                self._add_place()
            if self._ticking.is_due(now_s):
                self._tick(now_s)
            if self.stopping:
                return
        if rejects:
            self.counts.read += len(rejects)
            self._refuse(rejects)
        self._block = block, len(block)
        if self._until_number is not None and block.end.number > self._until_number:
            self.source_over = True

    def _bounds(self, block: Block) -> tuple[int, int]:
        low, high = 0, len(block)
        if self._from_number > 1:
            low = bisect_left(block.numbers, self._from_number)
        if self._until_number is not None:
            high = bisect_right(block.numbers, self._until_number)
        return low, max(low, high)

    def _is_wanted(self, number: int) -> bool:
        return number >= self._from_number and (self._until_number is None or number <= self._until_number)

    def _send(self, events: list[Encoded]) -> Generator[float, None, int]:
        """Send events, and return how many of them are done with: fewer than all only when stopping."""
        done = 0
        if self._skips:
            done = min(self._skips, len(events))
            self._skips -= done
            self._already += done
            self.counts.accepted += done
        append, total = self.destination.append, len(events)
        is_large = total > done and max(map(len, events)) > LARGE_BYTES
        while done < total:
            if self._pace is not None and (wait_s := self._pace.wait_s(self._clock.monotonic_s())):
                if self.stopping:
                    return done
                self._tick_if_due()
                yield min(wait_s, TICK_S)
                continue
            chunk = events[done:] if done else events
            number, error = append(_small_first(chunk) if is_large else chunk)
            done += number
            self.counts.accepted += number
            if number and self._pace is not None:
                self._pace.sent(number, self._clock.monotonic_s())
            if error is not None:
                self._refuse_event(error)
                done += 1
            elif not number:
                if self.stopping:
                    return done
                self._refused_for = self.destination.trouble
                self._tick_if_due()
                yield ROOM_WAIT_S
                continue
            self._refused_for = ""
        return done

    def _refuse_event(self, error: RudderpipeError) -> None:
        """Count an event that the transport refused for good."""
        self._count(Reject(0, 0, str(error), str(error), b"", 0))

    def _refuse(self, rejects: Sequence[Reject]) -> None:
        for each in rejects:
            if each.kind == DROPPED:
                self._dropped += 1
                self.counts.refused += 1
            else:
                self._warn(self._source, each)
                self._count(each)

    def _count(self, reject: Reject) -> None:
        self.counts.refused += 1
        try:
            self.rejects.add(self._source, reject)
        except IngestionError as error:
            self.rejects_trouble = self.rejects_trouble or error.reason

    def end_source(self, *, is_open: bool = False) -> None:
        """Note that the source was read to its end.

        ``is_open`` means that its last line has no end yet: if the file grows, that line is read once more.
        """
        state = self._state
        assert state is not None
        position = self._position()
        if is_open and self._block is not None and len(self._block[0]):
            position = self._block[0].position(len(self._block[0]) - 1)
        self.saved.end(state, position, self._read_bytes())
        self._done_bytes += self._read_bytes()
        self._end_history()
        self._state = self._reading = self._block = None
        self._add_place()

    def _end_history(self) -> None:
        if self._events.history is not None:
            self.warnings += self._events.history.warnings()
            self._events.history = None

    def _position(self) -> Position:
        return self._start if self._block is None else self._block[0].position(self._block[1])

    def _read_bytes(self) -> int:
        return self._reading.read_bytes if self._reading is not None else 0

    def _tick_if_due(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._ticking.is_due(now_s):
            self._tick(now_s)

    def _tick(self, now_s: float) -> None:
        """Do what is due while records are read, also within the sending of a step."""
        self.saved.look(now_s=now_s)
        self._report_if_due(now_s)

    def _add_place(self) -> None:
        """Remember the present place, unless it is the same as the last one."""
        # Within a step the ring is ahead of the place, and behind it while events are skipped that the ring has.
        is_exact = self.counts.accepted == self._at_place() and not self._skips
        if not is_exact or (self.counts.read, self.saved.ended) == self._placed:
            return
        self._placed = self.counts.read, self.saved.ended
        rejects_bytes = None
        try:
            rejects_bytes = self.rejects.flush() if self.rejects.writes else None
        except IngestionError as error:
            self.rejects_trouble = self.rejects_trouble or error.reason
        self.saved.add(
            Place(
                self.destination.milestone(),
                self.saved.ended,
                self._state,
                self._position(),
                self._read_bytes(),
                self.counts.copy(),
                rejects_bytes,
            )
        )

    def _at_place(self) -> int:
        """Return the accepted events at the present place; within the sending of a step it is fewer than by now."""
        return self.counts.read - self.counts.refused

    def _report_if_due(self, now_s: float) -> None:
        if self._report is not None and self._reporting.is_due(now_s):
            if self.following is not None:
                self.progressed = self.following.look()
            self._report(self.progress())

    def progress(self) -> IngestionProgress:
        """Return the progress of this moment."""
        counts, before = self.counts, self._before
        state = self._state
        obstacle = ""
        if self.following is not None and (self._refused_for or state is None):
            obstacle = self.following.obstacle(self._refused_for)
        return IngestionProgress(
            source=state.path if state is not None else "",
            number=self._position().number if state is not None else 0,
            done_bytes=self._done_bytes + self._read_bytes(),
            resumed_bytes=self._resumed_bytes,
            size_bytes=self._size_bytes,
            read=counts.read - before.read,
            accepted=counts.accepted - before.accepted - self._already,
            delivered=self.progressed.delivered,
            failed=self.progressed.failed,
            refused=counts.refused - before.refused,
            seconds=self._clock.monotonic_s() - self._started_s,
            obstacle=obstacle,
        )

    def hand_over(self, timeout_s: float = float("inf")) -> Iterator[float]:
        """Wait until the ring is drained of what it accepted, and store the checkpoint.

        Raises the error of a flush that cannot end, after the checkpoint is stored.
        """
        self._add_place()
        deadline_s = self._clock.monotonic_s() + timeout_s
        flush = self.destination.flush("queued")
        try:
            while not (_is_over(flush) and self.saved.is_certain) and self._clock.monotonic_s() < deadline_s:
                now_s = self._clock.monotonic_s()
                self.saved.look(now_s=now_s)
                self._report_if_due(now_s)
                yield END_WAIT_S
        finally:
            self.save()

    def save(self) -> None:
        """Store what is certain now."""
        self.saved.look(now_s=float("-inf"))
        self.saved.save()

    def finish(self) -> None:
        """Store that everything was read and handed over."""
        found = self.saved.checkpoint
        found.is_finished = self.saved.is_certain and all(state.is_done for state in found.sources)
        self.saved.save()

    def await_delivery(self) -> Iterator[float]:
        """Wait until everything is delivered or failed."""
        following = self.following
        if following is None:
            return
        destination = self.destination
        flush = None
        if isinstance(destination, RingDestination) and not destination.is_own:
            flush = destination.flush("delivered")  # the account of a shared pipe may never come to rest
        while True:
            self.progressed = following.look()
            if _is_over(flush) if flush is not None else not self.progressed.under_way:
                self.progressed = following.look()
                return
            self._report_if_due(self._clock.monotonic_s())
            yield FOLLOW_WAIT_S

    def result(self, *, complete: bool) -> Ingested:
        """Return what became of the records of this run."""
        if self.following is not None:
            self.progressed = self.following.look()
        counts, before = self.counts, self._before
        accepted = counts.accepted - before.accepted - self._already
        delivered = self.progressed.delivered
        rejects = {name: kind.count for name, kind in self.rejects.kinds.items()}
        if self._dropped:
            rejects[DROPPED] = self._dropped
        return Ingested(
            read=counts.read - before.read,
            accepted=accepted,
            already=self._already,
            delivered=accepted if self.following is None else delivered,
            failed=self.progressed.failed,
            refused=counts.refused - before.refused,
            rejects=rejects,
            warnings=tuple(self.warnings),
            seconds=round(self._clock.monotonic_s() - self._started_s, 3),
            resumed_from=self.resumed_from,
            complete=complete,
        )

    def close(self) -> None:
        """Close files and connections; the pipe is its owner's to release."""
        if self.following is not None:
            self.following.close()
        self._end_history()
        try:
            self.rejects.close()
        except IngestionError as error:
            self.rejects_trouble = self.rejects_trouble or error.reason


def _is_over(flush: Flush) -> bool:
    if flush.trouble is not None:
        raise flush.trouble
    return flush.poll().complete


def _index_of_event(made: Sequence[Encoded | Reject], number: int) -> int:
    """Return the index of the event after so many events."""
    indices = [index for index, each in enumerate(made) if type(each) is not Reject]
    return indices[number]


def _small_first(events: Sequence[Encoded]) -> Sequence[Encoded]:
    """Return the first events that may be appended together: a large one is appended alone."""
    if len(events[0]) > LARGE_BYTES:
        return events[:1]
    return events[: next((index for index, each in enumerate(events) if len(each) > LARGE_BYTES), len(events))]
