"""One snapshot of ring, queue and sender. Whatever shows a pipe is a view of it, and reads nothing by itself.

Taking one takes no lock for longer than an instant, and changes neither ring nor queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rudderpipe.errors import QueueUnavailable
from rudderpipe.flusher import dead_letters
from rudderpipe.observe import account, host_rings, pipe_queues, spill_state
from rudderpipe.observe.account import Events, PipeRing, RingAccount
from rudderpipe.observe.pipe_queues import GenerationState, LeaseState, PipeQueue, QueueState, most
from rudderpipe.observe.shares import ShareMeter
from rudderpipe.observe.spill_state import SpillState
from rudderpipe.process.clock import Clock
from rudderpipe.queue import sender_report
from rudderpipe.queue.sender_report import Sender, SenderReport
from rudderpipe.ring import layout as at
from rudderpipe.ring import oldest_event
from rudderpipe.ring.counters import Counters
from rudderpipe.ring.ring import RingView
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.queue.queue_set import QueueSet


class RingState(msgspec.Struct, frozen=True, kw_only=True):
    """One ring of the pipe, which has a ring for each interpreter of a process and for each layout."""

    name: str
    layout: int
    interpreter: int
    counters: Counters
    size_bytes: int
    used_bytes: int
    """Memory that the ring takes; blocks that were never used take none."""
    slots: int
    slots_used: int
    """Slots that ever had a producer."""
    producers: int
    """Processes that have a slot now."""
    created_ms: int
    """When the ring was made, in milliseconds since 1970."""
    oldest_event_age_s: float | None
    """How long the oldest event has been in the ring; None when the ring is empty. By the event's own time, or by the
    claim of its block if that is later."""
    flusher_pid: int | None
    """Pid of the process that serves the ring; 0 for a process of another pid namespace, None without a process."""
    flusher_starts: int
    heartbeat_age_s: float | None
    """Seconds since the flusher's last sign of life; None before the first flusher."""
    sink_down_s: float
    """For how long the flusher has not been able to hand over events; 0 while it can."""
    unconfirmed_s: float
    """For how long replicas of Redis have lacked events that Redis has (``redis_replicas``); 0 while they have them."""

    @property
    def is_stuck(self) -> bool:
        """True when events wait in the ring or in its spill, and no process serves it."""
        return self.counters.in_ring + self.counters.spilled > 0 and self.flusher_pid is None


class DeadLetterState(msgspec.Struct, frozen=True):
    """Dead letters of all rings that the pipe has had: batches that failed in direct mode, and damaged events.

    ``waiting`` of the batches are sent again when the data plane is back.
    """

    batches: int
    waiting: int
    events: int
    used_bytes: int
    max_bytes: int
    damaged: int
    path: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A pipe at one moment, except that numbers may move while they are read.

    ``ring`` is the sum of ``rings``, and None when the pipe has none. While a queue cannot be read, ``queue_trouble``
    is the reason, and every event that it was given counts as queued or as in the ring.
    """

    taken_at_ms: int
    """Milliseconds since 1970."""
    taken_at_s: float
    """Seconds on the monotonic clock. The difference of two totals over that of two of these is a rate."""
    pipe: str
    redis: str
    ring: Counters | None
    rings: list[RingState]
    events: Events
    queues: list[PipeQueue]
    """Every queue that may hold jobs, the one of the settings first; none in direct mode."""
    dead_letters: DeadLetterState
    spill: SpillState | None = None
    """None without ``spill_dir``, and when its directory cannot be read."""

    @property
    def is_stuck(self) -> bool:
        """True when events wait and no process serves their ring."""
        return any(ring.is_stuck for ring in self.rings)

    @property
    def unconfirmed_s(self) -> float:
        """For how long replicas of Redis have lacked events of any ring; 0 while they have all."""
        return max((ring.unconfirmed_s for ring in self.rings), default=0.0)

    @property
    def oldest_event_age_s(self) -> float | None:
        """How long the oldest event of all rings has been there; None when they are empty."""
        return most(ring.oldest_event_age_s for ring in self.rings)

    @property
    def in_queues_too(self) -> int:
        """Number of events in the rings that their queues have already; 0 unless one of several queues takes nothing.

        A batch leaves its ring when every queue has its part.
        """
        is_held = bool(self.generations) and any(each.sink_down_s for each in self.rings)
        return max(0, self.ring.in_ring - self.events.in_ring) if self.ring is not None and is_held else 0

    @property
    def queue(self) -> QueueState | None:
        """The sum of the queues that can be read; None in direct mode, and when none can."""
        return pipe_queues.total(self.queues)

    @property
    def is_account_of_queues(self) -> bool:
        """True if the account is that of the queues, whichever pipes fill them, because this pipe has no ring here."""
        return not self.rings and self.queue is not None

    @property
    def queue_trouble(self) -> str:
        """Why queues cannot be read; empty in direct mode, and when all can."""
        away = [each for each in self.queues if each.trouble]
        if len(self.queues) == 1:
            return self.queues[0].trouble
        return "; ".join(f"{each.prefix}: {each.trouble}" for each in away)

    @property
    def generations(self) -> list[GenerationState]:
        """Where events are, the oldest generation first; empty where there never was more than one queue."""
        return pipe_queues.generations(self.queues)

    @property
    def lease(self) -> LeaseState | None:
        """The lease of the first queue that a sender has; None while a queue that has jobs has no sender."""
        if any(each.lacks_sender for each in self.queues):
            return None
        living = (each.lease for each in self.queues if each.lease is not None and not each.lease.is_dead)
        return next(living, None)

    @property
    def senders(self) -> list[Sender]:
        """The senders that report what they do, the one with the latest report first.

        One that may not write into Redis, or of an earlier version, is absent.
        """
        found = [sender for each in self.queues for sender in each.senders]
        return sorted(found, key=lambda each: -each.report.written_ms)

    def queues_without_sender(self, settings: Settings) -> list[PipeQueue]:
        """Return the queues where jobs wait and no sender works. Several senders take no lease, so none is named then.

        A queue whose jobs must wait for an earlier generation is not among them.
        """
        if settings.is_multi_processor:
            return []
        first = min((each.number for each in self.generations if each.jobs or each.away), default=0)
        lacking = [each for each in self.queues if each.lacks_sender]
        return [each for each in lacking if each.is_open or each.generation <= first or len(self.queues) == 1]

    def lacks_sender(self, settings: Settings) -> bool:
        """Return True if jobs wait and no sender works."""
        return bool(self.queues_without_sender(settings))

    def has_several_senders(self, settings: Settings) -> bool:
        """Return True if several senders may work at once: on one queue, or on several queues."""
        return settings.is_multi_processor or bool(self.generations)

    def report(self, settings: Settings) -> SenderReport | None:
        """Return the report of the sender that has the lease, or the sum where several work; None without one."""
        if self.has_several_senders(settings):
            return sender_report.merged([each.report for each in self.senders])
        lease = self.lease
        if lease is None:
            return None
        own = [each.report for each in self.senders if (each.host, each.pid) == (lease.host, lease.pid)]
        return own[0] if own else None


class Accounted(NamedTuple):
    """The account of a pipe, and its queues as Redis shows them; without Redis the account by the rings alone."""

    rings: list[RingAccount]
    events: Events
    queues: Sequence[PipeQueue] = ()


def take(settings: Settings, clock: Clock | None = None) -> Snapshot:
    """Return a snapshot of the pipe of these settings.

    Redis may be away. Raise ``RingUnavailable`` if a ring cannot be read, and ``OSError`` if dead letters cannot.
    """
    clock = clock or Clock()
    found = account.rings(settings)
    if settings.redis is None:
        accounted = of_rings(found)
    else:
        from rudderpipe.queue.queue_set import QueueSet  # imported here, because direct mode needs no Redis client

        queues = QueueSet(settings, clock, answer_s=pipe_queues.ANSWER_S)
        try:
            accounted = of_queues(queues, found, ShareMeter())
        finally:
            queues.close()
    rings = [ring_state(ring, each.counters, clock) for ring, each in zip(found, accounted.rings, strict=True)]
    return assembled(settings, clock, rings, accounted, dead_letters_of(settings))


def of_rings(found: Sequence[PipeRing], queues: Sequence[PipeQueue] = (), tries: int = account.TRIES) -> Accounted:
    """Return the account by the rings' own counters; ``queues`` are shown beside it."""
    accounts = [account.of_ring(ring.view, tries) for ring in found]
    return Accounted(accounts, account.total(accounts), queues)


def of_queues(queues: QueueSet, found: Sequence[PipeRing], shares: ShareMeter, tries: int = account.TRIES) -> Accounted:
    """Return the account with Redis's side, and the queues. What cannot be read is accounted by the rings alone."""
    read = pipe_queues.read(queues)
    if read.counts is None:
        return of_rings(found, read.shown, tries)
    accounts = None
    if read.is_complete:
        with suppress(QueueUnavailable):
            accounts = [account.of_queues(queues, ring.view, tries) for ring in found]
    if accounts is None:
        accounts = [account.of_some_queues(read.readable, ring.view, tries) for ring in found]
    shown = shares.note(read.shown, queues.home.clock.monotonic_s())
    return Accounted(accounts, account.total(accounts, read.counts), shown)


def assembled(
    settings: Settings, clock: Clock, rings: list[RingState], accounted: Accounted, letters: DeadLetterState
) -> Snapshot:
    """Return the snapshot that consists of these parts."""
    return Snapshot(
        taken_at_ms=clock.time_ms(),
        taken_at_s=clock.monotonic_s(),
        pipe=settings.pipe_name,
        redis=settings.redis_place,
        ring=account.merged([each.counters for each in rings]),
        rings=rings,
        events=accounted.events,
        queues=list(accounted.queues),
        dead_letters=letters,
        spill=spill_state.read(settings, [ring.counters for ring in rings]),
    )


def ring_states(found: Sequence[PipeRing], clock: Clock) -> list[RingState]:
    """Return the states of rings, without Redis."""
    return [ring_state(ring, account.of_ring(ring.view).counters, clock) for ring in found]


def ring_state(ring: PipeRing, counters: Counters, clock: Clock, *, tries_lock: bool = True) -> RingState:
    """Return the state of one ring. ``tries_lock`` is that of ``host_rings.flusher_pid``."""
    view, words = ring.view, ring.view.words
    beat_ms, down_ms = counters.heartbeat_ms, counters.down_since_ms
    unconfirmed_ms = words[at.H_UNCONFIRMED_MS]
    return RingState(
        name=view.segment.name,
        layout=ring.location.layout,
        interpreter=ring.location.interpreter,
        counters=counters,
        size_bytes=view.layout.size_bytes,
        used_bytes=view.segment.size_in_use(),
        slots=view.layout.slots,
        slots_used=view.slots_used,
        producers=sum(producer.pid > 0 and not producer.within for producer in counters.producers),
        created_ms=words[at.H_CREATED_MS],
        oldest_event_age_s=_oldest_event_age_s(view, clock) if counters.in_ring else None,
        flusher_pid=host_rings.flusher_pid(ring.location, view, tries_lock=tries_lock),
        flusher_starts=words[at.H_STARTS],
        heartbeat_age_s=(clock.monotonic_ms() - beat_ms) / 1000 if beat_ms else None,
        sink_down_s=max(0, clock.time_ms() - down_ms) / 1000 if down_ms else 0.0,
        unconfirmed_s=max(0, clock.monotonic_ms() - unconfirmed_ms) / 1000 if unconfirmed_ms else 0.0,
    )


def _oldest_event_age_s(ring: RingView, clock: Clock) -> float | None:
    """Return the age of the first event. An imported event has a time of long ago, so its block's claim counts then."""
    event = oldest_event.find(ring)
    if event is None:
        return None
    ages_s = [(clock.monotonic_ms() - event.claimed_ms) / 1000] if event.claimed_ms else []
    try:
        text = msgspec.json.decode(event.data, type=_Event).originalTimestamp
        made_s = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (msgspec.MsgspecError, ValueError):
        pass  # damaged, or with a time in another form
    else:
        ages_s.append(clock.time_ms() / 1000 - made_s)
    return max(0.0, min(ages_s)) if ages_s else None


class _Event(msgspec.Struct):
    originalTimestamp: str  # noqa: N815  # as on the wire


def dead_letters_of(settings: Settings) -> DeadLetterState:
    """Count the dead letters, by reading each of them."""
    letters = dead_letters.of(settings)
    batches = events = damaged = 0
    for record in letters.records():
        batches += bool(record.events)
        damaged += bool(record.damaged)
        events += len(record.events)
    waiting = len(letters.names_again())
    return DeadLetterState(
        batches, waiting, events, letters.size_bytes(), letters.limit_bytes, damaged, str(letters.path)
    )
