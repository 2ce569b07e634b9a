"""The queues of a pipe, as Redis shows them: each by itself, and the sum of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from rudderpipe.errors import AnotherDataPlane, QueueUnavailable
from rudderpipe.observe import active_lanes
from rudderpipe.observe.active_lanes import LaneState
from rudderpipe.process import identity
from rudderpipe.queue import seal, sender_report
from rudderpipe.queue.active_job import EVENT_STATES, QueueCounts, events_of
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.sender_report import Sender
from rudderpipe.service.calls import Calls
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.queue.queue import Queue
    from rudderpipe.queue.queue_set import Member, QueueSet

ANSWER_S = 2.5
"""How long a view waits for a response of Redis."""
WAIT_S = 1.0


COUNTED = ("waiting", "active", "delayed", "failed", "completed", "odd_fields", *EVENT_STATES)
"""The numbers that a queue counts, and that are summed for several."""


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of a queue in Redis by state, and what is wrong with it; of one queue, or the sum of several."""

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

    @property
    def left(self) -> int:
        """Jobs that must be delivered before the next generation: they wait, are active or delayed."""
        return self.waiting + self.active + self.delayed

    @property
    def events_gone(self) -> int:
        """The number of events that were ever added, by their states."""
        return events_of(self)


class GenerationState(msgspec.Struct, frozen=True):
    """One generation of queues that is not retired."""

    number: int
    queues: int
    jobs: int
    """Jobs in its queues that wait, are active or delayed; without those of the queues that cannot be read."""
    is_current: bool
    """True if new events go there. The others are drained first."""
    away: int
    """How many of its queues cannot be read."""


class LeaseState(msgspec.Struct, frozen=True):
    """The sender that has the queue's lease."""

    number: int
    """It grows with each sender that takes the lease."""
    host: str
    pid: int
    lapses_in_s: float
    is_dead: bool = False
    """True if the process has ended on this host. The lease has not lapsed then, and nothing is sent."""


class PipeQueue(msgspec.Struct, frozen=True, kw_only=True):
    """One of the queues of a pipe.

    ``state`` is None if the queue cannot be read, and ``trouble`` says why. ``lease`` is None without a sender, too.
    """

    name: str
    """Its name in Redis, with the prefix."""
    prefix: str
    place: str
    """Where its Redis is, without password."""
    generation: int
    is_current: bool
    """True if new events go to its generation."""
    is_open: bool = False
    """True if senders may deliver from it while earlier queues have jobs, which came after these were drained."""
    state: QueueState | None = None
    lease: LeaseState | None = None
    senders: list[Sender] = []
    """The senders that report what they do, the one with the latest report first; one that may not write into Redis,
    or of an earlier version, is absent."""
    trouble: str = ""
    share: float | None = None
    """Its share of the recent events; None where it is the only queue of its generation, and where it is not known."""

    @property
    def lacks_sender(self) -> bool:
        """True if jobs wait and no sender has the lease."""
        state = self.state
        is_needed = state is not None and not state.paused and state.waiting + state.active > 0
        return is_needed and (self.lease is None or self.lease.is_dead)


class Found(NamedTuple):
    """The queues of a pipe, and what can be read of them."""

    shown: list[PipeQueue]
    counts: QueueCounts | None
    """The sum of the queues that can be read; None if none can."""
    readable: list[Queue]
    is_complete: bool
    """True if every queue can be read."""


def unread(settings: Settings, trouble: str = "", *, generation: int = 0, is_current: bool = True) -> PipeQueue:
    """Return the queue that these settings name, without what Redis says."""
    name = Keys(settings.prefix, settings.queue_name).base.removesuffix(":")
    return PipeQueue(
        name=name,
        prefix=settings.prefix,
        place=settings.redis_place,
        generation=generation,
        is_current=is_current,
        trouble=trouble,
    )


def read(queues: QueueSet) -> Found:
    """Read all queues at the same time, so that a queue that is away holds none up.

    If the first queue is away and the route is not known, it is the only one that is returned.
    """
    try:
        members = queues.members()
    except QueueUnavailable as error:
        return Found([unread(queues.settings, str(error))], None, [], is_complete=False)
    calls = Calls("rudderpipe-observe", lambda _error: None)
    for number, member in enumerate(members[1:], 1):
        calls.begin(number, partial(_read, member))
    found = {0: _read(members[0])}
    while len(found) < len(members):
        ended = calls.next(WAIT_S)
        if ended is not None:
            found[ended.owner] = ended.result
    calls.close()
    each_read = [(member, found[number]) for number, member in enumerate(members)]
    readable = [(member.queue, each.counts) for member, each in each_read if each.counts is not None]
    return Found(
        [each.queue for member, each in each_read if not member.is_retired or _has_jobs(each.queue)],
        QueueCounts.merged([counts for _, counts in readable]) if readable else None,
        [queue for queue, _ in readable],
        is_complete=len(readable) == len(members),
    )


class _Read(NamedTuple):
    queue: PipeQueue
    counts: QueueCounts | None = None


def _has_jobs(shown: PipeQueue) -> bool:
    """Return True for a retired queue that another program goes on adding jobs to."""
    return shown.state is not None and shown.state.left + shown.state.failed > 0


def _read(member: Member) -> _Read:
    queue = member.queue
    shown = unread(member.settings, generation=member.generation, is_current=member.is_current)
    try:
        member.check()
        counts = queue.counts()
        state = _state(queue, counts, member.settings.max_queue_bytes)
        lease, senders = lease_state(queue), sender_report.read(queue)
        is_open = bool(member.generation) and seal.remains(queue).is_open
    except QueueUnavailable as error:
        return _Read(msgspec.structs.replace(shown, trouble=str(error)))
    return _Read(msgspec.structs.replace(shown, is_open=is_open, state=state, lease=lease, senders=senders), counts)


def _state(queue: Queue, counts: QueueCounts, max_bytes: int | None) -> QueueState:
    oldest_job_age_s, oldest_failed_age_s = _ages_s(queue)
    return QueueState(
        **{name: getattr(counts, name) for name in COUNTED},
        paused=counts.paused,
        used_bytes=queue.size_bytes(),
        max_bytes=max_bytes,
        other_plane=_other_plane(queue),
        evicting_policy=queue.evicting_policy(),
        lanes=active_lanes.lane_states(queue),
        oldest_job_age_s=oldest_job_age_s,
        oldest_failed_age_s=oldest_failed_age_s,
    )


def total(queues: Sequence[PipeQueue]) -> QueueState | None:
    """Return the queues that can be read as one; None if none can. Its age is that of the oldest job of all."""
    states = [each.state for each in queues if each.state is not None]
    if len(states) < 2:
        return states[0] if states else None
    limits = [each.max_bytes for each in states]
    return QueueState(
        **{name: sum(getattr(each, name) for each in states) for name in COUNTED},
        paused=any(each.paused for each in states),
        used_bytes=sum(each.used_bytes for each in states),
        max_bytes=None if None in limits else sum(filter(None, limits)),
        other_plane=next((each.other_plane for each in states if each.other_plane), ""),
        evicting_policy=next((each.evicting_policy for each in states if each.evicting_policy), ""),
        lanes=active_lanes.merged([lane for each in states for lane in each.lanes]),
        oldest_job_age_s=most(each.oldest_job_age_s for each in states),
        oldest_failed_age_s=most(each.oldest_failed_age_s for each in states),
    )


def most(values: Iterable[float | None]) -> float | None:
    """Return the largest of the known values; None if none is known."""
    return max((each for each in values if each is not None), default=None)


def generations(queues: Sequence[PipeQueue]) -> list[GenerationState]:
    """Return where events are, the oldest generation first; nothing where there never was more than one queue."""
    if len(queues) == 1 and not queues[0].generation:
        return []
    found = []
    for number in sorted({each.generation for each in queues}):
        own = [each for each in queues if each.generation == number]
        states = [each.state for each in own if each.state is not None]
        jobs = sum(each.left for each in states)
        found.append(GenerationState(number, len(own), jobs, own[0].is_current, len(own) - len(states)))
    return found


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
        number, _, host, pid, rest = (value or b"").decode(errors="replace").split(" ")
        is_dead = identity.is_surely_dead(f"{host} {pid} {rest}")
        return LeaseState(int(number), host, int(pid), max(0, lapses_in_ms) / 1000, is_dead)
    except ValueError:  # no sender has it, or its address is in an unknown form
        return None
