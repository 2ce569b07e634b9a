"""The size of requests: it follows the backlog and what the data plane can take."""

from __future__ import annotations

import pytest

from rudderpipe.delivery import outcome
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.delivery.request_size import BACKLOG_S, USUAL_BATCHES, USUAL_BYTES, RequestSize
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock
from tests.test_sender import OK, FakePlane, run, sender_of

LATE = outcome.of_failure("no whole response within 10 s")


class SlowPlane(FakePlane):
    """A data plane that takes ``took_s`` for each response."""

    def __init__(self, clock: FakeClock, took_s: float, *outcomes: Outcome) -> None:
        super().__init__(*outcomes)
        self.clock = clock
        self.took_s = took_s

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        self.clock.now_s += self.took_s
        return super().post(body, write_key, timeout_s)


def filled(clock: FakeClock, jobs: int) -> FakeQueue:
    """Return a queue of so many jobs with one event each."""
    queue = FakeQueue(FakeStore(clock))
    for number in range(jobs):
        queue.put(f"u{number}")
    return queue


def sizes(plane: FakePlane) -> list[int]:
    """Return how many events each request had."""
    return [len(request) for request in plane.requests]


def test_requests_grow_while_a_backlog_lasts(clock: FakeClock) -> None:
    """A data plane that is far away then limits the rate less. The settings are the upper bounds."""
    queue, plane = filled(clock, 6000), SlowPlane(clock, 0.5)

    run(sender_of(queue, plane, clock, max_jobs_per_request=300, timeout_s=10), clock, 4)

    *grown, _ = sizes(plane)
    assert grown[0] == USUAL_BATCHES
    assert set(grown) == {50, 100, 200, 300}
    assert grown == sorted(grown)
    users = [user for request in plane.requests for user in request]
    assert users == [f"u{number}" for number in range(len(users))]


@pytest.mark.parametrize(("jobs", "took_s"), [(2000, 3.0), (49, 0.5)], ids=["slow", "no backlog"])
def test_requests_keep_their_size_if_growth_would_not_help(clock: FakeClock, jobs: int, took_s: float) -> None:
    """A data plane that is slow itself would only take longer, and without a backlog there is nothing to add."""
    queue, plane = filled(clock, jobs), SlowPlane(clock, took_s)

    run(sender_of(queue, plane, clock, max_jobs_per_request=500, timeout_s=10), clock, 4)

    assert max(sizes(plane)) <= USUAL_BATCHES


def test_one_of_several_senders_takes_the_usual_number_of_jobs(clock: FakeClock) -> None:
    """The jobs of a dead sender wait for half a minute, so none of them takes hundreds."""
    queue, plane = filled(clock, 3000), SlowPlane(clock, 0.5)

    run(sender_of(queue, plane, clock, max_jobs_per_request=500, is_multi_processor=True), clock, 3)

    assert set(sizes(plane)) == {USUAL_BATCHES}


@pytest.mark.parametrize("trouble", [outcome.of_answer(504, b"gateway"), LATE], ids=["504", "no response in time"])
def test_requests_shrink_when_a_response_is_not_there_in_time(clock: FakeClock, trouble: Outcome) -> None:
    """The same request would be late again. With good responses the requests grow back."""
    size = RequestSize(Settings(timeout_s=10), clock)

    for _ in range(3):
        size.learn(trouble, 10.0, None)
    assert (size.batches, size.bytes) == (USUAL_BATCHES // 8, USUAL_BYTES // 8)
    for _ in range(20):
        size.learn(trouble, 10.0, None)
    assert size.batches == 1
    for _ in range(30):
        size.learn(OK, 0.1, None)
    assert (size.batches, size.bytes) == (USUAL_BATCHES, USUAL_BYTES)


def test_a_data_plane_that_is_away_does_not_shrink_requests(clock: FakeClock) -> None:
    """A refused connection says nothing about the size."""
    size = RequestSize(Settings(), clock)

    size.learn(outcome.of_failure("cannot connect: Connection refused"), 0.01, None)
    size.learn(outcome.of_answer(503, b"down"), 0.01, None)

    assert size.batches == USUAL_BATCHES


def test_small_settings_bound_requests_from_the_start(clock: FakeClock) -> None:
    """A user who gives small bounds has a reason for them."""
    size = RequestSize(Settings(max_jobs_per_request=3, max_request_bytes=1000), clock)
    size.note_taken(3, 1000)
    clock.now_s += 2 * BACKLOG_S

    for _ in range(5):
        size.learn(OK, 0.0, None)

    assert (size.batches, size.bytes) == (3, 1000)
