"""The contract of a sink, and the sink that puts jobs into the queue."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import Raw

from rudderpipe import log_text
from rudderpipe.errors import QueueBehind, QueueSealed, QueueUnavailable
from rudderpipe.events.marked import marked
from rudderpipe.flusher.dead_letters import DeadLetters, damaged_record_of
from rudderpipe.process.clock import Clock, Every, iso_ms
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch, OffsetRange
from rudderpipe.ring.reasons import Reason
from rudderpipe.ring.ring import Ring, RingView
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.queue.active_job import QueueCounts
    from rudderpipe.queue.meter import RedisMeter
    from rudderpipe.queue.queue import NewJob

ROUTE_S = 10.0
"""The interval at which the route is looked for again."""
KEEP_S = 24 * 3600.0
"""The interval at which a queue hears of the ring's flusher, so that it does not forget the ring."""
_decode_events = msgspec.json.Decoder(list[Raw]).decode
logger = log_text.logger("rudderpipe.flusher")


class CommitResult(msgspec.Struct, frozen=True):
    """A sink's result for the jobs it was offered. Batches that are not settled are offered again, in order."""

    committed: Sequence[int] = ()
    """For each of the first jobs, the ring's counter under which its events now belong."""
    halve: bool = False
    """True if the first batch must be offered as two halves; only when it holds two events or more."""
    reason: Reason | None = None
    """Why events failed, if some of these did."""
    wait_s: float = 0.0
    """Seconds in which nothing must be offered. A flusher that is stopped meanwhile does not wait for the end."""
    trouble: QueueUnavailable | None = None
    """Why one of several queues takes nothing now. The others go on."""
    replayed: int = 0
    """How many events of the spill the queues have now."""


class Acknowledged(msgspec.Struct, frozen=True):
    """The events that came to their end in the queue: all of them, those that failed, and why the last of these did."""

    events: int
    failed: int
    reason: Reason | None = None


class Sink(Protocol):
    """The place that takes jobs from the flusher, in order and forever."""

    @property
    def batches_at_once(self) -> int:
        """How many batches the flusher may offer at once, besides those that are kept."""

    @property
    def queues(self) -> int:
        """How many queues share the events, so that each gets a full batch."""

    @property
    def kept(self) -> int:
        """How many of the first batches are not settled and need not be offered alone, because others may go on."""

    @property
    def has_spilled(self) -> bool:
        """True while events that left the ring may wait in the spill. The sink is then called without batches too."""

    def known(self) -> dict[int, int]:
        """Return the offset, for each tenure, up to which the sink holds failed events.

        A killed flusher may not have counted them in the ring. Called when the flusher begins to read the ring.
        """

    def commit(self, batches: Sequence[Batch], freed: Sequence[int]) -> CommitResult:
        """Take or refuse the first of these jobs. ``freed`` are tenures whose offsets are no longer needed.

        Raises ``QueueUnavailable``, ``QueueBehind`` when the sink already holds events that the flusher offers, or
        ``QueueSealed`` when another sink must take this one's place.
        """

    def acknowledged(self) -> Acknowledged | None:
        """Return how many events that left the ring are acknowledged, and how many of those failed.

        None if the sink acknowledges events when it settles them, or while it does not know this yet. Raises
        ``QueueUnavailable``, or ``QueueSealed`` as ``commit`` does.
        """

    def keep_house(self) -> None:
        """Do what does not wait for events. Called a few times a second. Raises ``QueueSealed``, as ``commit``."""

    def ended(self, ring: RingView) -> None:
        """Forget a ring that is empty and removed."""

    def close(self) -> None:
        """Close the connections."""


def events_of(batch: Batch) -> Sequence[Raw]:
    """Return the events of a batch; none if its bytes are not exactly ``count`` JSON values in UTF-8."""
    events = marked(batch.data) if _is_utf8(batch.data) else None
    if events is not None and len(events) == batch.count:
        return events
    return decoded(batch)


def decoded(batch: Batch) -> list[Raw]:
    """Return the events of a batch as JSON alone, as ``events_of``."""
    try:
        events = _decode_events(b"[%b]" % batch.data) if _is_utf8(batch.data) else []
    except (msgspec.MsgspecError, RecursionError):
        return []
    return events if len(events) == batch.count else []


def _is_utf8(data: bytes) -> bool:
    """Return whether a text is UTF-8, which the parser does not check in values that it keeps raw."""
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def acknowledged_of(counts: QueueCounts) -> Acknowledged:
    """Return the acknowledged events of a ring."""
    last = counts.last_failure
    return Acknowledged(
        events=counts.events_gone - counts.events_queued,
        failed=counts.events_failed + counts.events_lost,
        reason=None if last is None else Reason(0, last.status, last.at_ms, last.text),
    )


def handed_of(ring: RingView) -> int:
    """Return how many of the ring's events Redis was given."""
    words = ring.words
    # The smaller of the two, because they are equal unless one is damaged.
    return max(0, min(words[at.H_QUEUED], ring.drained()) - words[at.H_SPILLED])


class Damaged:
    """The handling of events that are not what a producer wrote. They must not stop the events behind them."""

    def __init__(self, dead_letters: DeadLetters, epoch: int, clock: Clock) -> None:
        self._dead_letters = dead_letters
        self._epoch = epoch
        self._clock = clock
        self._last: OffsetRange | None = None
        """The place of the event that was stored last, because it is offered again while Redis is away."""

    def pass_over(self, batch: Batch) -> int:
        """Store the bytes as a dead letter. Return the counter under which the event belongs."""
        if batch.ranges[0] == self._last:
            return at.H_CORRUPT
        kept = "yes"
        try:
            self._dead_letters.keep(damaged_record_of(batch, self._epoch, self._clock.time_ms()))
        except OSError as error:
            kept = f"no, {error.strerror}"
        logger.error("damaged data in the ring is not JSON, it is skipped events=%d dead_letter=%s", batch.count, kept)
        self._last = batch.ranges[0]
        return at.H_CORRUPT


class QueueSink:
    """A sink that makes a job of every batch, or with lanes a job of each lane's events in all batches of a commit."""

    batches_at_once = 50
    queues = 1
    kept = 0
    has_spilled = False

    def __init__(
        self,
        settings: Settings,
        ring: Ring,
        dead_letters: DeadLetters,
        clock: Clock,
        meter: RedisMeter | None = None,
    ) -> None:
        from rudderpipe.flusher.new_jobs import jobs_of
        from rudderpipe.queue import job, route
        from rudderpipe.queue.queue import Queue
        from rudderpipe.queue.replicas import Replicas
        from rudderpipe.queue.size_limit import Budget

        self._build, self._jobs_by_lane = job.build, jobs_of
        self._has_route = route.exists
        self._queue = Queue(settings, clock, meter=meter)
        self._budget = Budget(self._queue, settings.max_queue_bytes)
        self._replicas = Replicas(self._queue, settings) if settings.redis_replicas else None
        ring.words[at.H_UNCONFIRMED_MS] = 0
        self._settings = settings
        self._lanes = settings.lanes_in_use
        self._ring = ring
        self._clock = clock
        self._damaged = Damaged(dead_letters, ring.segment.epoch, clock)
        self._has_seen_redis = False
        self._fenced_s = float("-inf")
        """When the queue last heard of this flusher; it must again before it would forget it."""
        self._housekeeping = Every(ROUTE_S)
        self._housekeeping.restart(clock.monotonic_s())
        self._lost: int | None = None
        """The events of the ring that Redis had lost at the last look; None before the first."""
        self._handed: int | None = None
        """The events of the ring that Redis had been given by then."""

    def known(self) -> dict[int, int]:
        """Return nothing, because Redis returns its offsets when the next events are added."""
        return {}

    def commit(self, batches: Sequence[Batch], freed: Sequence[int]) -> CommitResult:
        """Add the jobs in one script, all or none, up to the first one with damaged events.

        A batch with damaged events is halved down to single events.
        """
        epoch, sent_at = self._ring.segment.epoch, iso_ms(self._clock.time_ms())
        offsets: dict[int, tuple[int, int]] = {}
        whole: list[Batch] = []
        events: list[Raw] = []
        committed: list[int] = []
        for batch in batches:
            if found := decoded(batch):
                whole.append(batch)
                events += found
                committed.append(at.H_QUEUED)
            elif batch.count == 1:
                committed.append(self._damaged.pass_over(batch))
            else:
                break
        if not committed:
            return CommitResult(halve=True)
        for batch in batches[: len(committed)]:
            for each in batch.ranges:
                start, _ = offsets.get(each.sequence, (each.start, 0))
                offsets[each.sequence] = (start, each.end)
        jobs = self._jobs_of(whole, events, sent_at)
        self._budget.check(sum(len(job[0]) for job in jobs))
        words = self._ring.words
        if not self._has_seen_redis:
            self._look()
        adds, now_s = self._replicas or self._queue, self._clock.monotonic_s()
        try:
            if now_s - self._fenced_s >= KEEP_S:
                self._queue.raise_term(epoch, words[at.H_TERM], ())
                self._fenced_s = now_s
            adds.add(epoch, jobs, offsets, freed, words[at.H_TERM])
        except QueueUnavailable as error:
            # Order: before the next call. This call may reach Redis after the next one, and Redis must refuse it then.
            if not error.answered:
                at.bump(words, at.H_TERM)
            raise
        except QueueBehind as behind:
            # If Redis knows a later term than the ring, take a term above it: a call of that term may be under way.
            if later := behind.read.get(0, 0):
                words[at.H_TERM] = max(words[at.H_TERM], later) + 1
            raise
        finally:
            if self._replicas is not None:
                words[at.H_UNCONFIRMED_MS] = self._replicas.since_ms
        return CommitResult(committed)

    def _jobs_of(self, batches: Sequence[Batch], events: Sequence[Raw], sent_at: str) -> list[NewJob]:
        """Return a job for each batch, or with lanes the jobs of all lanes for the events of all these batches."""
        epoch, key = self._ring.segment.epoch, self._settings.current_write_key
        if self._lanes == 1:
            return [(self._build(batch.data, key, sent_at, epoch), batch.count) for batch in batches]
        return self._jobs_by_lane(events, self._settings, sent_at, epoch)

    def _look(self) -> None:
        """Log if Redis may evict queued events. Raise ``QueueSealed`` if there is a route to other queues."""
        self._check_route()
        if policy := self._queue.evicting_policy():
            logger.warning(
                "redis evicts queued events when its memory is full, set noeviction maxmemory_policy=%s", policy
            )
        self._has_seen_redis = True

    def _check_route(self) -> None:
        if self._has_route(self._queue):
            raise QueueSealed(self._queue.name, 0)

    def keep_house(self) -> None:
        """Raise ``QueueSealed`` if there is a route by now, because an idle ring must not hold up a change."""
        if self._has_seen_redis and self._housekeeping.is_due(self._clock.monotonic_s()):
            words = self._ring.words
            if self._replicas is not None:
                self._replicas.look(self._ring.segment.epoch, words[at.H_TERM])
                words[at.H_UNCONFIRMED_MS] = self._replicas.since_ms
            with suppress(QueueUnavailable):  # the next events find out
                self._check_route()

    def acknowledged(self) -> Acknowledged | None:
        """Return what Redis has counted. What another SDK's worker delivered is known once no job waits."""
        if not self._has_seen_redis:
            self._look()
        words = self._ring.words
        epoch, handed = self._ring.segment.epoch, handed_of(self._ring)
        counts = self._queue.counts(epoch)
        lost = counts.events_lost if self._lost is None else self._lost
        if counts.events_known < handed:
            ended = max(0, words[at.H_ACKED] - words[at.H_ACKED_FAILED])
            if missing := self._queue.restore(epoch, handed, ended, max(0, handed - (self._handed or handed))):
                logger.error(
                    "redis no longer knows events it had taken, they count as queued until no job is left events=%d",
                    missing,
                )
                self._fenced_s = float("-inf")  # Redis may have forgotten the flusher, too
            counts = self._queue.counts(epoch)
        self._lost, self._handed = counts.events_lost, handed
        if self._lost > lost:
            logger.error(
                "redis has lost its data and queued events, check its AOF and maxmemory-policy events=%d",
                self._lost - lost,
            )
        return acknowledged_of(counts)

    def ended(self, ring: RingView) -> None:
        """Have Redis forget the ring's offsets, now or with the last of the ring's jobs."""
        if self._has_seen_redis:
            self.acknowledged()  # Order: before Redis forgets what it had, because nothing else would count losses
        self._queue.end_ring(ring.segment.epoch)

    def close(self) -> None:
        """Close the connections."""
        self._queue.close()
