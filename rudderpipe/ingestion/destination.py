"""Where the events of an ingestion go: into a ring with back-pressure, to another transport, or nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rudderpipe.errors import EventRefused, RingUnavailable, RudderpipeError
from rudderpipe.process.clock import Clock
from rudderpipe.ring import counters
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring
from rudderpipe.transports.base import Encoded, Transport
from rudderpipe.transports.flush import Flush, Until
from rudderpipe.transports.ring import Pipe

ENTER_TRIES = 20
ENTER_S = 0.25


class Milestone(Protocol):
    """A moment of an ingestion, to ask later whether all events before it have left the ring."""

    epoch: int
    accepted: int
    """How many events the ring of ``epoch`` had accepted at this moment."""

    def is_behind(self) -> bool:
        """Return whether all events before it are in Redis, or in direct mode delivered or failed."""


class Destination(Protocol):
    """The destination of an ingestion's events."""

    trouble: str
    """Why ``append`` took nothing."""

    def open(self) -> None:
        """Prepare for the first event. Raises ``RingUnavailable``."""

    def append(self, events: Sequence[Encoded]) -> tuple[int, RudderpipeError | None]:
        """Take the first of several events, and return how many; 0 means: try again later.

        With an error, the event behind those can never be taken. Raises ``RingUnavailable``, and ``EventRefused`` after
        a shutdown.
        """

    def milestone(self) -> Milestone:
        """Return the present moment."""

    def already(self, epoch: int, accepted: int) -> int:
        """Return how many events the ring of ``epoch`` has accepted since a milestone; 0 for another ring."""

    def flush(self, until: Until) -> Flush:
        """Begin to flush."""


class RingMilestone:
    """A moment by the events that each slot of a ring had accepted."""

    def __init__(self, producer: Producer, ring: Ring) -> None:
        self._producer = producer
        self._set(ring)

    def _set(self, ring: Ring) -> None:
        self._ring = ring
        self._targets = counters.accepted_by_slot(ring)
        self.epoch = ring.segment.epoch
        self.accepted = sum(self._targets.values())

    def is_behind(self) -> bool:
        """Return whether all events before it have left the ring."""
        drained = counters.drained_by_slot(self._ring)
        if any(target > drained.get(slot, 0) for slot, target in self._targets.items()):
            return False
        ring = self._producer.ring
        if ring is None or ring is self._ring:
            return True
        # The ring was removed. Its last events may have been moved, to a place ahead of all later ones in this ring.
        self._set(ring)
        return False


class RingDestination:
    """The ring of a pipe, which refuses no event for want of room.

    ``is_own`` is True if no other process and no other call puts events into the pipe.
    """

    def __init__(self, pipe: Pipe, clock: Clock, *, is_own: bool) -> None:
        self.pipe = pipe
        self.is_own = is_own
        self._clock = clock
        self.trouble = ""

    @property
    def ring(self) -> Ring:
        """The ring in use; only after ``open``."""
        ring = self.pipe.producer.ring
        if ring is None:
            raise self.pipe.producer.trouble or RingUnavailable("ring", "was given up")
        return ring

    def open(self) -> None:
        """Enter the ring, and start its flusher. Raises ``RingUnavailable``."""
        producer = self.pipe.producer
        for _ in range(ENTER_TRIES):
            self.pipe.warm_up()
            if producer.slot.is_taken:
                return
            if producer.trouble is not None:
                raise RingUnavailable(*producer.trouble.args)
            self._clock.sleep(ENTER_S)
        raise RingUnavailable("ring", "cannot be entered, because another process holds its claim lock")

    def append(self, events: Sequence[Encoded]) -> tuple[int, RudderpipeError | None]:
        """Append the first events; the flusher is looked after meanwhile, as in every append."""
        producer = self.pipe.producer
        number, reason = producer.append_chunk(events)
        if reason is not None:
            self.trouble = reason
            if reason == "closed":
                raise EventRefused(reason)
            if reason == "ring" and producer.trouble is not None:
                raise RingUnavailable(*producer.trouble.args)
        return number, None

    def milestone(self) -> RingMilestone:
        """Return the present moment."""
        return RingMilestone(self.pipe.producer, self.ring)

    def already(self, epoch: int, accepted: int) -> int:
        """Return how many events the ring has accepted since a milestone, if it is that ring and ours alone."""
        ring = self.ring
        if not self.is_own or ring.segment.epoch != epoch:
            return 0
        return max(0, sum(counters.accepted_by_slot(ring).values()) - accepted)

    def flush(self, until: Until) -> Flush:
        """Make the flusher drain the ring."""
        return self.pipe.flush(until)


class _Done:
    epoch = accepted = 0

    def is_behind(self) -> bool:
        return True


class TransportDestination:
    """A transport without a ring, which takes or refuses each event at once."""

    trouble = ""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def open(self) -> None:
        """Do nothing."""

    def append(self, events: Sequence[Encoded]) -> tuple[int, RudderpipeError | None]:
        """Take one event, or return the error with which it was refused."""
        error = self._transport.put(events[0])
        return int(error is None), error

    def milestone(self) -> _Done:
        """Return a moment before which nothing is under way."""
        return _Done()

    def already(self, epoch: int, accepted: int) -> int:  # noqa: ARG002  # there is no ring
        """Return 0."""
        return 0

    def flush(self, until: Until) -> Flush:
        """Begin to flush the transport."""
        return self._transport.flush(until)
