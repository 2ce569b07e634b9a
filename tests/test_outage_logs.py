"""What the log says of a long outage: one line at its beginning, one a minute, and one at its end."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from rudderpipe.errors import QueueUnavailable
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.queue import route
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock, FakeSink, producer_of
from tests.spread import AWAY, Spread, spread_of
from tests.test_sender import FakePlane, run, sender_of

MINUTES = 10
STEP_S = 0.5


@pytest.fixture(name="spread")
def _spread(ring: Ring, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spread:
    return spread_of(ring, clock, tmp_path, monkeypatch)


@pytest.fixture(name="log", autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "rudderpipe")
    return caplog


def lines(log: pytest.LogCaptureFixture, *starts: str) -> list[int]:
    """Return how many lines of the log begin with each of these texts."""
    said = [record.getMessage() for record in log.records]
    return [sum(line.startswith(start) for line in said) for start in starts]


def test_one_of_several_queues_is_away_for_long(spread: Spread, log: pytest.LogCaptureFixture) -> None:
    """Events of the others are moved all the time, so that a commit comes several times a second."""

    def work(seconds: float) -> None:
        for _ in range(int(seconds / STEP_S)):
            spread.clock.now_s += STEP_S
            spread.flusher.work()

    spread.send(50)
    work(10)
    spread.stores["rudder-1"].away = True
    spread.send(50)
    work(MINUTES * 60 - 20)
    texts = ("one of the queues takes nothing now", "every queue takes events again")
    assert lines(log, *texts) == [MINUTES, 0]
    spread.stores["rudder-1"].away = False
    work(10)
    assert lines(log, *texts) == [MINUTES, 1]

    assert spread.everything() == list(range(100))


def test_the_only_queue_is_away_for_long(ring: Ring, clock: FakeClock, log: pytest.LogCaptureFixture) -> None:
    """No line of the log is about anything else."""
    sink = FakeSink()
    flusher = Flusher(ring, sink, Settings(), clock)
    producer_of(ring, clock).append(b"1")
    sink.trouble = AWAY
    for _ in range(int(MINUTES * 60 / STEP_S)):
        clock.now_s += STEP_S
        flusher.work()
    sink.trouble = None
    clock.now_s += 2
    flusher.work()

    texts = ("the queue takes nothing now, events stay in the ring", "the queue takes events again")
    assert lines(log, *texts) == [MINUTES, 1]
    assert len(log.records) == MINUTES + 1


def test_redis_is_away_from_a_sender_for_long(clock: FakeClock, log: pytest.LogCaptureFixture) -> None:
    """The sender tries every few seconds."""
    queue = FakeQueue(FakeStore(clock))
    sender = sender_of(queue, FakePlane(), clock)
    run(sender, clock, 5)
    queue.away = True
    run(sender, clock, MINUTES * 60)
    queue.away = False
    run(sender, clock, 40)

    texts = ("redis cannot be used, jobs stay in it, trying again", "redis can be used again")
    assert lines(log, *texts) == [MINUTES, 1]


def test_a_route_that_cannot_be_stored_again_is_no_flood(
    spread: Spread, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """As on a server that may not write."""
    spread.send(20)
    spread.work()

    def refused(*_: object) -> None:
        raise QueueUnavailable("here", "READONLY", answered=True)

    monkeypatch.setattr(route, "store", refused)
    spread.stores["rudder"].route = ""
    for _ in range(int(MINUTES * 60 / STEP_S)):
        spread.clock.now_s += STEP_S
        spread.flusher.work()

    assert 0 < lines(log, "redis has forgotten the route to the queues, storing it again")[0] <= MINUTES


def test_losses_are_named_when_they_are_stored(
    spread: Spread, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """Not each time that Redis refuses to store them."""
    spread.send(40)
    spread.work(10)
    for store in spread.stores.values():
        store.rings.clear()

    def refused(*_: object) -> None:
        raise AWAY

    said = "redis no longer knows events it had taken, they count as queued until no job is left events="
    with monkeypatch.context() as broken:
        broken.setattr(FakeQueue, "restore", refused)
        spread.work(100)
        assert lines(log, said) == [0]
    spread.work(20)

    lost = [record.getMessage() for record in log.records if record.getMessage().startswith(said)]
    assert sum(int(line.removeprefix(said)) for line in lost) == 40


def test_the_end_of_a_ring_is_repeated_without_a_word(
    spread: Spread, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """A queue that has forgotten the ring has lost nothing. Another one did not answer, and is asked again."""
    spread.send(40)
    spread.work(10)
    for prefix in ("rudder-0", "rudder-1", "rudder-2"):
        (ring,) = spread.stores[prefix].rings.values()
        ring.update(Counter(delivered=ring["queued"]))
        ring["queued"] = 0
    end, asked = FakeQueue.end_ring, Counter[str]()

    def late(queue: FakeQueue, epoch: int) -> bool:
        if queue.store is spread.stores["rudder-0"] and asked["rudder-0"] < 3:
            asked["rudder-0"] += 1
            raise AWAY
        return end(queue, epoch)

    monkeypatch.setattr(FakeQueue, "end_ring", late)
    for _ in range(3):
        with pytest.raises(QueueUnavailable):
            spread.sinks[-1].ended(spread.ring)
        spread.clock.now_s += 30
    spread.sinks[-1].ended(spread.ring)

    assert lines(log, "redis no longer knows") == [0]
    assert all(ring["queued"] == 0 for store in spread.stores.values() for ring in store.rings.values())
