"""Threads and signal handlers that come between an event and its count, or into the middle of a claim."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rudderpipe.process import identity
from rudderpipe.process.locks import LockFile
from rudderpipe.ring import claims, counters, flusher_lock, memory
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, open_ring
from tests.crash_simulation import Process, simulation_of
from tests.fakes import FakeClock, drain, pipe_called, pipe_of, producer_of, settings_of


def between(producer: Producer, happens: Callable[[], object]) -> None:
    """Make this happen in the next append, between the event and its count."""

    def fence() -> None:
        producer.fence = None
        happens()

    producer.fence = fence


def test_a_shutdown_within_an_append_leaves_the_ring_whole(ring: Ring, clock: FakeClock) -> None:
    """A signal handler may call ``shutdown``. The producer leaves when the outer call has ended."""
    producer = producer_of(ring, clock)
    assert producer.append(b"1") is None
    between(producer, producer.leave)

    assert producer.append(b"2") is None

    assert ring.words[at.H_MAGIC] == at.MAGIC
    assert drain(Consumer(ring)) == ["1", "2"]


@pytest.mark.parametrize("room", [True, False])
def test_the_next_call_repairs_an_interrupted_claim(
    ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    """The repair does not depend on whether the next call is accepted or finds no block."""
    producer, real = producer_of(ring, clock), claims.claim_blocks
    for number in range(5):
        assert producer.append(str(number).encode()) is None

    def fails(*_arguments: Any) -> Any:
        raise KeyboardInterrupt

    def full(*_arguments: Any) -> Any:
        raise claims.Refused("no_block")

    with monkeypatch.context() as patch:
        patch.setattr(claims, "claim_blocks", fails)
        with pytest.raises(KeyboardInterrupt):
            producer.append(b"z" * 65_520)
    results: list[str | None] = []
    with monkeypatch.context() as patch:
        patch.setattr(claims, "claim_blocks", real if room else full)
        results.append(producer.append(b"y" * 65_520))
    assert producer.append(b"5") is None

    assert results == [None if room else "no_block"]
    found = drain(Consumer(ring))
    assert len(found) == 6 + room == counters.read(ring).accepted
    assert [text for text in found if len(text) == 1] == ["0", "1", "2", "3", "4", "5"]


def test_the_next_append_shows_an_event_without_its_count(ring: Ring, clock: FakeClock) -> None:
    """A signal handler raises between the event and its count. The event is whole, so it must arrive."""
    producer = producer_of(ring, clock)
    assert producer.append(b"1") is None

    def fails() -> None:
        raise KeyboardInterrupt

    for big in (False, True):
        between(producer, fails)
        with pytest.raises(KeyboardInterrupt):
            producer.append(b"2")
        assert producer.append(b"3" * 65_520 if big else b"3") is None

    found = [text[:1] for text in drain(Consumer(ring))]
    assert found == ["1", "2", "3", "2", "3"]


def test_the_next_append_shows_a_chunk_without_its_count(ring: Ring, clock: FakeClock) -> None:
    """A signal handler raises between the events of a chunk and their count, which is stored with the next one."""
    producer = producer_of(ring, clock)
    for number in range(4):
        assert producer.append(b"%d" % number) is None

    def fails() -> None:
        raise KeyboardInterrupt

    between(producer, fails)
    with pytest.raises(KeyboardInterrupt):
        producer.append_chunk([b"4", b"5", b"6"])
    assert drain(Consumer(ring)) == ["0", "1", "2", "3"]
    assert producer.append_chunk([b"7"]) == (1, None)

    assert drain(Consumer(ring)) == ["4", "5", "6", "7"]


def test_a_chunk_within_an_append_uses_the_second_producer(ring: Ring, clock: FakeClock) -> None:
    """Its events are in the ring when the nested call returns, as that of a single call."""
    producer = producer_of(ring, clock)
    assert producer.append(b"1") is None
    results: list[object] = []

    def send() -> None:
        events = [b"2", b"3", b"4"]
        while events:
            results.append(producer.append_chunk(events))
            del events[:1]
        results.append(drain(Consumer(ring)))

    between(producer, send)
    assert producer.append(b"5") is None

    assert results == [(1, None)] * 3 + [["1", "2", "3", "4"]]
    assert drain(Consumer(ring)) == ["5"]


def test_a_call_within_a_flush_uses_the_second_producer(
    ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``flush`` may be the first call that enters the ring. A signal handler that tracks meanwhile must not wait."""
    producer, real = producer_of(ring, clock), identity.me
    results: list[str | None] = []
    events = iter([b"1"])

    def me() -> identity.Identity:
        results.extend(map(producer.append, events))
        return real()

    monkeypatch.setattr(identity, "me", me)
    producer.ask_flush()

    assert results == [None]
    assert len(ring.slots_in_use()) == 2
    assert drain(Consumer(ring)) == ["1"]


def test_nested_refusals_are_all_counted(ring: Ring, clock: FakeClock) -> None:
    """A call of a signal handler is refused within an append. Another one is refused between the load and the store of
    the first one's count."""
    producer = producer_of(ring, clock)
    producer.append(b"1")
    more = iter(["busy"])

    class Interrupted(Counter[str]):
        def __getitem__(self, reason: str) -> int:
            found = self.get(reason, 0)
            for again in more:
                producer.count_refused(again)
            return found

    producer.slot._uncounted = Interrupted()
    between(producer, lambda: producer.count_refused("busy"))
    producer.append(b"2")

    assert counters.read(ring).refused == {"busy": 2}


def test_a_nested_call_refuses_an_oversized_event(ring: Ring, clock: FakeClock) -> None:
    """The outer call goes on afterwards."""
    producer = producer_of(ring, clock)
    results: list[str | None] = []
    producer.append(b"1")
    between(producer, lambda: results.append(producer.append(b"x" * (at.EVENT_MAX_BYTES + 1))))

    assert producer.append(b"2") is None
    assert results == ["too_large"]


def test_handed_over_counts_events_of_a_flusher_that_died_uncounted(ring: Ring, clock: FakeClock) -> None:
    """Redis has ten events. The flusher died after it stored READ and before it stored DRAINED."""
    producer = producer_of(ring, clock)
    for number in range(15):
        producer.append(str(number).encode())
    [(sequence, block)] = ring.blocks_in_use()
    for word in (0, sequence << at.READ_BITS | 10):
        ring.words[ring.layout.read + block] = word
        assert counters.handed_over(ring, {sequence: 10}) == 10
    assert counters.handed_over(ring, {}) == ring.drained() == 0


def test_a_producer_follows_a_replaced_lock_file(tmp_path: Path, clock: FakeClock) -> None:
    """The file is removed while no flusher runs. The producer enters the ring again by the new file."""
    settings = settings_of(tmp_path, ring_bytes=1 << 20)
    producer = Producer(lambda: open_ring(settings, clock), lambda _ring: None, clock)
    assert producer.append(b"1") is None
    old = producer.ring
    assert old is not None
    try:
        old.locks.path.unlink()
        clock.now_s += 5
        results = []
        for _ in range(3):
            results.append(producer.append(b"2"))
            clock.now_s += 5
        assert results == [None] * 3
        ring = producer.ring
        assert ring is not None
        assert ring.segment.epoch == old.segment.epoch
        assert drain(Consumer(ring)) == ["1", "2", "2", "2"]
    finally:
        memory.remove(old.segment.name)


@pytest.mark.parametrize("step", ["claim", "chunk", "leave the ring"])
def test_an_exception_at_any_store_of_a_claim_a_chunk_or_a_leave_loses_nothing(
    tmp_path: Path, clock: FakeClock, step: str
) -> None:
    """A signal handler raises there. Of a chunk, the first events arrive, or none. The events before and after it
    arrive in order, and their blocks become free."""
    for number in itertools.count(1):
        with simulation_of(tmp_path, clock) as simulation:
            writer, drainer = simulation.writer(), simulation.drainer()
            writer.write_all(4, 15_000)
            process, left = writer.process, itertools.count(1)

            def handler(process: Process = process, left: Iterator[int] = left, number: int = number) -> None:
                if next(left) == number:
                    process.after_store = None
                    raise KeyboardInterrupt

            process.after_store = handler
            try:
                if step == "claim":
                    writer.write(15_000)
                elif step == "chunk":
                    writer.write_chunk(5, 2_000)
                else:
                    writer.producer.slot.quit_ring()
            except KeyboardInterrupt:
                pass
            is_over, process.after_store = process.after_store is not None, None
            interrupted = writer.in_flight
            writer.write_all(1)
            found = drainer.drain()
            drainer.keep_house()
            writer.write_all(3)
            writer.write_all(2, 40_000)
            found += drainer.drain()
            drainer.keep_house()
            writer.write_all(1)
            found += drainer.drain()
            writer.producer.leave()
            for _ in range(2):
                drainer.keep_house()
                found += drainer.drain()

            if step == "chunk":
                accepted = counters.read(simulation.ring).accepted
                assert accepted == len(found), f"two events became one: the handler raised at store {number}"
            landed = [text for text in found if text in interrupted]
            assert landed == interrupted[: len(landed)], f"the handler raised at store {number}"
            found = [text for text in found if text not in interrupted]
            assert found == writer.accepted, f"the handler raised at store {number}"
            assert simulation.ring.blocks_in_use() == [], f"the handler raised at store {number}"
            if is_over:
                break
    assert number > 3


def count_without_a_slot(producer: Producer, ring: Ring) -> None:
    """Move refusals into the ring while this process has no slot there."""
    producer.slot.ring = ring
    producer.slot.note_refusal("full")
    producer.slot.count_refusals()


CLAIMS: dict[str, tuple[int, Callable[[Producer, Ring, Path], object]]] = {
    "a slot": (0, lambda producer, _ring, _directory: producer.append(b"2")),
    "credits": (1, lambda producer, _ring, _directory: producer.append(b"2")),
    "refusals": (0, lambda producer, ring, _directory: count_without_a_slot(producer, ring)),
    "a start": (0, lambda _producer, ring, _directory: flusher_lock.may_start(ring, FakeClock())),
    "a ring": (0, lambda _producer, ring, directory: open_ring(pipe_of(directory, pipe_called(ring)), FakeClock())),
}
"""Calls of an application that take the claim lock, and how many events come before each."""


@pytest.mark.parametrize(("events", "call"), CLAIMS.values(), ids=CLAIMS)
def test_an_exception_at_the_release_of_the_claim_lock_leaves_it_free(
    ring: Ring,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    events: int,
    call: Callable[[Producer, Ring, Path], object],
) -> None:
    """A signal handler may raise before the first line of ``release``. The process would keep the lock for life, and
    the events of all processes would be refused as busy."""
    producer = producer_of(ring, clock)
    release, raised = LockFile.release, iter([True])

    def interrupted(lock_file: LockFile, byte: int) -> None:
        if next(raised, False):
            raise KeyboardInterrupt
        release(lock_file, byte)

    for _ in range(events):
        assert producer.append(b"1") is None
    monkeypatch.setattr(LockFile, "release", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(producer, ring, ring.locks.path.parent)

    assert next(raised, None) is None
    assert not ring.locks.is_ours
    assert producer.append(b"3") is None
    assert drain(Consumer(ring)) == ["1"] * events + ["3"]
