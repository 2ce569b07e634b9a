"""A block's header and its tenure, each read so that one damaged word of it does no harm."""

from __future__ import annotations

from typing import NamedTuple

from rudderpipe.ring import layout as at
from rudderpipe.ring.layout import ALL_BITS, Layout

_WORDS = at.B_CLAIMED_MS - at.B_SLOT


class BlockHeader(NamedTuple):
    """What its claimer wrote there."""

    slot: int
    base: int
    run: int
    head: int


def read(words: memoryview, layout: Layout, block: int) -> BlockHeader:
    """Return a block's header as it was written, unless several words of it are damaged.

    Values are not bounded: with several damaged words, and in a layout without copies, they are what stands there.
    """
    first = layout.block(block) + at.B_SLOT
    found = words[first : first + _WORDS].tolist()
    slot, base, run, head = found
    if layout.format.has_copies:
        copies_at = first + at.B_COPIES - at.B_SLOT
        copies = words[copies_at : copies_at + _WORDS].tolist()
        slot2, base2, run2, head2 = copies
        if not (slot + slot2 == base + base2 == run + run2 == head + head2 == ALL_BITS):
            others = [at.complement(copy) for copy in copies]
            if sum(others) & ALL_BITS == words[first + at.B_SUM - at.B_SLOT]:
                return BlockHeader(*others)
    return BlockHeader(slot, base, run, head)


def write(words: memoryview, layout: Layout, block: int, header: BlockHeader, sequence: int, now_ms: int) -> None:
    """Store a header, and the complement of its tenure. Only under the claim lock, in a block that is free."""
    first = layout.block(block)
    words[first + at.B_COUNT] = 0
    for number, value in enumerate(header, start=at.B_SLOT):
        words[first + number] = value
        words[first + number + at.B_COPIES - at.B_SLOT] = value ^ ALL_BITS
    words[first + at.B_SUM] = sum(header) & ALL_BITS
    words[first + at.B_CLAIMED_MS] = now_ms
    words[first + at.B_CHECK] = at.complement(sequence)


def tenure(words: memoryview, layout: Layout, block: int) -> int:
    """Return a block's SEQUENCE: the value of which two of three copies agree.

    A claim that was cut, or is under way, has changed the complement alone: the other two are the tenure before.
    """
    sequence: int = words[layout.sequence + block]
    if layout.format.has_copies:
        header = layout.block(block)
        again: int = words[header + at.B_TENURE]
        if again != sequence and words[header + at.B_CHECK] == (at.complement(again) if again else 0):
            return again
    return sequence


def tenures(words: memoryview, layout: Layout) -> list[int]:
    """Return the same of every block."""
    sequences: list[int] = words[layout.sequence : layout.released].tolist()
    if not layout.format.has_copies:
        return sequences
    step = layout.format.block_words
    again = words[layout.block0 + at.B_TENURE : layout.block(layout.blocks) : step].tolist()
    if again != sequences:
        for block, (sequence, copy) in enumerate(zip(sequences, again, strict=True)):
            if copy != sequence:
                sequences[block] = tenure(words, layout, block)
    return sequences


def mend(words: memoryview, layout: Layout) -> None:
    """Put back each SEQUENCE that is damaged: no claim would take its block again. Only under the claim lock."""
    for block, sequence in enumerate(tenures(words, layout)):
        if words[layout.sequence + block] != sequence:
            words[layout.sequence + block] = sequence
