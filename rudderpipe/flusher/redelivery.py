"""The redelivery of dead letters that were tried too often: they are sent again once the data plane is back."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from rudderpipe import log_text
from rudderpipe.delivery import dispatcher
from rudderpipe.delivery.attempts import AttemptCounts
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Decision, Dispatcher
from rudderpipe.flusher.dead_letters import DeadLetters, Record
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.ring import layout as at
from rudderpipe.ring import location, memory
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings

PROBE_S = 60.0
"""The pause after a dead letter could not be delivered, and the interval in which new ones are looked for."""
AT_ONCE = 50
"""How many files share a request at most, because each of them is open and locked meanwhile."""
logger = log_text.logger("rudderpipe.flusher")


class _Part(NamedTuple):
    """Events of a file that are sent together: all of them, until they are split."""

    name: str
    record: Record


class Redelivery:
    """The one redelivery of a flusher process, and the store of its dispatcher.

    ``work`` sends at most one request, so that fresh events and dead letters take turns. The oldest are sent first, one
    batch at a time until a batch is delivered, then as many as share a request. The other methods must not be called
    while a flusher of one of the rings may have stored a dead letter that it has not counted.

    **What is written, in this order.** The file is replaced by one without the delivered events, which notes the count
    of recovered events to come. Then that count is stored in the ring, and a file without events is removed. A flusher
    that is killed in between leaves the note, and ``enter`` stores the count. So an event is sent twice only if a
    flusher is killed between the response and the note.
    """

    def __init__(self, settings: Settings, plane: DataPlane, dead_letters: DeadLetters, clock: Clock) -> None:
        self.plane = plane
        self.dead_letters = dead_letters
        self.attempts = AttemptCounts()
        """The attempts of this process, also those with fresh events."""
        self.lost_events = 0
        """Events that failed and could not be kept as dead letters."""
        self._settings = settings
        self._clock = clock
        self._dispatcher = Dispatcher(plane, settings, clock)
        self._log = ThrottledLog(logger, clock, PROBE_S)
        self._rings: dict[int, Ring] = {}
        self._names: deque[str] = deque()
        """The files that are still to be tried, in this order."""
        self._left_alone: set[str] = set()
        """Files that could not be written after some of their events had come to their end."""
        self._cuts: dict[str, list[int]] = {}
        """The numbers of events of each part of a file that was split."""
        self._files: dict[str, Record] = {}
        self._offered: list[_Part] = []
        self._knows_all_rings = False
        self._plane_is_away = False
        self._not_before_s = float("-inf")
        self.is_busy = False
        """True while batches are being delivered, one request after the other."""

    def enter(self, ring: Ring) -> None:
        """Count what is delivered for this ring, and what a killed flusher delivered and did not count."""
        epoch, words = ring.segment.epoch, ring.words
        self._rings[epoch] = ring
        words[at.H_RECOVERED] = max(words[at.H_RECOVERED], self.dead_letters.recovered(epoch))

    def leave(self, epoch: int) -> None:
        """Forget a ring that is not served any more."""
        self._rings.pop(epoch, None)

    def plane_failed(self) -> None:
        """Note that a fresh batch could not be delivered."""
        self._plane_is_away = True

    def plane_delivered(self) -> None:
        """Note that a fresh batch was delivered; if the data plane had been away, begin at once."""
        if self._plane_is_away:
            self._plane_is_away = False
            self._not_before_s = float("-inf")

    def work(self) -> int:
        """Send one request with the oldest dead letters, if they are due. Return how many events came to their end."""
        if self._clock.monotonic_s() < self._not_before_s:
            return 0
        try:
            with ExitStack() as held:
                self._offered = self._next_parts(held)
                if not self._offered:
                    return self._pause()
                batches = [self._batch_of(part.record) for part in self._offered]
                return self._dispatcher.run(batches, self, self.attempts.note)
        except (OSError, MemoryError) as error:
            self._log.error("host", "dead letters cannot be sent again now, trying later error=%s", error)
            return self._pause()

    def _next_parts(self, held: ExitStack) -> list[_Part]:
        """Return the parts that may share the next request, and hold their files."""
        if not self._names:
            names = self.dead_letters.names_again()
            self._names.extend(name for name in names if name not in self._left_alone)
            self._knows_all_rings = self._serves_all_rings()
            self._cuts.clear()
        at_most = AT_ONCE if self.is_busy else 1
        parts: list[_Part] = []
        self._files.clear()
        size_bytes = 0
        while len(self._files) < min(at_most, len(self._names)) and size_bytes < self._settings.max_request_bytes:
            name = self._names[len(self._files)]
            record = self.dead_letters.read(name) if held.enter_context(self.dead_letters.held(name)) else None
            if record is None or not record.events or not self._may_send(record):
                if record is not None and not record.events:
                    self.dead_letters.remove(name)  # a flusher was killed after it had noted the delivery
                self._names.remove(name)
                continue
            self._files[name] = record
            parts += self._parts_of(name, record)
            size_bytes += sum(len(bytes(event)) for event in record.events)
        return parts

    def _may_send(self, record: Record) -> bool:
        """Return False while a ring may not have counted the failure yet, because it would send the events again."""
        return record.is_whole and (record.epoch in self._rings or (record.epoch is not None and self._knows_all_rings))

    def _serves_all_rings(self) -> bool:
        served = {ring.segment.name for ring in self._rings.values()}
        others = (where.segment for where in location.of_pipe(self._settings) if where.segment not in served)
        return all(memory.attach(segment, removes=False) is None for segment in others)

    def _parts_of(self, name: str, record: Record) -> list[_Part]:
        counts = self._cuts.get(name, [])
        if sum(counts) != len(record.events):
            counts = [len(record.events)]
        starts = [sum(counts[:number]) for number in range(len(counts))]
        return [_Part(name, record.part(start, count)) for start, count in zip(starts, counts, strict=True)]

    def _batch_of(self, record: Record) -> dispatcher.Batch:
        size_bytes = sum(len(bytes(event)) + 1 for event in record.events)
        return dispatcher.Batch(record.events, size_bytes, self._settings.current_write_key)

    def delivered(self, decision: Decision) -> int:
        """Note the parts as delivered, and count them."""
        self.is_busy = True
        events = sum(self._settle(part, delivered=True) for part in self._offered[: decision.count])
        self.attempts.delivered_events += events
        logger.info("dead letters were delivered events=%d", events)
        return events

    def retry(self, decision: Decision) -> int:
        """Try other files first, after a pause."""
        said = "dead letters are kept, because they cannot be delivered yet, trying later next_in_s=%g error=%s"
        self._log.warning("retry", said, max(PROBE_S, decision.wait_s), decision.outcome.reason)
        tried = dict.fromkeys(part.name for part in self._offered[: decision.count])
        for name in tried:
            self._names.remove(name)
        self._names.extend(tried)
        self._dispatcher.forget()
        return self._pause(decision.wait_s)

    blocked = stopped = retry

    def failed(self, decision: Decision) -> int:
        """Keep the first part as refused; keep it as it is if the data plane has not refused it."""
        if decision.outcome.kind == "retry":
            return self.retry(decision)
        part = self._offered[0]
        # Order: stored before it is taken out of its file, so that it is in both after a kill, and in none never.
        self.dead_letters.refuse(part.record, decision.reason)
        events = self._settle(part, delivered=False)
        said = "a dead letter was refused and is not sent again, see rudderpipe failed events=%d reason=%s"
        logger.error(said, events, decision.reason)
        return events

    def split(self, decision: Decision) -> int:  # noqa: ARG002  # every store has the same methods
        """Make two parts of the first one."""
        name, record = self._offered[0]
        counts = [len(part.record.events) for part in self._offered if part.name == name]
        half = len(record.events) // 2
        self._cuts[name] = [half, counts[0] - half, *counts[1:]]
        return 0

    def fewer(self, decision: Decision) -> int:  # noqa: ARG002  # as above
        """Do nothing, because the next request has fewer parts."""
        return 0

    def _settle(self, part: _Part, *, delivered: bool) -> int:
        """Take a part, which is the first of its file, out of the file. Return how many events it had."""
        name, count = part.name, len(part.record.events)
        file = self._files[name]
        rest = file.part(count, len(file.events) - count)
        ring = self._rings.get(file.epoch or 0) if delivered else None
        if ring is not None:
            rest = msgspec.structs.replace(rest, recovered=ring.words[at.H_RECOVERED] + count)
        try:
            self.dead_letters.replace(name, rest)
        except OSError as error:
            if rest.events:
                self._leave_alone(name, error)
                return count
        if ring is not None:
            ring.words[at.H_RECOVERED] = rest.recovered
        self._files[name] = rest
        if name in self._cuts:
            del self._cuts[name][0]
        if not rest.events:
            self._cuts.pop(name, None)
            self._names.remove(name)
            self.dead_letters.remove(name)
        return count

    def _leave_alone(self, name: str, error: OSError) -> None:
        """Do not send a file again in this process, because some of its events came to their end already."""
        said = "a dead letter cannot be written, the next flusher sends all of its events again error=%s path=%s"
        self._log.error("file", said, error.strerror, self.dead_letters.path / name)
        self._left_alone.add(name)
        self._names.remove(name)

    def _pause(self, at_least_s: float = 0.0) -> int:
        self.is_busy = False
        self._not_before_s = self._clock.monotonic_s() + max(PROBE_S, at_least_s)
        return 0
