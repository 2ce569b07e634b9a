"""What the ring has accepted, holds and refused, as anybody may read it at any time."""

from __future__ import annotations

import msgspec

from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring


class Account(msgspec.Struct, frozen=True):
    """Events since the ring was made. ``accepted - in_ring`` is exact at every moment; each alone is of the moment."""

    accepted: int
    in_ring: int
    refused: dict[str, int]
    delivered: int
    failed: int
    queued: int
    corrupt: int
    blocks: int
    blocks_in_use: int
    producers: int
    cap: int
    epoch: int
    flusher_pid: int
    heartbeat_ms: int
    down_since_ms: int


def accepted_by_slot(ring: Ring) -> dict[int, int]:
    """Events that were ever accepted, for each slot that ever had a producer."""
    words, layout = ring.words, ring.layout
    blocks = ring.blocks_in_use()
    accepted: dict[int, int] = {}
    for _, block in blocks:
        header = layout.block(block)
        if not words[header + at.B_HEAD]:
            slot = words[header + at.B_SLOT]
            accepted[slot] = max(accepted.get(slot, 0), words[header + at.B_BASE] + words[header + at.B_COUNT])
    # Order: DRAINED last; a block that was freed meanwhile is in it.
    return {slot: max(accepted.get(slot, 0), words[layout.drained + slot]) for slot in range(ring.slots_used)}


def drained_by_slot(ring: Ring) -> dict[int, int]:
    """Events that have left the ring, for each slot."""
    words, layout = ring.words, ring.layout
    return {slot: words[layout.drained + slot] for slot in range(ring.slots_used)}


def read(ring: Ring) -> Account:
    """The account of now."""
    words, layout = ring.words, ring.layout
    drained = drained_by_slot(ring)
    accepted = accepted_by_slot(ring)
    refused = dict.fromkeys(at.REFUSALS, 0)
    for slot in accepted:
        for number, reason in enumerate(at.REFUSALS):
            refused[reason] += words[layout.slot(slot) + at.S_REFUSED + number]
    refused["no_slot"] = words[at.H_NO_SLOT]
    total = sum(accepted.values())
    return Account(
        accepted=total,
        in_ring=total - sum(drained.get(slot, 0) for slot in accepted),
        refused={reason: count for reason, count in refused.items() if count},
        delivered=words[at.H_DELIVERED],
        failed=words[at.H_FAILED],
        queued=words[at.H_QUEUED],
        corrupt=words[at.H_CORRUPT],
        blocks=layout.blocks,
        blocks_in_use=len(ring.blocks_in_use()),
        producers=len(ring.slots_in_use()),
        cap=ring.segment.cap,
        epoch=ring.segment.epoch,
        flusher_pid=words[at.H_PID],
        heartbeat_ms=words[at.H_HEARTBEAT_MS],
        down_since_ms=words[at.H_DOWN_MS],
    )
