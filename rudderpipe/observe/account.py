"""The account of a pipe: every accepted event, by the place where it is, as the ring and Redis have counted it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rudderpipe.errors import QueueUnavailable, RingUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.queue.active_job import QueueCounts
from rudderpipe.ring import counters, location, memory
from rudderpipe.ring import layout as at
from rudderpipe.ring.counters import Counters
from rudderpipe.ring.location import RingLocation
from rudderpipe.ring.ring import RingView
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.queue.queue import Queue
    from rudderpipe.queue.queue_set import QueueSet

TRIES = 100
RESTORED_MS = 5000
"""A flusher with so recent a sign of life restores what Redis has lost of the account, with its next look."""
ADDED = (
    "accepted",
    "in_ring",
    "delivered",
    "failed",
    "recovered",
    "queued",
    "spilled",
    "corrupt",
    "blocks",
    "blocks_in_use",
    "cap",
)
"""Numbers of a ring's account that are summed when a pipe has several rings."""


class Events(msgspec.Struct, frozen=True):
    """Every accepted event, by the place where it is.

    ``balanced``: the events that left the ring are the events that Redis has (or that direct mode has committed),
    counted on both sides. Then
    ``accepted = in_ring + spilled + queued + delivered + failed + removed + elsewhere + corrupt + lost``.
    ``spilled``: events in the spill, on a disk, that a queue must still get. ``removed``: events of failed jobs that
    were deleted. ``elsewhere``: queued events that another SDK's worker delivered or a tool of Bull deleted. ``lost``:
    events that were queued when Redis lost its data, or delivered in the last seconds before.
    """

    accepted: int
    in_ring: int
    queued: int
    delivered: int
    failed: int
    refused: dict[str, int]
    balanced: bool
    corrupt: int = 0
    removed: int = 0
    elsewhere: int = 0
    lost: int = 0
    spilled: int = 0


class PipeRing(NamedTuple):
    """One of a pipe's rings, mapped for reading."""

    location: RingLocation
    view: RingView


class RingAccount(NamedTuple):
    """The counters of one ring, and where its events are."""

    counters: Counters
    events: Events


def rings(settings: Settings) -> list[PipeRing]:
    """Return every ring of the pipe, of all interpreters and layouts.

    No lock is taken, and nothing in a ring is changed. Raises ``RingUnavailable``.
    """
    found = []
    for where in location.of_pipe(settings):
        segment = memory.attach(where.segment, removes=False)
        if segment is None:
            continue
        ring = RingView(segment)
        if ring.layout.format.version != where.layout:
            raise RingUnavailable(where.segment, f"is not a ring of layout {where.layout}: choose another pipe")
        has_ended = ring.words[at.H_CLOSED] and not ring.slots_in_use() and not ring.blocks_in_use()
        if not has_ended:  # the flusher that ended it is removing it, or died meanwhile
            found.append(PipeRing(where, ring))
    return found


def read(settings: Settings) -> Events:
    """Return the account of the pipe of these settings. Raise ``QueueUnavailable`` or ``RingUnavailable``."""
    found = rings(settings)
    if settings.redis is None:
        return total([of_ring(ring.view) for ring in found])
    from rudderpipe.queue.queue_set import QueueSet  # imported here, because direct mode needs no Redis client

    queues = QueueSet(settings, Clock())
    try:
        return total([of_queues(queues, ring.view) for ring in found], queues.counts())
    finally:
        queues.close()


def total(accounts: Sequence[RingAccount], counts: QueueCounts | None = None) -> Events:
    """Return the account of all of a pipe's rings. ``counts`` are those of the whole queue, for a pipe with a queue."""
    if accounts or counts is None:
        events = _sum([account.events for account in accounts])
    else:  # the pipe's rings have ended
        events = _with(Events(counts.events_gone, 0, 0, 0, 0, {}, balanced=True), counts)
    if counts is not None and not counts.is_sound:
        events = msgspec.structs.replace(events, balanced=False)
    return events


def _sum(events: Sequence[Events]) -> Events:
    if len(events) == 1:
        return events[0]
    names = [name for name in Events.__struct_fields__ if name not in ("refused", "balanced")]
    return Events(
        **{name: sum(getattr(each, name) for each in events) for name in names},
        refused=_added([each.refused for each in events]),
        balanced=all(each.balanced for each in events),
    )


def merged(accounts: Sequence[Counters]) -> Counters | None:
    """Return the counters summed to one; a field that cannot be summed is that of the first ring."""
    if len(accounts) < 2:
        return accounts[0] if accounts else None
    added = {name: sum(getattr(account, name) for account in accounts) for name in ADDED}
    return msgspec.structs.replace(
        accounts[0],
        **added,
        refused=_added([account.refused for account in accounts]),
        producers=[producer for account in accounts for producer in account.producers],
        heartbeat_ms=min(account.heartbeat_ms for account in accounts),
        down_since_ms=max(account.down_since_ms for account in accounts),
    )


def _added(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return dict(sum(map(Counter, counts), Counter()))


def of_ring(ring: RingView, tries: int = TRIES) -> RingAccount:
    """Return the account from the ring's own counters alone; ``queued`` are all events that Redis was given."""
    for _ in range(tries):
        before = ring.drained()
        now = counters.read(ring)
        gone = now.queued + now.delivered + now.failed + now.corrupt
        after = ring.drained()
        if before == gone == after:
            break
    balanced = before <= gone <= after
    return RingAccount(
        now, _events(now, now.queued - now.spilled, now.spilled, now.delivered, now.failed, balanced=balanced)
    )


def of_queues(queues: QueueSet, ring: RingView, tries: int = TRIES) -> RingAccount:
    """Return one ring's account, with Redis's counters of its events. Raise ``QueueUnavailable``.

    The numbers of both sides agree exactly only if no event moves while they are read, which is tried ``tries`` times.
    """
    # The ring and Redis cannot be read at one instant. The events that had left the ring before the reading are in
    # Redis, and the events in Redis have left the ring after it, by the ring's counters or by the offsets in Redis.
    # These are two bounds, which are equal when no event moves. With several queues, no queue has an event above the
    # largest of their offsets, and every event below READ is in its queue or in the spill. An event of the spill may be
    # in Redis although the flusher has not stored that yet.
    words = ring.words
    for _ in range(tries):
        before = ring.drained()
        ended = max(0, words[at.H_ACKED] - words[at.H_ACKED_FAILED])
        spilled = words[at.H_SPILLED]  # Order: after DRAINED, because an event is counted here first
        handed = max(0, min(words[at.H_QUEUED], before) - spilled)
        counts = queues.counts(ring.segment.epoch, words[at.H_CREATED_MS])
        # A flusher that lives knows how much of the missing events was handed over since it looked last.
        is_fresh = queues.home.clock.monotonic_ms() - words[at.H_HEARTBEAT_MS] < RESTORED_MS
        counts = counts.with_losses(handed, ended, 0, is_restored_soon=is_fresh and not ring.flusher().is_gone())
        after = counters.handed_over(ring, counts.offsets)
        now = counters.read(ring)
        gone = counts.events_gone + now.corrupt
        if before - spilled == gone == after - now.spilled:
            break
    balanced = before - spilled <= gone <= after and counts.is_sound
    spilled = min(now.spilled, max(0, after - gone))
    return RingAccount(now, _with(_events(now, counts.events_gone, spilled, 0, 0, balanced=balanced), counts))


def of_some_queues(readable: Sequence[Queue], ring: RingView, tries: int = TRIES) -> RingAccount:
    """Return one ring's account while some of its queues are away, by the counters of those that can be read.

    What the others were given counts as queued, or as in the ring while the ring still holds events for them. Only the
    ring's own counters are compared.
    """
    found = of_ring(ring, tries)
    counts = []
    for queue in readable:
        with suppress(QueueUnavailable):
            counts.append(queue.counts(ring.segment.epoch))
    if not counts:
        return found
    known, now = QueueCounts.merged(counts), found.counters
    left = max(0, now.accepted - now.corrupt - known.events_gone)
    spilled = min(found.events.spilled, left)
    elsewhere = min(left - spilled, max(0, found.events.queued - known.events_gone))
    events = msgspec.structs.replace(
        _with(found.events, known),
        in_ring=left - spilled - elsewhere,
        spilled=spilled,
        queued=known.events_queued + elsewhere,
    )
    return RingAccount(now, events)


def _with(events: Events, counts: QueueCounts) -> Events:
    """Return the events with Redis's counters for those that left the ring."""
    return msgspec.structs.replace(
        events,
        queued=counts.events_queued,
        delivered=counts.events_delivered,
        failed=counts.events_failed,
        removed=counts.events_removed,
        elsewhere=counts.events_elsewhere,
        lost=counts.events_lost,
    )


def _events(now: Counters, queued: int, spilled: int, delivered: int, failed: int, *, balanced: bool) -> Events:
    return Events(
        accepted=now.accepted,
        in_ring=now.accepted - now.corrupt - queued - spilled - delivered - failed,
        queued=queued,
        delivered=delivered,
        failed=failed,
        refused=now.refused,
        balanced=balanced,
        corrupt=now.corrupt,
        spilled=spilled,
    )
