"""What several checks look at, each read once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

from rudderpipe.errors import QueueUnavailable
from rudderpipe.observe import account, snapshot
from rudderpipe.observe.account import PipeRing
from rudderpipe.observe.snapshot import RingState
from rudderpipe.process import runtime_dir
from rudderpipe.process.clock import Clock
from rudderpipe.service.calls import Calls
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.queue.active_job import QueueCounts
    from rudderpipe.queue.queue import Queue
    from rudderpipe.queue.queue_set import Member

ANSWER_S = 2.0
"""How long a check waits for a response of Redis or the data plane."""
RATE_S = 0.3
"""For how long the rate of accepted events is measured."""

T = TypeVar("T")
Scope = Literal["pipe", "server", "queue"]
"""What a check is made of once: of the pipe, of each Redis server, or of each queue."""


class ExaminedQueue(NamedTuple):
    """One of several queues, with an examination of its own."""

    examination: Examination
    is_current: bool
    """True if new events go to its generation."""


class Skipped(Exception):
    """The reason why a check, or whatever it looks at, does not apply or cannot be seen."""


class _Once(Generic[T]):
    """A value that is read once, by whichever check needs it first; an error is raised again for each check."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._found: list[T] = []
        self._error: Exception | None = None

    def found(self) -> Iterator[T]:
        """Yield the value if it has been read."""
        yield from self._found

    def get(self) -> T:
        with self._lock:
            if self._error is not None:
                raise self._error
            if not self._found:
                try:
                    self._found.append(self._read())
                except Exception as error:
                    self._error = error
                    raise
            return self._found[0]


class Examination:
    """The settings to examine, and what is known of their pipe.

    Properties raise ``Skipped``, ``RingUnavailable`` or ``QueueUnavailable`` when what they return cannot be had.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        shows_user: bool = False,
    ) -> None:
        """``shows_user`` lets a finding name a user by the id, which is personal data."""
        self.settings = settings
        self.shows_user = shows_user
        self.environment = os.environ if environment is None else environment
        self.clock = clock or Clock()
        self._rings = _Once(self._read_rings)
        self._states = _Once(lambda: snapshot.ring_states(self.rings, self.clock))
        self._rate = _Once(self._measure)
        self._queue = _Once(self._connect)
        self._info = _Once(self._read_info)
        self._members = _Once(self._read_members)
        self._queues = _Once(self._read_queues)
        self._retired = _Once(lambda: [self._of_queue(each, 0.0) for each in self._members.get() if each.is_retired])
        self._connected: Queue | None = None
        self.is_one_of_several = False
        """True for the examination of one of several queues."""
        self.generation = 0
        """The generation of the queue."""
        self.plane_latency_s: float | None = None
        """How long the data plane took to respond to the smallest request; None unless it was asked."""

    @property
    def directory(self) -> Path:
        """The runtime directory of the settings, whether it exists or not."""
        return Path(self.settings.runtime_dir) if self.settings.runtime_dir else runtime_dir.default()

    @property
    def rings(self) -> list[PipeRing]:
        """The pipe's rings."""
        return self._rings.get()

    @property
    def states(self) -> list[RingState]:
        """What can be seen of the pipe's rings."""
        return self._states.get()

    @property
    def rate_per_s(self) -> float:
        """Accepted events a second: measured now, or since the rings were made if that is more."""
        return self._rate.get()

    @property
    def queue(self) -> Queue:
        """The queue, with a connection that works."""
        try:
            return self.connected()
        except QueueUnavailable:
            raise Skipped("Redis cannot be used, see check 16") from None

    def connected(self) -> Queue:
        """Return the queue. Raise ``QueueUnavailable`` if Redis cannot be used."""
        return self._queue.get()

    @property
    def queues(self) -> list[ExaminedQueue]:
        """Each of several queues; none with one queue, and if the route cannot be read."""
        return self._queues.get()

    @property
    def retired(self) -> list[Examination]:
        """The queues of retired generations; none with one queue, and if the route cannot be read."""
        return self._retired.get()

    def of(self, scope: Scope) -> list[Examination]:
        """Return what a check looks at: the pipe, one queue of each server, or each queue."""
        each = [queue.examination for queue in self.queues] if scope != "pipe" else []
        if each and scope == "server" and not self.settings.redis_address.cluster_nodes:
            places = [one.settings.redis_place for one in each]
            each = [one for number, one in enumerate(each) if places.index(one.settings.redis_place) == number]
        return each or [self]

    @property
    def info(self) -> dict[str, object]:
        """Redis's INFO."""
        return self._info.get()

    @property
    def producers(self) -> list[int]:
        """The pids of the pipe's producers that this process can see."""
        found = [each for ring in self.states for each in ring.counters.producers]
        return sorted({each.pid for each in found if each.pid > 0})

    @property
    def processes(self) -> dict[int, str]:
        """The pids of producers and flushers that this process can see, with what each is."""
        flushers = {state.flusher_pid: "flusher" for state in self.states if state.flusher_pid}
        return {**dict.fromkeys(self.producers, "application"), **flushers}

    def close(self) -> None:
        """Close the connections to Redis."""
        if self._connected is not None:
            self._connected.close()
        for queues in self._queues.found():
            for each in queues:
                each.examination.close()
        for retired in self._retired.found():
            for one in retired:
                one.close()

    def _read_rings(self) -> list[PipeRing]:
        try:
            found = self.directory.stat()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Skipped(f"runtime_dir cannot be read: {error.strerror}") from None
        if found.st_uid != os.getuid() or found.st_mode & 0o777 != 0o700:
            raise Skipped("runtime_dir is wrong, see check 4")  # and reading on would change its mode
        return account.rings(self.settings)

    def _measure(self) -> float:
        before, now_ms = self.states, self.clock.time_ms()
        if not before:
            return 0.0
        averages = [state.counters.accepted * 1000 / max(1000, now_ms - state.created_ms) for state in before]
        began_s = self.clock.monotonic_s()
        self.clock.sleep(RATE_S)
        after = snapshot.ring_states(self.rings, self.clock)
        took_s = max(RATE_S, self.clock.monotonic_s() - began_s)
        moved = sum(state.counters.accepted for state in after) - sum(state.counters.accepted for state in before)
        return max(sum(averages), moved / took_s)

    def _connect(self) -> Queue:
        if self.settings.redis is None:
            raise Skipped("without a queue (direct mode)")
        from rudderpipe.queue.queue import Queue  # imported here, because direct mode needs no Redis client

        self._connected = queue = Queue(self.settings, self.clock, answer_s=ANSWER_S)
        queue.ping()
        return queue

    def _read_members(self) -> list[Member]:
        """Return all queues that the route has ever had; none with one queue, and if it cannot be read."""
        if self.settings.redis is None:
            return []
        from rudderpipe.queue import route  # imported here, because direct mode needs no Redis client
        from rudderpipe.queue.queue_set import QueueSet  # as above

        try:
            has_several = route.exists(self.connected())
        except QueueUnavailable:
            has_several = self.settings.queues > 1
        if not has_several:
            return []
        with closing(QueueSet(self.settings, self.clock, answer_s=ANSWER_S)) as queues:
            try:
                return queues.members(0)
            except QueueUnavailable:
                return []  # check 16 says why

    def _read_queues(self) -> list[ExaminedQueue]:
        members = [each for each in self._members.get() if not each.is_retired]
        if len(members) <= 1:
            return []
        places = [each.queue.place for each in members if each.is_current]
        return [
            ExaminedQueue(self._of_queue(each, places.count(each.queue.place) / len(places)), each.is_current)
            for each in members
        ]

    def _of_queue(self, member: Member, part: float) -> Examination:
        """Return the examination of one queue, which shares what is known of the host.

        ``part`` is the part of the events that its server gets.
        """
        one = Examination(member.settings, environment=self.environment, clock=self.clock, shows_user=self.shows_user)
        one._rings, one._states = self._rings, self._states
        one._rate = _Once(lambda: self._rate.get() * part)  # of the same class
        one._queues = _Once(list)  # as above
        one.is_one_of_several, one.generation = True, member.generation
        return one

    def _read_info(self) -> dict[str, object]:
        (found,) = self.queue.ask(lambda pipe: pipe.info("all"))
        return dict(found)


def counts_of(queues: list[Examination]) -> dict[str, QueueCounts]:
    """Return what the queues count, by prefix and all at the same time, without those that cannot be read."""
    calls = Calls("rudderpipe-doctor", lambda _error: None)
    for each in queues:
        calls.begin(each.settings.prefix, partial(_counts, each))
    found: dict[str, QueueCounts | Exception] = {}
    while len(found) < len(queues):
        if (ended := calls.next(ANSWER_S)) is not None:
            found[ended.owner] = ended.result
    calls.close()
    for result in found.values():
        if isinstance(result, Exception) and not isinstance(result, Skipped | QueueUnavailable):
            raise result
    in_order = {each.settings.prefix: found[each.settings.prefix] for each in queues}
    return {prefix: counts for prefix, counts in in_order.items() if not isinstance(counts, Exception)}


def _counts(one: Examination) -> QueueCounts:
    return one.queue.counts()
