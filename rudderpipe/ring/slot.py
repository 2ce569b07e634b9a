"""What a producer does under the claim lock, which each function needs its caller to hold: slot, grant, blocks."""

from __future__ import annotations

import os
from collections.abc import Collection

from rudderpipe.process import fork, identity
from rudderpipe.process.identity import Identity
from rudderpipe.ring import block_header
from rudderpipe.ring import layout as at
from rudderpipe.ring.block_header import BlockHeader
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring


class _Image:
    """A random number for this process and the program in it."""

    def __init__(self) -> None:
        fork.forget_in_children(self)
        self.forget()

    def forget(self) -> None:
        """Draw another."""
        self.number = int.from_bytes(os.urandom(8), "big")


_image = _Image()


def take_slot(ring: Ring, me: Identity, *, within: bool = False) -> int:
    """A slot for this process, which is ``me``, its lock held for life; -1 when all have a living producer.

    Events of the slot's earlier producers may still be in the ring: this one begins after them. ``within``: it is the
    process's second slot, for calls from within calls.
    """
    words, layout = ring.words, ring.layout
    slot = _find_slot(ring, me)
    if slot < 0:
        return -1
    mine = layout.slot(slot)
    reclaim(ring, {slot})
    words[mine + at.S_PID] = 0  # Order: after that; cut from here on, the slot is free
    words[mine + at.S_START] = me.start
    words[mine + at.S_NAMESPACE] = me.namespace
    words[mine + at.S_IMAGE] = _image.number
    words[mine + at.S_LEFT] = 0
    words[mine + at.S_WITHIN] = within
    words[mine + at.S_ENTERED] = words[layout.granted + slot]
    for number in range(len(at.REFUSALS)):
        words[mine + at.S_REFUSED_BEFORE + number] = words[mine + at.S_REFUSED + number]
    ring.see_slot(slot)
    words[mine + at.S_PID] = me.pid  # Order: last, the slot is taken now
    return slot


def _find_slot(ring: Ring, me: Identity) -> int:
    """A slot that is free, or else one of a dead producer; its lock is held."""
    words, layout = ring.words, ring.layout
    pids = words[layout.slot(0) + at.S_PID : layout.slot(layout.slots) : at.SLOT_WORDS].tolist()
    for slot, pid in enumerate(pids):
        if pid == me.pid and ring.owner(slot) == me and words[layout.slot(slot) + at.S_IMAGE] != _image.number:
            words[layout.slot(slot) + at.S_LEFT] = 1  # ours before an exec, which keeps pid and start time
    for slot, pid in enumerate(pids):
        if not pid and ring.locks.try_lock(at.LOCK_SLOT + slot):
            return slot
    return next((slot for slot in range(layout.slots) if lock_dead(ring, slot)), -1)


def lock_dead(ring: Ring, slot: int) -> bool:
    """Take the lock of a slot whose producer is dead, or has left; False when it lives."""
    words, mine, byte, owner = ring.words, ring.layout.slot(slot), at.LOCK_SLOT + slot, ring.owner(slot)
    is_ours = words[mine + at.S_IMAGE] == _image.number and owner.pid == os.getpid() and owner == identity.me()
    # Of a slot of ours the lock would be dropped by trying it, or is about to be given back by another thread.
    if (is_ours and not words[mine + at.S_LEFT]) or ring.locks.is_alone(byte) or not ring.locks.try_lock(byte):
        return False
    owner = ring.owner(slot)
    # Of a process in another pid namespace the lock alone tells.
    if words[mine + at.S_LEFT] or owner.is_foreign or owner.is_gone():
        return True
    ring.locks.unlock(byte)
    return False


def reclaim(ring: Ring, slots: Collection[int]) -> None:
    """Have the blocks of slots without a living producer take no more events, and give back what it did not use.

    Only for who holds the slots' locks, or of slots that are free.
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
            words[layout.drained + slot] = drained = granted  # damage would be the next one's start
        used = min(granted, max(drained, end))  # no damage may void the cap
        if used != granted:
            words[layout.granted + slot] = used


def grant(ring: Ring, slot: int, wanted: int) -> int:
    """Allow the slot some events of the cap: fewer as it comes near, so that idle producers hold little back."""
    words, layout = ring.words, ring.layout
    if words[at.H_SLOTS_USED] <= slot:
        ring.see_slot(slot)  # a damaged word: a slot that is not seen is not counted
    free = ring.room()
    if free <= 0:
        return 0
    if free < 4 * words[at.H_SLOTS_USED] * wanted:  # with all slots alive; how many are is only asked when it matters
        wanted = max(1, min(wanted, free // (4 * len(ring.slots_in_use()))))
    words[layout.granted + slot] += wanted
    return wanted


def claim_blocks(ring: Ring, slot: int, base: int, need_bytes: int, now_ms: int) -> tuple[int, int, int] | None:
    """A free block, or as many in a row as are needed: (first, sequence, how many); None when there are none."""
    words, layout = ring.words, ring.layout
    run = -(-need_bytes // at.BLOCK_BYTES)
    first = _find_free(ring, run)
    if first < 0:
        return None
    for block in range(first, first + run):
        if not words[layout.sequence + block] and not ring.segment.reserve(layout.start(block), at.BLOCK_BYTES):
            return None
    sequence = _next_sequence(ring)
    # Order: first of all; a claim that is cut leaves a number nobody has.
    words[at.H_NEXT] = sequence + 1
    words[at.H_NEXT_CHECK] = at.complement(sequence + 1)
    for block in range(first + run - 1, first - 1, -1):  # Order: the first block last, it makes the run known
        is_first = block == first
        header = BlockHeader(slot, base, run if is_first else 0, 0 if is_first else first + 1)
        block_header.write(words, layout, block, header, sequence, now_ms)
        fence()
        words[layout.sequence + block] = sequence
        words[layout.block(block) + at.B_TENURE] = sequence
    return first, sequence, run


def _next_sequence(ring: Ring) -> int:
    """NEXT; what follows all that were ever claimed when it is damaged: a number that is taken would hide a block."""
    words, layout = ring.words, ring.layout
    following: int = words[at.H_NEXT]
    if words[at.H_NEXT_CHECK] == at.complement(following):
        return following
    known = block_header.tenures(words, layout)
    return 1 + max((sequence for sequence in known if sequence < at.SEQUENCE_END), default=0)


def _find_free(ring: Ring, run: int) -> int:
    # The lowest that is free, so that the memory that is ever touched is what was ever in use at once. The order in
    # which blocks are drained is that of their sequences, wherever they lie.
    words, layout, in_a_row = ring.words, ring.layout, 0
    for block in range(layout.blocks):
        maybe = words[layout.sequence + block] == words[layout.released + block]
        if maybe and block_header.is_free(words, layout, block):
            in_a_row += 1
            if in_a_row == run:
                return block - run + 1
        else:
            in_a_row = 0
    return -1
