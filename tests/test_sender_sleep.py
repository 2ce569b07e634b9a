"""The sleep of the sender: when it waits in Redis for a job, and when it only pauses."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue.job_wait import JobWait
from rudderpipe.sender.sender import Sender
from rudderpipe.sender.sleep import PAUSE_MAX_S, REFUSED_S, Sleep, longest_wait_s
from rudderpipe.sender.state import SenderState
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock
from tests.test_sender import DOWN, FakePlane, wired


class FakeWait:
    """What takes the place of the wait in Redis: how long each wait was to last, and what comes of it."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.waits: list[float] = []
        self.has_job = False
        self.refusal: QueueUnavailable | None = None

    def wait(self, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        if self.refusal is not None:
            raise self.refusal
        if not self.has_job:
            self.clock.now_s += timeout_s
        return self.has_job


class Bench:
    """A sender with its sleep, at a queue in memory."""

    def __init__(self, clock: FakeClock, plane: FakePlane | None = None, **settings: Any) -> None:
        self.clock = clock
        self.queue = FakeQueue(FakeStore(clock))
        self.line = FakeWait(clock)
        self.state = SenderState(clock.monotonic_s(), 120)
        self.plane = plane or FakePlane()
        self.is_abandoned = False
        made = Settings(**settings)
        self.sender: Sender = wired(
            self.queue, self.plane, clock, made, state=self.state, abandoned=lambda: self.is_abandoned
        )
        self.sleep = Sleep(cast(JobWait, self.line), self.sender.rest_s, longest_wait_s(made), clock)

    def cycles(self, count: int) -> None:
        for _ in range(count):
            self.sleep.after(self.sender.work())


def test_a_sender_without_a_job_waits_in_redis(clock: FakeClock) -> None:
    """It pauses for no moment, because a job ends the wait."""
    bench = Bench(clock)

    bench.cycles(5)

    assert bench.line.waits[:1] == [2.0]
    assert clock.now_s - 1_000 == pytest.approx(sum(bench.line.waits))


@pytest.mark.parametrize(("lease_ms", "longest_s"), [(1_500, 0.5), (60_000, 2.0)])
def test_a_wait_is_shorter_than_a_third_of_the_lease(clock: FakeClock, lease_ms: int, longest_s: float) -> None:
    """So that the sender finds out in time what the renewal of its lease has found."""
    bench = Bench(clock, lease_ms=lease_ms)

    bench.cycles(20)

    assert max(bench.line.waits) == longest_s


def test_a_sender_does_not_wait_while_it_has_something_to_do(clock: FakeClock) -> None:
    """Here a job is tried again later."""
    bench = Bench(clock, FakePlane(DOWN, DOWN))
    bench.queue.put("a")

    bench.cycles(20)

    assert bench.line.waits == []


def test_a_wait_ends_when_a_delayed_job_is_due(clock: FakeClock) -> None:
    """No one writes to the line when a delayed job comes due."""
    bench = Bench(clock)
    bench.queue.put("a")
    bench.queue.store.delayed["a"] = clock.time_ms() + 700
    bench.queue.store.line.remove("a")
    due_s = clock.now_s + 0.7
    while not bench.plane.requests:
        bench.cycles(1)

    assert clock.now_s == pytest.approx(due_s, abs=0.01)


def test_a_sender_pauses_while_the_queue_is_paused_or_another_sender_works(clock: FakeClock) -> None:
    """Jobs of a paused queue go to another list, and a standby sender must look at the lease."""
    paused, standby = Bench(clock), Bench(clock)
    paused.state.paused = True
    standby.queue.store.hold_lease("1 other host 1 0", 60_000)

    paused.cycles(5)
    standby.cycles(5)

    assert (paused.line.waits, standby.line.waits) == ([], [])


def test_a_refused_wait_is_not_tried_again_for_a_minute(clock: FakeClock) -> None:
    """Redis before 6.2, a proxy or an ACL may refuse it. The sender then looks as often as its pauses allow."""
    bench = Bench(clock)
    bench.line.refusal = QueueUnavailable("redis", "NOPERM", answered=True)
    bench.cycles(2)
    assert len(bench.line.waits) == 1
    before_s = clock.now_s
    while len(bench.line.waits) == 1:
        at_s = clock.now_s
        bench.cycles(1)
        assert clock.now_s - at_s < PAUSE_MAX_S + 0.001

    assert clock.now_s - before_s >= REFUSED_S - 1


def test_a_job_in_line_that_cannot_be_taken_makes_no_busy_loop(clock: FakeClock) -> None:
    """A wait ends at once then, for example because another sender took the job. Each second one becomes a pause."""
    bench = Bench(clock)
    bench.line.has_job = True

    bench.cycles(200)

    assert clock.now_s - 1_000 > 5


def test_an_abandoned_sender_ends_in_time(clock: FakeClock) -> None:
    """It does not wait past ``linger_s``."""
    bench = Bench(clock, linger_s=0.3)
    bench.is_abandoned = True
    while not bench.sender.finished():
        bench.cycles(1)

    assert clock.now_s - 1_000 == pytest.approx(0.3, abs=0.05)
