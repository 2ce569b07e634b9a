"""The sender's cycle over a queue in memory and a data plane whose outcomes the test chooses."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from rudderpipe.delivery import outcome
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Dispatcher
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.queue import job
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.heartbeat import LockRenewer
from rudderpipe.sender.sender import Sender
from rudderpipe.sender.state import SenderState
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock

OK = outcome.of_answer(200, b"ok")
DOWN = outcome.of_answer(503, b"down")
BAD = outcome.of_answer(400, b"bad")
BLOCKED = outcome.of_obstacle("ca_file cannot be read: Permission denied")


class FakePlane:
    """A data plane that returns each of ``outcomes``, and then OK. It records the users in each request."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[list[str]] = []

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        assert write_key == "KEY"
        self.requests.append([event["userId"] for event in msgspec.json.decode(body)["batch"]])
        return self.outcomes.pop(0) if self.outcomes else OK

    def close(self) -> None:
        self.outcomes = []


@pytest.fixture(name="queue")
def _queue(clock: FakeClock) -> FakeQueue:
    return FakeQueue(FakeStore(clock))


def sender_of(queue: FakeQueue, plane: FakePlane, clock: FakeClock, **settings: Any) -> Sender:
    """Return a sender of this queue and this data plane."""
    return wired(queue, plane, clock, Settings(**{"max_jobs_per_request": 1, **settings}))


def wired(queue: FakeQueue, plane: FakePlane, clock: FakeClock, settings: Settings, **others: Any) -> Sender:
    """Return a sender that is composed as in the program; with lanes, ``others`` must bring ``couriers``."""
    real = cast(Queue, queue)
    lease = None if settings.is_multi_processor else Lease(real, settings.lease_ms, "me 1 0", lambda _: False)
    count = settings.lanes_in_use
    dispatchers = [Dispatcher(cast(DataPlane, plane), settings, clock) for _ in range(1 if count == 1 else 1 + count)]
    return Sender(real, dispatchers, lease, settings, clock, **others)


def run(sender: Sender, clock: FakeClock, seconds: float) -> None:
    """Let the sender work for so many seconds of the clock, in steps of a tenth of a second."""
    for _ in range(int(seconds * 10)):
        sender.work()
        clock.now_s += 0.1


def test_jobs_are_delivered_in_order_and_completed(queue: FakeQueue, clock: FakeClock) -> None:
    """Each job is one request here, so that the order shows."""
    plane = FakePlane()
    for name in "abc":
        queue.put(name)

    run(sender_of(queue, plane, clock), clock, 1)

    assert plane.requests == [["a"], ["b"], ["c"]]
    assert queue.store.delivered == ["a", "b", "c"]


def test_no_job_overtakes_a_job_that_is_retried(queue: FakeQueue, clock: FakeClock) -> None:
    """The job is tried again after 2, 4, ... seconds, and the others wait."""
    plane = FakePlane(DOWN, DOWN)
    queue.put("a")
    queue.put("b")
    sender = sender_of(queue, plane, clock)

    run(sender, clock, 1.5)
    assert len(plane.requests) == 1
    run(sender, clock, 1)
    assert len(plane.requests) == 2
    run(sender, clock, 10)

    assert plane.requests == [["a"], ["a"], ["a"], ["b"]]
    assert queue.store.delivered == ["a", "b"]


def test_a_job_fails_with_its_reason_after_max_attempts(queue: FakeQueue, clock: FakeClock) -> None:
    """The next job must be delivered then."""
    plane = FakePlane(DOWN, DOWN, DOWN)
    queue.put("a")
    queue.put("b")

    run(sender_of(queue, plane, clock, max_attempts=3), clock, 30)

    assert plane.requests == [["a"], ["a"], ["a"], ["b"]]
    assert "status 503: down" in queue.reasons()["a"]
    assert "3 attempts" in queue.reasons()["a"]
    assert queue.store.delivered == ["b"]


def test_an_attempt_that_this_host_prevents_is_not_counted(
    queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says it once a minute. After the repair every job is delivered in order."""
    plane = FakePlane(*[BLOCKED] * 300)
    for name in "abc":
        queue.put(name)
    sender = sender_of(queue, plane, clock, max_attempts=2, max_jobs_per_request=2)

    run(sender, clock, 170)
    warnings = [record for record in caplog.records if "ca_file cannot be read" in record.getMessage()]
    assert len(warnings) == 3
    assert len(plane.requests) <= 90
    assert not queue.store.failed
    plane.outcomes = [DOWN]
    run(sender, clock, 5)

    assert queue.store.delivered == ["a", "b", "c"]
    assert not queue.store.failed


def test_a_refused_job_fails_at_once(queue: FakeQueue, clock: FakeClock) -> None:
    """A 400 would not become a success by another attempt."""
    plane = FakePlane(BAD)
    queue.put("a")
    queue.put("b")

    run(sender_of(queue, plane, clock), clock, 1)

    assert plane.requests == [["a"], ["b"]]
    assert queue.reasons() == {"a": "status 400: bad (after 1 attempt)"}


def test_a_job_that_cannot_be_read_does_not_stop_the_queue(queue: FakeQueue, clock: FakeClock) -> None:
    """The job fails with a reason, and the next one is delivered."""
    plane = FakePlane()
    queue.put("x", b"nonsense")
    queue.put("b")

    run(sender_of(queue, plane, clock), clock, 1)

    assert "not JSON" in queue.reasons()["x"]
    assert queue.store.delivered == ["b"]


def test_jobs_can_share_a_request(queue: FakeQueue, clock: FakeClock) -> None:
    """A refusal is found by halving, and the requests grow again afterwards."""
    plane = FakePlane(BAD, BAD, OK, BAD, OK)
    for name in "abcde":
        queue.put(name)

    run(sender_of(queue, plane, clock, max_jobs_per_request=3), clock, 1)

    assert plane.requests == [["a", "b", "c"], ["a", "b"], ["a"], ["b"], ["c"], ["d", "e"]]
    assert queue.store.delivered == ["a", "c", "d", "e"]
    assert list(queue.reasons()) == ["b"]


def test_a_single_sender_recovers_the_jobs_of_a_dead_one_first(queue: FakeQueue, clock: FakeClock) -> None:
    """One of several senders must not do this, because another living sender may hold the jobs."""
    for name in "ab":
        queue.put(name)
    queue.take(1, 1000)
    plane = FakePlane()

    run(sender_of(queue, plane, clock), clock, 1)
    assert plane.requests == [["a"], ["b"]]

    queue.put("c")
    queue.take(1, 1000)
    run(sender_of(queue, plane, clock, is_multi_processor=True), clock, 1)
    assert queue.store.active == ["c"]


def test_an_outage_of_redis_after_a_delivery_causes_no_second_delivery(queue: FakeQueue, clock: FakeClock) -> None:
    """The sender completes the job when Redis is back, without another request."""
    queue.put("a")

    class DisconnectingPlane(FakePlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            queue.away = True
            return super().post(body, write_key, timeout_s)

    plane = DisconnectingPlane()
    sender = sender_of(queue, plane, clock)
    run(sender, clock, 3)
    queue.away = False
    run(sender, clock, 3)

    assert plane.requests == [["a"]]
    assert queue.store.delivered == ["a"]


def test_an_outage_of_redis_and_the_data_plane_does_not_use_up_the_attempts(queue: FakeQueue, clock: FakeClock) -> None:
    """The backoff stays, and no request is made until Redis says whether the job is still the sender's."""
    queue.put("a")

    class DisconnectingPlane(FakePlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            queue.away = True
            super().post(body, write_key, timeout_s)
            return DOWN

    plane = DisconnectingPlane()
    sender = sender_of(queue, plane, clock, lease_ms=10_000)
    run(sender, clock, 13)
    assert len(plane.requests) == 1  # the answer to the count of the attempt was lost

    queue.away = False
    run(sender, clock, 3)
    assert len(plane.requests) == 2


def test_an_abandoned_sender_ends_if_the_queue_is_empty_not_if_it_is_away(queue: FakeQueue, clock: FakeClock) -> None:
    """It must see the queue at least once. A Redis that does not come back holds it for ten minutes."""
    for away, seconds in ((False, 5), (True, 600)):
        queue.away = away
        settings = Settings(linger_s=5)
        sender = wired(queue, FakePlane(), clock, settings, abandoned=lambda: True)
        assert not sender.finished()
        run(sender, clock, seconds - 1)
        assert not sender.finished()
        run(sender, clock, 2)
        assert sender.finished()


def test_a_stopping_sender_puts_back_its_unfinished_jobs(queue: FakeQueue, clock: FakeClock) -> None:
    """The jobs are first in line again, in their order."""
    plane = FakePlane(DOWN)
    for name in "abc":
        queue.put(name)
    sender = sender_of(queue, plane, clock, max_jobs_per_request=2)
    sender.work()

    sender.drain(clock.monotonic_s() + 1)

    assert queue.store.line == ["a", "b", "c"]
    assert queue.store.active == []


def job_of(*users: str) -> bytes:
    """Return the data of a job with one event of each of these users."""
    return job.build(b",".join(b'{"userId":"%b"}' % user.encode() for user in users), "KEY", "t", 7).encode()


class Picky(FakePlane):
    """A data plane that refuses every request with an event of one of these users."""

    def __init__(self, *guilty: str, status: int = 400) -> None:
        super().__init__()
        self.guilty = set(guilty)
        self.status = status

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        super().post(body, write_key, timeout_s)
        return outcome.of_answer(self.status, b"bad") if self.guilty & set(self.requests[-1]) else OK

    def accepted(self) -> list[str]:
        """Return the users of the accepted events, in order."""
        return [user for users in self.requests if not self.guilty & set(users) for user in users]


@pytest.mark.parametrize("status", [400, 413])
@pytest.mark.parametrize("guilty", ["c", "a", "h", "cd", "ae", "abcdefgh"])
@pytest.mark.parametrize("shared", [1, 50])
def test_only_the_bad_events_of_a_refused_job_fail(
    queue: FakeQueue, clock: FakeClock, status: int, guilty: str, shared: int
) -> None:
    """Each becomes a job of its own in the failed set. All other events arrive in order."""
    plane = Picky(*guilty, status=status)
    queue.put("first")
    queue.put("many", job_of(*"abcdefgh"))
    queue.put("last")

    run(sender_of(queue, plane, clock, max_jobs_per_request=shared), clock, 10)

    assert plane.accepted() == ["first", *(user for user in "abcdefgh" if user not in guilty), "last"]
    failed = [event for name in queue.store.failed for event in events_of(queue, name)]
    assert sorted(failed) == sorted(guilty)
    assert set(queue.reasons().values()) == {f"status {status}: bad (after 1 attempt)"}
    assert queue.store.active == []


def events_of(queue: FakeQueue, name: str) -> list[str]:
    """Return the users of a job's events."""
    found = job.read(queue.store.jobs[name]["data"].encode())
    return [msgspec.json.decode(event)["userId"] for event in found.events]


def test_a_refusal_that_no_event_causes_fails_the_whole_job(queue: FakeQueue, clock: FakeClock) -> None:
    """A wrong write key is the fault of no event, so the job is not split."""
    plane = Picky("b", status=401)
    queue.put("many", job_of("a", "b", "c"))

    run(sender_of(queue, plane, clock), clock, 2)

    assert len(plane.requests) == 1
    assert events_of(queue, "many") == ["a", "b", "c"]
    assert list(queue.store.failed) == ["many"]


def test_a_job_is_not_split_for_a_refusal_that_another_job_may_have_caused(queue: FakeQueue, clock: FakeClock) -> None:
    """The first job uses up its attempts and may have been the cause. The second job was not refused by itself."""
    plane = FakePlane(BAD, DOWN, DOWN)
    queue.put("first", job_of("a", "b"))
    queue.put("second", job_of("c", "d"))

    run(sender_of(queue, plane, clock, max_jobs_per_request=2, max_attempts=2), clock, 10)

    assert plane.requests == [["a", "b", "c", "d"], ["a", "b"], ["a", "b"], ["c", "d"]]
    assert list(queue.store.failed) == ["first"]
    assert queue.store.delivered == ["second"]


def test_a_sender_that_dies_between_two_halves_repeats_no_answered_request(queue: FakeQueue, clock: FakeClock) -> None:
    """The halves are jobs in the queue, so the next sender goes on from there."""
    plane = Picky("d")
    queue.put("many", job_of(*"abcd"))
    dying = sender_of(queue, plane, clock)
    while not queue.store.delivered:
        dying.work()

    run(sender_of(FakeQueue(queue.store), plane, clock, lease_ms=1000), clock, 12)

    assert plane.accepted() == ["a", "b", "c"]
    assert list(queue.reasons().values()) == ["status 400: bad (after 1 attempt)"]


def test_a_sender_waits_as_long_as_the_server_asks(queue: FakeQueue, clock: FakeClock) -> None:
    """A time shorter than the sender's own backoff does not count."""
    plane = FakePlane(Outcome("retry", 503, "status 503", 0.0), Outcome("retry", 429, "status 429", 60.0))
    queue.put("a")
    sender = sender_of(queue, plane, clock)

    run(sender, clock, 1.5)
    assert len(plane.requests) == 1
    run(sender, clock, 1)
    assert len(plane.requests) == 2
    run(sender, clock, 59)
    assert len(plane.requests) == 2
    run(sender, clock, 2)
    assert len(plane.requests) == 3


def test_a_standby_works_after_the_other_sender_stops(queue: FakeQueue, clock: FakeClock) -> None:
    """It begins at once after a clean stop, with the jobs that were put back."""
    plane, other_plane = FakePlane(DOWN), FakePlane()
    for name in "ab":
        queue.put(name)
    first, second = sender_of(queue, plane, clock), sender_of(FakeQueue(queue.store), other_plane, clock)
    first.work()
    run(second, clock, 5)
    assert other_plane.requests == []

    first.drain(clock.monotonic_s() + 1)
    run(second, clock, 1)

    assert plane.requests == [["a"]]
    assert other_plane.requests == [["a"], ["b"]]


def test_a_sender_that_lost_its_lease_in_a_request_changes_nothing(queue: FakeQueue, clock: FakeClock) -> None:
    """The request takes longer than the lease, so the standby repeats it, and the first outcome comes too late."""
    state = SenderState(clock.monotonic_s(), 120)
    queue.put("a")
    queue.put("b")
    other_plane = FakePlane()
    second = sender_of(FakeQueue(queue.store), other_plane, clock)

    class SlowPlane(FakePlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            if not self.requests:
                run(second, clock, 15)
            return super().post(body, write_key, timeout_s)

    plane = SlowPlane()
    first = wired(queue, plane, clock, Settings(max_jobs_per_request=1), state=state)
    run(first, clock, 3)

    assert other_plane.requests == [["a"], ["b"]]
    assert plane.requests == [["a"]]
    assert queue.store.delivered == ["a", "b"]
    assert state.state == "standby"
    assert state.held == ()


def test_a_sender_checks_its_lease_before_it_sends_after_a_long_stop(queue: FakeQueue, clock: FakeClock) -> None:
    """It stood still in a backoff for longer than its lease, while another sender worked and stopped."""
    queue.put("a")
    plane, other_plane = FakePlane(DOWN), FakePlane()
    first = sender_of(queue, plane, clock)
    first.work()
    clock.now_s += 60
    second = sender_of(FakeQueue(queue.store), other_plane, clock)
    run(second, clock, 1)
    second.drain(clock.monotonic_s() + 1)

    run(first, clock, 1)

    assert (plane.requests, other_plane.requests) == ([["a"]], [["a"]])


def test_a_lease_that_lapsed_during_an_outage_causes_no_second_delivery(queue: FakeQueue, clock: FakeClock) -> None:
    """No other sender had the lease, so the delivery is stored and not repeated."""
    queue.put("a")

    class DisconnectingPlane(FakePlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            queue.away = True
            return super().post(body, write_key, timeout_s)

    plane = DisconnectingPlane()
    sender = sender_of(queue, plane, clock)
    run(sender, clock, 60)
    queue.away = False
    run(sender, clock, 3)

    assert plane.requests == [["a"]]
    assert queue.store.delivered == ["a"]


def test_a_sender_does_not_use_a_lease_that_its_renewer_lost(queue: FakeQueue, clock: FakeClock) -> None:
    """It reads who holds the lease before it does anything else."""
    state = SenderState(clock.monotonic_s(), 120)
    sender = wired(queue, FakePlane(), clock, Settings(), state=state)
    sender.work()
    queue.store.hold_lease("9 another", 10_000)
    state.lost = state.fencing_token

    sender.work()

    assert state.state == "standby"


def test_the_renewer_renews_lease_and_locks_while_the_sender_is_busy(queue: FakeQueue, clock: FakeClock) -> None:
    """A request may take longer than lease and locks last. The renewer also counts the waiting jobs."""
    state = SenderState(clock.monotonic_s(), 120)
    queue.put("a")
    queue.put("b")
    own = FakeQueue(queue.store)
    own.token = queue.token
    settings = Settings(max_jobs_per_request=1)
    renewer = LockRenewer(cast(Queue, own), state, settings, clock)
    plane = FakePlane(DOWN)
    sender = wired(queue, plane, clock, settings, state=state)
    sender.work()

    for _ in range(100):
        clock.now_s += 1
        renewer.work()

    assert queue.store.holder("a") == queue.token
    assert queue.store.leaseholder() == state.fencing_token != ""
    assert state.waiting_jobs == 2
    assert (state.redis_seen_at_s or 0) > clock.now_s - 5
    queue.store.hold_lease("9 another", 10_000)
    clock.now_s += 5
    renewer.work()
    assert state.lost == state.fencing_token


def test_an_abandoned_standby_ends_while_another_sender_lives(queue: FakeQueue, clock: FakeClock) -> None:
    """It takes over from a sender that does not renew its lease."""
    other = FakeQueue(queue.store)
    Lease(cast(Queue, other), 10_000, "you 2 0", lambda _: False).take()
    sender = wired(queue, FakePlane(), clock, Settings(linger_s=1), abandoned=lambda: True)
    run(sender, clock, 2)
    assert not sender.finished()

    other.renew([])
    clock.now_s += 1
    sender.work()
    assert sender.finished()

    queue.put("a")
    plane = FakePlane()
    sender = wired(FakeQueue(queue.store), plane, clock, Settings(linger_s=1), abandoned=lambda: True)
    run(sender, clock, 15)
    assert plane.requests == [["a"]]
    assert sender.finished()


def test_an_attempt_that_the_stop_interrupted_is_not_counted(queue: FakeQueue, clock: FakeClock) -> None:
    """The job is put back with the attempts that it had."""

    class InterruptedPlane(FakePlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            super().post(body, write_key, timeout_s)
            return outcome.STOPPED

    queue.put("a")
    sender = wired(queue, InterruptedPlane(), clock, Settings(max_attempts=1))
    sender.work()
    sender.drain(clock.monotonic_s() + 1)

    assert queue.store.line == ["a"]
    assert queue.store.jobs["a"].get("attemptsMade", "0") == "0"
    assert queue.store.leaseholder() == ""


def test_a_sender_that_gets_its_lease_back_recovers_its_successors_jobs(queue: FakeQueue, clock: FakeClock) -> None:
    """It does the same as a starting sender, because another sender had the lease meanwhile."""
    queue.put("a")
    plane = FakePlane(DOWN)
    first = sender_of(queue, FakePlane(), clock)
    first.work()
    first.work()
    clock.now_s += 60
    queue.put("b")
    sender_of(FakeQueue(queue.store), plane, clock).work()
    clock.now_s += 60
    assert queue.store.active == ["b"]

    run(first, clock, 1)

    assert queue.store.delivered == ["a", "b"]
