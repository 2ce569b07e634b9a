"""``rudderpipe status``: what the ring and the queue hold, and whether the account balances."""

from __future__ import annotations

import msgspec

from rudderpipe.clock import Clock
from rudderpipe.errors import QueueUnavailable
from rudderpipe.flusher import spool as spools
from rudderpipe.ring import account
from rudderpipe.ring.account import Account
from rudderpipe.ring.ring import Ring, find
from rudderpipe.settings import Settings
from rudderpipe.signals import EXIT_FAILED, EXIT_OK, EXIT_UNAVAILABLE

TRIES = 100


class Jobs(msgspec.Struct, frozen=True):
    """Jobs in the queue, by state."""

    waiting: int
    active: int
    delayed: int
    failed: int
    paused: bool
    completed: int = 0
    bytes: int = 0
    """Of Redis's memory, over all states; an estimate when there are thousands of jobs."""
    max_bytes: int | None = None


class Spooled(msgspec.Struct, frozen=True):
    """Failed batches that direct mode keeps, of all rings that the pipe has had."""

    batches: int
    events: int
    bytes: int
    max_bytes: int


class Events(msgspec.Struct, frozen=True):
    """Every accepted event, by where it is.

    ``balanced``: what left the ring is what Redis has (or direct mode has settled), counted on both sides; then
    ``accepted = in_ring + queued + delivered + failed + removed + elsewhere + corrupt``. ``removed``: of failed jobs
    that were deleted. ``elsewhere``: were queued, and another SDK's worker or a tool of Bull saw to them.
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


class Status(msgspec.Struct, frozen=True):
    """What ``--json`` prints; ``ring`` is null when the pipe has none, ``jobs`` in direct mode.

    ``spool`` is there in direct mode alone. ``trouble`` says why Redis could not be read: ``queued`` is then what was
    handed to it, whatever became of that.
    """

    pipe: str
    redis: str
    ring: Account | None
    jobs: Jobs | None
    events: Events
    trouble: str | None = None
    spool: Spooled | None = None


def read(settings: Settings) -> Status:
    """That of the pipe that these settings name, less the spool. Raises ``QueueUnavailable``, ``RingUnavailable``."""
    ring = find(settings)
    if settings.redis is not None:
        return _queued(settings, ring)
    now, events = _of_ring(ring)
    return Status(settings.pipe_name, "", now, None, events)


def _of_ring(ring: Ring | None) -> tuple[Account | None, Events]:
    """The account by the ring's own words alone."""
    if ring is None:
        return None, Events(0, 0, 0, 0, 0, {}, balanced=True)
    for _ in range(TRIES):
        before = ring.drained()
        now = account.read(ring)
        gone = now.queued + now.delivered + now.failed + now.corrupt
        after = ring.drained()
        if before == gone == after:
            break
    return now, _events(now, now.queued, now.delivered, now.failed, balanced=before <= gone <= after)


def _queued(settings: Settings, ring: Ring | None) -> Status:
    from rudderpipe.queue.queue import Queue

    queue = Queue(settings, Clock())
    now: Account | None = None
    if ring is None:
        counts = queue.counts()
        gone = counts.events_gone
        events = Events(gone, 0, 0, 0, 0, {}, balanced=True)
    else:
        # Ring and Redis cannot be read at one instant. What had left the ring before is in Redis, and what is in Redis
        # has left the ring after, by its own words or by those of Redis: two bounds, equal when nothing moves.
        for _ in range(TRIES):
            before = ring.drained()
            counts = queue.counts(ring.segment.epoch)
            after = account.handed_over(ring, counts.positions)
            current = now = account.read(ring)
            gone = counts.events_gone + current.corrupt
            if before == gone == after:
                break
        events = _events(current, counts.events_gone, 0, 0, balanced=before <= gone <= after)
    events = msgspec.structs.replace(
        events,
        queued=counts.events_queued,
        delivered=counts.events_delivered,
        failed=counts.events_failed,
        removed=counts.events_removed,
        elsewhere=counts.events_elsewhere,
    )
    jobs = Jobs(
        counts.waiting,
        counts.active,
        counts.delayed,
        counts.failed,
        counts.paused,
        counts.completed,
        queue.size_bytes(),
        settings.max_queue_bytes,
    )
    queue.close()
    return Status(settings.pipe_name, settings.redis_place, now, jobs, events)


def _events(now: Account, queued: int, delivered: int, failed: int, *, balanced: bool) -> Events:
    in_ring = now.accepted - now.corrupt - queued - delivered - failed
    return Events(now.accepted, in_ring, queued, delivered, failed, now.refused, balanced=balanced, corrupt=now.corrupt)


def spooled(settings: Settings) -> Spooled:
    """What is in the spool; it is read from the beginning to the end."""
    spool = spools.of(settings)
    batches = events = 0
    for record in spool.records():
        batches += 1
        events += len(record.events)
    size_bytes = spool.path.stat().st_size if spool.path.exists() else 0
    return Spooled(batches, events, size_bytes, spool.limit_bytes)


def _text(status: Status) -> str:
    events, ring, jobs = status.events, status.ring, status.jobs
    lines = [f"pipe      {status.pipe}"]
    if ring is None:
        lines.append("ring      none: nobody is sending")
    else:
        age_ms = Clock().monotonic_ms() - ring.heartbeat_ms
        flusher = f"pid {ring.flusher_pid}, last seen {age_ms / 1000:.1f} s ago" if ring.flusher_pid else "none yet"
        lines.append(
            f"ring      {ring.in_ring:,} of {ring.cap:,} events, {ring.blocks_in_use:,} of {ring.blocks:,} blocks, "
            f"{sum(producer.pid > 0 for producer in ring.producers)} producers"
        )
        lines.append(f"flusher   {flusher}")
        if ring.down_since_ms:
            cannot = "reach the data plane" if status.spool else "add to the queue"
            lines.append(f"          cannot {cannot}: events stay in the ring, the flusher's log says why")
    if status.trouble:
        lines.append(f"queue     {status.trouble}; queued means handed over")
    elif jobs is not None:
        paused = " (paused)" if jobs.paused else ""
        lines.append(f"queue     redis {status.redis}{paused}")
        completed = f", {jobs.completed:,} completed" if jobs.completed else ""
        limit = f" of {jobs.max_bytes:,}" if jobs.max_bytes is not None else ""
        lines.append(
            f"jobs      {jobs.waiting:,} waiting, {jobs.active:,} active, {jobs.delayed:,} delayed, "
            f"{jobs.failed:,} failed{completed}; {jobs.bytes:,}{limit} bytes"
        )
    if (spool := status.spool) is not None:
        lines.append(
            f"spool     {spool.batches:,} failed batches, {spool.events:,} events; "
            f"{spool.bytes:,} of {spool.max_bytes:,} bytes"
        )
    if events.refused:
        refused = ", ".join(f"{count:,} {reason}" for reason, count in events.refused.items())
        lines.append(f"refused   {refused}")
    rare = {"removed": events.removed, "elsewhere": events.elsewhere, "corrupt": events.corrupt}
    sign, verdict = ("=", "balanced") if events.balanced else ("!=", "does NOT balance")
    lines.append(
        f"events    {events.accepted:,} accepted {sign} {events.in_ring:,} in ring + {events.queued:,} queued + "
        f"{events.delivered:,} delivered + {events.failed:,} failed"
        f"{''.join(f' + {count:,} {what}' for what, count in rare.items() if count)}: {verdict}"
    )
    return "\n".join(lines)


def _producers(ring: Account) -> list[str]:
    """A line for each producer, and for the last one of each slot that has none."""
    lines = [f"{'slot':>4}  {'pid':>9}{'accepted':>14}{'in ring':>10}  refused"]
    for producer in ring.producers:
        refused = ", ".join(f"{count:,} {reason}" for reason, count in producer.refused.items()) or "0"
        pid = producer.pid or "gone"
        lines.append(f"{producer.slot:4}  {pid:>9}{producer.accepted:14,}{producer.in_ring:10,}  {refused}")
    return lines


def status(settings: Settings, *, as_json: bool, producers: bool) -> int:
    """The command; an exit code."""
    try:
        found = read(settings)
    except QueueUnavailable as error:
        now, events = _of_ring(find(settings))
        found = Status(settings.pipe_name, settings.redis_place, now, None, events, str(error))
    if settings.redis is None:
        found = msgspec.structs.replace(found, spool=spooled(settings))
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        print("\n".join([_text(found), *(_producers(found.ring) if producers and found.ring else [])]))
    if found.trouble:
        return EXIT_UNAVAILABLE
    return EXIT_OK if found.events.balanced else EXIT_FAILED
