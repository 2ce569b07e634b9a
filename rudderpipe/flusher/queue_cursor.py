"""One of several queues as the flusher of a ring sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

from rudderpipe import log_text
from rudderpipe.errors import QueueUnavailable
from rudderpipe.flusher.queue_sink import KEEP_S
from rudderpipe.flusher.spill import Position, SpillPlan
from rudderpipe.flusher.window import Offsets, Plan, Window
from rudderpipe.process.clock import Clock
from rudderpipe.queue import seal
from rudderpipe.queue.active_job import QueueCounts
from rudderpipe.queue.meter import RedisMeter
from rudderpipe.queue.queue import NewJob, Queue
from rudderpipe.queue.replicas import Replicas
from rudderpipe.queue.route import QueuePlace
from rudderpipe.queue.size_limit import Budget
from rudderpipe.settings import Settings

Kind = Literal["route", "fence", "add", "count", "restore", "end"]
RETRY_MIN_S, RETRY_MAX_S = 0.05, 2.0
AWAY_S = 1.0
"""A queue counts as away after a call has been without an answer for so long, because a call may wait for seconds."""

logger = log_text.logger("rudderpipe.flusher")


class UnderWay(NamedTuple):
    """A call of a queue that has not ended."""

    kind: Kind
    begun_s: float
    window: Window | None = None
    """The window that the events are from."""
    offsets: Mapping[int, int] = MappingProxyType({})
    """The offsets that the queue has then."""
    freed: tuple[int, ...] = ()
    is_past: bool = False
    """True for a fence behind a seal."""
    plan: Plan | SpillPlan | None = None
    """What the call adds of the window or of the spill."""


class QueueCursor:
    """A queue, and how much of the ring is in it.

    The methods that call Redis run on a thread of the queue, one at a time. Everything else belongs to the flusher's
    thread.
    """

    def __init__(self, place: QueuePlace, settings: Settings, clock: Clock, meter: RedisMeter | None) -> None:
        own = place.settings(settings)
        self.place = place
        self.queue = Queue(own, clock, meter=meter)
        self._budget = Budget(self.queue, settings.max_queue_bytes)
        self._replicas = Replicas(self.queue, own) if own.redis_replicas else None
        self._has_seen_redis = False
        self.offsets: Offsets = {}
        """What the queue has of the ring, as far as it is known."""
        self.is_fenced = False
        """True once no call of an earlier flusher can add events of the ring any more."""
        self.is_final = False
        """True once the queue is sealed and its offsets were read behind the seal."""
        self.is_unsure = False
        """True from an add that failed until the next fence: the offsets may be too low."""
        self.spill_at = Position()
        """How much of the spill is known to be in the queue."""
        self.done = 0
        """The first batch of the window that is not known to be in the queue."""
        self.under_way: UnderWay | None = None
        self.retry_at_s = float("-inf")
        self._retry_s = RETRY_MIN_S
        self.trouble: QueueUnavailable | None = None
        """Why the last call failed; None if it did not."""
        self.freed: set[int] = set()
        """The tenures whose offsets the queue need not keep."""
        self.counts: QueueCounts | None = None
        """What the queue counted last of the ring's events; None before it is counted."""
        self.has_new_counts = False
        """False from the moment when the events must be counted anew until they are."""
        self.before: QueueCounts | None = None
        """What the queue had counted before it forgot events of the ring, until it counts them again."""
        self.fenced_s = float("-inf")
        """When the queue last heard of this flusher; it must again before it would forget the ring."""

    def add(
        self, epoch: int, jobs: Sequence[NewJob], marks: dict[int, tuple[int, int]], freed: Sequence[int], term: int
    ) -> None:
        """Add jobs, as ``Queue.add`` does, within the bytes that the queue may have."""
        if not self._has_seen_redis:
            if policy := self.queue.evicting_policy():
                logger.warning(
                    "redis evicts queued events when its memory is full, set noeviction maxmemory_policy=%s", policy
                )
            self._has_seen_redis = True
        self._budget.check(sum(len(job[0]) for job in jobs))
        (self._replicas or self.queue).add(epoch, jobs, marks, freed, term)

    def fence(self, epoch: int, term: int, freed: Sequence[int], generation: int | None = None) -> Offsets:
        """Refuse the ring's calls of lower terms, and return what the queue has of the ring.

        With a generation, seal the queue first, because that generation is past.
        """
        if generation is not None:
            seal.seal(self.queue, generation)
        if self._replicas is not None:
            return self._replicas.raise_term(epoch, term, freed)
        return self.queue.raise_term(epoch, term, freed)[0]

    def is_away(self, now_s: float) -> bool:
        """Return True if the queue takes nothing now: its last call failed, or has had no answer for a while."""
        call = self.under_way
        return self.trouble is not None or (call is not None and now_s - call.begun_s >= AWAY_S)

    @property
    def unconfirmed_since_ms(self) -> int:
        """The moment of the monotonic clock since which replicas lack the last events; 0 if they have them."""
        return self._replicas.since_ms if self._replicas is not None else 0

    def succeeded(self) -> None:
        """Note that a call has succeeded."""
        self.trouble = None
        self._retry_s = RETRY_MIN_S

    def failed(self, trouble: QueueUnavailable, now_s: float, at_least_s: float = 0.0) -> None:
        """Note that a call has failed, and call the queue again only after a pause."""
        self.trouble = trouble
        self.retry_at_s = now_s + max(at_least_s, self._retry_s)
        self._retry_s = min(RETRY_MAX_S, self._retry_s * 2)

    def note_counts(self, counts: QueueCounts) -> None:
        """Note what the queue has counted."""
        if self.counts is not None and counts.events_gone < self.counts.events_gone:
            self.before = self.before or self.counts
        self.counts, self.has_new_counts = counts, True

    def must_hear(self, now_s: float, *, is_current: bool) -> bool:
        """Return whether the queue must be fenced again, to know what may be deleted and what must be kept."""
        if self.is_fenced and (self.freed or self.unconfirmed_since_ms):
            return True
        has_any = is_current or (self.counts is not None and self.counts.events_gone > 0)
        return has_any and now_s - self.fenced_s >= KEEP_S

    def free_final(self, left: Offsets, is_needed: Callable[[int], bool]) -> None:
        """Free the tenures whose events in the queue have all left the ring, where these are not needed.

        Only of final offsets, because an add whose answer was lost may have moved others meanwhile.
        """
        if self.is_final:
            gone = (tenure for tenure, final in self.offsets.items() if left.get(tenure, final) >= final)
            self.freed.update(tenure for tenure in gone if not is_needed(tenure))

    def forget(self, freed: Sequence[int]) -> None:
        """Note that the queue has deleted the offsets of these tenures."""
        self.freed.difference_update(freed)
        for tenure in freed:
            self.offsets.pop(tenure, None)


class Missing(NamedTuple):
    """Events that Redis has lost: a queue must count so many of the ring again, of which ``over`` are finished."""

    cursor: QueueCursor
    counted: int
    over: int


def missing_of(cursors: Sequence[QueueCursor], current: QueueCursor, missing: int, ended: int) -> list[Missing]:
    """Return how to count so many events that Redis was given and no longer knows, by queue.

    All queues have been counted. ``ended`` events are known to be finished without having failed.
    """
    counted = [(cursor, cursor.counts) for cursor in cursors if cursor.counts is not None]
    parts = [
        (cursor, now, max(0, before.events_gone - now.events_gone), before.events_over)
        for cursor, now in counted
        if (before := cursor.before) is not None
    ]
    if not parts:  # an earlier flusher had counted them, and nothing says in which queue
        cursor, now = next(each for each in counted if each[0] is current)
        over = max(0, ended - sum(each.events_over for _, each in counted))
        parts = [(cursor, now, missing, now.events_over + over)]
    found = []
    for number, (cursor, now, lost, over) in enumerate(parts, 1):
        part = missing if number == len(parts) else min(missing, lost)
        missing -= part
        if part:
            found.append(Missing(cursor, now.events_gone + part, over))
    return found
