"""What comes between an event and its count, or into the middle of entering: another thread, or a signal handler."""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rudderpipe import liveness
from rudderpipe.ring import account, claims, segment
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, open_ring
from tests.fakes import FakeClock, drain, producer_of, settings_of


class Interrupted:
    """The producer's lock, in whose first release something else happens: between the event and its count."""

    def __init__(self, producer: Producer, happens: Callable[[], object]) -> None:
        self._producer = producer
        self._real: RLock = producer._lock
        self._happens = happens
        self._happened = False

    def acquire(self) -> bool:
        return self._real.acquire()

    def __enter__(self) -> bool:
        return self._real.acquire()

    def __exit__(self, *_: object) -> None:
        self._real.release()

    def release(self) -> None:
        self._real.release()
        if not self._happened:
            self._happened = True
            self._happens()


def between(producer: Producer, happens: Callable[[], object]) -> None:
    """Have this happen in the next append."""
    producer._lock = Interrupted(producer, happens)  # type: ignore[assignment]  # stands in for it


def test_a_producer_that_leaves_between_leaves_the_ring_whole(ring: Ring, clock: FakeClock) -> None:
    """``shutdown`` in a signal handler, or in another thread: the event is counted by the seal, and what the outer call
    stores afterwards is in nobody's way."""
    producer = producer_of(ring, clock)
    assert producer.append(b"1") is None
    between(producer, producer.leave)

    assert producer.append(b"2") is None

    assert ring.words[at.H_MAGIC] == at.MAGIC
    assert drain(Consumer(ring)) == ["1", "2"]


@pytest.mark.parametrize("room", [True, False])
def test_a_claim_that_was_interrupted_is_put_right_between(
    ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    """Whether the call that puts it right is accepted or finds no block: the event whose count it interrupts stays."""
    producer, real = producer_of(ring, clock), claims.claim_blocks
    for number in range(5):
        assert producer.append(str(number).encode()) is None

    def fails(*_arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(claims, "claim_blocks", fails)
        with pytest.raises(KeyboardInterrupt):
            producer.append(b"z" * 65_530)
    answers: list[str | None] = []
    with monkeypatch.context() as patch:
        patch.setattr(claims, "claim_blocks", real if room else lambda *_: None)
        between(producer, lambda: answers.append(producer.append(b"y" * 65_530)))
        assert producer.append(b"5") is None

    assert answers == [None if room else "no_block"]
    found = drain(Consumer(ring))
    assert found[:6] == ["0", "1", "2", "3", "4", "5"]
    assert len(found) == 6 + room == account.read(ring).accepted


def test_a_call_from_within_a_flush_takes_no_slot_of_its_own(
    ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``flush`` may be what enters the ring; a handler that tracks meanwhile waits for its end."""
    producer, real = producer_of(ring, clock), liveness.me
    answers: list[str | None] = []

    def me() -> liveness.Identity:
        if not answers:
            answers.append(producer.append(b"1"))
        return real()

    monkeypatch.setattr(liveness, "me", me)
    producer.ask_flush()

    assert answers == [None]
    assert ring.slots_in_use() == [producer._slot]
    assert drain(Consumer(ring)) == ["1"]


def test_what_is_too_large_is_not_set_aside(ring: Ring, clock: FakeClock) -> None:
    """It would never find room, and hold up what waits behind it."""
    producer = producer_of(ring, clock)
    producer.append(b"1")
    answers: list[str | None] = []
    grant = producer._grant

    def interrupted(ring: Ring, now_s: float) -> bool:
        answers.append(producer.append(b"x" * (at.EVENT_MAX_BYTES + 1)))
        return grant(ring, now_s)

    producer._grant = interrupted  # type: ignore[method-assign]  # the place of the interruption
    assert producer.append(b"2") is None
    assert answers == ["too_large"]
    assert not producer._aside


def test_looking_around_does_not_wait_behind_an_event_without_room(ring: Ring, clock: FakeClock) -> None:
    """With a full ring and a dead flusher it is what makes room: it is done before, and the order stays."""
    looked: list[Ring] = []
    producer = Producer(lambda: ring, looked.append, clock)
    for number in range(1000):
        assert producer.append(str(number).encode()) is None
    producer._aside.append(b"1000")  # accepted from within a call, when the ring was full by its end
    seen = len(looked)
    clock.now_s += 2

    assert producer.append(b"1001") == "full"
    clock.now_s += 2
    drained = drain(Consumer(ring))
    assert producer.append(b"1002") == "full"  # what came first goes first
    assert producer.append(b"1003") is None

    assert len(looked) > seen
    assert drained + drain(Consumer(ring)) == [str(number) for number in (*range(1001), 1003)]


def test_the_queues_side_is_right_when_a_flusher_died_before_it_counted(ring: Ring, clock: FakeClock) -> None:
    """Redis has ten, READ says so, DRAINED does not: they have been handed over."""
    producer = producer_of(ring, clock)
    for number in range(15):
        producer.append(str(number).encode())
    [(sequence, block)] = ring.blocks_in_use()
    for word in (0, sequence << at.READ_BITS | 10):
        ring.words[ring.layout.read + block] = word
        assert account.handed_over(ring, {sequence: 10}) == 10
    assert account.handed_over(ring, {}) == ring.drained() == 0


def test_a_lock_file_that_was_removed_while_no_flusher_ran_is_followed_by_another(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Who was in the ring leaves it at the next event, and enters it again by the new file."""
    settings = settings_of(tmp_path, ring_bytes=1 << 20)
    producer = Producer(lambda: open_ring(settings, clock), lambda _ring: None, clock)
    assert producer.append(b"1") is None
    old = producer.ring
    assert old is not None
    try:
        old.locks.path.unlink()
        clock.now_s += 5
        answers = []
        for _ in range(3):
            answers.append(producer.append(b"2"))
            clock.now_s += 5
        assert answers == [None] * 3
        ring = producer.ring
        assert ring is not None
        assert ring.segment.epoch == old.segment.epoch
        assert drain(Consumer(ring)) == ["1", "2", "2", "2"]
    finally:
        segment.remove(old.segment.name)
