"""What a producer does under the claim lock: take a slot, take credits, claim blocks.

The caller of each function must hold the claim lock, except for ``lock_dead``. ``docs/ring.md``, "A claim" and "The
order of stores", says what a kill between two stores leaves.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import msgspec

from rudderpipe.process import fork, identity
from rudderpipe.process.identity import Identity
from rudderpipe.ring import block_header
from rudderpipe.ring import layout as at
from rudderpipe.ring.block_header import BlockHeader
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring


class Refused(Exception):
    """Raised when the ring cannot take an event; ``reason`` is one of ``REFUSALS``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Claim(msgspec.Struct, frozen=True):
    """The claimed block, or blocks in a row: their sequence, the bytes of the segment, and where their COUNT is."""

    sequence: int
    start: int
    end: int
    count_at: int


class _Image:
    """A random number for this process and the program that it runs."""

    def __init__(self) -> None:
        fork.forget_in_children(self)
        self.forget()

    def forget(self) -> None:
        """Draw another number."""
        self.number = int.from_bytes(os.urandom(8), "big")


_image = _Image()


def take_slot(ring: Ring, me: Identity, *, is_inner: bool = False) -> int:
    """Take a slot for this process, which is ``me``, and return it. Raises ``Refused`` if all have living producers.

    The slot's lock is held for life. Events of the slot's earlier producers may still be in the ring, and this producer
    begins after them. ``is_inner`` marks the second slot of a process, for calls from within calls.
    """
    words, layout = ring.words, ring.layout
    slot = _find_slot(ring, me)
    mine = layout.slot(slot)
    reclaim(ring, {slot})
    words[mine + at.S_PID] = 0  # Order: after the reclaim; a kill from here on leaves a free slot
    words[mine + at.S_START] = me.start
    words[mine + at.S_NAMESPACE] = me.namespace
    words[mine + at.S_IMAGE] = _image.number
    words[mine + at.S_LEFT] = 0
    words[mine + at.S_WITHIN] = is_inner
    words[mine + at.S_ENTERED] = words[layout.granted + slot]
    for number in range(len(at.REFUSALS)):
        words[mine + at.S_REFUSED_BEFORE + number] = words[mine + at.S_REFUSED + number]
    ring.see_slot(slot)
    words[mine + at.S_PID] = me.pid  # Order: last, because the pid makes the slot taken
    return slot


def _find_slot(ring: Ring, me: Identity) -> int:
    """Return a free slot, or else one of a dead producer, with its lock held. Raises ``Refused`` without one."""
    words, layout = ring.words, ring.layout
    pids = words[layout.slot0 + at.S_PID : layout.sequence : at.SLOT_WORDS].tolist()
    for slot, pid in enumerate(pids):
        if pid == me.pid and ring.owner(slot) == me and words[layout.slot(slot) + at.S_IMAGE] != _image.number:
            words[layout.slot(slot) + at.S_LEFT] = 1  # it was ours before an exec, which keeps pid and start
    for slot, pid in enumerate(pids):
        if not pid and ring.locks.try_lock(at.LOCK_SLOT + slot):
            return slot
    for slot in range(layout.slots):
        if lock_dead(ring, slot):
            return slot
    raise Refused("no_slot")


def lock_dead(ring: Ring, slot: int) -> bool:
    """Take the lock of a slot whose producer is dead or has left; return False if it lives."""
    words, mine, byte, owner = ring.words, ring.layout.slot(slot), at.LOCK_SLOT + slot, ring.owner(slot)
    is_ours = words[mine + at.S_IMAGE] == _image.number and owner.pid == os.getpid() and owner == identity.me()
    # Do not try the lock of a slot of ours: the try would drop it, or another thread is about to give it back.
    if (is_ours and not words[mine + at.S_LEFT]) or ring.locks.is_alone(byte) or not ring.locks.try_lock(byte):
        return False
    owner = ring.owner(slot)
    # A pid of another namespace means nothing here, so the lock alone decides.
    if words[mine + at.S_LEFT] or owner.is_foreign or owner.is_gone():
        return True
    ring.locks.unlock(byte)
    return False


def reclaim(ring: Ring, slots: Collection[int]) -> None:
    """Seal the blocks of slots without a living producer, and give back the credits that were not used.

    The caller must hold the slots' locks, or the slots must be free.
    """
    words, layout = ring.words, ring.layout
    committed = dict.fromkeys(slots, 0)
    candidates = block_header.blocks_of(words, layout, slots)
    for sequence, block in ring.blocks_in_use():
        if block not in candidates:
            continue
        header, at_block = block_header.read(words, layout, block), layout.block(block)
        if header.slot not in committed:
            continue
        if words[at_block + at.B_SEALED] != sequence:
            words[at_block + at.B_SEALED] = sequence
        if not header.head:
            committed[header.slot] = max(committed[header.slot], header.base + words[at_block + at.B_COUNT])
    for slot, end in committed.items():
        granted, drained = words[layout.granted + slot], words[layout.drained + slot]
        if drained > granted:
            words[layout.drained + slot] = drained = granted  # or the damage would be where the next producer starts
        used = min(granted, max(drained, end))  # damage must not void the cap
        if used != granted:
            words[layout.granted + slot] = used


def take_credits(ring: Ring, slot: int, wanted: int) -> int:
    """Give the slot some credits out of the cap, and return how many; 0 if none are left.

    A slot gets fewer as the cap comes near, so that idle producers hold little back.
    """
    words, layout = ring.words, ring.layout
    if words[at.H_SLOTS_USED] <= slot:
        ring.see_slot(slot)  # the word is damaged, and a slot beyond it is not counted
    free = ring.room()
    if free <= 0:
        return 0
    if free < 4 * words[at.H_SLOTS_USED] * wanted:  # if all slots live; only near the cap they are counted
        wanted = max(1, min(wanted, free // (4 * len(ring.slots_in_use()))))
    words[layout.granted + slot] += wanted
    return wanted


def claim_blocks(ring: Ring, slot: int, base: int, need_bytes: int, now_ms: int) -> Claim:
    """Claim a free block, or as many in a row as are needed.

    Raises ``Refused`` if there are none, or if the system has no memory for them.
    """
    words, layout = ring.words, ring.layout
    run = -(-need_bytes // at.BLOCK_BYTES)
    first = _find_free(ring, run)
    start, header_at = layout.start(first), layout.block(first)
    for block in range(first, first + run):
        byte = start + (block - first) * at.BLOCK_BYTES
        if not words[layout.sequence + block] and not ring.segment.reserve(byte, at.BLOCK_BYTES):
            raise Refused("no_block")
    sequence = _next_sequence(ring)
    # Order: first of all, so that a claim that is killed leaves only a number that no block has.
    words[at.H_NEXT] = sequence + 1
    words[at.H_NEXT_CHECK] = (sequence + 1) ^ at.ALL_BITS
    for block in range(first + run - 1, first - 1, -1):  # Order: the first block last, because it shows the run
        is_first = block == first
        header = BlockHeader(slot, base, run if is_first else 0, 0 if is_first else first + 1)
        block_header.write(words, layout, block, header, sequence, now_ms)
        fence()  # Order: the header before SEQUENCE, which shows it
        words[layout.sequence + block] = sequence
        words[header_at + (block - first) * layout.block_words + at.B_TENURE] = sequence
    return Claim(sequence, start, start + run * at.BLOCK_BYTES, header_at + at.B_COUNT)


def _next_sequence(ring: Ring) -> int:
    """Return NEXT; if it is damaged, the number after all that were ever claimed.

    A number that was claimed before would hide a block.
    """
    words, layout = ring.words, ring.layout
    following: int = words[at.H_NEXT]
    if words[at.H_NEXT_CHECK] == following ^ at.ALL_BITS:
        return following
    known = block_header.tenures(words, layout)
    return 1 + max((sequence for sequence in known if sequence < at.SEQUENCE_END), default=0)


def _find_free(ring: Ring, run: int) -> int:
    # The lowest free blocks, so that no more memory is ever touched than was in use at once. Blocks are drained in the
    # order of their sequences, wherever they lie.
    words, layout, in_a_row = ring.words, ring.layout, 0
    for block in range(layout.blocks):
        maybe = words[layout.sequence + block] == words[layout.released + block]
        if maybe and block_header.is_free(words, layout, block):
            in_a_row += 1
            if in_a_row == run:
                return block - run + 1
        else:
            in_a_row = 0
    raise Refused("no_block")
