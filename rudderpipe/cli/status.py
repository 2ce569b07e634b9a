"""The command ``rudderpipe status``, which shows the ring, the queue, and whether the account balances."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from rudderpipe import log_text
from rudderpipe.cli import rings
from rudderpipe.cli.rings import RingRow
from rudderpipe.errors import AnotherDataPlane, QueueUnavailable
from rudderpipe.flusher import dead_letters as spools
from rudderpipe.process.clock import Clock
from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.counters import Counters
from rudderpipe.ring.ring import Ring, find_all
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_UNAVAILABLE
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.queue.active_job import QueueCounts
    from rudderpipe.queue.queue import Queue

TRIES = 100
ADDED = ("accepted", "in_ring", "delivered", "failed", "queued", "corrupt", "blocks", "blocks_in_use", "cap")
"""Numbers of a ring's account that are summed when a pipe has several rings."""


class Jobs(msgspec.Struct, frozen=True):
    """Jobs in the queue, by state."""

    waiting: int
    active: int
    delayed: int
    failed: int
    paused: bool
    completed: int = 0
    bytes: int = 0
    """Memory in Redis of the jobs in all states; an estimate when there are thousands of jobs."""
    max_bytes: int | None = None
    odd_fields: int = 0
    """Number of fields of the account that another program has written; they count as 0."""
    other_plane: str = ""
    """Data plane that the queue's jobs are for, when it is not that of the settings."""
    eviction: str = ""
    """Fault of Redis's ``maxmemory-policy``; empty without one."""


class Spooled(msgspec.Struct, frozen=True):
    """Dead letters of all rings that the pipe has had: batches that failed in direct mode, and damaged events."""

    batches: int
    events: int
    bytes: int
    max_bytes: int
    damaged: int = 0
    path: str = ""


class Events(msgspec.Struct, frozen=True):
    """Every accepted event, by the place where it is.

    ``balanced``: the events that left the ring are the events that Redis has (or that direct mode has committed),
    counted on both sides. Then
    ``accepted = in_ring + queued + delivered + failed + removed + elsewhere + corrupt + lost``.
    ``removed``: events of failed jobs that were deleted. ``elsewhere``: queued events that another SDK's worker
    delivered or a tool of Bull deleted. ``lost``: events that were queued when Redis lost its data, or delivered in
    the last seconds before.
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


class RingEvents(msgspec.Struct, frozen=True):
    """One ring of the pipe, which has a ring for each interpreter of a process and for each layout."""

    name: str
    in_ring: int


class Status(msgspec.Struct, frozen=True):
    """The JSON object that ``--json`` prints.

    ``ring`` is the sum of all rings of the pipe, and null when the pipe has none. ``jobs`` is null in direct mode.
    ``spool`` holds the dead letters in direct mode, and in queue mode when events were damaged. ``trouble`` is the
    reason why Redis could not be read; ``queued`` then counts every event that was handed to Redis.
    """

    pipe: str
    redis: str
    ring: Counters | None
    jobs: Jobs | None
    events: Events
    trouble: str | None = None
    spool: Spooled | None = None
    rings: list[RingEvents] = []
    is_stuck: bool = False
    """True when events wait and no process serves the ring."""
    others: list[RingRow] = []
    """Existing rings, when the pipe has none."""


def read(settings: Settings) -> Status:
    """Return the status of the pipe of these settings, without the dead letters.

    Raise ``QueueUnavailable`` or ``RingUnavailable``.
    """
    own = find_all(settings)
    if settings.redis is not None:
        return _queued(settings, own)
    return _status(settings, own, [_of_ring(ring) for ring in own])


def _status(settings: Settings, own: list[Ring], found: list[tuple[Counters, Events]]) -> Status:
    """Return the sum of a pipe's rings, from their own counters alone."""
    now = _merged([account for account, _ in found])
    events = _sum([events for _, events in found])
    each = [RingEvents(ring.segment.name, books.in_ring) for ring, (books, _) in zip(own, found, strict=True)]
    return Status(settings.pipe_name, settings.redis_place, now, None, events, rings=each)


def _merged(accounts: list[Counters]) -> Counters | None:
    """Return the accounts summed to one; a field that cannot be summed is that of the first ring."""
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


def _sum(events: list[Events]) -> Events:
    if len(events) == 1:
        return events[0]
    names = [name for name in Events.__struct_fields__ if name not in ("refused", "balanced")]
    return Events(
        **{name: sum(getattr(each, name) for each in events) for name in names},
        refused=_added([each.refused for each in events]),
        balanced=all(each.balanced for each in events),
    )


def _added(counts: list[dict[str, int]]) -> dict[str, int]:
    return dict(sum(map(Counter, counts), Counter()))


def _of_ring(ring: Ring) -> tuple[Counters, Events]:
    """Return the account from the ring's own counters alone."""
    for _ in range(TRIES):
        before = ring.drained()
        now = counters.read(ring)
        gone = now.queued + now.delivered + now.failed + now.corrupt
        after = ring.drained()
        if before == gone == after:
            break
    return now, _events(now, now.queued, now.delivered, now.failed, balanced=before <= gone <= after)


def _queued(settings: Settings, own: list[Ring]) -> Status:
    from rudderpipe.queue.queue import Queue

    queue = Queue(settings, Clock())
    found = [_of_queue(queue, ring) for ring in own]
    counts = queue.counts()
    status = _status(settings, own, found)
    if not own:
        counted = Events(counts.events_gone, 0, 0, 0, 0, {}, balanced=True)
        status = msgspec.structs.replace(status, events=_with(counted, counts))
    if not counts.is_sound:
        status = msgspec.structs.replace(status, events=msgspec.structs.replace(status.events, balanced=False))
    jobs = Jobs(
        counts.waiting,
        counts.active,
        counts.delayed,
        counts.failed,
        counts.paused,
        counts.completed,
        queue.size_bytes(),
        settings.max_queue_bytes,
        counts.odd_fields,
        _other_plane(queue),
        queue.eviction(),
    )
    queue.close()
    return msgspec.structs.replace(status, jobs=jobs)


def _other_plane(queue: Queue) -> str:
    try:
        queue.check_owner()
    except AnotherDataPlane as error:
        return error.owner
    return ""


def _of_queue(queue: Queue, ring: Ring) -> tuple[Counters, Events]:
    """Return one ring's account, with Redis's counters of its events."""
    # The ring and Redis cannot be read at one instant. The events that had left the ring before the reading are in
    # Redis, and the events in Redis have left the ring after it, by the ring's counters or by the offsets in Redis.
    # These are two bounds, which are equal when no event moves.
    words = ring.words
    for _ in range(TRIES):
        before = ring.drained()
        ended = max(0, words[at.H_ACKED] - words[at.H_ACKED_FAILED])
        handed = min(words[at.H_QUEUED], before)
        counts = queue.counts(ring.segment.epoch).with_losses(handed, ended, 0)
        after = counters.handed_over(ring, counts.offsets)
        now = counters.read(ring)
        gone = counts.events_gone + now.corrupt
        if before == gone == after:
            break
    balanced = before <= gone <= after and counts.is_sound
    return now, _with(_events(now, counts.events_gone, 0, 0, balanced=balanced), counts)


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


def _events(now: Counters, queued: int, delivered: int, failed: int, *, balanced: bool) -> Events:
    in_ring = now.accepted - now.corrupt - queued - delivered - failed
    return Events(now.accepted, in_ring, queued, delivered, failed, now.refused, balanced=balanced, corrupt=now.corrupt)


def spooled(settings: Settings) -> Spooled:
    """Count the dead letters, by reading each of them."""
    letters = spools.of(settings)
    letters.take_over()
    batches = events = damaged = 0
    for record in letters.records():
        batches += not record.damaged
        damaged += bool(record.damaged)
        events += len(record.events)
    return Spooled(batches, events, letters.size_bytes(), letters.limit_bytes, damaged, str(letters.path))


def _text(status: Status) -> str:
    events, ring, jobs = status.events, status.ring, status.jobs
    lines = [f"pipe      {status.pipe}"]
    if ring is None:
        lines.append("ring      this pipe has no ring" + ("; existing rings:" if status.others else ""))
        lines += [f"          {line}" for line in (*rings.table(status.others), *rings.hidden())]
    else:
        age_ms = Clock().monotonic_ms() - ring.heartbeat_ms
        flusher = f"pid {ring.flusher_pid}, last seen {age_ms / 1000:.1f} s ago" if ring.flusher_pid else "none yet"
        lines.append(
            f"ring      {ring.in_ring:,} of {ring.cap:,} events, {ring.blocks_in_use:,} of {ring.blocks:,} blocks, "
            f"{sum(producer.pid > 0 and not producer.within for producer in ring.producers)} producers"
        )
        if len(status.rings) > 1:
            lines += [f"          {one.in_ring:,} in {one.name}" for one in status.rings]
        lines.append(f"flusher   {flusher}")
        if status.is_stuck:
            lines.append("          no process serves the ring now; events wait in it")
        if ring.down_since_ms:
            cannot = "add to the queue" if status.redis else "reach the data plane"
            lines.append(f"          cannot {cannot}; events stay in the ring; the flusher's log has the reason")
    if status.trouble:
        lines.append(f"queue     {status.trouble.rstrip('.')}; queued counts all events handed to Redis")
    elif jobs is not None:
        paused = " (paused)" if jobs.paused else ""
        lines.append(f"queue     redis {status.redis}{paused}")
        completed = f", {jobs.completed:,} completed" if jobs.completed else ""
        limit = f" of {jobs.max_bytes:,}" if jobs.max_bytes is not None else ""
        lines.append(
            f"jobs      {jobs.waiting:,} waiting, {jobs.active:,} active, {jobs.delayed:,} delayed, "
            f"{jobs.failed:,} failed{completed}; {jobs.bytes:,}{limit} bytes"
        )
        if jobs.other_plane:
            lines.append(f"          its jobs are for the data plane {jobs.other_plane}; see `rudderpipe queue`")
        if jobs.eviction:
            lines.append(f"          {jobs.eviction} must be set")
        if jobs.odd_fields:
            lines.append(f"          {jobs.odd_fields:,} fields of the account are from another program and count as 0")
    if (spool := status.spool) is not None:
        lines.append(
            f"kept      {spool.batches:,} failed batches, {spool.events:,} events, in the dead letters; "
            f"{spool.bytes:,} of {spool.max_bytes:,} bytes"
        )
        if spool.damaged:
            lines.append(f"          {spool.damaged:,} damaged events, with their bytes from the ring, in {spool.path}")
    if events.refused:
        refused = ", ".join(f"{count:,} {reason}" for reason, count in events.refused.items())
        lines.append(f"refused   {refused}")
    rare = {name: getattr(events, name) for name in ("removed", "elsewhere", "corrupt")}
    rare["lost with redis"] = events.lost
    sign, decision = ("=", "balanced") if events.balanced else ("!=", "does NOT balance")
    lines.append(
        f"events    {events.accepted:,} accepted {sign} {events.in_ring:,} in ring + {events.queued:,} queued + "
        f"{events.delivered:,} delivered + {events.failed:,} failed"
        f"{''.join(f' + {count:,} {what}' for what, count in rare.items() if count)}: {decision}"
    )
    return "\n".join(lines)


def _producers(ring: Counters) -> list[str]:
    """Return a line for each slot: its producer, or the last producer of a slot that has none now."""
    lines = [f"{'slot':>4}  {'pid':>9}{'accepted':>14}{'in ring':>10}  refused"]
    for producer in ring.producers:
        refused = ", ".join(f"{count:,} {reason}" for reason, count in producer.refused.items()) or "0"
        pid = producer.pid or "gone"
        lines.append(f"{producer.slot:4}  {pid:>9}{producer.accepted:14,}{producer.in_ring:10,}  {refused}")
    return lines


def status(settings: Settings, *, as_json: bool, producers: bool) -> int:
    """Print the status of the pipe, and return an exit code."""
    try:
        found = read(settings)
    except QueueUnavailable as error:
        own = find_all(settings)
        found = _status(settings, own, [_of_ring(ring) for ring in own])
        found = msgspec.structs.replace(found, trouble=str(error))
    kept = spooled(settings)
    if settings.redis is None or kept.damaged:
        found = msgspec.structs.replace(found, spool=kept)
    rows = [row for row in rings.of_this_user(settings.runtime_dir) if row.pipe in settings.pipe_names]
    others = [] if found.rings else rings.visible(settings.runtime_dir)
    found = msgspec.structs.replace(found, is_stuck=any(row.is_stuck for row in rows), others=others)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        print(log_text.lines("\n".join([_text(found), *(_producers(found.ring) if producers and found.ring else [])])))
    if found.trouble:
        return EXIT_UNAVAILABLE
    return EXIT_OK if found.events.balanced and not found.is_stuck else EXIT_FAILED
