"""The counters of a ring: events accepted, held, refused and gone. Any process may read them at any time."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from rudderpipe.process.clock import Clock
from rudderpipe.ring import block_header
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import RingView


class ProducerCounters(msgspec.Struct, frozen=True):
    """The counters of a slot's producer; of its last producer when ``pid`` is 0.

    ``within`` is True for the second slot of a process, which serves calls from within calls.
    """

    slot: int
    pid: int
    accepted: int
    in_ring: int
    refused: dict[str, int]
    within: bool


class Counters(msgspec.Struct, frozen=True):
    """The counters since the ring was made.

    Not an atomic snapshot: counters may move while they are read.
    """

    accepted: int
    in_ring: int
    refused: dict[str, int]
    delivered: int
    failed: int
    recovered: int
    """Events of ``delivered`` that had failed before, and were delivered later as dead letters."""
    queued: int
    """Events handed to Redis, whatever became of them there, and those that went to the spill."""
    spilled: int
    """Events of ``queued`` that are in the spill, and not yet known to be in Redis."""
    corrupt: int
    blocks: int
    blocks_in_use: int
    producers: list[ProducerCounters]
    cap: int
    epoch: int
    flusher_pid: int
    heartbeat_ms: int
    down_since_ms: int

    @property
    def left(self) -> int:
        """Events that left the ring."""
        return self.accepted - self.in_ring


def accepted_by_slot(ring: RingView) -> dict[int, int]:
    """Return how many events were ever accepted, for each slot that ever had a producer."""
    words, layout = ring.words, ring.layout
    blocks = ring.blocks_in_use()
    accepted: dict[int, int] = {}
    for _, block in blocks:
        header = block_header.read(words, layout, block)
        if not header.head:
            count = words[layout.block(block) + at.B_COUNT]
            accepted[header.slot] = max(accepted.get(header.slot, 0), header.base + count)
    # Order: load DRAINED last, because it includes a block that was freed meanwhile.
    return {slot: max(accepted.get(slot, 0), words[layout.drained + slot]) for slot in range(ring.slots_used)}


def drained_by_slot(ring: RingView) -> dict[int, int]:
    """Return how many events have left the ring, for each slot."""
    words, layout = ring.words, ring.layout
    return {slot: words[layout.drained + slot] for slot in range(ring.slots_used)}


def handed_over(ring: RingView, offsets: Mapping[int, int]) -> int:
    """Return how many events left the ring, or are in the queue although the flusher has not stored that yet.

    ``offsets`` are the queue's offsets: how many events it has of each tenure of a block. The result is never too
    low.
    """
    words, layout = ring.words, ring.layout
    reached: dict[int, int] = {}
    for sequence, block in ring.blocks_in_use():
        header, gone = block_header.read(words, layout, block), offsets.get(sequence, 0)
        if gone and not header.head:
            reached[header.slot] = max(reached.get(header.slot, 0), header.base + gone)
    # Order: load DRAINED last, because it includes a block that was freed meanwhile.
    return sum(max(reached.get(slot, 0), words[layout.drained + slot]) for slot in range(ring.slots_used))


def read(ring: RingView) -> Counters:
    """Return the counters as they are now."""
    words = ring.words
    drained = drained_by_slot(ring)
    accepted = accepted_by_slot(ring)
    producers = [_producer(ring, slot, accepted[slot], drained.get(slot, 0)) for slot in accepted]
    refused = _counted(ring, at.H_REFUSED)
    for slot in accepted:
        for reason, count in _counted(ring, ring.layout.slot(slot) + at.S_REFUSED).items():
            refused[reason] = refused.get(reason, 0) + count
    total = sum(accepted.values())
    left = sum(drained.get(slot, 0) for slot in accepted)
    recovered = words[at.H_RECOVERED]  # Order: before the failed events, of which it is a part
    counters = {counter: words[counter] for counter in at.COUNTERS}
    intent = words[at.H_COMMIT_INTENT]
    if intent in counters:  # a commit is under way, or its flusher died before it counted
        counters[intent] = words[at.H_COMMITTED_BEFORE] + left - words[at.H_DRAINED_BEFORE]
    recovered = min(recovered, counters[at.H_FAILED])  # damage must not make a count negative
    return Counters(
        accepted=total,
        in_ring=total - left,
        refused=refused,
        delivered=counters[at.H_DELIVERED] + recovered,
        failed=counters[at.H_FAILED] - recovered,
        recovered=recovered,
        queued=counters[at.H_QUEUED],
        spilled=min(words[at.H_SPILLED], counters[at.H_QUEUED]),
        corrupt=counters[at.H_CORRUPT],
        blocks=ring.layout.blocks,
        blocks_in_use=len(ring.blocks_in_use()),
        producers=producers,
        cap=ring.segment.cap,
        epoch=ring.segment.epoch,
        flusher_pid=words[at.H_PID],
        heartbeat_ms=ring.heartbeat_ms(Clock()),
        down_since_ms=words[at.H_DOWN_MS],
    )


def _counted(ring: RingView, counters: int) -> dict[str, int]:
    words = ring.words
    return {reason: count for number, reason in enumerate(at.REFUSALS) if (count := words[counters + number])}


def _producer(ring: RingView, slot: int, accepted: int, drained: int) -> ProducerCounters:
    mine = ring.layout.slot(slot)
    before = _counted(ring, mine + at.S_REFUSED_BEFORE)
    since = {
        reason: count - before.get(reason, 0)
        for reason, count in _counted(ring, mine + at.S_REFUSED).items()
        if count > before.get(reason, 0)
    }
    return ProducerCounters(
        slot,
        ring.words[mine + at.S_PID],
        accepted - ring.words[mine + at.S_ENTERED],
        accepted - drained,
        since,
        within=bool(ring.words[mine + at.S_WITHIN]),
    )
