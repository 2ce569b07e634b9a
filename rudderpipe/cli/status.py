"""``rudderpipe status``: what the ring and the queue hold, and whether the account balances."""

from __future__ import annotations

import msgspec

from rudderpipe.clock import Clock
from rudderpipe.ring import account
from rudderpipe.ring.account import Account
from rudderpipe.ring.ring import Ring, find
from rudderpipe.settings import Settings
from rudderpipe.signals import EXIT_FAILED, EXIT_OK

TRIES = 100


class Jobs(msgspec.Struct, frozen=True):
    """Jobs in the queue, by state."""

    waiting: int
    active: int
    delayed: int
    failed: int
    paused: bool


class Events(msgspec.Struct, frozen=True):
    """Every accepted event, by where it is. ``balanced``: ``accepted = in_ring + queued + delivered + failed``."""

    accepted: int
    in_ring: int
    queued: int
    delivered: int
    failed: int
    refused: dict[str, int]
    balanced: bool


class Status(msgspec.Struct, frozen=True):
    """What ``--json`` prints; ``ring`` is null when the pipe has none, ``jobs`` in direct mode."""

    pipe: str
    redis: str
    ring: Account | None
    jobs: Jobs | None
    events: Events


def read(settings: Settings) -> Status:
    """The status of the pipe that these settings name. Raises ``QueueUnavailable`` and ``RingUnavailable``."""
    ring = find(settings.pipe_name, settings.runtime_dir)
    if settings.redis is None:
        return _direct(settings, ring)
    return _queued(settings, ring)


def _direct(settings: Settings, ring: Ring | None) -> Status:
    if ring is None:
        return Status(settings.pipe_name, "", None, None, Events(0, 0, 0, 0, 0, {}, balanced=True))
    for _ in range(TRIES):
        before = account.read(ring)
        now = account.read(ring)
        left = now.accepted - now.in_ring
        if before.delivered + before.failed == left == now.delivered + now.failed:
            break
    gone = now.delivered + now.failed
    events = Events(
        now.accepted,
        now.accepted - gone,
        0,
        now.delivered,
        now.failed,
        now.refused,
        balanced=now.accepted == now.in_ring + gone + now.corrupt,
    )
    return Status(settings.pipe_name, "", now, None, events)


def _queued(settings: Settings, ring: Ring | None) -> Status:
    from rudderpipe.queue.queue import Queue

    queue = Queue(settings, Clock())
    now: Account | None = None
    if ring is None:
        counts = queue.counts()
        total = counts.events_queued + counts.events_delivered + counts.events_failed
        events = Events(
            total, 0, counts.events_queued, counts.events_delivered, counts.events_failed, {}, balanced=True
        )
    else:
        # Ring and Redis cannot be read at one instant: look until nothing moved from one to the other in between.
        now = account.read(ring)
        for _ in range(TRIES):
            before = now
            counts = queue.counts(ring.segment.epoch)
            now = account.read(ring)
            gone = counts.events_queued + counts.events_delivered + counts.events_failed
            if before.accepted - before.in_ring == gone == now.accepted - now.in_ring:
                break
        events = Events(
            now.accepted,
            now.in_ring,
            counts.events_queued,
            counts.events_delivered,
            counts.events_failed,
            now.refused,
            balanced=now.accepted == now.in_ring + gone + now.corrupt,
        )
    jobs = Jobs(counts.waiting, counts.active, counts.delayed, counts.failed, counts.paused)
    queue.close()
    return Status(settings.pipe_name, settings.redis_place, now, jobs, events)


def _text(status: Status) -> str:
    events, ring, jobs = status.events, status.ring, status.jobs
    lines = [f"pipe      {status.pipe}"]
    if ring is None:
        lines.append("ring      none: nobody is sending")
    else:
        age_ms = Clock().time_ms() - ring.heartbeat_ms
        flusher = f"pid {ring.flusher_pid}, last seen {age_ms / 1000:.1f} s ago" if ring.flusher_pid else "none yet"
        lines.append(
            f"ring      {ring.in_ring:,} of {ring.cap:,} events, {ring.blocks_in_use:,} of {ring.blocks:,} blocks, "
            f"{ring.producers} producers"
        )
        lines.append(f"flusher   {flusher}")
        if ring.down_since_ms:
            lines.append("          cannot reach redis: events stay in the ring")
    if jobs is not None:
        paused = " (paused)" if jobs.paused else ""
        lines.append(f"queue     redis {status.redis}{paused}")
        lines.append(
            f"jobs      {jobs.waiting:,} waiting, {jobs.active:,} active, {jobs.delayed:,} delayed, "
            f"{jobs.failed:,} failed"
        )
    if events.refused:
        refused = ", ".join(f"{count:,} {reason}" for reason, count in events.refused.items())
        lines.append(f"refused   {refused}")
    sign, verdict = ("=", "balanced") if events.balanced else ("!=", "does NOT balance")
    lines.append(
        f"events    {events.accepted:,} accepted {sign} {events.in_ring:,} in ring + {events.queued:,} queued + "
        f"{events.delivered:,} delivered + {events.failed:,} failed: {verdict}"
    )
    return "\n".join(lines)


def status(settings: Settings, *, as_json: bool) -> int:
    """The command; an exit code."""
    found = read(settings)
    print(msgspec.json.encode(found).decode() if as_json else _text(found))
    return EXIT_OK if found.events.balanced else EXIT_FAILED
