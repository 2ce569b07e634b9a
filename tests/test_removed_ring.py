"""A ring that somebody removed while no flusher had it mapped: what was accepted goes on in the next one."""

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
        """The pipe's ring of now."""
        return open_ring(self.settings, self.clock)

    def producer(self) -> Producer:
        """One more."""
        return Producer(self.opened, self.looked.append, self.clock)

    def remove(self) -> Ring:
        """Unlink the segment; the ring that is gone."""
        ring = self.opened()
        memory.remove(ring.segment.name)
        return ring

    def found(self) -> list[str]:
        """What a flusher of the pipe's ring drains."""
        return drain(Consumer(self.opened()))


@pytest.fixture(name="host")
def _host(tmp_path: Path, clock: FakeClock) -> Iterator[Host]:
    host = Host(tmp_path, clock)
    yield host
    memory.remove(host.opened().segment.name)


def put(producer: Producer, *texts: str) -> None:
    """Append these, all of which are accepted."""
    assert [producer.append(text.encode()) for text in texts] == [None] * len(texts)


def test_what_was_accepted_comes_before_the_next_event(host: Host, clock: FakeClock) -> None:
    """Seen at the next look, at most a second later; the flusher of the new ring is looked for at once."""
    producer = host.producer()
    put(producer, "1", "2")
    old = host.remove()
    put(producer, "3")
    clock.now_s += 2
    put(producer, "4")

    assert host.found() == ["1", "2", "3", "4"]
    assert counters.read(old).in_ring == 0
    assert host.looked[-1].segment.epoch == host.opened().segment.epoch


def test_a_claim_notices(host: Host) -> None:
    """No time passes: the next block is taken in the new ring."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    put(producer, "2" * 40_000, "3" * 40_000)

    assert [text[0] for text in host.found()] == ["1", "2", "3"]


def test_a_flush_notices(host: Host) -> None:
    """It is asked of the ring that holds the events."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    ring = producer.ask_flush()

    assert ring is not None
    assert ring.segment.epoch == host.opened().segment.epoch
    assert host.found() == ["1"]


def test_a_shutdown_notices(host: Host) -> None:
    """The slot in the new ring is given up again, and somebody is looked for who drains it."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    producer.leave()

    assert host.found() == ["1"]
    assert host.looked[-1].segment.epoch == host.opened().segment.epoch


def test_a_look_at_the_end_notices(host: Host) -> None:
    """A process that ends without a shutdown."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    producer.look()

    assert host.found() == ["1"]


def test_a_shutdown_makes_no_ring_for_nothing(host: Host) -> None:
    """All had been drained when it was removed."""
    producer = host.producer()
    put(producer, "1")
    assert host.found() == ["1"]
    old = host.remove()
    producer.leave()

    assert old.segment.name not in memory.names()


def test_events_of_calls_from_within_calls_are_moved_too(host: Host) -> None:
    """They lie in a slot and a block of their own."""
    producer = host.producer()
    put(producer, "1")
    producer.fence = lambda: put(producer, "inner")
    put(producer, "2")
    producer.fence = None
    host.remove()
    producer.look()

    assert sorted(host.found()) == ["1", "2", "inner"]


def test_what_another_process_appends_later_is_moved_later(host: Host, clock: FakeClock) -> None:
    """It has not noticed yet, and may never append again: whoever moved on looks again."""
    first, second = host.producer(), host.producer()
    put(first, "1")
    put(second, "a")
    host.remove()
    clock.now_s += 2
    put(first, "2")
    second._look_at_s = clock.now_s + 1  # it has just looked
    put(second, "b")
    clock.now_s += 2
    put(first, "3")

    found = host.found()
    assert [text for text in found if text.isdigit()] == ["1", "2", "3"]
    assert [text for text in found if text.isalpha()] == ["a", "b"]


def test_a_ring_is_moved_once_by_two_users_in_one_process(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of one key with different settings, in two threads: no record lock keeps those apart."""
    first, second = host.producer(), host.producer()
    put(first, "1", "2")
    put(second, "a")
    old = host.remove()
    real = Consumer.release

    def interrupted(consumer: Consumer, cuts: Sequence[Batch]) -> int:
        monkeypatch.undo()
        second.look()
        assert flusher_lock.is_kept(old, host.clock, sure=True)
        assert not removed.is_stranded(old)
        return real(consumer, cuts)

    monkeypatch.setattr(Consumer, "release", interrupted)
    first.look()
    second.look()

    assert host.found() == ["1", "2", "a"]
    assert not flusher_lock.is_kept(old, host.clock, sure=True)


def test_a_forked_child_moves_what_its_parent_left(host: Host) -> None:
    """Its first event finds the parent's ring removed."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    fork.PAGE[0] = 0  # what a child finds
    put(producer, "2")

    assert host.found() == ["1", "2"]


def test_what_finds_no_room_in_the_new_ring_stays_first(host: Host, clock: FakeClock) -> None:
    """The events of others fill it: ours are refused until all that was accepted before them has been moved."""
    producer, other = host.producer(), host.producer()
    put(producer, *(str(number) for number in range(64)))  # the grant is used up
    host.remove()
    put(other, *("x" for _ in range(70)))
    clock.now_s += 2
    assert producer.append(b"late") == "full"
    found = host.found()
    assert producer.append(b"last") is None
    found += host.found()

    assert [text for text in found if text != "x"] == [*(str(number) for number in range(64)), "last"]


def test_a_new_ring_that_cannot_be_made_at_once_gets_them_first(
    host: Host, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are refused until it can, and what was accepted before them still comes first."""
    producer = host.producer()
    put(producer, "1")
    host.remove()
    clock.now_s += 2

    def fails() -> Ring:
        raise RingUnavailable("here", "no room")

    with monkeypatch.context() as patch:
        patch.setattr(producer.slot, "open_ring", fails)
        assert producer.append(b"refused") == "ring"
    producer._look_at_s = clock.now_s + 100  # no look comes between
    clock.now_s += 2
    put(producer, "2")

    assert host.found() == ["1", "2"]


def test_a_ring_whose_flusher_lives_is_left_to_it(
    host: Host, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It drains what it has mapped."""
    producer = host.producer()
    put(producer, "1")
    old = host.remove()
    real = old.locks.try_lock
    monkeypatch.setattr(old.locks, "try_lock", lambda byte: byte != at.LOCK_FLUSHER and real(byte))
    clock.now_s += 2
    put(producer, "2")

    assert host.found() == ["2"]
    assert drain(Consumer(old)) == ["1"]
