"""A ring whose flusher puts events into several queues in memory. The test says when each call ends, and how."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from rudderpipe.errors import QueueBehind, QueueSealed, QueueUnavailable
from rudderpipe.flusher import queue_cursor
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.queues_sink import QueuesSink
from rudderpipe.flusher.route_file import RouteFile
from rudderpipe.queue import job, route
from rudderpipe.queue.queue import Queue
from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring
from rudderpipe.service.calls import Calls, Ended
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock, producer_of

USERS = 23
CAP = 1000
"""What the ring of the fixture ``ring`` holds."""
QUEUES = [f"rudder-{place}" for place in range(3)]
NO_ANSWER = QueueUnavailable("here", "no answer in time")
AWAY = QueueUnavailable("here", "refused", answered=True)


class ManualCalls(Calls):
    """Calls that run at once, except those of one kind to the queues that are held."""

    def __init__(self) -> None:
        self.kind = "add"
        """The kind of calls that are held."""
        self.held: dict[str, list[tuple[Hashable, Callable[[], Any]]]] = {}
        """The calls that are held, by the prefix of their queue. A queue without an entry is not held."""
        self.results: deque[Ended] = deque()
        self.made: list[str] = []
        """The prefixes of the queues that were called."""

    def begin(self, owner: Any, call: Callable[[], Any]) -> bool:
        prefix = owner.place.prefix
        self.made.append(prefix)
        if prefix in self.held and owner.under_way.kind == self.kind:
            self.held[prefix].append((owner, call))
        else:
            self.results.append(Ended(owner, result_of(call)))
        return True

    def let_go(self, prefix: str, result: Exception | None = None, *, runs: bool = True) -> None:
        """End what is held of a queue: executed or not, with its own result or with this one."""
        for owner, call in self.held.pop(prefix):
            own = result_of(call) if runs else None
            self.results.append(Ended(owner, result or own))

    def next(self, wait_s: float) -> Ended | None:  # as the original
        return self.results.popleft() if self.results else None

    def close(self) -> None:
        pass


def result_of(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or its error."""
    try:
        return call()
    except (QueueUnavailable, QueueBehind, QueueSealed) as error:
        return error


class Spread:
    """A ring whose flusher puts events into several queues."""

    def __init__(self, ring: Ring, clock: FakeClock, directory: Path, **settings: Any) -> None:
        self.ring, self.clock = ring, clock
        self.letters = DeadLetters(directory / "x.failed", 1 << 20)
        self.settings = Settings(
            redis="redis://a", write_key="KEY", **{"queues": 3, "flush_at": 4, "autostart": False, **settings}
        )
        self.stores: dict[str, FakeStore] = {}
        self.sinks: list[QueuesSink] = []
        self.producer = producer_of(ring, clock)
        self.sent = itertools.count()
        self.must_wait: Callable[[route.QueuePlace], bool] = lambda _place: False
        self.start()

    def queue(self, prefix: str) -> FakeQueue:
        """Return a queue of this prefix."""
        return FakeQueue(self.stores.setdefault(prefix, FakeStore(self.clock)))

    def start(self) -> None:
        """Start a flusher. The one before it is dead."""
        at.bump(self.ring.words, at.H_TERM)
        self.calls = ManualCalls()
        self.flusher = Flusher(self.ring, self.sink(), self.settings, self.clock, next_sink=self.sink)

    def sink(self) -> QueuesSink:
        """Return a sink whose calls the test may hold."""
        self.sinks.append(
            QueuesSink(
                self.settings,
                self.ring,
                self.letters,
                self.clock,
                calls=self.calls,
                must_wait=lambda place: self.must_wait(place),
                route_file=RouteFile(self.ring, self.settings),
            )
        )
        return self.sinks[-1]

    def send(self, count: int) -> None:
        """Append events of all users in turn."""
        for number in itertools.islice(self.sent, count):
            assert self.producer.append(b'{"userId":"u%d","n":%d}' % (number % USERS, number)) is None

    def work(self, cycles: int = 5) -> None:
        """Let the flusher work, and let everything be due."""
        for _ in range(cycles):
            self.clock.now_s += 30
            self.flusher.work()

    def numbers(self, prefix: str) -> list[int]:
        """Return the events in a queue, in order."""
        store = self.stores[prefix]
        return [
            msgspec.json.decode(event)["n"]
            for name in store.line
            for event in job.read(store.jobs[name]["data"].encode()).events
        ]

    def everything(self) -> list[int]:
        """Return the events in all queues, after a check that each queue has its own users in order."""
        found = []
        for prefix in self.stores:
            numbers = self.numbers(prefix)
            assert numbers == sorted(numbers)
            found += numbers
        return sorted(found)

    def reshard(self, *prefixes: str) -> None:
        """Store a route with one more generation, as ``rudderpipe scale`` does, without a seal."""
        home: Any = self.queue("rudder")
        known = route.read(home, self.settings)
        places = [route.QueuePlace(prefix) for prefix in prefixes]
        route.store(home, self.settings, known, known.with_queues(places, 1))


def spread_of(
    ring: Ring, clock: FakeClock, directory: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> Spread:
    """Return a ring whose queues are in memory, whichever server has them."""
    stores: dict[str, FakeStore] = {}

    def queue_of(settings: Settings, *_: Any, **__: Any) -> FakeQueue:
        return FakeQueue(stores.setdefault(settings.prefix, FakeStore(clock)))

    monkeypatch.setattr(queue_cursor, "Queue", queue_of)
    monkeypatch.setattr("rudderpipe.queue.queue.Queue", queue_of)
    monkeypatch.setattr(route, "Queue", queue_of)
    spread = Spread(ring, clock, directory, **settings)
    spread.stores = stores
    return spread


def with_spill(ring: Ring, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spread]:
    """Yield a ring whose flusher has a spill; a fixture."""
    spread = spread_of(ring, clock, tmp_path, monkeypatch, spill_dir=str(tmp_path / "spill"))
    yield spread
    spread.sinks[-1].close()


def as_queue(queue: Any) -> Queue:
    """Return a queue in memory as the type that it stands for."""
    return cast("Queue", queue)


def set_away(spread: Spread, *prefixes: str) -> None:
    """Let exactly these queues refuse all calls."""
    for prefix, store in spread.stores.items():
        store.away = prefix in prefixes


def restart(spread: Spread) -> None:
    """Let the flusher die, and start another one."""
    spread.sinks[-1]._spilling._spill.close()  # type: ignore[union-attr]  # as the kernel does
    spread.start()


def fill(spread: Spread, events: int) -> None:
    """Send events as fast as the ring takes them."""
    for _ in range(events // 100):
        spread.send(100)
        spread.work(8)


def spilled(spread: Spread) -> int:
    """Return how many events are in the spill, as the ring says."""
    return counters.read(spread.ring).spilled


def spill_always(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the flusher put all events into the spill while a queue is away, however empty the ring is."""
    monkeypatch.setattr(spread.sinks[-1]._spilling, "is_due", lambda: True)


def segments(spread: Spread) -> list[Path]:
    """Return the files of the spill."""
    return sorted(Path(spread.settings.spill_dir or "").glob("*/*/*"))
