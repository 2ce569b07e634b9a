"""What the ring shows to an application that waits: failures, the state of the queue, and flush results."""

from __future__ import annotations

from pathlib import Path

import pytest

from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.queue_sink import Acknowledged
from rudderpipe.ring import commit, failures, flusher_lock
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.failures import Failure
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings
from rudderpipe.transports.flush import FlushResult, Until
from rudderpipe.transports.ring_flush import RingFlush, Since
from tests.crash_simulation import simulation_of
from tests.fakes import FakeClock, FakeSink, producer_of

SETTINGS = Settings(flush_at=10, flush_interval_ms=1000, linger_s=5.0)


def test_failures_are_read_on_from_an_earlier_position(ring: Ring) -> None:
    """Failures come in order. The reader learns when the first ones were overwritten meanwhile."""
    start = failures.oldest(ring)
    for number in range(3):
        failures.record(ring, Failure(number, number, number + 1))

    found, after, whole = failures.since(ring, start)

    assert (found, after, whole) == ([Failure(number, number, number + 1) for number in range(3)], 3, True)
    assert failures.since(ring, after) == ([], 3, True)
    for number in range(3, 3 + at.FAILURES):
        failures.record(ring, Failure(number, number, number + 1))
    found, after, whole = failures.since(ring, 3)
    assert ([failure.slot for failure in found], after, whole) == (list(range(3, 3 + at.FAILURES)), 99, False)
    assert failures.since(ring, failures.oldest(ring))[2]


def test_failures_are_recorded_as_ranges_of_the_slot(ring: Ring, clock: FakeClock) -> None:
    """A range may go over the end of a block. Delivered events are in no range."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    for number in range(30):
        producer.append(b"%d" % number * 3000)  # about 20 in a block
    consumer.refresh()
    batches = [batch for _ in range(3) if (batch := consumer.next_batch(10, 1 << 20))]

    consumer.release(batches[:1], at.H_DELIVERED)
    assert failures.since(ring, 0)[0] == []
    consumer.release(batches[1:2], at.H_FAILED)
    consumer.release(batches[2:], at.H_CORRUPT)

    found = failures.since(ring, 0)[0]
    assert {failure.slot for failure in found} == {0}
    assert sorted(n for failure in found for n in range(failure.first, failure.end)) == list(range(10, 30))


def test_the_flusher_asks_the_queue_only_while_a_producer_waits(ring: Ring, clock: FakeClock) -> None:
    """The flusher asks every 20 ms, until the moment up to which the producer wants to wait."""
    sink = FakeSink()
    sink.seen = Acknowledged(5, 1)
    producer, flusher = producer_of(ring, clock), Flusher(ring, sink, SETTINGS, clock)
    producer.append(b"1")
    flusher.work()
    assert ring.words[at.H_ACKED_TIMES] == 0

    clock.now_s += 0.05
    producer.await_queue()
    for _ in range(10):
        flusher.work()
    assert (ring.words[at.H_ACKED], ring.words[at.H_ACKED_FAILED], ring.words[at.H_ACKED_TIMES]) == (5, 1, 1)
    clock.now_s += 0.05
    flusher.work()
    assert ring.words[at.H_ACKED_TIMES] == 2
    clock.stepped_ms = -3_600_000  # a step of the clock does not prolong the asking
    clock.now_s += 1.0
    flusher.work()
    assert ring.words[at.H_ACKED_TIMES] == 2


def flush_of(ring: Ring, producer: Producer, clock: FakeClock, since: Since, until: Until, *, queue: bool) -> RingFlush:
    """Return a flush of that ring."""
    return RingFlush(since, producer, lambda _ring: None, until, clock, queue=queue)


@pytest.mark.parametrize("until", ["queued", "delivered"])
def test_a_flush_result_of_direct_mode(ring: Ring, clock: FakeClock, until: Until) -> None:
    """The result counts events since the last complete result, settled before the flush or after. Only events from
    before the flush are pending."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    since = Since(ring)
    for number in range(20):
        producer.append(b"%d" % number)
    consumer.refresh()
    batches = [batch for _ in range(4) if (batch := consumer.next_batch(5, 1000))]
    consumer.release(batches[:1], at.H_FAILED)
    flush = flush_of(ring, producer, clock, since, until, queue=False)
    producer.append(b"later")

    assert flush.poll() == FlushResult(failed=5, pending=15, complete=False)
    consumer.release(batches[1:3], at.H_DELIVERED)
    assert flush.poll() == FlushResult(delivered=10, failed=5, pending=5, complete=False)
    consumer.release(batches[3:], at.H_DELIVERED)
    assert flush.poll() == FlushResult(delivered=15, failed=5)
    assert flush.poll() == FlushResult()


@pytest.mark.parametrize(
    ("beats", "down", "queue", "reason"),
    [
        (False, False, False, "no flusher serves the ring"),
        (True, False, False, ""),
        (True, True, False, "the flusher cannot reach the data plane, and its log has the reason"),
        (True, True, True, "the flusher cannot add to the queue, and its log has the reason"),
    ],
)
def test_an_incomplete_flush_says_why_events_stay_in_the_ring(
    ring: Ring, clock: FakeClock, *, beats: bool, down: bool, queue: bool, reason: str
) -> None:
    """Who gets False from ``flush()`` must not have to guess."""
    producer = producer_of(ring, clock)
    producer.append(b"1")
    if beats:
        flusher_lock.beat(ring, clock)
    ring.words[at.H_DOWN_MS] = int(down)

    result = flush_of(ring, producer, clock, Since(ring), "delivered", queue=queue).poll()

    assert (result.pending, result.reason) == (1, reason)


def test_a_flush_result_of_the_queue(ring: Ring, clock: FakeClock) -> None:
    """Events are queued as soon as Redis has all. They are delivered once the sender has acknowledged all that Redis
    had by then."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    since = Since(ring)
    for number in range(10):
        producer.append(b"%d" % number)
    consumer.refresh()
    batch = consumer.next_batch(10, 1000)
    assert batch is not None
    consumer.release([batch], at.H_QUEUED)

    assert flush_of(ring, producer, clock, since, "queued", queue=True).poll() == FlushResult(queued=10)
    flush = flush_of(ring, producer, clock, since, "delivered", queue=True)
    assert not flush.poll().complete  # the flusher has not asked the queue since then
    for seen, failed, result in (
        (0, 0, FlushResult(queued=10, complete=False)),
        (6, 2, FlushResult(queued=4, delivered=4, failed=2, complete=False)),
        (10, 1, FlushResult(delivered=9, failed=1)),  # one was retried, and does not count as failed any more
    ):
        ring.words[at.H_ACKED], ring.words[at.H_ACKED_FAILED] = seen, failed
        at.bump(ring.words, at.H_ACKED_TIMES)
        assert flush.poll() == result


def test_a_flush_waits_for_events_in_the_spill(ring: Ring, clock: FakeClock) -> None:
    """Their queue is away, and another queue's later events are acknowledged instead."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    since = Since(ring)
    flush = flush_of(ring, producer, clock, since, "delivered", queue=True)
    for number in range(10):
        producer.append(b"%d" % number)
    consumer.refresh()
    batch = consumer.next_batch(10, 1000)
    assert batch is not None
    ring.words[at.H_SPILLED] = 2
    consumer.release([batch], at.H_QUEUED)
    ring.words[at.H_ACKED] = 10
    at.bump(ring.words, at.H_ACKED_TIMES)

    assert flush.poll() == FlushResult(queued=2, delivered=10, complete=False)
    ring.words[at.H_SPILLED] = 0
    assert flush.poll().complete


def test_earlier_events_of_other_processes_are_in_no_flush_result(ring: Ring, clock: FakeClock) -> None:
    """A process that comes later counts from what it sees first."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    producer.append(b"of another")
    consumer.refresh()
    batch = consumer.next_batch(10, 1000)
    assert batch is not None
    consumer.release([batch], at.H_QUEUED)
    ring.words[at.H_ACKED], ring.words[at.H_ACKED_FAILED] = 1, 1

    flush = flush_of(ring, producer, clock, Since(ring), "delivered", queue=True)
    at.bump(ring.words, at.H_ACKED_TIMES)

    assert flush.poll() == FlushResult()


@pytest.mark.parametrize("until", ["queued", "delivered"])
def test_a_flush_is_not_complete_in_the_middle_of_a_commit(
    ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """The flusher has moved DRAINED and not yet its counter, so the event seems to be nowhere."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    producer.append(b"1")
    flush = flush_of(ring, producer, clock, Since(ring), until, queue=True)
    at.bump(ring.words, at.H_ACKED_TIMES)
    consumer.refresh()
    batch = consumer.next_batch(1, 1000)
    assert batch is not None
    found: list[FlushResult] = []
    real = commit.finish

    def polled(ring: Ring) -> None:
        found.append(flush.poll())
        real(ring)

    monkeypatch.setattr(commit, "finish", polled)
    consumer.release([batch], at.H_QUEUED)
    found.append(flush.poll())

    assert found == [
        FlushResult(complete=False),
        FlushResult(queued=1, complete=until == "queued"),
    ]


def test_failed_events_never_count_as_delivered(
    clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flush is polled between the stores that say how many events the queue has acknowledged."""
    with simulation_of(tmp_path, clock) as simulation:
        process, sink = simulation.process(), FakeSink()
        sink.seen = Acknowledged(5, 5)
        producer, flusher = producer_of(simulation.ring, clock), Flusher(process.ring, sink, SETTINGS, clock)
        producer.append(b"1")
        simulation.ring.words[at.H_QUEUED] = 5
        flush = flush_of(simulation.ring, producer, clock, Since(simulation.ring), "delivered", queue=True)
        monkeypatch.setattr(flush, "_targets", {})
        flush._since.seen = (0, 0)
        at.bump(simulation.ring.words, at.H_ACKED_TIMES)
        found: list[FlushResult] = []
        process.after_store = lambda: found.append(flush.poll())
        producer.await_queue()
        flusher.work()
        process.after_store = None

    assert FlushResult(failed=5) in found
    assert not any(result.delivered for result in found)
