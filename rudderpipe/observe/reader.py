"""Snapshots of one pipe, again and again, as a scrape or a page needs them: cheap, and without a wait for Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from rudderpipe.errors import RudderpipeError
from rudderpipe.flusher import dead_letters
from rudderpipe.observe import account, pipe_queues, snapshot
from rudderpipe.observe.account import Events
from rudderpipe.observe.cached import PATIENCE_S, Cached
from rudderpipe.observe.shares import ShareMeter
from rudderpipe.observe.snapshot import Accounted, DeadLetterState, Snapshot
from rudderpipe.process import fork
from rudderpipe.process.clock import Clock
from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.counters import Counters
from rudderpipe.ring.ring import RingView
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.queue.queue_set import QueueSet

REDIS_KEPT_S = 5.0
LETTERS_KEPT_S = 30.0
TRIES = 3
"""How often ring and Redis are compared. Under load they never agree exactly, and each try costs both of them."""
SILENT = "redis has not responded yet"


class Totals(msgspec.Struct, frozen=True):
    """The sums of one ring that only grow. They are kept when the ring has ended."""

    accepted: int = 0
    refused: Mapping[str, int] = {}
    queued: int = 0
    delivered: int = 0
    failed: int = 0
    """Events that failed in direct mode, also those that were delivered later."""
    recovered: int = 0
    corrupt: int = 0
    starts: int = 0

    @property
    def left(self) -> int:
        """Events that left the rings."""
        return self.queued + self.delivered + self.failed + self.corrupt

    def plus(self, other: Totals) -> Totals:
        """Return the sum of both."""
        refused = {
            reason: self.refused.get(reason, 0) + other.refused.get(reason, 0)
            for reason in {**self.refused, **other.refused}
        }
        numbers = {
            name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__ if name != "refused"
        }
        return Totals(**numbers, refused=refused)


class View(msgspec.Struct, frozen=True):
    """A snapshot, and the sums of all rings that were ever seen."""

    snapshot: Snapshot
    totals: Totals


class Reader:
    """A reader of one pipe. Any thread may call it, and a forked process has connections of its own.

    Redis is read by a thread of its own at most every ``redis_kept_s``, and the dead letters every ``LETTERS_KEPT_S``.
    A caller waits for either at most ``patience_s``. ``is_flusher`` is True in the process that serves the pipe. With
    ``has_rings`` False only the queue is read, as a sender does, whose host may have no ring.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        *,
        is_flusher: bool = False,
        has_rings: bool = True,
        patience_s: float = PATIENCE_S,
        redis_kept_s: float = REDIS_KEPT_S,
    ) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self._is_flusher = is_flusher
        self._has_rings = has_rings
        self._cached = fork.Local(lambda: _Slow(settings, self._clock, patience_s, redis_kept_s, has_rings=has_rings))
        self._seen: dict[int, Totals] = {}
        """The last known sums of each ring, by its epoch."""

    def read(self) -> View:
        """Return what the pipe shows now. Raise ``RingUnavailable`` if a ring cannot be read."""
        settings, clock = self._settings, self._clock
        found = account.rings(settings) if self._has_rings else []
        now = [counters.read(ring.view) for ring in found]
        tries_lock = not self._is_flusher
        rings = [
            snapshot.ring_state(ring, each, clock, tries_lock=tries_lock) for ring, each in zip(found, now, strict=True)
        ]
        for each, state in zip(now, rings, strict=True):
            self._see(each, state.flusher_starts)
        slow = self._cached.value
        if settings.redis is None:
            accounted = snapshot.of_rings(found, tries=TRIES)
        else:
            silent = [pipe_queues.unread(settings, SILENT)]
            accounted = slow.accounted.get() or snapshot.of_rings(found, silent, TRIES)
        letters = (slow.letters.get() if self._has_rings else None) or DeadLetterState(
            0, 0, 0, 0, settings.max_spool_bytes, 0, ""
        )
        taken = snapshot.assembled(settings, clock, rings, accounted, letters)
        return View(taken, self._totals())

    def ended(self, ring: RingView) -> None:
        """Note the last sums of a ring that ends now."""
        self._see(counters.read(ring), ring.words[at.H_STARTS])

    def _see(self, now: Counters, starts: int) -> None:
        self._seen[now.epoch] = Totals(
            accepted=now.accepted,
            refused=now.refused,
            queued=now.queued,
            delivered=now.delivered - now.recovered,
            failed=now.failed + now.recovered,
            recovered=now.recovered,
            corrupt=now.corrupt,
            starts=starts,
        )

    def _totals(self) -> Totals:
        total = Totals()
        for each in tuple(self._seen.values()):
            total = total.plus(each)
        return total


class _Slow:
    """What takes long to read, of one process."""

    def __init__(
        self, settings: Settings, clock: Clock, patience_s: float, redis_kept_s: float, *, has_rings: bool
    ) -> None:
        self._settings = settings
        self._has_rings = has_rings
        self._clock = clock
        self._queues: QueueSet | None = None
        self._shares = ShareMeter()
        self._events: dict[tuple[str, int], int] = {}
        """Number of events in each dead letter, by name and size of its file; 0 for a damaged event."""
        self.accounted = Cached(self._read_queue, redis_kept_s, clock, patience_s)
        self.letters = Cached(self._read_letters, LETTERS_KEPT_S, clock, patience_s)

    def _read_queue(self) -> Accounted:
        from rudderpipe.queue.queue_set import QueueSet  # imported here, because direct mode needs no Redis client

        try:
            if self._queues is None:
                self._queues = QueueSet(self._settings, self._clock, answer_s=pipe_queues.ANSWER_S)
            found = account.rings(self._settings) if self._has_rings else []
            return snapshot.of_queues(self._queues, found, self._shares, TRIES)
        except Exception as error:  # noqa: BLE001  # whatever it is, the ring's side is shown
            shown = [pipe_queues.unread(self._settings, f"the queue cannot be read: {type(error).__name__}")]
            return Accounted([], Events(0, 0, 0, 0, 0, {}, balanced=True), shown)

    def _read_letters(self) -> DeadLetterState | None:
        """Count the dead letters. Each file is read once, because the files never change, except that they shrink."""
        try:
            letters = dead_letters.of(self._settings)
            names = {(name, letters.size_of(name)) for name in letters.names()}
            self._events = {each: events for each, events in self._events.items() if each in names}
            for each in names - self._events.keys():
                record = letters.read(each[0])
                if record is not None:
                    self._events[each] = len(record.events)
            events = self._events.values()
            batches = sum(map(bool, events))
            return DeadLetterState(
                batches=batches,
                waiting=len(letters.names_again()),
                events=sum(events),
                used_bytes=letters.size_bytes(),
                max_bytes=letters.limit_bytes,
                damaged=len(self._events) - batches,
                path=str(letters.path),
            )
        except (RudderpipeError, OSError):  # the flusher logs what is wrong with the directory
            return None
