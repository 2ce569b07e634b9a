"""Which events of a slot failed for good, for a producer that was asked to tell."""

from __future__ import annotations

import msgspec

from rudderpipe.ring import layout as at
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring


class Failure(msgspec.Struct, frozen=True):
    """Events ``first`` to ``end`` of a slot, counted from the slot's beginning."""

    slot: int
    first: int
    end: int


def record(ring: Ring, failure: Failure) -> None:
    """Only by the flusher, before it counts the events as having left."""
    words, number = ring.words, ring.words[at.H_FAILURES]
    place = at.FAILURES_AT + number % at.FAILURES * at.FAILURE_WORDS
    words[place], words[place + 1], words[place + 2] = failure.slot, failure.first, failure.end
    fence()
    at.bump(words, at.H_FAILURES)


def oldest(ring: Ring) -> int:
    """From where on all of them are still there."""
    return max(0, written(ring) - at.FAILURES + 1)


def written(ring: Ring) -> int:
    """How many there ever were."""
    return int(ring.words[at.H_FAILURES])


def since(ring: Ring, number: int) -> tuple[list[Failure], int, bool]:
    """Those written after the first ``number``, how many there are now, and whether none has been overwritten."""
    words, end = ring.words, written(ring)
    first = max(number, end - at.FAILURES)
    found = []
    for each in range(first, end):
        place = at.FAILURES_AT + each % at.FAILURES * at.FAILURE_WORDS
        found.append(Failure(words[place], words[place + 1], words[place + 2]))
    fence()
    return found, end, written(ring) - number < at.FAILURES
