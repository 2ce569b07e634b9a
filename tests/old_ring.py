"""A ring of layout 3, made and filled as the version with that layout did it: same words, same order of stores.

The module uses no code of the present layout, so that a change of the present layout does not change it.
"""

from __future__ import annotations

import os

from rudderpipe.ring.memory import Shared, open_fd

BLOCK_BYTES = 65_536
MAGIC, VERSION, SLOTS = 0x3145504950445552, 3, 256
GRANTED, DRAINED, SLOT_0 = 512, 768, 1024
ALL_BITS = (1 << 64) - 1


class OldRing:
    """The segment of a ring of layout 3. ``lock_inode`` is the inode of the pipe's lock file."""

    def __init__(self, name: str, lock_inode: int, *, blocks: int = 100, cap: int = 1000) -> None:
        self.sequence = SLOT_0 + SLOTS * 32
        self.released = self.sequence + blocks
        self.block_0 = -(-(self.released + 2 * blocks) // 8) * 8
        self.data = -(-(self.block_0 + blocks * 8) * 8 // BLOCK_BYTES) * BLOCK_BYTES
        fd, size_bytes = open_fd(name, makes=True), self.data + blocks * BLOCK_BYTES
        os.ftruncate(fd, size_bytes)
        self.shared = Shared(fd, size_bytes)
        self.memory = self.shared.whole
        self.words = self.memory.cast("Q")
        self.entries = self.memory.cast("I")
        self.next_block = 0
        for index, value in (
            (1, VERSION),
            (2, self.data + blocks * BLOCK_BYTES),
            (3, blocks),
            (4, SLOTS),
            (5, int.from_bytes(os.urandom(8), "big") >> 1 | 1),
            (6, cap),
            (8, lock_inode),
            (16, 1),
            (19, ALL_BITS ^ 1),
            (0, MAGIC),
        ):
            self.words[index] = value

    def producer(self, pid: int, start_ms: int, namespace: int) -> OldProducer:
        """Take the next slot for that process, whose slot lock the caller holds."""
        slot = self.words[17]
        mine = SLOT_0 + slot * 32
        for word, value in ((1, start_ms), (5, namespace), (4, 1)):
            self.words[mine + word] = value
        self.words[17] = slot + 1
        self.words[mine] = pid
        return OldProducer(self, slot)


class OldProducer:
    """A producer that takes blocks in a row and never uses one twice."""

    def __init__(self, ring: OldRing, slot: int) -> None:
        self.ring = ring
        self.slot = slot
        self.accepted = 0
        self.header = self.at = self.limit = self.entry = self.count = 0

    def append(self, data: bytes) -> None:
        """Append one event."""
        ring, words = self.ring, self.ring.words
        if self.at + len(data) + 4 * self.count >= self.limit:
            self._claim(len(data) + 5)
        if words[GRANTED + self.slot] == self.accepted:
            words[GRANTED + self.slot] += 64
        end = self.at + len(data)
        ring.memory[self.at : end] = data
        ring.memory[end] = ord(",")
        ring.entries[self.entry - self.count] = self.at = end + 1
        self.count += 1
        self.accepted += 1
        words[self.header] = self.count

    def _claim(self, need_bytes: int) -> None:
        ring, words = self.ring, self.ring.words
        run, first = -(-need_bytes // BLOCK_BYTES), ring.next_block
        ring.next_block += run
        sequence = words[16]
        words[16], words[19] = sequence + 1, ALL_BITS ^ (sequence + 1)
        for block in range(first + run - 1, first - 1, -1):
            header = ring.block_0 + block * 8
            for word, value in enumerate(
                (self.slot, self.accepted, run, 0) if block == first else (self.slot, self.accepted, 0, first + 1), 2
            ):
                words[header + word] = value
            words[ring.sequence + block] = sequence
        if self.header:
            words[self.header + 1] = sequence - 1  # only one producer works at a time
        self.header, self.at = ring.block_0 + first * 8, ring.data + first * BLOCK_BYTES
        self.limit = self.at + run * BLOCK_BYTES - 4
        self.entry, self.count = (self.limit + 4) // 4 - 1, 0
