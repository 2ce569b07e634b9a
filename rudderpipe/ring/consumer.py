"""The flusher's side of the ring: find published events, take them in order as batches, release them.

``docs/ring.md``, "A drain" and "The order of stores", says why each store has its place.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from rudderpipe.process.clock import Clock
from rudderpipe.ring import block_header, commit, failures, reasons
from rudderpipe.ring import layout as at
from rudderpipe.ring.failures import Failure
from rudderpipe.ring.fence import fence
from rudderpipe.ring.layout import END_BITS
from rudderpipe.ring.reasons import Reason
from rudderpipe.ring.ring import Ring

DAMAGED = "damaged in shared memory"
"""The reason of corrupt events."""


class OffsetRange(msgspec.Struct, frozen=True):
    """Offsets of events: ``start`` to ``end`` of one tenure of a block."""

    sequence: int
    start: int
    end: int


class Batch(msgspec.Struct, frozen=True):
    """A batch: the JSON of events taken from the ring, with commas in between, and the offsets where they were."""

    data: bytes
    count: int
    ranges: tuple[OffsetRange, ...]


class _Block:
    """One tenure of a block that is not free, and how far it has been taken and read."""

    __slots__ = (
        "base",
        "count_at",
        "entry",
        "index",
        "limit",
        "most",
        "offset",
        "read",
        "run",
        "sequence",
        "slot",
        "start",
        "taken",
    )

    def __init__(self, ring: Ring, sequence: int, index: int) -> None:
        words, layout = ring.words, ring.layout
        header, entry_bytes = block_header.read(words, layout, index), layout.format.entry_bytes
        self.index = index
        self.sequence = sequence
        self.count_at = layout.block(index) + at.B_COUNT
        self.slot = header.slot
        self.base = header.base
        self.start = layout.start(index)
        self.run = min(max(1, header.run), layout.blocks - index)
        self.limit = self.start + self.run * at.BLOCK_BYTES
        self.most = self.run * at.BLOCK_BYTES // (entry_bytes + 1)
        self.entry = self.limit // entry_bytes - 1
        word = words[layout.read + index]
        self.read = word & ((1 << at.READ_BITS) - 1) if word >> at.READ_BITS == sequence else 0
        self.read = min(self.read, self.most)
        self.taken = self.read
        self.offset = self.start

    def count(self, words: memoryview) -> int:
        """Return how many events are published; a damaged count is no larger than what a block can hold."""
        return min(int(words[self.count_at]), self.most)


class _Damaged(Exception):
    """Raised when a block's end offsets cannot be true."""


class Consumer:
    """The reader of one flusher.

    ``batch`` hands out events without releasing them. A call of ``release`` or ``rewind`` must follow.
    """

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self._blocks: dict[int, _Block] = {}
        self._following: int | None = None
        """NEXT at the last look; None before the first."""
        self._looks = 0
        self.refresh()
        for block in self._blocks.values():
            if block.read:
                self._store(block, block.read)  # the flusher before may have died between READ and DRAINED
        commit.finish(self.ring)

    def refresh(self, *, whole: bool = False) -> None:
        """Find blocks that were claimed, forget those that are free again; ``whole`` looks even if none was claimed.

        A claim moves NEXT before its block can be seen, so a move of NEXT causes two looks. If a claimer stops in
        between, or dies and leaves orphans, the next whole look finds that.
        """
        following = self.ring.words[at.H_NEXT]
        if following != self._following:
            self._following, self._looks = following, 2
        if not (self._looks or whole):
            return
        self._looks = max(0, self._looks - 1)
        found = self.ring.blocks_in_use()
        words, layout = self.ring.words, self.ring.layout
        blocks = {}
        for sequence, index in found:
            if sequence >= at.SEQUENCE_END:
                words[layout.released + index] = sequence  # a damaged word: no claim gets so far
                continue
            known = self._blocks.get(sequence)
            if known is not None and known.index == index:
                blocks[sequence] = known
                continue
            head = block_header.read(words, layout, index).head
            if head:
                if not self._is_member(sequence, head - 1):
                    self._release_orphan(sequence, index)
                continue
            blocks[sequence] = self._begin(sequence, index)
        if any(sequence not in blocks for sequence in self._blocks):
            self._keep_unreleased(blocks)
            blocks = dict(sorted(blocks.items()))
        self._blocks = blocks

    def _keep_unreleased(self, blocks: dict[int, _Block]) -> None:
        """Put back tenures that ended only by a damaged word, because ``tidy`` alone ends a tenure."""
        words, layout = self.ring.words, self.ring.layout
        for sequence, block in self._blocks.items():
            if sequence not in blocks and block_header.tenure(words, layout, block.index) == sequence:
                words[layout.released + block.index] = 0
                blocks[sequence] = block

    def _begin(self, sequence: int, index: int) -> _Block:
        block = _Block(self.ring, sequence, index)
        self._seek(block)
        return block

    def _is_member(self, sequence: int, head: int) -> bool:
        words, layout = self.ring.words, self.ring.layout
        return (
            head < layout.blocks
            and block_header.tenure(words, layout, head) == sequence
            and words[layout.released + head] != sequence
        )

    def _release_orphan(self, sequence: int, index: int) -> None:
        ring = self.ring
        try:
            if not ring.locks.lock(at.LOCK_CLAIM, 0.001):  # Only under it: a run whose claim is under way is no orphan
                return
            head = block_header.read(ring.words, ring.layout, index).head
            if block_header.tenure(ring.words, ring.layout, index) == sequence and not self._is_member(
                sequence, head - 1
            ):
                ring.words[ring.layout.released + index] = sequence
        finally:
            ring.locks.release(at.LOCK_CLAIM)

    def pending(self) -> tuple[int, int]:
        """Return how many events are published and not yet handed out, and about how many bytes they have."""
        words, entries = self.ring.words, self.ring.segment.entries
        events = size = 0
        for block in self._blocks.values():
            count = block.count(words)
            if count > block.taken:
                events += count - block.taken
                size += max(0, (entries[block.entry - count + 1] & END_BITS) - block.offset)
        return events, size

    def free_blocks(self) -> int:
        """Return about how many blocks are free."""
        return self.ring.layout.blocks - sum(block.run for block in self._blocks.values())

    def next_batch(self, max_events: int, max_bytes: int) -> Batch | None:
        """Return the oldest events as one batch, as many as fit and at least one; None if there are none.

        Blocks are read in the order of their claims, so the events of a thread stay in order.
        """
        parts: list[memoryview] = []
        ranges: list[OffsetRange] = []
        count = size = 0
        words, memory = self.ring.words, self.ring.segment.memory
        for block in self._blocks.values():
            wanted = min(block.count(words) - block.taken, max_events - count)
            if wanted <= 0:
                continue
            fence()  # Order: load the count before the events, because their producer stores them first
            try:
                there = self._fitting(block, wanted, max_bytes - size)
                if not there and count:
                    break
                there = max(1, there)
                end = self._end(block, there)
            except _Damaged:
                self._pass_over(block)
                continue
            parts.append(memory[block.offset : end])
            ranges.append(OffsetRange(block.sequence, block.taken, block.taken + there))
            size += end - block.offset
            count += there
            block.taken += there
            block.offset = end
            if there < wanted or count >= max_events:
                break  # a smaller event of a later block must not overtake the one that did not fit
        if not count:
            return None
        data = b"".join(parts)
        return Batch(data[:-1], count, tuple(ranges))

    def _fitting(self, block: _Block, there: int, room: int) -> int:
        """Return how many of the block's next ``there`` events fit into ``room`` bytes. Raises ``_Damaged``."""
        room += block.offset + 1  # the last comma is not sent
        if self._end(block, there) <= room:
            return there
        low, high = 0, there
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(block, middle) <= room:
                low = middle
            else:
                high = middle
        return low

    def _offset(self, block: _Block, there: int) -> int:
        """Return the byte where the next ``there`` events end, as the block says."""
        end: int = self.ring.segment.entries[block.entry - block.taken - there + 1] & END_BITS
        return end

    def _end(self, block: _Block, there: int) -> int:
        """Return the byte where the next ``there`` events end. Raises ``_Damaged`` if that cannot be."""
        end = self._offset(block, there)
        if not block.offset < end <= block.limit:
            raise _Damaged
        return end

    def _pass_over(self, block: _Block) -> None:
        """Count the events that a damaged block claims to hold as corrupt, and go on with the next block."""
        block.taken = block.count(self.ring.words)
        self._commit(at.H_CORRUPT, {block.sequence: block.taken})

    def _seek(self, block: _Block) -> None:
        entries = self.ring.segment.entries
        block.offset = entries[block.entry - block.taken + 1] & END_BITS if block.taken else block.start

    def release(self, batches: Iterable[Batch], counter: int = at.H_QUEUED) -> int:
        """Give back the room of these events, because the sink has them for good; return how many they were.

        ``counter`` is the word of the header under which they are counted.
        """
        self._commit(counter, {mark.sequence: mark.end for batch in batches for mark in batch.ranges})
        return sum(batch.count for batch in batches)

    def rewind(self) -> None:
        """Hand out again what was handed out since the last release, because the sink has none of it."""
        for block in self._blocks.values():
            block.taken = block.read
            self._seek(block)

    def halves(self, batch: Batch) -> tuple[Batch, Batch]:
        """Split a batch into two. Only for one that holds two or more events, and is not released.

        Damaged offsets make halves that are no JSON, but never more or fewer events.
        """
        half = batch.count // 2
        left, size = half, 0
        ranges: tuple[list[OffsetRange], list[OffsetRange]] = ([], [])
        for mark in batch.ranges:
            middle = min(mark.start + left, mark.end)
            left -= middle - mark.start
            if middle > mark.start:
                ranges[0].append(OffsetRange(mark.sequence, mark.start, middle))
                size += self._size_bytes(mark.sequence, mark.start, middle)
            if middle < mark.end:
                ranges[1].append(OffsetRange(mark.sequence, middle, mark.end))
        size = min(max(1, size), len(batch.data))
        return Batch(batch.data[: size - 1], half, tuple(ranges[0])), Batch(
            batch.data[size:], batch.count - half, tuple(ranges[1])
        )

    def _size_bytes(self, sequence: int, start: int, end: int) -> int:
        """Return the bytes of some events of a tenure, commas included; 0 if a damaged word hid the block."""
        block, entries = self._blocks.get(sequence), self.ring.segment.entries
        if block is None:
            return 0
        begin = entries[block.entry - start + 1] & END_BITS if start else block.start
        return int(entries[block.entry - end + 1] & END_BITS) - begin

    def read_to(self, offsets: dict[int, int], counter: int = at.H_QUEUED) -> None:
        """Release the events of these tenures up to these offsets, because the sink has them.

        An offset that is below the known one, or of a freed block, is ignored.
        """
        self._commit(counter, offsets)

    def _commit(self, counter: int, offsets: dict[int, int]) -> None:
        """Let the events of these tenures up to these offsets leave the ring."""
        if counter == at.H_CORRUPT and offsets:
            reasons.record(self.ring, Reason(0, 0, Clock().time_ms(), DAMAGED))
        commit.begin(self.ring, counter)
        for sequence, end in offsets.items():
            block = self._blocks.get(sequence)
            if block is not None and block.read < end <= block.count(self.ring.words):
                if counter in (at.H_FAILED, at.H_CORRUPT):
                    failure = Failure(block.slot, block.base + block.read, block.base + end)
                    failures.record(self.ring, failure)
                self._store(block, end)
                if block.taken < end:
                    block.taken = end
                    self._seek(block)
        commit.finish(self.ring)

    def _store(self, block: _Block, read: int) -> None:
        block.read = read
        commit.store_read(self.ring, block.index, block.sequence, block.slot, block.base, read)

    def tidy(self) -> list[int]:
        """Free the blocks that are sealed and read to the end; return their tenures."""
        words, layout = self.ring.words, self.ring.layout
        freed = []
        for sequence, block in list(self._blocks.items()):
            header = layout.block(block.index)
            if words[header + at.B_SEALED] != sequence:
                continue
            fence()  # Order: load SEALED before the count, because the count of a sealed block is final
            if block.count(words) != block.read:
                continue
            words[layout.released + block.index] = sequence
            for member in range(block.index + 1, block.index + block.run):
                words[layout.released + member] = sequence
            del self._blocks[sequence]
            freed.append(sequence)
        return freed
