"""Lost answers and late calls of a sender, and when its health check fails."""

from __future__ import annotations

from typing import cast

import pytest

from rudderpipe.delivery.outcome import Outcome
from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue import job
from rudderpipe.queue.active_job import ActiveJob, Recovered
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.heartbeat import LockRenewer
from rudderpipe.sender.state import SenderState
from rudderpipe.service import health
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock
from tests.test_sender import DOWN, FakePlane, Picky, run, sender_of, wired

BOTH = pytest.mark.parametrize("several", [False, True], ids=["one sender", "several senders"])


@pytest.fixture(name="queue")
def _queue(clock: FakeClock) -> FakeQueue:
    return FakeQueue(FakeStore(clock))


# Lost answers, and calls that arrive late.


class DownAtFirst(Picky):
    """A data plane that returns 503 for the first request."""

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        result = super().post(body, write_key, timeout_s)
        return result if len(self.requests) > 1 else DOWN

    def accepted(self) -> list[str]:
        del self.requests[0]
        return super().accepted()


CALLS = ["take", "complete_and_take", "complete", "fail", "split", "retry_later", "recover"]


@BOTH
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("late", [None, 0.0, 3.0, 20.0], ids=["executed", "late at once", "late", "very late"])
def test_a_lost_answer_loses_doubles_and_strands_no_event(
    queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture, call: str, late: float | None, several: bool
) -> None:
    """Redis executes the call at once, or only after the sender has gone on without it."""
    plane = DownAtFirst("guilty")
    names = ["a", "b", "c", "d", "e", "f"]
    for name in names[:3]:
        queue.put(name)
    events = b",".join(b'{"userId":"%b"}' % user for user in (b"x", b"guilty", b"y"))
    queue.put("many", job.build(events, "KEY", "t", 7).encode())
    sender = sender_of(queue, plane, clock, max_jobs_per_request=2, is_multi_processor=several)
    if call == "recover" and several:
        queue.loses.append("take")
    elif call == "recover":
        queue.take(1, 1000)
    (queue.loses if late is None else queue.holds).append(call)
    run(sender, clock, 8)
    run(sender, clock, late or 0)
    for name in names[3:]:
        queue.put(name)
    queue.let_go()
    for _ in range(12 if several else 1):
        run(sender, clock, 10)

    assert not queue.loses
    assert not queue.holds
    assert (queue.store.line, queue.store.active) == ([], [])
    accepted = plane.accepted()
    assert sorted(set(accepted)) == sorted([*names, "x", "y"])
    ordered = [name for name in accepted if name in names]
    assert ordered == names if not several else sorted(ordered) == names
    assert len(queue.store.failed) == 1
    lines = [record.getMessage() for record in caplog.records]
    assert not [line for line in lines if "no longer this sender's" in line or "lease lost" in line]


class DisconnectingPlane(FakePlane):
    """A data plane during whose first request Redis becomes unreachable."""

    def __init__(self, queue: FakeQueue) -> None:
        super().__init__()
        self.queue = queue

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        self.queue.away = len(self.requests) == 0
        return super().post(body, write_key, timeout_s)


@BOTH
@pytest.mark.parametrize("away_s", [1, 5, 25])
def test_jobs_delivered_during_an_outage_of_redis_are_not_sent_again(
    queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture, several: bool, away_s: float
) -> None:
    """The first request holds fifty jobs.

    The lease may lapse, but no other sender has it, so the log reports no loss.
    """
    names = [str(number) for number in range(100, 200)]
    for name in names:
        queue.put(name)
    plane = DisconnectingPlane(queue)
    sender = sender_of(queue, plane, clock, max_jobs_per_request=50, is_multi_processor=several)

    run(sender, clock, away_s)
    queue.away = False
    run(sender, clock, 10)

    assert [name for request in plane.requests for name in request] == names
    assert queue.store.delivered == names
    lines = [record.getMessage() for record in caplog.records]
    assert not [line for line in lines if "lease lost" in line or "no longer this sender's" in line]


def test_a_sender_that_stops_after_its_lease_lapsed_stores_its_deliveries(queue: FakeQueue, clock: FakeClock) -> None:
    """No other sender had the lease, and the next sender must not deliver the job again."""
    queue.put("a")
    queue.put("b")
    plane = DisconnectingPlane(queue)
    sender = sender_of(queue, plane, clock, max_jobs_per_request=1)
    run(sender, clock, 20)
    queue.away = False

    sender.drain(clock.monotonic_s() + 1)

    assert queue.store.delivered == ["a"]
    assert queue.store.line == ["b"]
    assert queue.store.leaseholder() == ""


def test_a_sender_that_stops_after_a_long_stop_puts_its_jobs_back(queue: FakeQueue, clock: FakeClock) -> None:
    """Its lease has lapsed, and no other sender has had it since."""
    queue.put("a")
    sender = sender_of(queue, FakePlane(DOWN), clock)
    sender.work()
    clock.now_s += 60

    sender.drain(clock.monotonic_s() + 1)

    assert (queue.store.line, queue.store.active) == (["a"], [])


def test_a_job_that_is_taken_along_with_a_refused_completion_is_not_stranded(
    queue: FakeQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both calls go over one round trip, and Redis may refuse only one of them."""
    for name in "abc":
        queue.put(name)
    usual = queue.complete_and_take

    def refused(done: list[ActiveJob], max_jobs: int, max_bytes: int) -> tuple[int, list[ActiveJob]]:
        monkeypatch.setattr(queue, "complete_and_take", usual)
        queue.take(max_jobs, max_bytes)
        raise QueueUnavailable("here", "WRONGTYPE", answered=True)

    monkeypatch.setattr(queue, "complete_and_take", refused)
    plane = FakePlane()

    run(sender_of(queue, plane, clock), clock, 2)

    assert plane.requests == [["a"], ["b"], ["c"]]
    assert queue.store.delivered == ["a", "b", "c"]


def test_the_renewer_uses_the_senders_new_token(queue: FakeQueue, clock: FakeClock) -> None:
    """One of several senders takes a new token after a lost answer."""
    state, renewer = state_of(queue, clock)
    queue.put("a")
    settings = Settings(is_multi_processor=True)
    sender = wired(queue, FakePlane(*[DOWN] * 9), clock, settings, state=state)
    before = queue.token
    queue.loses.append("take")
    run(sender, clock, 1)
    assert queue.token != before

    for _ in range(10):
        clock.now_s += 5
        renewer.work()

    assert queue.store.holder("a") == queue.token


def test_a_split_without_an_answer_is_read_again_from_redis(queue: FakeQueue, clock: FakeClock) -> None:
    """Only Redis knows which jobs there are then. No half may be lost or sent twice, and the order stays."""
    plane = Picky("c")
    queue.put("many", job.build(b'{"userId":"a"},{"userId":"b"},{"userId":"c"},{"userId":"d"}', "KEY", "t", 7).encode())
    queue.put("last")
    queue.loses.append("split")

    run(sender_of(queue, plane, clock, max_jobs_per_request=5), clock, 5)

    assert plane.accepted() == ["a", "b", "d", "last"]
    assert len(queue.store.failed) == 1


# The health check.


def state_of(queue: FakeQueue, clock: FakeClock) -> tuple[SenderState, LockRenewer]:
    """Return the state of a sender, and its renewer."""
    state = SenderState(clock.monotonic_s(), 30)
    own = FakeQueue(queue.store)
    own.token = queue.token
    return state, LockRenewer(cast(Queue, own), state, Settings(), clock)


def test_a_stranded_job_fails_the_health_check_until_the_sender_recovers_it(queue: FakeQueue, clock: FakeClock) -> None:
    """An empty take is no progress while there is such a job."""
    state, renewer = state_of(queue, clock)
    plane = FakePlane()
    sender = wired(queue, plane, clock, Settings(max_jobs_per_request=1), state=state)
    run(sender, clock, 1)
    queue.put("a")
    store = queue.store
    store.active.append(store.line.pop())

    for _ in range(400):
        clock.now_s += 0.1
        renewer.work()
    assert health.healthz(state.health(clock.now_s)).status == 503
    sender.work()
    run(sender, clock, 1)
    clock.now_s += 5
    renewer.work()

    assert plane.requests == [["a"]]
    assert health.healthz(state.health(clock.now_s)).status == 200


def test_an_empty_take_is_no_progress_while_a_job_is_stranded(
    queue: FakeQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This job cannot be recovered, so the health check must fail."""
    state, renewer = state_of(queue, clock)
    sender = wired(queue, FakePlane(), clock, Settings(), state=state)
    run(sender, clock, 1)
    monkeypatch.setattr(queue, "recover", lambda *_: Recovered(0, 0))
    queue.store.active.append("a")

    for _ in range(400):
        clock.now_s += 0.1
        sender.work()
        renewer.work()

    assert health.healthz(state.health(clock.now_s)).status == 503


@pytest.mark.parametrize("why", ["paused", "backoff", "redis", "empty", "another's"])
def test_the_health_check_passes_while_jobs_must_wait(queue: FakeQueue, clock: FakeClock, why: str) -> None:
    """A restart would not help any of these causes, however long they last."""
    state, renewer = state_of(queue, clock)
    sender = wired(queue, FakePlane(Outcome("retry", 503, "", 300.0)), clock, Settings(), state=state)
    sender.work()
    if why != "empty":
        queue.put("a")
    if why == "paused":
        queue.store.paused = True
    elif why == "redis":
        queue.store.away = True
    elif why == "another's":
        queue.store.active.append(queue.store.line.pop())
    for _ in range(2000):
        clock.now_s += 0.1
        if why == "another's":
            queue.store.lock("a", "another")
        sender.work()
        renewer.work()
        assert health.healthz(state.health(clock.now_s)).status == 200


def test_the_renewer_knows_the_jobs_of_the_first_request(queue: FakeQueue, clock: FakeClock) -> None:
    """A request may take longer than a lock lasts, and so may the completion in Redis."""
    state, renewer = state_of(queue, clock)
    seen: list[tuple[ActiveJob, ...]] = []

    class Slow(FakePlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            seen.append(state.held)
            for _ in range(10):
                clock.now_s += 5
                renewer.work()
            return super().post(body, write_key, timeout_s)

    queue.put("a")
    sender = wired(queue, Slow(), clock, Settings(is_multi_processor=True), state=state)
    sender.work()

    assert [[taken.id for taken in held] for held in seen] == [["a"]]
    assert queue.store.holder("a") == queue.token
    assert [taken.id for taken in state.held] == ["a"]
