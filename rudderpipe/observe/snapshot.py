"""One snapshot of ring, queue and sender. Whatever shows a pipe is a view of it, and reads nothing by itself.

Taking one takes no lock for longer than an instant, and changes neither ring nor queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from rudderpipe.errors import AnotherDataPlane, QueueUnavailable
from rudderpipe.flusher import dead_letters
from rudderpipe.observe import account, host_rings
from rudderpipe.observe.account import Events, PipeRing, RingAccount
from rudderpipe.observe.active_lanes import LaneState, lane_states
from rudderpipe.process.clock import Clock
from rudderpipe.queue import sender_report
from rudderpipe.queue.sender_report import Sender, SenderReport
from rudderpipe.ring import layout as at
from rudderpipe.ring import oldest_event
from rudderpipe.ring.counters import Counters
from rudderpipe.ring.ring import RingView
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.queue.active_job import QueueCounts
    from rudderpipe.queue.queue import Queue
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
        """True when events wait in the ring and no process serves it."""
        return self.counters.in_ring > 0 and self.flusher_pid is None


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """The queue in Redis: its jobs by state, and what is wrong with it."""

    name: str
    waiting: int
    active: int
    delayed: int
    failed: int
    completed: int
    paused: bool
    used_bytes: int
    """Memory in Redis of the jobs in all states; an estimate when there are thousands of jobs."""
    max_bytes: int | None
    events_queued: int
    """Events of all rings that are in the queue; the five below are of all rings too, since the queue was made."""
    events_delivered: int
    events_failed: int
    """Events of the failed jobs that are there now."""
    events_removed: int
    events_elsewhere: int
    events_lost: int
    odd_fields: int
    """Fields of the account that another program has written; they count as 0."""
    other_plane: str
    """Data plane that the queue's jobs are for, when it is not that of the settings."""
    evicting_policy: str
    """Redis's ``maxmemory-policy`` if it evicts queued events; empty otherwise."""
    lanes: list[LaneState]
    """Active jobs by lane, and those without a lane, in the order of the oldest of each; empty if none has a lane."""
    oldest_job_age_s: float | None
    """Seconds since the next job, or the oldest active one, was made; by the clocks of both hosts. None without a job,
    and when this user of Redis may not read jobs."""
    oldest_failed_age_s: float | None
    """Seconds since the oldest job of the failed set failed. None as for ``oldest_job_age_s``."""
    generations: list[GenerationState] = []
    """Where events are, the oldest generation first; empty where there never was more than one queue."""


class GenerationState(msgspec.Struct, frozen=True):
    """One generation of queues that is not retired."""

    number: int
    queues: int
    jobs: int
    """Jobs in its queues that wait, are active or delayed."""
    is_current: bool
    """True if new events go there. The others are drained first."""


class LeaseState(msgspec.Struct, frozen=True):
    """The sender that has the queue's lease."""

    number: int
    """It grows with each sender that takes the lease."""
    host: str
    pid: int
    lapses_in_s: float


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

    ``ring`` is the sum of ``rings``, and None when the pipe has none. ``queue`` and ``lease`` are None in direct mode,
    and when Redis could not be read: ``queue_trouble`` is the reason then, and ``events.queued`` counts every event
    that was handed to Redis. ``lease`` is also None when no sender has it.
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
    queue: QueueState | None
    queue_trouble: str
    lease: LeaseState | None
    senders: list[Sender]
    """The senders that report what they do, the one with the latest report first; one that may not write into Redis,
    or of an earlier version, is absent."""
    dead_letters: DeadLetterState

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
        ages_s = (ring.oldest_event_age_s for ring in self.rings)
        return max((age_s for age_s in ages_s if age_s is not None), default=None)

    def lacks_sender(self, settings: Settings) -> bool:
        """Return True if jobs wait and no sender works. Several senders take no lease, so it is False for them."""
        queue = self.queue
        if queue is None or queue.paused or settings.is_multi_processor:
            return False
        return queue.waiting + queue.active > 0 and self.lease is None

    def has_several_senders(self, settings: Settings) -> bool:
        """Return True if several senders may work at once: on one queue, or on several queues."""
        return settings.is_multi_processor or (self.queue is not None and bool(self.queue.generations))

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
    """The account of a pipe, and the queue as Redis shows it; without Redis the account by the rings alone."""

    rings: list[RingAccount]
    events: Events
    queue: QueueState | None = None
    lease: LeaseState | None = None
    senders: Sequence[Sender] = ()
    trouble: str = ""
    """Why Redis could not be read; empty in direct mode."""


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

        redis = QueueSet(settings, clock)
        try:
            accounted = of_queues(redis, settings, found)
        finally:
            redis.close()
    rings = [ring_state(ring, each.counters, clock) for ring, each in zip(found, accounted.rings, strict=True)]
    return assembled(settings, clock, rings, accounted, dead_letters_of(settings))


def of_rings(found: Sequence[PipeRing], trouble: str = "", tries: int = account.TRIES) -> Accounted:
    """Return the account by the rings' own counters."""
    accounts = [account.of_ring(ring.view, tries) for ring in found]
    return Accounted(accounts, account.total(accounts), trouble=trouble)


def of_queues(queues: QueueSet, settings: Settings, found: Sequence[PipeRing], tries: int = account.TRIES) -> Accounted:
    """Return the account with Redis's side, and the queue. Without Redis it is that of the rings, with the reason.

    The numbers and the senders are those of all queues. The rest is that of the settings' own queue. There is no lease
    while a queue that has jobs has no sender.
    """
    try:
        accounts = [account.of_queues(queues, ring.view, tries) for ring in found]
        counted = queues.counted()
        counts = queues.merged(counted)
        state = _queue(queues, counted, counts, settings)
        leases = {queue: lease_state(queue) for queue in counted}
        lacks = any(leases[queue] is None and each.waiting + each.active for queue, each in counted.items())
        lease = None if lacks else next(filter(None, leases.values()), None)
        senders = [each for queue in counted for each in sender_report.read(queue)]
        senders.sort(key=lambda each: -each.report.written_ms)
        return Accounted(accounts, account.total(accounts, counts), state, lease, senders)
    except QueueUnavailable as error:
        return of_rings(found, str(error), tries)


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
        queue=accounted.queue,
        queue_trouble=accounted.trouble,
        lease=accounted.lease,
        senders=list(accounted.senders),
        dead_letters=letters,
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


def _generations(queues: QueueSet, counted: dict[Queue, QueueCounts]) -> list[GenerationState]:
    if queues.known is None or not queues.known.text:
        return []
    found = []
    for each in queues.known.living:
        own = [counts for place in each.queues if (counts := counted.get(queues.queue(place))) is not None]
        jobs = sum(counts.waiting + counts.active + counts.delayed for counts in own)
        found.append(GenerationState(each.number, len(each.queues), jobs, each is queues.known.current))
    return found


def _queue(queues: QueueSet, counted: dict[Queue, QueueCounts], counts: QueueCounts, settings: Settings) -> QueueState:
    queue = queues.home
    oldest_job_age_s, oldest_failed_age_s = _ages_s(queue)
    return QueueState(
        name=queue.keys.base.removesuffix(":"),
        waiting=counts.waiting,
        active=counts.active,
        delayed=counts.delayed,
        failed=counts.failed,
        completed=counts.completed,
        paused=counts.paused,
        used_bytes=queues.size_bytes(),
        max_bytes=settings.max_queue_bytes,
        events_queued=counts.events_queued,
        events_delivered=counts.events_delivered,
        events_failed=counts.events_failed,
        events_removed=counts.events_removed,
        events_elsewhere=counts.events_elsewhere,
        events_lost=counts.events_lost,
        odd_fields=counts.odd_fields,
        other_plane=_other_plane(queue),
        evicting_policy=queue.evicting_policy(),
        lanes=lane_states(queue),
        oldest_job_age_s=oldest_job_age_s,
        oldest_failed_age_s=oldest_failed_age_s,
        generations=_generations(queues, counted),
    )


def _other_plane(queue: Queue) -> str:
    try:
        queue.check_owner()
    except AnotherDataPlane as error:
        return error.owner
    return ""


def _ages_s(queue: Queue) -> tuple[float | None, float | None]:
    """Return the ages of the oldest job that is not delivered, and of the oldest failure."""
    keys = queue.keys

    def first(pipe: Any) -> None:
        for jobs in (keys.active, keys.wait, keys.paused):
            pipe.lindex(jobs, -1)
        pipe.zrange(keys.failed, 0, 0, withscores=True)

    try:
        *ids, failed = queue.ask(first)
        oldest = [job_id for job_id in ids if job_id is not None][:1]
        made = queue.ask(lambda pipe: [pipe.hget(keys.base.encode() + job_id, "timestamp") for job_id in oldest])
    except QueueUnavailable as error:
        if not error.answered:
            raise
        return None, None
    now_ms = queue.clock.time_ms()
    job_ages_s = [max(0, now_ms - int(text)) / 1000 for text in made if text is not None and text.isdigit()]
    failed_ages_s = [max(0.0, now_ms - score) / 1000 for _, score in failed]
    return next(iter(job_ages_s), None), next(iter(failed_ages_s), None)


def lease_state(queue: Queue) -> LeaseState | None:
    """Return the lease, or None if no sender has it."""

    def fill(pipe: Any) -> None:
        pipe.get(queue.keys.lease)
        pipe.pttl(queue.keys.lease)

    value, lapses_in_ms = queue.ask(fill)
    try:
        number, _, host, pid, _ = (value or b"").decode(errors="replace").split(" ")
        return LeaseState(int(number), host, int(pid), max(0, lapses_in_ms) / 1000)
    except ValueError:  # no sender has it, or its address is in an unknown form
        return None


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
