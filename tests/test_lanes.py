"""A sender with several lanes. The test chooses when each attempt ends."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rudderpipe.delivery import outcome
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.__main__ import lanes_of
from rudderpipe.sender.heartbeat import LockRenewer
from rudderpipe.sender.lane import Lane
from rudderpipe.sender.sender import Sender
from rudderpipe.sender.state import SenderState
from rudderpipe.service import health
from rudderpipe.service.calls import Calls, Ended
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock
from tests.test_sender import BAD, DOWN, OK, FakePlane, job_of, run, sender_of, wired
from tests.test_sender_storm import LANES, Storm


class ManualCouriers(Calls):
    """Couriers without threads. An attempt is made when the test lets it end."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.under_way: list[Lane] = []
        self._results: deque[Ended] = deque()
        self.all_end = False

    def begin(self, owner: Any, call: Callable[[], Any]) -> bool:  # as the original
        self.under_way.append(owner)
        return True

    def ids(self) -> list[list[str]]:
        """Return the ids of the jobs that were offered to each attempt under way."""
        return [[job.id for job in lane.offered] for lane in self.under_way]

    def end(self, name: str) -> None:
        """Let the attempt end that was offered this job."""
        (lane,) = [lane for lane in self.under_way if name in {job.id for job in lane.offered}]
        self.under_way.remove(lane)
        self._results.append(Ended(lane, lane.attempt()))

    def next(self, wait_s: float) -> Ended | None:
        while self.all_end and self.under_way:
            self.end(self.under_way[0].offered[0].id)
        if self._results:
            return self._results.popleft()
        self._clock.now_s += wait_s
        return None


class LaneDelivery:
    """A queue with jobs of lanes, and a sender with two lanes or more."""

    def __init__(self, clock: FakeClock, *outcomes: Outcome, **settings: Any) -> None:
        self.clock = clock
        self.queue = FakeQueue(FakeStore(clock))
        self.couriers = ManualCouriers(clock)
        self.plane = FakePlane(*outcomes)
        self.state = SenderState(clock.monotonic_s(), 120)
        self.settings = Settings(**{"redis": "redis://x", "lanes": 2, "max_jobs_per_request": 10, **settings})
        self.sender = self.another(self.plane, self.state, self.couriers)

    def another(self, plane: FakePlane, state: SenderState | None, couriers: Calls | None) -> Sender:
        """Return a sender with these lanes."""
        return wired(self.queue, plane, self.clock, self.settings, state=state, couriers=couriers)

    def put(self, *names: str) -> None:
        """Add jobs. The names ``a…`` are of lane 0, ``b…`` of lane 1, and others are barriers."""
        for name in names:
            self.queue.put(name)
            if name[0] in "ab":
                self.queue.store.jobs[name]["opts"] = f'{{"lane":"{"ab".index(name[0])}/2"}}'

    def work(self, *ending: str) -> list[list[str]]:
        """Let these attempts end and the sender work. Return the jobs offered to the attempts that are under way."""
        for name in ending:
            self.couriers.end(name)
        for _ in range(3):
            self.sender.work()
        return self.couriers.ids()

    def work_for(self, seconds: float) -> None:
        """Let the sender work for so long, with every attempt ending at once."""
        self.couriers.all_end = True
        run(self.sender, self.clock, seconds)


@pytest.fixture(name="delivery")
def _delivery(clock: FakeClock) -> LaneDelivery:
    return LaneDelivery(clock)


def test_each_lane_has_one_attempt_under_way(delivery: LaneDelivery) -> None:
    """The lanes do not wait for each other. The jobs of one lane stay in order."""
    delivery.put("a1", "b1", "a2", "b2")
    assert delivery.work() == [["a1", "a2"], ["b1", "b2"]]
    delivery.put("b3", "a3")

    assert delivery.work("b1") == [["a1", "a2"], ["b3"]]
    assert delivery.queue.store.delivered == ["b1", "b2"]
    assert delivery.work("b3") == [["a1", "a2"]]
    assert delivery.work("a1") == [["a3"]]
    assert delivery.work("a3") == []
    assert delivery.queue.store.delivered == ["b1", "b2", "b3", "a1", "a2", "a3"]
    assert delivery.queue.store.active == []


def test_only_the_lane_of_a_failed_attempt_waits(clock: FakeClock) -> None:
    """Its jobs are sent again after the pause, ahead of the lane's later jobs."""
    delivery = LaneDelivery(clock, DOWN)
    delivery.put("a1", "b1")
    delivery.work()
    delivery.put("a2", "b2", "b3")

    assert delivery.work("a1") == [["b1"]]
    assert delivery.work("b1") == [["b2", "b3"]]
    delivery.work("b2")
    clock.now_s += 2
    assert delivery.work() == [["a1", "a2"]]
    delivery.work("a1")

    assert delivery.plane.requests == [["a1"], ["b1"], ["b2", "b3"], ["a1", "a2"]]


def test_a_barrier_waits_for_all_lanes_and_holds_all_lanes(clock: FakeClock) -> None:
    """Also while a lane is between two attempts. Barriers that follow each other share a request, also when retried."""
    delivery = LaneDelivery(clock, DOWN, OK, OK, DOWN)
    delivery.put("a1", "b1", "x", "y", "a2", "b2")
    assert delivery.work() == [["a1"], ["b1"]]
    assert delivery.work("a1", "b1") == []
    clock.now_s += 2
    assert delivery.work() == [["a1"]]

    assert delivery.work("a1") == [["x", "y"]]
    assert delivery.work("x") == []
    clock.now_s += 2
    assert delivery.work() == [["x", "y"]]
    assert delivery.work("x") == [["a2"], ["b2"]]

    delivery.work("a2", "b2")
    assert delivery.plane.requests == [["a1"], ["b1"], ["a1"], ["x", "y"], ["x", "y"], ["a2"], ["b2"]]


def test_the_halves_of_a_barrier_are_settled_before_a_lane_goes_on(clock: FakeClock) -> None:
    """A refused job is split, and one of its events fails."""
    delivery = LaneDelivery(clock, BAD, BAD)
    delivery.queue.put("x", job_of("u", "v"))
    delivery.put("a1")

    delivery.work_for(1)

    assert delivery.plane.requests == [["u", "v"], ["u"], ["v"], ["a1"]]
    assert len(delivery.queue.store.failed) == 1


def test_a_change_of_the_number_of_lanes_keeps_the_order(clock: FakeClock) -> None:
    """Jobs of another number of lanes are barriers, and so are all jobs for a sender with one lane."""
    delivery = LaneDelivery(clock)
    for name, lane in (("a1", "0/2"), ("o1", "0/4"), ("o2", "3/4"), ("b1", "1/2")):
        delivery.queue.put(name)
        delivery.queue.store.jobs[name]["opts"] = f'{{"lane":"{lane}"}}'
    assert delivery.work() == [["a1"]]
    assert delivery.work("a1") == [["o1", "o2"]]
    delivery.sender.drain(clock.monotonic_s())

    plane = FakePlane()
    run(sender_of(delivery.queue, plane, clock), clock, 1)

    assert plane.requests == [["o1"], ["o2"], ["b1"]]


def test_a_blocked_lane_stalls_the_others_only_when_the_window_is_full(clock: FakeClock) -> None:
    """At most 64 jobs for each lane are held, and the blocked lane's jobs fill them in the end."""
    delivery = LaneDelivery(clock, Outcome("retry", 503, "", 300.0))
    delivery.put("a0")
    delivery.work()
    delivery.work("a0")
    for number in range(1, 200):
        delivery.put(f"a{number}", f"b{number}")
    delivery.work_for(60)

    delivered = delivery.queue.store.delivered
    assert delivered == [f"b{number}" for number in range(1, len(delivered) + 1)]
    assert len(delivered) >= 64
    assert len(delivery.state.held) == 128
    delivery.work_for(300)
    assert len(delivered) == 399
    assert [name for name in delivered if name[0] == "a"] == [f"a{number}" for number in range(200)]


@pytest.mark.parametrize("call", ["take", "complete_and_take", "retry_later"])
def test_after_a_lost_answer_all_attempts_end_before_jobs_are_taken(clock: FakeClock, call: str) -> None:
    """The jobs of the lost take are recovered, and the held ones stay."""
    delivery = LaneDelivery(clock, DOWN if call == "retry_later" else OK)
    delivery.put("a1", "b1")
    delivery.work()
    delivery.put("a2", "b2", "x")
    if call == "take":
        delivery.queue.fencing_token = delivery.state.fencing_token
    delivery.queue.loses.append(call if call != "take" else "complete_and_take")
    assert delivery.work("a1") == [["b1"]]
    clock.now_s += 5

    assert delivery.work() == [["b1"]]
    delivery.work_for(10)

    assert [name for request in delivery.plane.requests for name in request if name != "a1"] == ["b1", "a2", "b2", "x"]
    assert delivery.queue.store.active == []


def test_a_job_that_is_lost_during_its_attempt_is_left_alone(clock: FakeClock) -> None:
    """The decision concerns only the jobs that are still held, and no later job is taken for the cause of a refusal."""
    delivery = LaneDelivery(clock, BAD)
    delivery.put("a1", "a2", "a3", "a4", "b1")
    delivery.work()
    delivery.queue.store.lock("a1", "another")
    clock.now_s += 20
    delivery.work()
    assert [job.id for job in delivery.state.held] == ["a2", "a3", "a4", "b1"]
    delivery.put("a5", "a6")

    delivery.work("a1", "b1")
    delivery.work_for(1)

    assert delivery.plane.requests == [["a1", "a2", "a3", "a4"], ["b1"], ["a2", "a3"], ["a4", "a5", "a6"]]
    assert delivery.queue.store.active == ["a1"]


def test_a_sender_that_lost_its_lease_ignores_its_attempts(clock: FakeClock) -> None:
    """It stands by, and takes nothing before they have ended."""
    delivery = LaneDelivery(clock)
    delivery.put("a1", "b1")
    delivery.work()
    clock.now_s += 20
    other = FakeQueue(delivery.queue.store)
    Lease(cast(Queue, other), 10_000, "you 2 0", lambda _: False).take()
    delivery.state.lost = delivery.state.fencing_token
    delivery.work()
    assert (delivery.state.state, delivery.state.held) == ("standby", ())
    clock.now_s += 20
    delivery.work("a1")
    assert (delivery.queue.store.delivered, delivery.state.held) == ([], ())

    delivery.work("b1")
    delivery.work_for(5)

    assert sorted(delivery.queue.store.delivered) == ["a1", "b1"]
    assert delivery.queue.store.active == []


def test_a_stop_waits_for_the_attempts_and_puts_the_other_jobs_back_in_order(clock: FakeClock) -> None:
    """Their results are in Redis, so that the next sender repeats nothing."""
    delivery = LaneDelivery(clock, max_jobs_per_request=1)
    delivery.put("a1", "b1", "b2", "a2", "x", "a3")
    delivery.work()
    delivery.couriers.all_end = True

    delivery.sender.drain(clock.monotonic_s() + 10)

    assert delivery.queue.store.delivered == ["a1", "b1"]
    assert delivery.queue.store.line == ["b2", "a2", "x", "a3"]
    assert delivery.queue.store.active == []


def test_a_stop_waits_no_longer_than_its_deadline(clock: FakeClock) -> None:
    """The jobs of an attempt that does not end are first in line again."""
    delivery = LaneDelivery(clock, lease_ms=60_000)
    delivery.put("a1", "b1", "a2")
    delivery.work()

    delivery.sender.drain(clock.monotonic_s() + 10)

    assert delivery.queue.store.line == ["a1", "b1", "a2"]
    assert delivery.queue.store.leaseholder() == ""


def test_an_error_of_this_host_in_an_attempt_loses_no_job(
    delivery: LaneDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs are sent again."""
    delivery.put("a1", "b1")
    delivery.work()

    def fails() -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("rudderpipe.sender.lane._batch_of", lambda _job: fails())
        delivery.couriers.end("a1")
    delivery.work_for(5)

    assert sorted(delivery.queue.store.delivered) == ["a1", "b1"]


@pytest.mark.parametrize("hangs", [False, True])
def test_a_lane_in_backoff_is_no_stall_but_an_attempt_that_hangs_is(clock: FakeClock, hangs: bool) -> None:
    """A restart would help only the latter."""
    delivery = LaneDelivery(clock, Outcome("retry", 503, "", 300.0))
    own = FakeQueue(delivery.queue.store)
    own.token = delivery.queue.token
    renewer = LockRenewer(cast(Queue, own), delivery.state, delivery.settings, clock)
    delivery.put("a1", "b1")
    delivery.work()
    delivery.work("a1", *(() if hangs else ("b1",)))

    for _ in range(250):
        clock.now_s += 1
        renewer.work()
        delivery.sender.work()

    assert health.healthz(delivery.state.health(clock.now_s)).status == (503 if hangs else 200)


def test_a_lane_in_backoff_does_not_hold_up_the_results_of_the_others(clock: FakeClock) -> None:
    """The jobs of the lane in backoff and those with an unwritten result are as many as may be held."""
    delivery = LaneDelivery(clock, Outcome("retry", 503, "", 300.0))
    delivery.put("b1", *(f"a{number}" for number in range(127)))
    delivery.work()
    delivery.work("a0")
    clock.now_s += 1

    delivery.put("b2")

    assert delivery.work("b1") == [["b2"]]
    assert delivery.queue.store.delivered == ["b1"]


def test_a_job_that_a_tool_put_in_line_again_is_held_once(delivery: LaneDelivery) -> None:
    """The job is what the last take found, and the result of an attempt with it before is ignored."""
    delivery.put("a1", "b1", "a2")
    delivery.work()
    for name in ("a1", "a2"):
        delivery.queue.store.active.remove(name)
    delivery.put("b2", "a1", "a2")
    delivery.clock.now_s += 1

    delivery.work()
    assert [job.id for job in delivery.state.held] == ["b1", "b2", "a1", "a2"]
    delivery.work("a1")
    assert delivery.queue.store.delivered == []
    delivery.work_for(5)

    assert delivery.queue.store.delivered == ["b1", "b2", "a1", "a2"]
    assert (delivery.queue.store.active, delivery.state.held) == ([], ())


@pytest.mark.parametrize(("first", "second"), [("x", "a1"), ("a1", "x")])
def test_a_barrier_that_is_no_longer_held_ends_before_the_next_stretch(
    delivery: LaneDelivery, first: str, second: str
) -> None:
    """So does the attempt of a lane before a barrier, because its events may still arrive."""
    delivery.put(first, second)
    delivery.work()
    delivery.queue.store.lock(first, "another")
    delivery.clock.now_s += 20

    assert delivery.work() == [[first]]
    assert [job.id for job in delivery.state.held] == [second]
    assert delivery.work(first) == [[second]]


def test_a_host_without_a_thread_for_a_lane_delivers_one_lane_after_the_other(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender's own thread makes the attempts, one in each cycle, until a thread can be started."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    delivery = LaneDelivery(clock)
    delivery.put("a1", "b1", "x", "a2")
    sender = delivery.another(delivery.plane, None, None)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(10):
            made = len(delivery.plane.requests)
            sender.work()
            assert len(delivery.plane.requests) <= made + 1
    assert delivery.plane.requests == [["a1"], ["b1"], ["x"], ["a2"]]
    delivery.put("b2")

    while len(delivery.queue.store.delivered) < 5:
        sender.work()

    assert delivery.queue.store.delivered == ["a1", "b1", "x", "a2", "b2"]


def test_the_requests_of_all_lanes_hold_at_most_eight_megabytes(clock: FakeClock) -> None:
    """Jobs without a lane are alone under way, and may use a whole request."""
    settings = Settings(data_plane_url="http://x", redis="redis://x", lanes=8)
    planes, dispatchers = lanes_of(settings, clock)
    for each in dispatchers:
        each.size._resize(32)

    assert len(planes) == 9
    assert [each.size.bytes for each in dispatchers] == [3_900_000, *[1_000_000] * 8]
    assert len(lanes_of(Settings(data_plane_url="http://x"), clock)[1]) == 1


def test_the_held_jobs_are_few_enough_for_a_script(clock: FakeClock) -> None:
    """A script looks at 5,000 active jobs, however large requests have become."""
    delivery = LaneDelivery(clock, lanes=64, max_jobs_per_request=1000)
    names = [f"x{number}" for number in range(6000)]
    for name in names:
        delivery.queue.put(name)
        delivery.queue.store.jobs[name]["opts"] = f'{{"lane":"{len(name) % 2}/64"}}'
    for lane in delivery.sender._held._lanes:
        lane.size._resize(32)

    for _ in range(30):
        delivery.sender.work()

    assert len(delivery.queue.store.active) == 4096


def test_requests_of_lanes_are_under_way_at_the_same_time(clock: FakeClock) -> None:
    """The threads wait for each other, which requests one after the other could not."""
    together = threading.Barrier(2, timeout=30)

    class WaitingPlane(FakePlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            together.wait()
            return outcome.of_answer(200, b"ok")

    delivery = LaneDelivery(clock)
    delivery.put("a1", "b1")
    sender = delivery.another(WaitingPlane(), None, None)

    while len(delivery.queue.store.delivered) < 2:
        sender.work()

    assert sorted(delivery.queue.store.delivered) == ["a1", "b1"]


def test_a_lane_goes_on_after_no_memory_was_left_for_its_result(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result of the attempt is handed over later, once."""
    failures = iter([True, True])

    def scarce(*fields: Any) -> Ended:
        if next(failures, False):
            raise MemoryError
        return Ended(*fields)

    monkeypatch.setattr("rudderpipe.service.calls.Ended", scarce)
    delivery = LaneDelivery(clock)
    delivery.put("a1", "a2", "b1")
    sender = delivery.another(FakePlane(), None, None)

    while len(delivery.queue.store.delivered) < 3:
        sender.work()

    assert next(failures, None) is None
    assert sorted(delivery.queue.store.delivered) == ["a1", "a2", "b1"]


@given(st.randoms(use_true_random=False), st.integers(1, 40))
@hypothesis_settings(suppress_health_check=list(HealthCheck), deadline=None)
def test_no_event_overtakes_a_barrier_or_an_event_of_its_lane(dice: random.Random, steps: int) -> None:
    """Whatever jobs, responses, lost answers and late calls there are. Each event arrives once or fails."""
    storm = Storm(FakeClock(), dice, lanes=LANES)
    for _ in range(steps):
        storm.step()
    storm.finish()

    assert storm.overtakers() == []
    assert sorted(storm.plane.accepted) == sorted(storm.names)
    assert len(storm.failed(stalled=False)) == storm.guilty
