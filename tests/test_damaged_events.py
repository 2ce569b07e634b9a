"""An event that is damaged in the ring costs only itself, with a queue and without, and its bytes are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from rudderpipe.delivery import outcome
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.queue_sink import QueueSink, Sink
from rudderpipe.queue import job
from rudderpipe.queue.queue import Queue
from rudderpipe.ring import counters
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock, direct_sink, producer_of

SETTINGS = Settings(flush_at=20, write_key="KEY", data_plane_url="http://127.0.0.1:1", redis="redis://127.0.0.1:1")
DAMAGE = {
    "a key that is a number": lambda event: event.replace(b'"n"', b"19 "),
    "bytes that are no text": lambda event: event.replace(b"xyz", b"x\xffz"),
    "a text without its end": lambda event: event.replace(b'z"', b"z "),
    "zeroes": lambda event: bytes(len(event)),
    "two events in the place of one": lambda event: b"1," + b" " * (len(event) - 3) + b"2",
    "nothing": lambda event: b" " * len(event),
}


class KeepingPlane:
    """A data plane that takes bodies of JSON and keeps the numbers in them."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        assert (write_key, timeout_s) == ("KEY", None)
        self.numbers += [event["n"] for event in json.loads(body.decode())["batch"]]
        return outcome.of_answer(200, b"ok")

    def close(self) -> None:
        """Close nothing."""


class DamagedRing:
    """A ring of 100 events, some of them damaged, with a queue or a data plane behind it."""

    def __init__(self, ring: Ring, clock: FakeClock, directory: Path, *, queued: bool) -> None:
        self.ring, self.clock = ring, clock
        self.letters = DeadLetters(directory / "x.failed", 1 << 20)
        self.queue = FakeQueue(FakeStore(clock))
        self.plane = KeepingPlane()
        self.events = [b'{"n":%d,"t":"xyz"}' % number for number in range(1000, 1100)]
        producer = producer_of(ring, clock)
        for event in self.events:
            assert producer.append(event) is None
        self.queued = queued
        sink: Sink
        if queued:
            sink = QueueSink(SETTINGS, ring, self.letters, clock)
            sink._queue = cast(Queue, self.queue)  # a queue in memory
        else:
            sink = direct_sink(ring, SETTINGS, self.plane, self.letters, clock)
        self.flusher = Flusher(ring, sink, SETTINGS, clock)

    def damage(self, number: int, how: Any) -> bytes:
        """Damage this event, and return the bytes that stand there then."""
        event = self.events[number]
        memory = self.ring.segment.memory
        place = bytes(memory).index(event)
        memory[place : place + len(event)] = how(event)
        return bytes(memory[place : place + len(event)])

    def run(self) -> None:
        """Run the flusher until everything has left the ring."""
        for _ in range(200):
            self.flusher.work()
            self.clock.now_s += 0.1

    def numbers(self) -> list[int]:
        """Return the numbers of the events that arrived."""
        if not self.queued:
            return self.plane.numbers
        jobs = [job.read(taken.data) for taken in self.queue.take(1000, 10_000_000)]
        return [json.loads(bytes(event))["n"] for found in jobs for event in found.events]


@pytest.mark.parametrize("queued", [True, False], ids=["queue", "direct"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_event_costs_only_itself(
    ring: Ring, clock: FakeClock, tmp_path: Path, kind: str, queued: bool
) -> None:
    """The event's neighbours arrive in order. Its bytes are a dead letter, and the event is counted as corrupt."""
    damaged = DamagedRing(ring, clock, tmp_path, queued=queued)
    damaged_numbers = [0, 37, 38, 99]
    bytes_there = [damaged.damage(number, DAMAGE[kind]) for number in damaged_numbers]

    damaged.run()

    assert damaged.numbers() == [1000 + number for number in range(100) if number not in damaged_numbers]
    assert [record.damaged_bytes for record in damaged.letters.records()] == bytes_there
    counts = counters.read(ring)
    assert (counts.accepted, counts.in_ring, counts.corrupt, counts.failed) == (100, 0, 4, 0)
    assert counts.queued + counts.delivered == 96
    if queued:
        assert damaged.queue.counts(ring.segment.epoch).events_queued == 96


def test_a_damaged_event_is_kept_once_while_redis_is_away(
    ring: Ring, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The flusher meets the event again at every try. One dead letter and one line in the log are enough."""
    damaged = DamagedRing(ring, clock, tmp_path, queued=True)
    damaged.damage(0, DAMAGE["zeroes"])
    damaged.queue.away = True
    damaged.run()
    assert counters.read(ring).corrupt == 0

    damaged.queue.away = False
    damaged.run()

    assert len(list(damaged.letters.records())) == 1
    assert len([record for record in caplog.records if "not JSON" in record.getMessage()]) == 1
    assert damaged.numbers() == list(range(1001, 1100))
