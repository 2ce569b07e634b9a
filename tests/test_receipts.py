"""What the ring tells an application that waits: failures, how far the queue has come, and receipts made of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from rudderpipe.flusher.flusher import Flusher
from rudderpipe.ring import commit, failures
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


def test_failures_are_told_from_where_one_left_off(ring: Ring) -> None:
    """In order; and when the first ones were overwritten meanwhile, that is said."""
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


def test_what_fails_is_noted_before_it_is_gone(ring: Ring, clock: FakeClock) -> None:
    """As ranges of the slot, over the end of a block; what is delivered is not."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    for number in range(30):
        producer.append(b"%d" % number * 3000)  # some 20 in a block
    consumer.refresh()
    cuts = [cut for _ in range(3) if (cut := consumer.next_batch(10, 1 << 20))]

    consumer.release(cuts[:1], at.H_DELIVERED)
    assert failures.since(ring, 0)[0] == []
    consumer.release(cuts[1:2], at.H_FAILED)
    consumer.release(cuts[2:], at.H_CORRUPT)

    found = failures.since(ring, 0)[0]
    assert {failure.slot for failure in found} == {0}
    assert sorted(n for failure in found for n in range(failure.first, failure.end)) == list(range(10, 30))


def test_the_queue_is_looked_at_only_while_somebody_waits(ring: Ring, clock: FakeClock) -> None:
    """Every 20 ms, until the moment that the producer asked for is over."""
    sink = FakeSink()
    sink.seen = (5, 1)
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
    clock.stepped_ms = -3_600_000  # a step of the clock does not make it look longer
    clock.now_s += 1.0
    flusher.work()
    assert ring.words[at.H_ACKED_TIMES] == 2


def begun(ring: Ring, producer: Producer, clock: FakeClock, since: Since, until: Until, *, queue: bool) -> RingFlush:
    """A flush of that ring."""
    return RingFlush(since, producer, lambda _ring: None, until, queue=queue)


@pytest.mark.parametrize("until", ["queued", "delivered"])
def test_a_receipt_of_direct_mode(ring: Ring, clock: FakeClock, until: Until) -> None:
    """What was settled since the last one, before the flush began and after; pending is of what was there then."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    since = Since(ring)
    for number in range(20):
        producer.append(b"%d" % number)
    consumer.refresh()
    cuts = [cut for _ in range(4) if (cut := consumer.next_batch(5, 1000))]
    consumer.release(cuts[:1], at.H_FAILED)
    flush = begun(ring, producer, clock, since, until, queue=False)
    producer.append(b"later")

    assert flush.poll() == FlushResult(failed=5, pending=15, complete=False)
    consumer.release(cuts[1:3], at.H_DELIVERED)
    assert flush.poll() == FlushResult(delivered=10, failed=5, pending=5, complete=False)
    consumer.release(cuts[3:], at.H_DELIVERED)
    assert flush.poll() == FlushResult(delivered=15, failed=5)
    assert flush.poll() == FlushResult()


def test_a_receipt_of_the_queue(ring: Ring, clock: FakeClock) -> None:
    """Queued as soon as Redis has all; delivered once the sender has seen off all that Redis had by then."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    since = Since(ring)
    for number in range(10):
        producer.append(b"%d" % number)
    consumer.refresh()
    cut = consumer.next_batch(10, 1000)
    assert cut is not None
    consumer.release([cut], at.H_QUEUED)

    assert begun(ring, producer, clock, since, "queued", queue=True).poll() == FlushResult(queued=10)
    flush = begun(ring, producer, clock, since, "delivered", queue=True)
    assert not flush.poll().complete  # nobody has looked since it was asked for
    for seen, failed, result in (
        (0, 0, FlushResult(queued=10, complete=False)),
        (6, 2, FlushResult(queued=4, delivered=4, failed=2, complete=False)),
        (10, 1, FlushResult(delivered=9, failed=1)),  # one was retried, and is no more among the failed
    ):
        ring.words[at.H_ACKED], ring.words[at.H_ACKED_FAILED] = seen, failed
        at.bump(ring.words, at.H_ACKED_TIMES)
        assert flush.poll() == result


def test_what_others_had_in_the_queue_before_is_nobodys_receipt(ring: Ring, clock: FakeClock) -> None:
    """A process that comes later counts from what it sees first."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    producer.append(b"of another")
    consumer.refresh()
    cut = consumer.next_batch(10, 1000)
    assert cut is not None
    consumer.release([cut], at.H_QUEUED)
    ring.words[at.H_ACKED], ring.words[at.H_ACKED_FAILED] = 1, 1

    flush = begun(ring, producer, clock, Since(ring), "delivered", queue=True)
    at.bump(ring.words, at.H_ACKED_TIMES)

    assert flush.poll() == FlushResult()


@pytest.mark.parametrize("until", ["queued", "delivered"])
def test_a_receipt_is_not_given_before_what_left_is_counted(
    ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """The flusher has moved DRAINED, and not its counter yet: nothing seems to be in the ring, or in the queue."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    producer.append(b"1")
    flush = begun(ring, producer, clock, Since(ring), until, queue=True)
    at.bump(ring.words, at.H_ACKED_TIMES)
    consumer.refresh()
    cut = consumer.next_batch(1, 1000)
    assert cut is not None
    found: list[FlushResult] = []
    real = commit.finish

    def polled(ring: Ring) -> None:
        found.append(flush.poll())
        real(ring)

    monkeypatch.setattr(commit, "finish", polled)
    consumer.release([cut], at.H_QUEUED)
    found.append(flush.poll())

    assert found == [
        FlushResult(complete=False),
        FlushResult(queued=1, complete=until == "queued"),
    ]


def test_events_that_failed_are_never_taken_for_delivered(
    clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that is polled between the stores that say how far the queue has come."""
    with simulation_of(tmp_path, clock) as simulation:
        process, sink = simulation.process(), FakeSink()
        sink.seen = (5, 5)
        producer, flusher = producer_of(simulation.ring, clock), Flusher(process.ring, sink, SETTINGS, clock)
        producer.append(b"1")
        simulation.ring.words[at.H_QUEUED] = 5
        flush = begun(simulation.ring, producer, clock, Since(simulation.ring), "delivered", queue=True)
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
