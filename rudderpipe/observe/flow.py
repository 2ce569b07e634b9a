"""The flow of a pipe's events, as the page and ``rudderpipe top`` show it: one small value that becomes JSON."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from rudderpipe._version import VERSION
from rudderpipe.observe import findings
from rudderpipe.observe.active_lanes import LaneState
from rudderpipe.observe.finding import Finding
from rudderpipe.observe.findings import NOW_S, RECENT_S, Recent
from rudderpipe.observe.pipe_queues import GenerationState, PipeQueue, QueueState, most
from rudderpipe.observe.reader import Reader, Totals, View
from rudderpipe.observe.snapshot import DeadLetterState, Snapshot
from rudderpipe.observe.spill_state import SpillState
from rudderpipe.queue.sender_report import SenderReport
from rudderpipe.ring import layout as at
from rudderpipe.settings import Settings

NOTED_EVERY_S = 10.0
"""How often the totals are noted with which later ones are compared."""


class Conclusion(msgspec.Struct, frozen=True):
    """All of a flow in one sentence."""

    level: Literal["ok", "warning", "trouble"]
    text: str


class ProducersFlow(msgspec.Struct, frozen=True):
    """The processes that send events, and the totals of what they sent."""

    processes: int
    accepted: int
    refused: int
    refused_by_reason: dict[str, int]


class RingFlow(msgspec.Struct, frozen=True):
    """The rings of the pipe as one."""

    rings: int
    events: int
    capacity: int
    fill: float
    """The share that is used, of its events or of its blocks if that is more; 1 for a full ring."""
    used_bytes: int
    size_bytes: int
    oldest_age_s: float | None
    flusher_pid: int | None
    """0 for a process of another pid namespace, None when no process serves a ring."""
    heartbeat_age_s: float | None
    sink_down_s: float
    in_queues_too: int
    """The events that their queues have already, while another queue takes nothing."""
    left: int
    """The total of events that left the rings."""


class QueueFlow(msgspec.Struct, frozen=True):
    """The jobs of the queue by state, and the events in them."""

    waiting: int
    active: int
    delayed: int
    failed: int
    completed: int
    paused: bool
    oldest_job_age_s: float | None
    oldest_failed_age_s: float | None
    used_bytes: int
    max_bytes: int | None
    events_queued: int
    events_failed: int
    lanes: list[LaneState]


class SenderFlow(msgspec.Struct, frozen=True):
    """The sender that has the lease, and its report; where several senders work, the one that reported last.

    ``report`` is the sum of the reports of all senders that work, and None if none may write one into Redis.
    """

    host: str
    pid: int
    senders: int
    lapses_in_s: float | None
    """None where several senders work, which have no lease."""
    number: int | None
    report: SenderReport | None


class Holder(msgspec.Struct, frozen=True):
    """The process that sends the jobs of one queue."""

    host: str
    pid: int


class QueueRow(msgspec.Struct, frozen=True, kw_only=True):
    """One of several queues. Its numbers are None while it cannot be read."""

    queue: str
    """Its name in Redis."""
    prefix: str
    redis: str
    """Where its Redis is."""
    generation: int
    is_current: bool
    trouble: str
    """Why it cannot be read; empty if it can."""
    waiting: int | None
    active: int | None
    delayed: int | None
    failed: int | None
    paused: bool | None
    used_bytes: int | None
    oldest_job_age_s: float | None
    share: float | None
    """Its share of the recent events; None if it is not known, and for a queue of an earlier generation."""
    sender: Holder | None
    """None if no sender works on it."""


class AccountFlow(msgspec.Struct, frozen=True):
    """Every accepted event, by the place where it is."""

    accepted: int
    in_ring: int
    spilled: int
    queued: int
    delivered: int
    failed: int
    removed: int
    elsewhere: int
    corrupt: int
    lost: int
    balanced: bool
    of_queues: bool
    """True if this is the account of the queues, for all pipes that fill them, because this pipe has no ring here."""


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A pipe at one moment, with its troubles. None means not known or not there, and is never 0 instead."""

    pipe: str
    host: str
    version: str
    mode: Literal["redis", "direct"]
    queue: str | None
    redis: str | None
    data_plane: str
    taken_at_ms: int
    """Milliseconds since 1970."""
    taken_at_s: float
    """Seconds on the monotonic clock. The difference of two totals over that of two of these is a rate."""
    conclusion: Conclusion = msgspec.field(name="verdict")
    findings: list[Finding]
    producers: ProducersFlow
    ring: RingFlow | None
    queue_state: QueueFlow | None
    queue_trouble: str
    queues: list[QueueRow]
    """Each of several queues; empty where there never was more than one."""
    generations: list[GenerationState]
    sender: SenderFlow | None
    account: AccountFlow
    dead_letters: DeadLetterState | None
    spill: SpillState | None


def of(found: Snapshot, settings: Settings, totals: Totals | None = None, recent: Recent | None = None) -> Flow:
    """Return the flow that a snapshot shows.

    ``totals`` are those of all rings that were ever seen, so that a total does not fall when a ring ends.
    """
    troubles = findings.of(found, settings, recent)
    is_direct = settings.redis is None
    return Flow(
        pipe=found.pipe,
        host=socket.gethostname(),
        version=VERSION,
        mode="direct" if is_direct else "redis",
        queue=found.queues[0].name if found.queue is not None else None,
        redis=found.redis or None,
        data_plane=settings.endpoint,
        taken_at_ms=found.taken_at_ms,
        taken_at_s=found.taken_at_s,
        conclusion=_conclusion(found, troubles),
        findings=troubles,
        producers=_producers(found, totals),
        ring=_ring(found, totals),
        queue_state=_queue(found.queue) if found.queue is not None else None,
        queue_trouble=found.queue_trouble,
        queues=rows(found, settings),
        generations=found.generations,
        sender=sender_of(found, settings),
        account=_account(found),
        dead_letters=found.dead_letters if is_direct or found.dead_letters.damaged else None,
        spill=found.spill,
    )


def sender_of(found: Snapshot, settings: Settings) -> SenderFlow | None:
    """Return the sender that a snapshot shows, or None without one."""
    lease, report = found.lease, found.report(settings)
    if lease is not None:
        senders = max(1, len(found.senders)) if found.has_several_senders(settings) else 1
        return SenderFlow(lease.host, lease.pid, senders, lease.lapses_in_s, lease.number, report)
    if not settings.is_multi_processor or not found.senders:
        return None
    first = found.senders[0]
    return SenderFlow(first.host, first.pid, len(found.senders), None, None, report)


def _conclusion(found: Snapshot, troubles: list[Finding]) -> Conclusion:
    if not troubles:
        if found.ring is None and not found.events.accepted:
            return Conclusion("ok", "No event has been sent through this pipe from this host.")
        return Conclusion("ok", "All is well: every accepted event is accounted for and moving.")
    worst = troubles[0]
    others = f" ({len(troubles) - 1} more below)" if len(troubles) > 1 else ""
    return Conclusion(worst.level, f"{worst.text}{others}")


def _account(found: Snapshot) -> AccountFlow:
    places = {name: getattr(found.events, name) for name in AccountFlow.__struct_fields__ if name != "of_queues"}
    return AccountFlow(**places, of_queues=found.is_account_of_queues)


def _producers(found: Snapshot, totals: Totals | None) -> ProducersFlow:
    if totals is not None:
        accepted, refused = totals.accepted, totals.refused
    else:
        accepted, refused = found.events.accepted, found.events.refused
    by_reason = {reason: refused.get(reason, 0) for reason in at.REFUSALS}
    return ProducersFlow(sum(each.producers for each in found.rings), accepted, sum(by_reason.values()), by_reason)


def _ring(found: Snapshot, totals: Totals | None) -> RingFlow | None:
    ring, rings = found.ring, found.rings
    if ring is None:
        return None
    pids = [each.flusher_pid for each in rings if each.flusher_pid is not None]
    return RingFlow(
        rings=len(rings),
        events=ring.in_ring,
        capacity=ring.cap,
        fill=findings.fill(ring),
        used_bytes=sum(each.used_bytes for each in rings),
        size_bytes=sum(each.size_bytes for each in rings),
        oldest_age_s=found.oldest_event_age_s,
        flusher_pid=pids[0] if len(pids) == len(rings) else None,
        heartbeat_age_s=most(each.heartbeat_age_s for each in rings),
        sink_down_s=max(each.sink_down_s for each in rings),
        in_queues_too=found.in_queues_too,
        left=totals.left if totals is not None else ring.left,
    )


def _queue(queue: QueueState) -> QueueFlow:
    return QueueFlow(**{name: getattr(queue, name) for name in QueueFlow.__struct_fields__})


def rows(found: Snapshot, settings: Settings) -> list[QueueRow]:
    """Return a row for each of several queues; none where there never was more than one."""
    return [_row(each, settings) for each in found.queues] if found.generations else []


def _row(queue: PipeQueue, settings: Settings) -> QueueRow:
    names = ("waiting", "active", "delayed", "failed", "paused", "used_bytes", "oldest_job_age_s")
    holder: Any = queue.lease if queue.lease is not None and not queue.lease.is_dead else None
    if settings.is_multi_processor:  # there are no leases
        holder = next(iter(queue.senders), None)
    return QueueRow(
        queue=queue.name,
        prefix=queue.prefix,
        redis=queue.place,
        generation=queue.generation,
        is_current=queue.is_current,
        trouble=queue.trouble,
        **{name: getattr(queue.state, name, None) for name in names},
        share=queue.share,
        sender=Holder(holder.host, holder.pid) if holder is not None else None,
    )


class Watch:
    """The flow of one pipe, read again and again, so that what happened lately can be told from what is long ago.

    Any thread may call it.
    """

    def __init__(self, settings: Settings, reader: Reader) -> None:
        self._settings = settings
        self._reader = reader
        self._lock = threading.Lock()
        self._noted: deque[_Noted] = deque()
        """Totals of the last ``RECENT_S``; the first is the last one that is at least so old."""

    def read(self) -> Flow:
        """Return the flow now. Raise ``RingUnavailable`` if a ring cannot be read."""
        return self.of(self._reader.read())

    def of(self, view: View) -> Flow:
        """Return the flow of a view that the reader has just returned."""
        return of(view.snapshot, self._settings, view.totals, self._recent(view))

    def _recent(self, view: View) -> Recent:
        report = view.snapshot.report(self._settings)
        now = _Noted(view.snapshot.taken_at_s, view.totals.refused, report.attempts if report is not None else {})
        with self._lock:
            noted = self._noted
            if not noted or now.at_s - noted[-1].at_s >= NOTED_EVERY_S:
                noted.append(now)
            while len(noted) > 1 and now.at_s - noted[1].at_s >= RECENT_S:
                noted.popleft()
            before = noted[0]
            lately = next(
                each for each in reversed([before, *noted]) if each is before or now.at_s - each.at_s >= NOW_S
            )
        return Recent(
            _growth(before.refused, now.refused),
            _growth(lately.refused, now.refused),
            _growth(before.attempts, now.attempts),
        )


class _Noted(NamedTuple):
    at_s: float
    refused: Mapping[str, int]
    attempts: Mapping[str, int]


def _growth(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """Return by how much each total has grown; all of it if one is lower, because another sender works then."""
    grown = {name: count - before.get(name, 0) for name, count in now.items()}
    return grown if min(grown.values(), default=0) >= 0 else dict(now)
