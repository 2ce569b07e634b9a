"""``rudderpipe status``: what the ring and the queue hold, and whether the account balances."""

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
from rudderpipe.ring.counters import Account
from rudderpipe.ring.ring import Ring, find_all
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_UNAVAILABLE
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.queue.active_job import QueueCounts
    from rudderpipe.queue.queue import Queue

TRIES = 100
ADDED = ("accepted", "in_ring", "delivered", "failed", "queued", "corrupt", "blocks", "blocks_in_use", "cap")
"""Numbers of a ring's account that are added when a pipe has several rings."""


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
    odd_fields: int = 0
    """Of the account, by another program; they count as 0."""
    other_plane: str = ""
    """The data plane that the queue's jobs are for, when it is another one."""
    eviction: str = ""
    """What is wrong with Redis's maxmemory-policy."""


class Spooled(msgspec.Struct, frozen=True):
    """Dead letters, of all rings that the pipe has had: batches that failed in direct mode, and damaged events."""

    batches: int
    events: int
    bytes: int
    max_bytes: int
    damaged: int = 0
    path: str = ""


class Events(msgspec.Struct, frozen=True):
    """Every accepted event, by where it is.

    ``balanced``: what left the ring is what Redis has (or direct mode has settled), counted on both sides; then
    ``accepted = in_ring + queued + delivered + failed + removed + elsewhere + corrupt + lost``. ``removed``: of failed
    jobs that were deleted. ``elsewhere``: were queued, and another SDK's worker or a tool of Bull saw to them.
    ``lost``: were queued when Redis lost its data, or delivered in the last seconds before.
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
    """One ring of the pipe: there is one for each interpreter of a process, and for each layout."""

    name: str
    in_ring: int


class Status(msgspec.Struct, frozen=True):
    """What ``--json`` prints; ``ring`` is all rings of the pipe together and null when it has none.

    ``jobs`` is null in direct mode. ``spool`` is there in direct mode, and where events were damaged. ``trouble`` says
    why Redis could not be read: ``queued`` is then what was handed to it, whatever became of that.
    """

    pipe: str
    redis: str
    ring: Account | None
    jobs: Jobs | None
    events: Events
    trouble: str | None = None
    spool: Spooled | None = None
    rings: list[RingEvents] = []
    is_stuck: bool = False
    """Events wait, and no process serves the ring."""
    others: list[RingRow] = []
    """The rings that there are, when the pipe has none."""


def read(settings: Settings) -> Status:
    """That of the pipe that these settings name, less the spool. Raises ``QueueUnavailable``, ``RingUnavailable``."""
    own = find_all(settings)
    if settings.redis is not None:
        return _queued(settings, own)
    return _status(settings, own, [_of_ring(ring) for ring in own])


def _status(settings: Settings, own: list[Ring], found: list[tuple[Account, Events]]) -> Status:
    """The rings of a pipe taken together, by their own words alone."""
    now = _merged([account for account, _ in found])
    events = _sum([events for _, events in found])
    each = [RingEvents(ring.segment.name, books.in_ring) for ring, (books, _) in zip(own, found, strict=True)]
    return Status(settings.pipe_name, settings.redis_place, now, None, events, rings=each)


def _merged(accounts: list[Account]) -> Account | None:
    """All rings as one; what cannot be added is that of the first."""
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


def _of_ring(ring: Ring) -> tuple[Account, Events]:
    """The account by the ring's own words alone."""
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


def _of_queue(queue: Queue, ring: Ring) -> tuple[Account, Events]:
    """One ring's account with what Redis says of its events."""
    # Ring and Redis cannot be read at one instant. What had left the ring before is in Redis, and what is in Redis
    # has left the ring after, by its own words or by those of Redis: two bounds, equal when nothing moves.
    words = ring.words
    for _ in range(TRIES):
        before = ring.drained()
        ended = max(0, words[at.H_SEEN_OFF] - words[at.H_SEEN_FAILED])
        handed = min(words[at.H_QUEUED], before)
        counts = queue.counts(ring.segment.epoch).with_losses(handed, ended, 0)
        after = counters.handed_over(ring, counts.positions)
        now = counters.read(ring)
        gone = counts.events_gone + now.corrupt
        if before == gone == after:
            break
    balanced = before <= gone <= after and counts.is_sound
    return now, _with(_events(now, counts.events_gone, 0, 0, balanced=balanced), counts)


def _with(events: Events, counts: QueueCounts) -> Events:
    """The events that left the ring, by what became of them in Redis."""
    return msgspec.structs.replace(
        events,
        queued=counts.events_queued,
        delivered=counts.events_delivered,
        failed=counts.events_failed,
        removed=counts.events_removed,
        elsewhere=counts.events_elsewhere,
        lost=counts.events_lost,
    )


def _events(now: Account, queued: int, delivered: int, failed: int, *, balanced: bool) -> Events:
    in_ring = now.accepted - now.corrupt - queued - delivered - failed
    return Events(now.accepted, in_ring, queued, delivered, failed, now.refused, balanced=balanced, corrupt=now.corrupt)


def spooled(settings: Settings) -> Spooled:
    """Count the dead letters; each is read."""
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
        lines.append("ring      none of this pipe" + ("; there are:" if status.others else ""))
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
            lines.append("          none is there now: events wait in the ring")
        if ring.down_since_ms:
            cannot = "add to the queue" if status.redis else "reach the data plane"
            lines.append(f"          cannot {cannot}: events stay in the ring, the flusher's log says why")
    if status.trouble:
        lines.append(f"queue     {status.trouble.rstrip('.')}; queued means handed over")
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
            lines.append(f"          its jobs are for the data plane {jobs.other_plane}: see `rudderpipe queue`")
        if jobs.eviction:
            lines.append(f"          {jobs.eviction} must be set")
        if jobs.odd_fields:
            lines.append(f"          {jobs.odd_fields:,} fields of the account are another program's, and count as 0")
    if (spool := status.spool) is not None:
        lines.append(
            f"spool     {spool.batches:,} failed batches, {spool.events:,} events; "
            f"{spool.bytes:,} of {spool.max_bytes:,} bytes"
        )
        if spool.damaged:
            lines.append(f"          {spool.damaged:,} damaged events, as they stood in the ring, in {spool.path}")
    if events.refused:
        refused = ", ".join(f"{count:,} {reason}" for reason, count in events.refused.items())
        lines.append(f"refused   {refused}")
    rare = {name: getattr(events, name) for name in ("removed", "elsewhere", "corrupt")}
    rare["lost with redis"] = events.lost
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
