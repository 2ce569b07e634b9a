"""The events that the flusher has read and that are not yet in every queue, by queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Raw

from rudderpipe.flusher import lanes
from rudderpipe.flusher.queue_sink import decoded
from rudderpipe.ring.consumer import Batch

Offsets = dict[int, int]
"""For each tenure of a block, an offset: what has been done with every event below it."""


def is_in(offsets: Offsets, places: Iterable[tuple[int, int]]) -> bool:
    """Return True if one of these places, each a tenure and an offset, is below the offsets."""
    return any(offset < offsets.get(tenure, 0) for tenure, offset in places)


class Entry(NamedTuple):
    """A batch, its events with the hash of each one's user, and for each queue the numbers of its events in the batch.

    Lists of numbers and no object for each event, because the flusher makes them of every event.
    """

    batch: Batch
    events: Sequence[Raw]
    users: Sequence[int]
    parts: list[list[int]]


class Plan(NamedTuple):
    """What one queue must get next: events, and the offsets from and to that cover them in each tenure.

    ``users`` are the hashes of the events' users. ``end`` is the number of the first batch of the window that is not
    covered.
    """

    events: list[Raw]
    users: list[int]
    marks: dict[int, tuple[int, int]]
    end: int


class Window:
    """Batches in the order of the ring. A number counts them from the first one that the window ever had."""

    def __init__(self, queues: int, former: Sequence[Sequence[Offsets]], spilled: Offsets) -> None:
        """``former`` are the final offsets of the queues of each earlier generation: what these have, stays there.

        What is below the offsets ``spilled`` is in the spill.
        """
        self._queues = queues
        self._former = former
        self._spilled = spilled
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

    def enter(self, batches: Sequence[Batch]) -> None:
        """Add those of these batches that the window lacks, up to the first damaged one. It has the first of them."""
        for batch in batches[len(self.entries) :]:
            events = decoded(batch)
            if not events:
                break
            self.add(batch, events)

    def add(self, batch: Batch, events: Sequence[Raw]) -> None:
        """Add the next batch, whose events these are."""
        users, queues = lanes.users_of(events), self._queues
        numbers: Sequence[int] = range(len(users))
        former = self._former_of(batch)
        if former or any(self._spilled.get(each.sequence, 0) > each.start for each in batch.ranges):
            places = places_of(batch)
            numbers = [
                number
                for number in numbers
                if not is_in(self._spilled, [places[number]])
                and not any(is_in(finals[users[number] % len(finals)], [places[number]]) for finals in former)
            ]
        parts: list[list[int]] = [[] for _ in range(queues)]
        for number in numbers:
            parts[users[number] % queues].append(number)
        self.entries.append(Entry(batch, events, users, parts))

    def _former_of(self, batch: Batch) -> list[Sequence[Offsets]]:
        """Return the final offsets of the earlier generations that may have events of the batch."""
        return [
            finals
            for finals in self._former
            if any(offsets.get(each.sequence, 0) > each.start for each in batch.ranges for offsets in finals)
        ]

    def plan(self, queue: int, begin: int, known: Offsets, max_events: int, max_bytes: int) -> Plan:
        """Return what a queue must get from the batch ``begin`` on, except what is below the known offsets."""
        events: list[Raw] = []
        users: list[int] = []
        tenures: set[int] = set()
        ends: Offsets = {}
        size, end = 0, begin
        for batch, all_events, all_users, parts in self.entries[begin - self.first :]:
            part = parts[queue]
            if any(known.get(each.sequence, 0) > each.start for each in batch.ranges):
                places = places_of(batch)
                part = [number for number in part if places[number][1] >= known.get(places[number][0], 0)]
            if part:
                more = [all_events[number] for number in part]
                size += len(b",".join(more))
                if events and (len(events) + len(more) > max_events or size > max_bytes):
                    break
                events += more
                users += [all_users[number] for number in part]
                tenures.update(each.sequence for each in batch.ranges if each.end > known.get(each.sequence, 0))
            ends.update((each.sequence, each.end) for each in batch.ranges)
            end += 1
        return Plan(events, users, {tenure: (known.get(tenure, 0), ends[tenure]) for tenure in tenures}, end)

    def leave(self, end: int) -> int:
        """Remove the batches before this number. Return how many they are."""
        count = max(0, end - self.first)
        del self.entries[:count]
        self.first += count
        return count


def places_of(batch: Batch) -> list[tuple[int, int]]:
    """Return the tenure and the offset of each event of a batch."""
    return [(each.sequence, offset) for each in batch.ranges for offset in range(each.start, each.end)]
