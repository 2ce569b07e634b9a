"""A block's header and its tenure, read so that one damaged word does no harm.

``docs/ring.md``, "What is checked", says which words have copies.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from rudderpipe.ring import layout as at
from rudderpipe.ring.layout import ALL_BITS, Layout

_WORDS = at.B_CLAIMED_MS - at.B_SLOT
_COPIES = at.B_COPIES - at.B_SLOT
"""How many words after a word its complement is."""


class BlockHeader(NamedTuple):
    """What the claimer of a block stored in its header."""

    slot: int
    base: int
    run: int
    head: int


def read(words: memoryview, layout: Layout, block: int) -> BlockHeader:
    """Return a block's header as it was written, unless several of its words are damaged.

    The values are not bounded. If several words are damaged, and in a layout without copies, they are what stands
    there.
    """
    first = layout.block(block) + at.B_SLOT
    if not layout.format.has_copies:
        return BlockHeader(*words[first : first + _WORDS])
    slot, base, run, head, _, _, _, total, *copies = words[first : first + _COPIES + _WORDS].tolist()
    slot2, base2, run2, head2 = copies
    if not (slot + slot2 == base + base2 == run + run2 == head + head2 == ALL_BITS):
        others = [copy ^ ALL_BITS for copy in copies]
        if sum(others) & ALL_BITS == total:
            return BlockHeader(*others)
    return BlockHeader(slot, base, run, head)


def blocks_of(words: memoryview, layout: Layout, slots: Collection[int]) -> set[int]:
    """Return the blocks, in use or not, of which at least one copy of the header names one of these slots."""
    wanted = frozenset(slots)
    found = {block for block, slot in enumerate(_column(words, layout, at.B_SLOT)) if slot in wanted}
    if layout.format.has_copies:
        wanted = frozenset(slot ^ ALL_BITS for slot in slots)
        found |= {block for block, slot in enumerate(_column(words, layout, at.B_COPIES)) if slot in wanted}
    return found


def _column(words: memoryview, layout: Layout, word: int) -> list[int]:
    """Return the same word of every block's header."""
    first, step = layout.block0 + word, layout.block_words
    found: list[int] = words[first : first + layout.blocks * step : step].tolist()
    return found


def write(words: memoryview, layout: Layout, block: int, header: BlockHeader, sequence: int, now_ms: int) -> None:
    """Store a header, and the complement of its tenure. Only under the claim lock, in a free block."""
    first = layout.block(block)
    words[first + at.B_COUNT] = 0
    for number, value in enumerate(header, start=at.B_SLOT):
        words[first + number] = value
        words[first + number + _COPIES] = value ^ ALL_BITS
    words[first + at.B_SUM] = sum(header) & ALL_BITS
    words[first + at.B_CLAIMED_MS] = now_ms
    words[first + at.B_CHECK] = sequence ^ ALL_BITS


def tenure(words: memoryview, layout: Layout, block: int) -> int:
    """Return a block's SEQUENCE: the value of which two of three copies agree.

    A claim that was killed, or is under way, has changed the complement alone. The other two copies are the tenure
    before.
    """
    sequence: int = words[layout.sequence + block]
    if layout.format.has_copies:
        header = layout.block(block)
        again: int = words[header + at.B_TENURE]
        if again != sequence and words[header + at.B_CHECK] == (again ^ ALL_BITS if again else 0):
            return again
    return sequence


def is_free(words: memoryview, layout: Layout, block: int) -> bool:
    """Return whether a block whose RELEASED says so is free: its last tenure, or its run's first block, was sealed.

    Only in a layout with copies. A claim would otherwise overwrite the events of a block whose RELEASED is damaged.
    """
    header, last = layout.block(block), words[layout.released + block]
    if words[layout.sequence + block] == words[header + at.B_TENURE] == words[header + at.B_SEALED] == last:
        return True
    last = tenure(words, layout, block)
    if words[layout.released + block] != last:
        return False
    head = read(words, layout, block).head
    if not last or words[header + at.B_TENURE] != last:
        return True  # never used, or only by a claim that was killed
    if head:
        first = head - 1
        return first >= layout.blocks or tenure(words, layout, first) != last or words[layout.released + first] == last
    return bool(words[header + at.B_SEALED] == last)


def tenures(words: memoryview, layout: Layout) -> list[int]:
    """Return the tenure of every block."""
    sequences: list[int] = words[layout.sequence : layout.released].tolist()
    if not layout.format.has_copies:
        return sequences
    again = _column(words, layout, at.B_TENURE)
    if again != sequences:
        for block, (sequence, copy) in enumerate(zip(sequences, again, strict=True)):
            if copy != sequence:
                sequences[block] = tenure(words, layout, block)
    return sequences


def mend(words: memoryview, layout: Layout) -> None:
    """Put back each SEQUENCE that is damaged, or no claim would take its block again. Only under the claim lock."""
    for block, sequence in enumerate(tenures(words, layout)):
        if words[layout.sequence + block] != sequence:
            words[layout.sequence + block] = sequence
