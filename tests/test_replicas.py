"""``redis_replicas``: an event leaves the ring when replicas of Redis have it, so that a failover forgets none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rudderpipe.errors import NotReplicated
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.queue_sink import QueueSink
from rudderpipe.queue import job
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.replicas import Replicas
from rudderpipe.ring import counters, flusher_lock
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock, producer_of, ring_of


class Killed(BaseException):
    """Raised in place of the rest of a flusher's program."""


class Host:
    """A ring, and a flusher that adds to a queue in memory, which has one replica."""

    def __init__(self, ring: Ring, clock: FakeClock, directory: Path, **changed: Any) -> None:
        self.ring, self.clock, self.store = ring, clock, FakeStore(clock)
        given = {"write_key": "KEY", "redis": "redis://x", "flush_at": 3, "redis_replicas": 1, **changed}
        self._settings = Settings(**given)
        self._letters = DeadLetters(directory / "x.failed", 1 << 20)
        self._producer = producer_of(ring, clock)
        self.count = 0
        self._late: list[Callable[[], object]] = []
        self.store.follows = True
        self.store.replicate()
        self.start()

    def start(self) -> None:
        """Start a flusher, as the successor of one that was killed."""
        assert flusher_lock.take(self.ring, self.clock)
        self.queue = FakeQueue(self.store)
        self.queue._late = self._late  # a killed flusher's calls may still arrive
        sink = QueueSink(self._settings, self.ring, self._letters, self.clock)
        queue = sink._queue = cast(Queue, self.queue)  # a queue in memory
        queue.place = "here"
        if sink._replicas is not None:
            sink._replicas = Replicas(queue, self._settings)
        self.flusher = Flusher(self.ring, sink, self._settings, self.clock)

    def kill(self) -> None:
        """Kill the flusher, and start another one."""
        self.ring.locks.unlock(at.LOCK_FLUSHER)
        self.start()

    def track(self, count: int) -> None:
        """Append events with the next numbers."""
        for _ in range(count):
            assert self._producer.append(b'{"userId":"%d"}' % self.count) is None
            self.count += 1

    def work(self) -> None:
        """Run one cycle in which everything is due, later than any pause."""
        self.clock.now_s += 30
        self._producer.ask_flush()
        try:
            self.flusher.work()
        except Killed:
            self.kill()

    def added(self) -> list[int]:
        """Return the numbers of the events in the line."""
        read = [job.read(self.store.jobs[name]["data"].encode()) for name in self.store.line]
        return [int(msgspec.json.decode(event)["userId"]) for each in read for event in each.events]

    @property
    def in_ring(self) -> int:
        """The number of events in the ring."""
        return counters.read(self.ring).in_ring

    @property
    def unconfirmed_ms(self) -> int:
        """The word of the header that says since when replicas lack events."""
        return self.ring.words[at.H_UNCONFIRMED_MS]


@pytest.fixture(name="host")
def _host(ring: Ring, clock: FakeClock, tmp_path: Path) -> Host:
    return Host(ring, clock, tmp_path)


def test_events_stay_in_the_ring_until_a_replica_has_them(host: Host) -> None:
    """Redis has them once all the time, and new events wait behind them."""
    host.store.follows = False
    host.track(5)
    for _ in range(3):
        host.work()
        assert (host.added(), host.in_ring) == ([0, 1, 2, 3, 4], 5)
    assert host.clock.monotonic_ms() - host.unconfirmed_ms == 60_000
    assert host.ring.words[at.H_DOWN_MS]
    host.track(2)
    host.work()
    assert host.added() == [0, 1, 2, 3, 4]

    host.store.follows = True
    host.work()
    host.work()

    assert (host.added(), host.in_ring, host.unconfirmed_ms) == ([0, 1, 2, 3, 4, 5, 6], 0, 0)
    assert not host.ring.words[at.H_DOWN_MS]


def test_what_a_failover_forgot_is_added_again(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Only that, and the log says how many events they were."""
    host.track(4)
    host.work()
    host.store.follows = False
    host.track(5)
    host.work()
    host.store.fail_over()
    assert host.added() == [0, 1, 2, 3]

    host.work()  # the new master has no replica yet
    assert (host.added(), host.in_ring) == (list(range(9)), 5)
    host.store.follows = True
    host.work()
    host.work()

    assert (host.added(), host.in_ring) == (list(range(9)), 0)
    assert "they were added again events=5" in caplog.text


def test_a_new_flusher_trusts_only_what_a_replica_has(host: Host) -> None:
    """Its predecessor was killed while no replica had the events, and Redis fails over only then."""
    host.store.follows = False
    host.track(5)
    host.work()
    host.kill()
    host.work()
    assert host.in_ring == 5

    host.store.fail_over()
    host.store.follows = True
    host.work()

    assert (host.added(), host.in_ring) == ([0, 1, 2, 3, 4], 0)


def test_without_the_setting_a_failover_loses_what_redis_forgot(ring: Ring, clock: FakeClock, tmp_path: Path) -> None:
    """The events have left the ring, so that they can only be counted."""
    host = Host(ring, clock, tmp_path, redis_replicas=0)
    host.store.follows = False
    host.track(5)
    host.work()
    host.store.fail_over()
    host.track(1)
    host.work()

    assert (host.added(), host.in_ring, host.unconfirmed_ms) == ([5], 0, 0)


def test_events_pass_after_five_seconds_if_so_configured(
    ring: Ring, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Replicas are asked again every 5 s. The header shows that they lack events until they have them."""
    caplog.set_level(logging.WARNING)
    host = Host(ring, clock, tmp_path, redis_replicas_strict=False)
    host.store.follows = False
    host.track(2)
    host.work()
    assert host.in_ring == 2
    host.work()
    assert host.in_ring == 0
    assert "events leave the ring although replicas lack them" in caplog.text
    asked: list[Any] = []
    add = host.queue.add
    host.queue.add = lambda *arguments: asked.append(arguments[-1]) or add(*arguments)  # type: ignore[method-assign,func-returns-value]  # notes what is waited for

    for after_s in (1.0, 3.9, 0.2, 1.0):
        host.track(3)
        clock.now_s += after_s
        host.flusher.work()

    assert (host.in_ring, host.added()) == (0, list(range(14)))
    assert [wait is None for wait in asked] == [True, True, False, True]
    assert host.unconfirmed_ms
    host.store.follows = True
    host.track(3)
    host.work()
    assert (host.in_ring, host.unconfirmed_ms) == (0, 0)


def test_an_idle_flusher_sees_that_replicas_have_followed(ring: Ring, clock: FakeClock, tmp_path: Path) -> None:
    """No event comes that would find out. While they lack events, no look says that they have them."""
    host = Host(ring, clock, tmp_path, redis_replicas_strict=False)
    host.store.follows = False
    host.track(3)
    host.work()
    host.work()
    assert (host.in_ring, bool(host.unconfirmed_ms)) == (0, True)
    host.work()
    assert host.unconfirmed_ms

    follow(host)
    host.work()

    assert (host.added(), host.unconfirmed_ms) == ([0, 1, 2], 0)


def test_the_error_names_what_was_found_and_wanted() -> None:
    """It contains no event."""
    assert str(NotReplicated("here", 0, 2)) == (
        "redis at here: replicas do not have the last events, found=0 redis_replicas=2"
    )


def killed_after(host: Host, name: str) -> None:
    """Kill the flusher when Redis has executed its next call of this name, before it has the answer."""
    method = getattr(host.queue, name)

    def call(*arguments: Any) -> None:
        method(*arguments)
        raise Killed

    setattr(host.queue, name, call)


def killed_before_release(host: Host) -> None:
    """Kill the flusher when the replica has the events, before READ says so."""

    def release(*_: Any) -> None:
        raise Killed

    host.flusher._consumer.release = release  # type: ignore[method-assign,assignment]  # a kill at this place


def follow(host: Host) -> None:
    """Give the replica all data, and from now on every write at once."""
    host.store.follows = True
    host.store.replicate()


def fail_over(host: Host) -> None:
    """Let the replica become the master. Calls that are under way to the old one are gone."""
    host.store.fail_over()
    host.queue._late.clear()


STEPS: dict[str, Callable[[Host], object]] = {
    "track 1": lambda host: host.track(1),
    "track 7": lambda host: host.track(7),
    "work": Host.work,
    "the replica stops": lambda host: setattr(host.store, "follows", False),
    "the replica follows": follow,
    "the replica gets a part": lambda host: host.store.replicate(),
    "fail over": fail_over,
    "lose the answer of add": lambda host: host.queue.loses.append("add"),
    "lose the answer of raise_term": lambda host: host.queue.loses.append("raise_term"),
    "hold add": lambda host: host.queue.holds.append("add"),
    "hold raise_term": lambda host: host.queue.holds.append("raise_term"),
    "let calls go": lambda host: host.queue.let_go(),
    "kill": Host.kill,
    "kill after add": lambda host: killed_after(host, "add"),
    "kill after raise_term": lambda host: killed_after(host, "raise_term"),
    "kill before release": killed_before_release,
}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.one_of(st.sampled_from(["work", "track 7", "the replica stops", "fail over"]), st.sampled_from(list(STEPS))),
        max_size=40,
    )
)
def test_every_event_is_added_once_whatever_fails(steps: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Replicas lag, Redis fails over, answers are lost, calls arrive late, and flushers are killed at each step."""
    directory, clock = tmp_path_factory.mktemp("ring"), FakeClock()
    with ring_of(directory, clock) as ring:
        host = Host(ring, clock, directory)
        for step in steps:
            STEPS[step](host)
        host.store.follows = True
        for _ in range(8):
            host.work()
            host.queue.let_go()
        host.work()
        host.store.fail_over()

        assert (host.added(), host.in_ring) == (list(range(host.count)), 0)
