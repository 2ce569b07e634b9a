"""The flusher's cycle: which events are due, and what happens while the sink is away."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from rudderpipe.errors import QueueBehind, QueueUnavailable
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.heartbeat import Heartbeat
from rudderpipe.flusher.queue_sink import CommitResult
from rudderpipe.process.clock import Clock
from rudderpipe.ring import block_header, commit, counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch, Consumer
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, FakeSink, producer_of, ring_of

SETTINGS = Settings(flush_at=10, flush_interval_ms=1000, max_batch_bytes=10_000, linger_s=5.0)
STEPS: list[tuple[object, str]] = [
    *((Consumer, name) for name in ("refresh", "pending", "next_batch", "release", "tidy")),
    *((commit, name) for name in ("begin", "store_read", "finish")),
]
"""The steps of a consumer and of a commit where memory may run out."""


@pytest.fixture(name="sink")
def _sink() -> FakeSink:
    return FakeSink()


def sizes(sink: FakeSink) -> list[int]:
    """Return the number of events in each batch."""
    return [len(batch) for batch in sink.batches]


def test_full_batches_leave_at_once_and_the_rest_after_the_interval(
    ring: Ring, clock: FakeClock, sink: FakeSink
) -> None:
    """``flush_at`` events make a full batch. Fewer events wait for ``flush_interval_ms``."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    for number in range(25):
        producer.append(str(number).encode())

    assert flusher.work() == 20
    assert flusher.work() == 0
    clock.now_s += 1.0
    assert flusher.work() == 5

    assert sizes(sink) == [10, 10, 5]
    assert [event for batch in sink.batches for event in batch] == [str(number) for number in range(25)]


def test_a_requested_flush_does_not_wait(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """The request takes all events that are in the ring now, and only once."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    flusher.work()
    producer.append(b"1")
    producer.ask_flush()
    flusher.work()
    producer.append(b"2")
    flusher.work()

    assert sizes(sink) == [1]


def test_a_flush_sees_the_block_of_a_slow_claim(
    ring: Ring, clock: FakeClock, sink: FakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flusher looks for the block while the producer is between the first and the last store of its claim."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    flusher.work()
    real = block_header.write

    def late(*arguments: Any) -> None:
        for _ in range(5):
            flusher.work()
        real(*arguments)

    monkeypatch.setattr(block_header, "write", late)
    producer.append(b"1")
    producer.ask_flush()
    flusher.work()

    assert sizes(sink) == [1]


def test_a_flush_of_an_empty_ring_forces_nothing_later(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """An application that flushes at the end of each request still sends full batches."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    producer.ask_flush()
    flusher.work()
    producer.append(b"1")
    flusher.work()

    assert sizes(sink) == []


def test_a_new_producer_forces_no_batch(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """A worker that warms up only takes a slot. The events of other producers wait for a full batch."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    producer.append(b"1")
    assert producer_of(ring, clock).enter() is ring
    flusher.work()

    assert sizes(sink) == []
    assert len(ring.slots_in_use()) == 2


def test_the_first_events_after_a_start_wait_for_their_batch(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """Events that were in the ring before the flusher came are due like any others."""
    producer = producer_of(ring, clock)
    producer.append(b"1")
    flusher = Flusher(ring, sink, SETTINGS, clock)
    flusher.work()
    assert sizes(sink) == []
    clock.now_s += 1.0
    flusher.work()

    assert sizes(sink) == [1]


def test_the_next_flusher_serves_a_requested_flush(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """The first flusher ended while the sink was away. The second one takes only the events of the request."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    producer.append(b"1")
    producer.ask_flush()
    sink.trouble = QueueUnavailable("here", "away")
    flusher.work()
    sink.trouble = None

    successor = Flusher(ring, sink, SETTINGS, clock)
    successor.work()
    producer.append(b"2")
    Flusher(ring, sink, SETTINGS, clock).work()

    assert sizes(sink) == [1]


def test_a_full_ring_is_due(clock: FakeClock, sink: FakeSink, tmp_path: Path) -> None:
    """With a cap below ``flush_at`` no batch ever becomes full, so events at the cap are due."""
    with ring_of(tmp_path, clock, cap=5) as ring:
        producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
        for number in range(5):
            assert producer.append(str(number).encode()) is None
        flusher.work()
        assert sizes(sink) == [5]
        assert producer.append(b"5") is None


def test_events_are_due_when_no_block_is_left(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """Few events with a block each use up the blocks, far below the cap and ``flush_at``."""
    settings = Settings(flush_at=1000, flush_interval_ms=60_000, max_batch_bytes=100_000_000)
    flusher = Flusher(ring, sink, settings, clock)
    for _ in range(ring.layout.blocks):
        assert producer_of(ring, clock).append(b"1") is None
    flusher.work()

    assert sum(sizes(sink)) == ring.layout.blocks


def test_a_refusal_makes_waiting_events_due(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """An event finds too few blocks in a row, although some blocks are free and the cap is far."""
    settings = Settings(flush_at=1000, flush_interval_ms=60_000, max_batch_bytes=100_000_000)
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, settings, clock)
    producer.append(b"1")
    flusher.work()
    assert sizes(sink) == []
    assert producer.append(b"x" * (ring.layout.blocks * at.BLOCK_BYTES)) == "no_block"
    flusher.work()

    assert sizes(sink) == [1]


class SlowSink(FakeSink):
    """A sink that commits only after two heartbeats."""

    def __init__(self, ring: Ring) -> None:
        super().__init__()
        self._words = ring.words
        self.beats = 0

    def commit(self, batches: Sequence[Batch], freed: Sequence[int]) -> CommitResult:
        deadline_s, pause = time.monotonic() + 10, threading.Event()
        while self.beats < 2 and time.monotonic() < deadline_s:
            before = self._words[at.H_HEARTBEAT_MS]
            while self._words[at.H_HEARTBEAT_MS] == before and time.monotonic() < deadline_s:
                pause.wait(0.005)  # for the heartbeat's thread, which a test cannot step
            self.beats += self._words[at.H_HEARTBEAT_MS] != before
        return super().commit(batches, freed)


def test_the_heartbeat_goes_on_while_the_sink_waits(ring: Ring) -> None:
    """A producer that looks for a flusher meanwhile sees that it lives."""
    clock, sink = Clock(), SlowSink(ring)
    heartbeat = Heartbeat(clock)
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock, heartbeat=heartbeat)
    producer.append(b"1")
    producer.ask_flush()
    heartbeat.start()
    try:
        assert flusher.work() == 1
    finally:
        heartbeat.stop()

    assert sink.beats == 2


def test_a_batch_is_full_by_bytes_too(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """Large events do not wait until there are ``flush_at`` of them."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    for _ in range(3):
        producer.append(b"x" * 4000)

    assert flusher.work() == 3
    assert sizes(sink) == [2, 1]


def test_a_sink_that_is_away_loses_nothing(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """Events stay in the ring up to the cap. When the sink is back, each event leaves once and in order."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    sink.trouble = QueueUnavailable("here", "away")
    accepted = 0
    for number in range(1500):
        accepted += producer.append(str(number).encode()) is None
        flusher.work()
        clock.now_s += 0.01
    assert accepted == 1000
    assert ring.words[at.H_DOWN_MS]

    sink.trouble = None
    for _ in range(300):
        clock.now_s += 0.1
        flusher.work()

    assert [event for batch in sink.batches for event in batch] == [str(number) for number in range(1000)]
    assert counters.read(ring).in_ring == ring.words[at.H_DOWN_MS] == 0


def test_a_lost_answer_does_not_add_twice(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """When Redis has more events than the flusher knew, the flusher goes on from there."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    for number in range(30):
        producer.append(str(number).encode())
    sequence = ring.blocks_in_use()[0][0]
    sink.trouble = QueueBehind({sequence: 20})
    flusher.work()
    sink.trouble = None
    clock.now_s += 0.1
    flusher.work()

    assert sink.batches == [[str(number) for number in range(20, 30)]]


def test_an_autostarted_flusher_ends_without_producers(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """The flusher drains at once when the last producer has left, lingers, and removes the ring."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock, lingers=True)
    producer.append(b"1")
    producer.leave()
    for _ in range(100):
        flusher.work()
        assert flusher.finished() == (not ring.segment.is_linked())
        clock.now_s += 0.1

    assert flusher.finished()
    assert (sizes(sink), sink.ends) == ([1], 1)


@pytest.mark.parametrize(("away_s", "ends"), [(30, 1), (90, 0)])
def test_a_ring_that_has_ended_waits_a_minute_for_its_sink(
    ring: Ring, clock: FakeClock, sink: FakeSink, away_s: int, ends: int
) -> None:
    """Redis would know its offsets for 30 days otherwise, and `rudderpipe scale` would wait for it."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock, lingers=True)
    producer.leave()
    sink.trouble = QueueUnavailable("here", "away")
    back_s = clock.now_s + away_s
    while not flusher.finished():
        sink.trouble = sink.trouble if clock.now_s < back_s else None
        assert flusher.work() == 0
        clock.now_s += 0.5

    assert sink.ends == ends
    assert not ring.segment.is_linked()


def test_an_operators_flusher_stays_without_producers(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """A flusher that an operator runs ends only when it is stopped."""
    flusher = Flusher(ring, sink, SETTINGS, clock)
    clock.now_s += 1000
    flusher.work()

    assert not flusher.finished()
    assert ring.segment.is_linked()


def test_a_stopped_flusher_drains_first(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """All committed events leave, due or not. The ring stays while it has a producer."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    producer.append(b"1")

    flusher.drain(clock.monotonic_s() + 5)

    assert sizes(sink) == [1]
    assert ring.segment.is_linked()


def test_a_drain_is_bounded(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """A sink that stays away does not keep a stopping flusher. The events stay in the ring."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    producer.append(b"1")
    sink.trouble = QueueUnavailable("here", "away")

    flusher.drain(clock.monotonic_s() + 5)

    assert counters.read(ring).in_ring == 1


class KnowingSink(FakeSink):
    """A sink that knows, as Redis does, which events of each tenure it has."""

    def __init__(self) -> None:
        super().__init__()
        self.has: dict[int, int] = {}

    def commit(self, batches: Sequence[Batch], freed: Sequence[int]) -> CommitResult:
        ranges = [each for batch in batches for each in batch.ranges]
        if any(each.start < self.has.get(each.sequence, 0) for each in ranges):
            raise QueueBehind(dict(self.has))
        result = super().commit(batches, freed)
        self.has.update((each.sequence, each.end) for each in ranges)
        return result


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")], ids=repr)
@pytest.mark.parametrize("step", [(KnowingSink, "commit"), *STEPS], ids=itemgetter(1))
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("begun", [1, 2])
def test_a_host_without_room_ends_no_flusher_and_loses_no_event(
    ring: Ring,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    step: tuple[object, str],
    after: bool,
    begun: int,
) -> None:
    """Each step of a cycle fails again and again. Once there is room, each event leaves the ring once and in order."""
    sink = KnowingSink()
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    term, usual, calls, mended = ring.words[at.H_TERM], getattr(*step), 0, False

    def cut_short(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        if mended:
            return usual(*arguments, **named)
        calls += 1
        if calls >= begun and not after:
            raise error
        result = usual(*arguments, **named)
        if calls >= begun:
            raise error
        return result

    monkeypatch.setattr(*step, cut_short)
    names = [str(number) for number in range(45)]
    for name in names:
        producer.append(name.encode())
    for _ in range(500):
        clock.now_s += 0.1
        flusher.work()
        assert not flusher.finished()
    assert calls >= begun
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [(record.exc_info, type(error).__name__ in record.getMessage()) for record in errors] == [(None, True)]

    mended = True
    for _ in range(30):
        clock.now_s += 0.1
        flusher.work()
    assert [event for batch in sink.batches for event in batch] == names
    assert ring.words[at.H_TERM] > term
    seen = counters.read(ring)
    assert (seen.accepted, seen.in_ring, seen.left) == (45, 0, 45)
    assert seen.delivered + seen.queued == 45
    producer.leave()
    flusher.drain(clock.monotonic_s() + 5)
    assert not ring.segment.is_linked()


def test_a_flusher_stopped_without_room_leaves_events_in_the_ring(ring: Ring, clock: FakeClock, sink: FakeSink) -> None:
    """The ring stays without any producer, so that the next flusher finds the events."""
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock, lingers=True)
    producer.append(b"1")
    producer.leave()
    sink.trouble = MemoryError()

    flusher.drain(clock.monotonic_s() + 5)

    assert not flusher.finished()
    assert ring.segment.is_linked()
    assert counters.read(ring).in_ring == 1
