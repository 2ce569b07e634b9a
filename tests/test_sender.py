"""The sender's duty cycle over a small queue and a data plane that says what it is told to."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from rudderpipe.delivery import outcome
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.delivery.post import DataPlane
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.sender import Sender
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock

OK = outcome.of_answer(200, b"ok")
DOWN = outcome.of_answer(503, b"down")
BAD = outcome.of_answer(400, b"bad")


class FakePlane:
    """Answers what is in ``answers``, then OK; remembers the users in each request."""

    def __init__(self, *answers: Outcome) -> None:
        self.answers = list(answers)
        self.requests: list[list[str]] = []

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        assert write_key == "KEY"
        self.requests.append([event["userId"] for event in msgspec.json.decode(body)["batch"]])
        return self.answers.pop(0) if self.answers else OK

    def close(self) -> None:
        self.answers = []


@pytest.fixture(name="queue")
def _queue(clock: FakeClock) -> FakeQueue:
    return FakeQueue(FakeStore(clock))


def sender_of(queue: FakeQueue, plane: FakePlane, clock: FakeClock, **settings: Any) -> Sender:
    """A sender of those."""
    return Sender(
        cast(Queue, queue), cast(DataPlane, plane), Settings(**{"max_jobs_per_request": 1, **settings}), clock
    )


def run(sender: Sender, clock: FakeClock, seconds: float) -> None:
    """So much of its life, in steps of a tenth of a second."""
    for _ in range(int(seconds * 10)):
        sender.work()
        clock.now_s += 0.1


def test_jobs_are_delivered_in_order_and_completed(queue: FakeQueue, clock: FakeClock) -> None:
    """One request a job, in the order of the queue."""
    plane = FakePlane()
    for name in "abc":
        queue.put(name)

    run(sender_of(queue, plane, clock), clock, 1)

    assert plane.requests == [["a"], ["b"], ["c"]]
    assert queue.store.delivered == ["a", "b", "c"]


def test_nothing_overtakes_a_job_that_is_retried(queue: FakeQueue, clock: FakeClock) -> None:
    """It is tried again after 2, 4, ... seconds, and the others wait."""
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


def test_after_max_attempts_a_job_is_failed_with_its_reason(queue: FakeQueue, clock: FakeClock) -> None:
    """``max_attempts`` counts attempts; then the next job goes."""
    plane = FakePlane(DOWN, DOWN, DOWN)
    queue.put("a")
    queue.put("b")

    run(sender_of(queue, plane, clock, max_attempts=3), clock, 30)

    assert plane.requests == [["a"], ["a"], ["a"], ["b"]]
    assert "status 503: down" in queue.reasons()["a"]
    assert "3 attempts" in queue.reasons()["a"]
    assert queue.store.delivered == ["b"]


def test_what_is_refused_is_failed_at_once(queue: FakeQueue, clock: FakeClock) -> None:
    """A 400 is not tried again."""
    plane = FakePlane(BAD)
    queue.put("a")
    queue.put("b")

    run(sender_of(queue, plane, clock), clock, 1)

    assert plane.requests == [["a"], ["b"]]
    assert queue.reasons() == {"a": "status 400: bad (after 1 attempt)"}


def test_a_job_that_cannot_be_read_does_not_stop_the_queue(queue: FakeQueue, clock: FakeClock) -> None:
    """It is failed with a reason, and the next one goes."""
    plane = FakePlane()
    queue.put("x", b"nonsense")
    queue.put("b")

    run(sender_of(queue, plane, clock), clock, 1)

    assert "not JSON" in queue.reasons()["x"]
    assert queue.store.delivered == ["b"]


def test_jobs_may_share_a_request(queue: FakeQueue, clock: FakeClock) -> None:
    """Up to ``max_jobs_per_request``, in order; a refusal is found by sending each alone."""
    plane = FakePlane(BAD, OK, BAD, OK)
    for name in "abcde":
        queue.put(name)

    run(sender_of(queue, plane, clock, max_jobs_per_request=3), clock, 1)

    assert plane.requests == [["a", "b", "c"], ["a"], ["b"], ["c"], ["d", "e"]]
    assert queue.store.delivered == ["a", "c", "d", "e"]
    assert list(queue.reasons()) == ["b"]


def test_what_a_dead_sender_left_active_is_first_in_line(queue: FakeQueue, clock: FakeClock) -> None:
    """At start, before anything is taken; not when several senders may work."""
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


def test_a_queue_that_goes_away_after_a_delivery_causes_no_second_one(queue: FakeQueue, clock: FakeClock) -> None:
    """What was delivered is completed when Redis is back, without another request."""
    queue.put("a")

    class Cutting(FakePlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            queue.away = True
            return super().post(body, write_key, timeout_s)

    plane = Cutting()
    sender = sender_of(queue, plane, clock)
    run(sender, clock, 3)
    queue.away = False
    run(sender, clock, 3)

    assert plane.requests == [["a"]]
    assert queue.store.delivered == ["a"]


def test_a_queue_that_goes_away_with_the_data_plane_does_not_use_up_the_attempts(
    queue: FakeQueue, clock: FakeClock
) -> None:
    """The backoff stands, however often Redis is asked meanwhile."""
    queue.put("a")

    class Cutting(FakePlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            queue.away = True
            super().post(body, write_key, timeout_s)
            return DOWN

    plane = Cutting()
    run(sender_of(queue, plane, clock), clock, 13)

    assert len(plane.requests) == 3  # after 0, 2 and 4 more seconds, and 8 have not passed


def test_an_abandoned_sender_ends_when_the_queue_is_empty_not_when_it_is_away(
    queue: FakeQueue, clock: FakeClock
) -> None:
    """It has looked at least once; a Redis that does not come back holds it for ten minutes."""
    for away, seconds in ((False, 5), (True, 600)):
        queue.away = away
        settings = Settings(linger_s=5)
        sender = Sender(cast(Queue, queue), cast(DataPlane, FakePlane()), settings, clock, abandoned=lambda: True)
        assert not sender.finished()
        run(sender, clock, seconds - 1)
        assert not sender.finished()
        run(sender, clock, 2)
        assert sender.finished()


def test_a_stopping_sender_puts_back_what_it_has_not_finished(queue: FakeQueue, clock: FakeClock) -> None:
    """First in line again, in order."""
    plane = FakePlane(DOWN)
    for name in "abc":
        queue.put(name)
    sender = sender_of(queue, plane, clock, max_jobs_per_request=2)
    sender.work()

    sender.drain(clock.monotonic_s() + 1)

    assert queue.store.line == ["a", "b", "c"]
    assert queue.store.active == []
