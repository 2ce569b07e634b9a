"""Two senders of one queue for two data planes. Each delivers its own events, and none of the other's."""

from __future__ import annotations

import pytest

from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock
from tests.queue_contract import EPOCH, OTHER_EPOCH, data_of
from tests.test_sender import DOWN, FakePlane, run, sender_of, wired


def add(queue: FakeQueue, number: int, epoch: int = EPOCH) -> None:
    """Add a job as a flusher of this queue's data plane does."""
    queue.add(epoch, [(data_of(number, epoch), 2)], {number + 1: (0, 2)}, [])


@pytest.mark.parametrize("is_multi_processor", [False, True])
def test_each_sender_delivers_the_jobs_of_its_own_data_plane(
    clock: FakeClock, caplog: pytest.LogCaptureFixture, is_multi_processor: bool
) -> None:
    """The other sender waits without the lease. An empty queue can go to the other data plane."""
    store = FakeStore(clock)
    ours, theirs = FakeQueue(store, data_plane_id="https://a"), FakeQueue(store, data_plane_id="https://b")
    plane_a, plane_b = FakePlane(), FakePlane()
    b = sender_of(theirs, plane_b, clock, is_multi_processor=is_multi_processor)
    run(b, clock, 1)  # the queue is empty, so this sender may have the lease
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


def test_a_sender_of_another_data_plane_changes_nothing(clock: FakeClock) -> None:
    """It leaves delayed jobs, jobs of a dead sender and old failed jobs alone."""
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
def test_a_sender_of_another_data_plane_stops_at_once(
    clock: FakeClock, caplog: pytest.LogCaptureFixture, is_multi_processor: bool
) -> None:
    """The sender had the queue before, but no job in it is its own to put back."""
    store = FakeStore(clock)
    ours, theirs = FakeQueue(store, data_plane_id="https://a"), FakeQueue(store, data_plane_id="https://b")
    b = sender_of(theirs, FakePlane(), clock, is_multi_processor=is_multi_processor)
    run(b, clock, 1)
    add(ours, 0)
    run(b, clock, 1)
    asked_s = clock.monotonic_s()

    b.drain(asked_s + 10)

    assert clock.monotonic_s() == asked_s
    assert "cannot put back" not in caplog.text
    assert store.line == ["1"]


def test_a_sender_of_another_data_plane_ends_when_it_is_abandoned(clock: FakeClock) -> None:
    """The queue holds no job for its data plane."""
    store = FakeStore(clock)
    ours, theirs = FakeQueue(store, data_plane_id="https://a"), FakeQueue(store, data_plane_id="https://b")
    add(ours, 0)
    gone: list[bool] = []
    b = wired(theirs, FakePlane(), clock, Settings(), abandoned=lambda: bool(gone))
    run(b, clock, 1)
    assert not b.finished()

    gone.append(True)

    assert b.finished()


def test_a_sender_releases_its_job_when_another_data_plane_adopts_the_queue(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It makes no further attempt at the old data plane, and the job does not fail."""
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
    run(a, clock, 40)  # the next attempt falls due in this time
    assert len(plane_a.requests) == attempts
    assert "lease lost" in caplog.text
    run(b, clock, 10)

    assert plane_b.requests == [["a0", "b0"]]
    assert store.delivered == ["1"]
    assert not store.failed
