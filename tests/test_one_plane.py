"""Two senders of one queue, for two data planes: each delivers its own events, and none of the other's."""

from __future__ import annotations

import pytest

from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock
from tests.queue_contract import EPOCH, OTHER_EPOCH, data_of
from tests.test_sender import DOWN, FakePlane, run, sender_of, wired


def add(queue: FakeQueue, number: int, epoch: int = EPOCH) -> None:
    """As a flusher of that data plane."""
    queue.add(epoch, [(data_of(number, epoch), 2)], {number + 1: (0, 2)}, [])


@pytest.mark.parametrize("is_multi_processor", [False, True])
def test_each_sender_delivers_the_jobs_of_its_own_data_plane(
    clock: FakeClock, caplog: pytest.LogCaptureFixture, is_multi_processor: bool
) -> None:
    """The one whose queue it is not stands aside, without the lease; a queue that is empty changes hands."""
    store = FakeStore(clock)
    ours, theirs = FakeQueue(store, data_plane_id="https://a"), FakeQueue(store, data_plane_id="https://b")
    plane_a, plane_b = FakePlane(), FakePlane()
    b = sender_of(theirs, plane_b, clock, is_multi_processor=is_multi_processor)
    run(b, clock, 1)  # the queue is empty: it may have the lease
    a = sender_of(ours, plane_a, clock, is_multi_processor=is_multi_processor)
    for number in range(3):
        add(ours, number)
    for _ in range(20):
        run(b, clock, 0.3)
        run(a, clock, 0.3)
    assert plane_a.requests == [["a0", "b0"], ["a1", "b1"], ["a2", "b2"]]
    assert plane_b.requests == []
    assert "has jobs for the data plane https://a" in caplog.text

    add(theirs, 7, OTHER_EPOCH)
    for _ in range(60):
        run(a, clock, 0.3)
        run(b, clock, 0.3)

    assert plane_b.requests == [["a7", "b7"]]
    assert len(plane_a.requests) == 3
    assert store.delivered == ["1", "2", "3", "4"]
    assert not store.failed


def test_a_sender_that_stands_aside_touches_nothing(clock: FakeClock) -> None:
    """Not even delayed jobs, those of a dead sender, or old failed ones."""
    store = FakeStore(clock)
    ours, theirs = FakeQueue(store, data_plane_id="https://a"), FakeQueue(store, data_plane_id="https://b")
    add(ours, 0)
    ours.take(1, 1)
    store.jobs["d"], store.delayed["d"] = {"data": data_of(3, 0)}, 1
    b = sender_of(theirs, FakePlane(), clock, keep_failed=0)

    run(b, clock, 20)

    assert (store.active, store.line, list(store.delayed)) == (["1"], [], ["d"])
    assert store.leaseholder() == ""


@pytest.mark.parametrize("is_multi_processor", [False, True])
def test_a_sender_that_stands_aside_stops_at_once(
    clock: FakeClock, caplog: pytest.LogCaptureFixture, is_multi_processor: bool
) -> None:
    """Also one that had the queue before: nothing in it is its own to put back."""
    store = FakeStore(clock)
    ours, theirs = FakeQueue(store, data_plane_id="https://a"), FakeQueue(store, data_plane_id="https://b")
    b = sender_of(theirs, FakePlane(), clock, is_multi_processor=is_multi_processor)
    run(b, clock, 1)
    add(ours, 0)
    run(b, clock, 1)
    told_s = clock.monotonic_s()

    b.drain(told_s + 10)

    assert clock.monotonic_s() == told_s
    assert "cannot put back" not in caplog.text
    assert store.line == ["1"]


def test_a_sender_that_stands_aside_ends_when_nobody_needs_it(clock: FakeClock) -> None:
    """There is nothing in the queue for its data plane."""
    store = FakeStore(clock)
    ours, theirs = FakeQueue(store, data_plane_id="https://a"), FakeQueue(store, data_plane_id="https://b")
    add(ours, 0)
    gone: list[bool] = []
    b = wired(theirs, FakePlane(), clock, Settings(), abandoned=lambda: bool(gone))
    run(b, clock, 1)
    assert not b.finished()

    gone.append(True)

    assert b.finished()


def test_a_sender_lets_go_of_its_job_when_another_data_plane_adopts_the_queue(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It makes no attempt more at the data plane that is gone, and the job has not failed."""
    store = FakeStore(clock)
    ours, theirs = FakeQueue(store, data_plane_id="https://a"), FakeQueue(store, data_plane_id="https://b")
    plane_a, plane_b = FakePlane(*[DOWN] * 20), FakePlane()
    a = sender_of(ours, plane_a, clock)
    add(ours, 0)
    run(a, clock, 10)
    attempts = len(plane_a.requests)
    assert attempts
    b = sender_of(theirs, plane_b, clock)
    run(b, clock, 1)

    theirs.adopt()
    run(a, clock, 40)  # the next attempt was due in the meantime
    assert len(plane_a.requests) == attempts
    assert "lease lost" in caplog.text
    run(b, clock, 10)

    assert plane_b.requests == [["a0", "b0"]]
    assert store.delivered == ["1"]
    assert not store.failed
