"""The events that the flusher has read and that are not yet in every queue, by queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Raw

from rudderpipe.flusher import lanes
from rudderpipe.ring.consumer import Batch

Offsets = dict[int, int]
"""For each tenure of a block, an offset: what has been done with every event below it."""


class Event(NamedTuple):
    """An event, its offset in a tenure of a block, and the hash of its user."""

    tenure: int
    offset: int
    user: int
    data: Raw


class Entry(NamedTuple):
    """A batch, and for each queue the events that must go there."""

    batch: Batch
    parts: list[list[Event]]


class Plan(NamedTuple):
    """What one queue must get next: events, and the offsets from and to that cover them in each tenure.

    ``end`` is the number of the first batch of the window that is not covered.
    """

    events: list[Event]
    marks: dict[int, tuple[int, int]]
    end: int


class Window:
    """Batches in the order of the ring. A number counts them from the first one that the window ever had."""

    def __init__(self, queues: int, former: Sequence[Sequence[Offsets]]) -> None:
        """``former`` are the final offsets of the queues of each earlier generation: what these have, stays there."""
        self._queues = queues
        self._former = former
        self.first = 0
        """The number of the first batch that has not left."""
        self.entries: list[Entry] = []

    @property
    def end(self) -> int:
        """The number behind the last batch."""
        return self.first + len(self.entries)

    def begins(self, batches: Sequence[Batch]) -> bool:
        """Return True if these batches begin with the window's, so that only the others are new."""
        entries = self.entries
        if not entries:
            return True
        return (
            len(entries) <= len(batches)
            and entries[0].batch is batches[0]
            and entries[-1].batch is batches[len(entries) - 1]
        )

    def add(self, batch: Batch, events: Sequence[Raw]) -> None:
        """Add the next batch, whose events these are."""
        parts: list[list[Event]] = [[] for _ in range(self._queues)]
        pairs = zip(lanes.users_of(events), events, strict=True)
        for each in batch.ranges:
            former = [
                finals
                for finals in ([offsets.get(each.sequence, 0) for offsets in queues] for queues in self._former)
                if max(finals) > each.start
            ]
            for offset, (user, event) in zip(range(each.start, each.end), pairs, strict=False):
                if not any(offset < finals[user % len(finals)] for finals in former):
                    parts[user % self._queues].append(Event(each.sequence, offset, user, event))
        self.entries.append(Entry(batch, parts))

    def plan(self, queue: int, begin: int, known: Offsets, max_events: int, max_bytes: int) -> Plan:
        """Return what a queue must get from the batch ``begin`` on, except what is below the known offsets."""
        events: list[Event] = []
        ends: Offsets = {}
        size, end = 0, begin
        for batch, parts in self.entries[begin - self.first :]:
            part = [event for event in parts[queue] if event.offset >= known.get(event.tenure, 0)]
            size += sum(len(memoryview(event.data)) for event in part)
            if events and part and (len(events) + len(part) > max_events or size > max_bytes):
                break
            events += part
            ends.update((each.sequence, each.end) for each in batch.ranges)
            end += 1
        tenures = dict.fromkeys(event.tenure for event in events)
        return Plan(events, {tenure: (known.get(tenure, 0), ends[tenure]) for tenure in tenures}, end)

    def leave(self, end: int) -> None:
        """Remove the batches before this number."""
        del self.entries[: end - self.first]
        self.first = max(self.first, end)
