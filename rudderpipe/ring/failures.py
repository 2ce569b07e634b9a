"""Ranges of a slot's events that failed for good, for producers that report what became of their events."""

from __future__ import annotations

import msgspec

from rudderpipe.ring import layout as at
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring


class Failure(msgspec.Struct, frozen=True):
    """Events ``first`` to ``end`` of a slot, counted from the slot's first event."""

    slot: int
    first: int
    end: int


def record(ring: Ring, failure: Failure) -> None:
    """Store a failure. Only the flusher calls it, before it counts the events as having left."""
    words, number = ring.words, ring.words[at.H_FAILURES]
    place = at.FAILURES_AT + number % at.FAILURES * at.FAILURE_WORDS
    words[place], words[place + 1], words[place + 2] = failure.slot, failure.first, failure.end
    fence()  # Order: the failure before the number that publishes it
    at.bump(words, at.H_FAILURES)


def oldest(ring: Ring) -> int:
    """Return the number of the first failure from which on all are still stored."""
    return max(0, written(ring) - at.FAILURES + 1)


def written(ring: Ring) -> int:
    """Return how many failures were ever stored."""
    return int(ring.words[at.H_FAILURES])


def since(ring: Ring, number: int) -> tuple[list[Failure], int, bool]:
    """Return the failures after the first ``number``, how many there are now, and whether none was overwritten."""
    words, end = ring.words, written(ring)
    first = max(number, end - at.FAILURES)
    found = []
    for each in range(first, end):
        place = at.FAILURES_AT + each % at.FAILURES * at.FAILURE_WORDS
        found.append(Failure(words[place], words[place + 1], words[place + 2]))
    fence()  # Order: load the failures before the number that says whether they were overwritten
    return found, end, written(ring) - number < at.FAILURES
