"""The event that has been in a ring for longest. Any process may look at it at any time."""

from __future__ import annotations

from typing import NamedTuple

from rudderpipe.ring import block_header
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import RingView


class OldestEvent(NamedTuple):
    """The first event that has not left the ring.

    ``data`` is no JSON when the flusher freed its block meanwhile, or when the memory is damaged.
    """

    data: bytes
    claimed_ms: int
    """When the event's block was claimed, on the monotonic clock; the event is not older. 0 in layout 3."""


def find(ring: RingView) -> OldestEvent | None:
    """Return the oldest event of the ring, or None if the ring holds none."""
    words, layout = ring.words, ring.layout
    for _, block in ring.blocks_in_use():
        header = block_header.read(words, layout, block)
        if header.head or header.slot >= layout.slots:
            continue
        gone = max(0, words[layout.drained + header.slot] - header.base)
        if gone < words[layout.block(block) + at.B_COUNT]:
            claimed_ms = words[layout.block(block) + at.B_CLAIMED_MS] if layout.format.has_starts else 0
            return OldestEvent(_data(ring, block, max(1, header.run), gone), claimed_ms)
    return None


def _data(ring: RingView, block: int, run: int, number: int) -> bytes:
    """Return the bytes of one event of a block, or of a run of blocks, without the comma behind it."""
    entries, start = ring.segment.entries, ring.layout.start(block)
    limit = start + min(run, ring.layout.blocks - block) * at.BLOCK_BYTES
    entry = limit // ring.layout.format.entry_bytes - 1 - number
    if entry * ring.layout.format.entry_bytes < start:
        return b""
    end = entries[entry] & at.END_BITS
    first = entries[entry + 1] & at.END_BITS if number else start
    return bytes(ring.segment.memory[first : end - 1]) if start <= first < end <= limit else b""
