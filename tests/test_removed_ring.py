"""A ring that was removed while no flusher had it mapped: accepted events go on in the next ring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rudderpipe.errors import RingUnavailable
from rudderpipe.process import fork
from rudderpipe.ring import counters, flusher_lock, memory, removed
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch, Consumer
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, open_ring
from tests.fakes import FakeClock, drain, settings_of


class Host:
    """A pipe whose ring can be removed, and its producers."""

    def __init__(self, directory: Path, clock: FakeClock) -> None:
        self.clock = clock
        self.settings = settings_of(directory, ring_bytes=1 << 20, max_internal_queue_size=100)
        self.looked: list[Ring] = []

    def opened(self) -> Ring:
        """Open the pipe's present ring."""
        return open_ring(self.settings, self.clock)

    def producer(self) -> Producer:
        """Return another producer."""
        return Producer(self.opened, self.looked.append, self.clock)

    def remove(self) -> Ring:
        """Unlink the segment, and return the removed ring."""
        ring = self.opened()
        memory.remove(ring.segment.name)
        return ring

    def found(self) -> list[str]:
        """Return the events that a flusher drains from the pipe's present ring."""
        return drain(Consumer(self.opened()))


@pytest.fixture(name="host")
def _host(tmp_path: Path, clock: FakeClock) -> Iterator[Host]:
    host = Host(tmp_path, clock)
    yield host
    memory.remove(host.opened().segment.name)


def put(producer: Producer, *texts: str) -> None:
    """Append these texts, and check that all are accepted."""
    assert [producer.append(text.encode()) for text in texts] == [None] * len(texts)


def test_accepted_events_move_before_the_next_event(host: Host, clock: FakeClock) -> None:
    """The producer notices at most a second later. The producer then looks for the new ring's flusher at once."""
    producer = host.producer()
    put(producer, "1", "2")
    old = host.remove()
    put(producer, "3")
    clock.now_s += 2
    put(producer, "4")

    assert host.found() == ["1", "2", "3", "4"]
    assert counters.read(old).in_ring == 0
    assert host.looked[-1].segment.epoch == host.opened().segment.epoch


def test_a_claim_notices_that_the_ring_was_removed(host: Host) -> None:
    """No time passes, and the next block is claimed in the new ring."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    put(producer, "2" * 40_000, "3" * 40_000)

    assert [text[0] for text in host.found()] == ["1", "2", "3"]


def test_a_flush_notices_that_the_ring_was_removed(host: Host) -> None:
    """The flush must be requested of the ring that holds the events."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    ring = producer.ask_flush()

    assert ring is not None
    assert ring.segment.epoch == host.opened().segment.epoch
    assert host.found() == ["1"]


def test_a_shutdown_notices_that_the_ring_was_removed(host: Host) -> None:
    """The producer gives its slot in the new ring up again, and looks for a flusher that drains the ring."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    producer.leave()

    assert host.found() == ["1"]
    assert host.looked[-1].segment.epoch == host.opened().segment.epoch


def test_a_look_at_the_end_notices_that_the_ring_was_removed(host: Host) -> None:
    """A process may end without a shutdown."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    producer.look()

    assert host.found() == ["1"]


def test_a_shutdown_makes_no_ring_for_a_drained_one(host: Host) -> None:
    """All events had been drained when the ring was removed."""
    producer = host.producer()
    put(producer, "1")
    assert host.found() == ["1"]
    old = host.remove()
    producer.leave()

    assert old.segment.name not in memory.names()


def test_events_of_nested_calls_are_moved_too(host: Host) -> None:
    """Nested calls use a slot and a block of their own."""
    producer = host.producer()
    put(producer, "1")
    producer.fence = lambda: put(producer, "inner")
    put(producer, "2")
    producer.fence = None
    host.remove()
    producer.look()

    assert sorted(host.found()) == ["1", "2", "inner"]


def test_later_events_of_another_process_are_moved_later(host: Host, clock: FakeClock) -> None:
    """The other process has not noticed yet, and may never append again. The process that moved on looks again."""
    first, second = host.producer(), host.producer()
    put(first, "1")
    put(second, "a")
    host.remove()
    clock.now_s += 2
    put(first, "2")
    second._look_at_s = clock.now_s + 1  # this producer has just looked
    put(second, "b")
    clock.now_s += 2
    put(first, "3")

    found = host.found()
    assert [text for text in found if text.isdigit()] == ["1", "2", "3"]
    assert [text for text in found if text.isalpha()] == ["a", "b"]


def test_two_clients_of_one_process_move_a_ring_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads have clients of one key with different settings. Record locks do not keep threads apart."""
    first, second = host.producer(), host.producer()
    put(first, "1", "2")
    put(second, "a")
    old = host.remove()
    real = Consumer.release

    def interrupted(consumer: Consumer, batches: Sequence[Batch]) -> int:
        monkeypatch.undo()
        second.look()
        assert flusher_lock.is_kept(old, host.clock, sure=True)
        assert not removed.is_stranded(old)
        return real(consumer, batches)

    monkeypatch.setattr(Consumer, "release", interrupted)
    first.look()
    second.look()

    assert host.found() == ["1", "2", "a"]
    assert not flusher_lock.is_kept(old, host.clock, sure=True)


def test_a_forked_child_moves_its_parents_removed_ring(host: Host) -> None:
    """The child's first event finds the parent's ring removed."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    fork.PAGE[0] = 0  # what a child finds
    put(producer, "2")

    assert host.found() == ["1", "2"]


def test_moved_events_without_room_stay_first(host: Host, clock: FakeClock) -> None:
    """Events of another producer fill the new ring. New events are refused until all others have been moved."""
    producer, other = host.producer(), host.producer()
    put(producer, *(str(number) for number in range(64)))  # the credits are used up
    host.remove()
    put(other, *("x" for _ in range(70)))
    clock.now_s += 2
    assert producer.append(b"late") == "full"
    found = host.found()
    assert producer.append(b"last") is None
    found += host.found()

    assert [text for text in found if text != "x"] == [*(str(number) for number in range(64)), "last"]


def test_moved_events_come_first_in_a_ring_that_is_made_late(
    host: Host, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New events are refused until the ring can be made."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    clock.now_s += 2

    def fails() -> Ring:
        raise RingUnavailable("here", "no room")

    with monkeypatch.context() as patch:
        patch.setattr(producer.slot, "open_ring", fails)
        assert producer.append(b"refused") == "ring"
    producer._look_at_s = clock.now_s + 100  # the producer does not look before that
    clock.now_s += 2
    put(producer, "2")

    assert host.found() == ["1", "2"]


def test_a_removed_ring_with_a_living_flusher_is_left_alone(
    host: Host, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flusher drains the ring that it has mapped."""
    producer = host.producer()
    put(producer, "1")
    old = host.remove()
    real = old.locks.try_lock
    monkeypatch.setattr(old.locks, "try_lock", lambda byte: byte != at.LOCK_FLUSHER and real(byte))
    clock.now_s += 2
    put(producer, "2")

    assert host.found() == ["2"]
    assert drain(Consumer(old)) == ["1"]
