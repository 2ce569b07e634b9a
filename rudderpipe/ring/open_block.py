"""The block that a producer fills, with everything that an append needs of it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from rudderpipe.ring import layout as at
from rudderpipe.ring.claims import Claim
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring

NOTHING = memoryview(b"")
COMMA = bytes((at.COMMA,))


class OpenBlock:
    """A block, or a run of blocks, that its producer fills.

    A producer goes on to another block by one assignment, so that a signal handler finds either the one or the other.
    Without a block, ``limit`` is 0, and an append finds no room.
    """

    __slots__ = (
        "at",
        "base",
        "count",
        "count_at",
        "count_limit",
        "entries",
        "entry",
        "limit",
        "memory",
        "sequence",
        "words",
    )

    def __init__(self, base: int = 0, count_limit: int = 0) -> None:
        """Begin without a block, after ``base`` events of the slot and with credits for ``count_limit`` events."""
        self.base = base
        """Events that were appended in the slot before this block."""
        self.count = 0
        """Events in the block. COUNT in the ring is the same, except after an append that an exception interrupted."""
        self.count_limit = count_limit
        """How many events there may be in the block before more credits are needed."""
        self.at = 0
        """The next event's byte."""
        self.limit = 0
        """The block is full when ``at`` would pass this byte, less the end offsets."""
        self.sequence = 0
        """The block's tenure; 0 without a block."""
        self.count_at = 0
        """The index of COUNT."""
        self.entry = 0
        """The index of the first end offset; the others lie before it."""
        self.words = self.memory = self.entries = NOTHING

    def begin(self, ring: Ring, claim: Claim) -> None:
        """Begin with the claimed block."""
        self.words, self.memory, self.entries = ring.words, ring.segment.memory, ring.segment.entries
        self.sequence = claim.sequence
        self.count_at = claim.count_at
        self.at = claim.start
        self.entry = claim.end // at.ENTRY - 1
        self.limit = claim.end - at.ENTRY

    @property
    def end(self) -> int:
        """Events that were appended in the slot up to now."""
        return self.base + self.count

    def has_room(self, size: int) -> bool:
        """Return whether an event of so many bytes fits in."""
        return self.at + size + at.ENTRY * self.count < self.limit

    def ends_of(self, events: Sequence[bytes | bytearray]) -> list[int]:
        """Return the end offsets of those first events for which there are room and credits."""
        end, limit, ends = self.at, self.limit - at.ENTRY * self.count, []
        for data in events[: max(0, self.count_limit - self.count)]:
            end += len(data) + 1
            if end > limit:
                break
            limit -= at.ENTRY
            ends.append(end)
        return ends

    def put(self, events: Sequence[bytes | bytearray], ends: list[int]) -> None:
        """Put the events behind the others; ``ends`` has their end offsets, and COUNT does not show them yet."""
        count = self.count + len(ends)
        self.memory[self.at : ends[-1]] = COMMA.join((*events[: len(ends)], b""))
        self.entries[self.entry - count + 1 : self.entry - self.count + 1] = array(at.ENTRY_CODE, reversed(ends))
        # Order: last, without a call in between, so that an exception of a signal handler leaves all or nothing.
        self.at = ends[-1]
        self.count = count

    def store_count(self) -> None:
        """Store COUNT once more, because an exception may have interrupted an append before its last store."""
        if self.sequence:
            self.words[self.count_at] = self.count

    def seal(self) -> None:
        """Mark the block as one that gets no more events."""
        self.limit = 0  # Order: first, because no append may follow the seal
        self.store_count()
        if self.sequence:
            fence()  # Order: the count before the seal, because a sealed block's count is final
            self.words[self.count_at + at.B_SEALED - at.B_COUNT] = self.sequence
