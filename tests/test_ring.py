"""The ring: what producer and consumer promise each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from rudderpipe.process import fork, identity
from rudderpipe.ring import claims, counters, location, memory
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.reclaim import Reclaimer
from rudderpipe.ring.ring import Ring, open_ring
from rudderpipe.ring.slot import CREDITS_MAX
from tests.fakes import FakeClock, drain, producer_of, settings_of, texts

GONE = (1 << 22) + 1
"""A pid that no process has (PID_MAX_LIMIT)."""


def numbers(start: int, end: int) -> list[str]:
    """Return the texts of the events from start to end."""
    return [str(number) for number in range(start, end)]


def put(producer: Producer, start: int, end: int) -> int:
    """Append the events from start to end; return the number of accepted ones."""
    return sum(producer.append(text.encode()) is None for text in numbers(start, end))


def test_events_leave_once_whole_and_in_order(ring: Ring, clock: FakeClock) -> None:
    """Batches of seven events each do not change the order."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)

    put(producer, 0, 500)

    assert drain(consumer, 7) == numbers(0, 500)
    assert drain(consumer) == []


def test_a_batch_is_bounded_in_events_and_in_bytes(ring: Ring, clock: FakeClock) -> None:
    """The limit in bytes counts the commas too. A single event travels however large it is."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    for size in (10, 10, 10, 30, 5):
        producer.append(b"x" * size)
    consumer.refresh()

    sizes = []
    while batch := consumer.next_batch(20, 21):
        sizes.append((batch.count, len(batch.data)))

    assert sizes == [(2, 21), (1, 10), (1, 30), (1, 5)]


def test_one_producer_gets_exactly_the_cap(ring: Ring, clock: FakeClock) -> None:
    """The cap is exact. After a drain, all of the room is free again."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)

    assert put(producer, 0, 3000) == 1000
    assert producer.append(b"1") == "full"
    drain(consumer)
    assert put(producer, 0, 3000) == 1000


def test_a_larger_cap_counts_at_once_in_a_living_ring(tmp_path: Path, clock: FakeClock) -> None:
    """An application is restarted with a larger cap while the ring is full. Producers that were refused before get the
    new room too. A smaller cap changes nothing."""
    pipe = settings_of(tmp_path, ring_bytes=1 << 20, max_internal_queue_size=100)
    first = Producer(lambda: open_ring(pipe, clock), lambda _ring: None, clock)
    try:
        assert put(first, 0, 200) == 100
        assert open_ring(replace(pipe, max_internal_queue_size=150), clock).segment.cap == 150
        assert put(first, 0, 200) == 50
        assert open_ring(replace(pipe, max_internal_queue_size=10), clock).segment.cap == 150
        ring = first.ring
        assert ring is not None
        assert len(drain(Consumer(ring))) == 150
    finally:
        memory.remove(location.own(pipe).segment)


def test_several_producers_get_the_cap_together(ring: Ring, clock: FakeClock) -> None:
    """The cap holds for all producers together, and no producer keeps unused credits for long."""
    producers = [producer_of(ring, clock) for _ in range(5)]

    accepted = 0
    for _ in range(2000):
        accepted += sum(producer.append(b"1") is None for producer in producers)

    assert accepted == 1000
    assert counters.read(ring).accepted == counters.read(ring).in_ring == 1000


def test_a_refused_producer_asks_again_only_after_a_drain(ring: Ring, clock: FakeClock) -> None:
    """A full ring costs a producer no lock until the flusher has taken something."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    put(producer, 0, 1001)
    asked: list[int] = []
    lock = ring.locks.lock
    ring.locks.lock = lambda byte, timeout_s: (asked.append(byte), lock(byte, timeout_s))[1]  # type: ignore[method-assign, func-returns-value]  # counts

    put(producer, 0, 50)
    assert asked == []
    consumer.refresh()
    batch = consumer.next_batch(1, 100)
    assert batch is not None
    consumer.release([batch])
    assert put(producer, 0, 50) == 1
    assert asked


def test_a_smaller_event_does_not_overtake_a_larger_one(ring: Ring, clock: FakeClock) -> None:
    """When an event of one block does not fit into a batch, the next block must wait for its turn."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    for letter, size in (("a", 30_000), ("b", 30_000), ("c", 6_000)):
        producer.append(letter.encode() * size)
    consumer.refresh()

    found = []
    while batch := consumer.next_batch(20, 40_000):
        found.append([text[0] for text in texts(batch)])

    assert found == [["a"], ["b", "c"]]


def test_an_event_larger_than_a_block_takes_several_blocks(ring: Ring, clock: FakeClock) -> None:
    """Smaller events before and after it stay in order."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    big = "x" * 200_000

    for text in ("1", big, "2", big, "3"):
        assert producer.append(text.encode()) is None

    assert drain(consumer, 2) == ["1", big, "2", big, "3"]
    assert counters.read(ring).blocks_in_use == 4  # the last run, which still has room


def test_an_event_above_the_limit_is_refused(ring: Ring, clock: FakeClock) -> None:
    """The limit is 4,000,000 bytes, because no request could carry more."""
    assert producer_of(ring, clock).append(b"x" * 4_000_001) == "too_large"


def test_a_ring_without_blocks_refuses_until_it_is_drained(ring: Ring, clock: FakeClock) -> None:
    """The blocks run out before the cap is reached, and the reason says so."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    large = b"x" * 60_000

    for _ in range(3):
        accepted = 0
        while (reason := producer.append(large)) is None:
            accepted += 1
        assert reason == "no_block"
        assert accepted >= ring.layout.blocks - 1
        assert len(drain(consumer)) == accepted


def test_events_that_were_not_released_come_again(ring: Ring, clock: FakeClock) -> None:
    """The same events come again after a failure, and after a restart."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    put(producer, 0, 100)
    consumer.refresh()
    first = consumer.next_batch(30, 10_000)
    assert first is not None
    consumer.release([first])
    consumer.next_batch(30, 10_000)

    consumer.rewind()
    assert texts(consumer.next_batch(30, 10_000)) == numbers(30, 60)

    assert drain(Consumer(ring)) == numbers(30, 100)


def test_a_new_flusher_counts_no_unread_block_as_drained(ring: Ring, clock: FakeClock) -> None:
    """A flusher that starts over several unread blocks leaves the counters as they are."""
    producer = producer_of(ring, clock)
    for _ in range(900):
        producer.append(b"x" * 450)

    Consumer(ring)

    assert counters.read(ring).in_ring == 900


def test_events_that_the_sink_has_do_not_come_again(ring: Ring, clock: FakeClock) -> None:
    """Offsets from Redis that are ahead of the ring's offsets win. Offsets that are behind are ignored."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    put(producer, 0, 100)
    consumer.refresh()
    sequence = next(iter(consumer._blocks))
    consumer.next_batch(20, 10_000)

    consumer.read_to({sequence: 50, 999: 7})
    consumer.read_to({sequence: 30})
    consumer.rewind()

    assert drain(consumer) == numbers(50, 100)


def test_a_dead_producers_events_are_drained_and_its_room_comes_back(ring: Ring, clock: FakeClock) -> None:
    """The slot, the block and the unused credits become free, and no accepted event is lost."""
    producer, consumer, reclaimer = producer_of(ring, clock), Consumer(ring), Reclaimer(ring)
    put(producer, 0, 70)
    dead = ring.layout.slot(producer.slot.number)
    ring.words[dead + at.S_START] = 1  # as if the pid belonged to another process by now

    assert reclaimer.work() == 1
    assert drain(consumer) == numbers(0, 70)
    assert ring.slots_in_use() == []
    assert ring.blocks_in_use() == []

    assert put(producer_of(ring, clock), 0, 2000) == 1000


def test_credits_of_dead_producers_come_back_without_a_drain(ring: Ring, clock: FakeClock) -> None:
    """The sink is away. Other producers get the unused credits of dead ones, up to exactly the cap."""
    accepted = 0
    reclaimer = Reclaimer(ring)
    for _ in range(4):
        producer = producer_of(ring, clock)
        accepted += put(producer, 0, 70)
        ring.words[ring.layout.slot(producer.slot.number) + at.S_START] = 1
        assert reclaimer.work() == 1
    accepted += put(producer_of(ring, clock), 0, 2000)

    assert accepted == 1000
    assert len(drain(Consumer(ring))) == 1000


def test_a_producer_without_a_slot_takes_over_a_dead_producers_slot(ring: Ring, clock: FakeClock) -> None:
    """There is no flusher, and the dead producer's events are still in the ring. They stay there and come first."""
    words, layout = ring.words, ring.layout
    for slot in range(layout.slots):
        words[layout.slot(slot) + at.S_PID] = GONE
        words[layout.slot(slot) + at.S_NAMESPACE] = identity.me().namespace
    ring.see_slot(layout.slots - 1)
    for number in range(10):
        producer = producer_of(ring, clock)
        put(producer, number, number + 1)
        words[layout.slot(producer.slot.number) + at.S_START] = 1  # this producer dies too

    assert len(ring.slots_in_use()) == layout.slots
    assert counters.read(ring).accepted == 10
    assert drain(Consumer(ring)) == numbers(0, 10)


def test_a_slot_taken_over_counts_on_from_its_dead_producer(ring: Ring, clock: FakeClock) -> None:
    """The dead producer's events are still in the ring. Both producers have counts of their own."""
    first = producer_of(ring, clock)
    put(first, 0, 70)
    ring.words[ring.layout.slot(first.slot.number) + at.S_START] = 1
    Reclaimer(ring).work()
    second = producer_of(ring, clock)
    put(second, 70, 90)

    assert second.slot.number == first.slot.number
    assert counters.read(ring).producers[second.slot.number].accepted == 20
    assert counters.read(ring).in_ring == 90
    assert drain(Consumer(ring)) == numbers(0, 90)
    assert counters.read(ring).in_ring == 0


def test_in_another_pid_namespace_a_free_lock_means_a_dead_producer(ring: Ring, clock: FakeClock) -> None:
    """Another process here may have the producer's pid, so the pid says nothing."""
    producer, reclaimer = producer_of(ring, clock), Reclaimer(ring)
    put(producer, 0, 10)
    ring.words[ring.layout.slot(producer.slot.number) + at.S_NAMESPACE] += 1

    assert reclaimer.work() == 1

    assert drain(Consumer(ring)) == numbers(0, 10)


def test_a_living_producer_is_left_alone(ring: Ring, clock: FakeClock) -> None:
    """The producer's lock may look free for a moment. Its pid and its start say that it lives."""
    producer, reclaimer = producer_of(ring, clock), Reclaimer(ring)
    put(producer, 0, 10)

    assert reclaimer.work() == 0
    assert reclaimer.living() == 1
    assert put(producer, 10, 20) == 10


def test_a_producer_that_leaves_is_drained_and_refuses(ring: Ring, clock: FakeClock) -> None:
    """``leave`` gives the slot back. Later events are refused."""
    producer, consumer, reclaimer = producer_of(ring, clock), Consumer(ring), Reclaimer(ring)
    put(producer, 0, 10)

    producer.leave()
    producer.leave()
    assert reclaimer.work() == 1

    assert drain(consumer) == numbers(0, 10)
    assert producer.append(b"1") == "closed"
    assert ring.try_close()


def test_a_ring_with_a_producer_does_not_close(ring: Ring, clock: FakeClock) -> None:
    """The flusher must not remove a ring into which a producer may still append."""
    put(producer_of(ring, clock), 0, 1)
    drain(Consumer(ring))

    assert not ring.try_close()


def test_a_forked_child_takes_a_slot_of_its_own(ring: Ring, clock: FakeClock) -> None:
    """The child never touches its parent's slot or block."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    put(producer, 0, 10)
    slot, block = producer.slot.number, producer.slot.block

    fork.PAGE[0] = 0  # what a child finds
    put(producer, 10, 20)

    assert producer.slot.number != slot
    assert producer.slot.block != block
    assert drain(consumer) == numbers(0, 20)


def test_the_event_of_a_nested_call_is_in_the_ring_at_once(ring: Ring, clock: FakeClock) -> None:
    """A signal handler or a destructor may track in the middle of a track, and must not wait for the outer call."""
    producer = producer_of(ring, clock)
    put(producer, 0, 3)
    seen: list[object] = []

    def interrupted() -> None:
        producer.fence = None
        seen.append(producer.append(b'"inner"'))
        seen.append(drain(Consumer(ring)))

    producer.fence = interrupted
    put(producer, 3, 4)

    assert seen == [None, ["0", "1", "2", '"inner"']]
    assert drain(Consumer(ring)) == ["3"]
    assert len(ring.slots_in_use()) == 2
    assert [producer.within for producer in counters.read(ring).producers] == [False, True]


def test_a_call_nested_twice_is_busy(ring: Ring, clock: FakeClock) -> None:
    """There is a second producer for nested calls, and no third one."""
    producer = producer_of(ring, clock)
    inner = producer.inner
    assert inner is not None
    results: list[str | None] = []
    put(producer, 0, 3)
    inner.fence = lambda: results.append(producer.append(b'"third"'))
    producer.fence = lambda: results.append(producer.append(b'"second"'))
    put(producer, 3, 4)

    assert results == ["busy", None]
    assert sorted(drain(Consumer(ring))) == ['"second"', "0", "1", "2", "3"]


def test_a_nested_call_within_a_claim_is_busy(ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nested call needs the claim lock, which its own thread holds, so a wait would never end."""
    producer = producer_of(ring, clock)
    results: list[str | None] = []
    take_credits = claims.take_credits

    def interrupted(ring: Ring, slot: int, wanted: int) -> int:
        results.append(producer.append(b'"inner"'))
        return take_credits(ring, slot, wanted)

    put(producer, 0, 3)
    monkeypatch.setattr(claims, "take_credits", interrupted)
    put(producer, 3, 4)

    assert results == ["busy"]
    assert drain(Consumer(ring)) == numbers(0, 4)


def test_a_leaving_producer_gives_both_slots_up(ring: Ring, clock: FakeClock) -> None:
    """One slot is for ordinary calls, the other one for nested calls."""
    producer = producer_of(ring, clock)
    put(producer, 0, 1)
    producer.fence = lambda: producer.append(b"2")
    put(producer, 1, 2)
    producer.fence = None
    producer.leave()

    assert Reclaimer(ring).work() == 2
    assert len(drain(Consumer(ring))) == 3
    assert producer.append(b"1") == "closed"


def test_an_exception_within_an_append_costs_at_most_its_event(
    ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler raises in the middle of an append. The producer goes on afterwards."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)

    def interrupted(*_arguments: object) -> int:
        raise KeyboardInterrupt

    put(producer, 0, 3)
    with monkeypatch.context() as patch:
        patch.setattr(claims, "take_credits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            put(producer, 3, 4)

    put(producer, 4, 6)

    assert drain(consumer) == ["0", "1", "2", "4", "5"]


def test_a_slow_producer_gets_few_credits(ring: Ring, clock: FakeClock) -> None:
    """After credits that lasted a second, a producer gets credit for one event, so that it looks for a flusher soon."""
    looked: list[Ring] = []
    producer = Producer(lambda: ring, looked.append, clock)

    for _ in range(10):
        producer.append(b"1")
        clock.now_s += 5

    assert len(looked) == 10
    credits_of_the_slot = ring.words[ring.layout.granted + producer.slot.number]
    assert credits_of_the_slot == 10
    assert credits_of_the_slot < CREDITS_MAX


def test_an_exception_within_a_claim_loses_nothing(
    ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception comes before or after the blocks are taken. Accepted events leave once, later ones too, and no
    block stays behind."""
    for after in (False, True):
        producer, consumer, reclaimer = producer_of(ring, clock), Consumer(ring), Reclaimer(ring)
        real = claims.claim_blocks

        def interrupted(*arguments: Any, after: bool = after, real: Any = real) -> Any:
            if after:
                real(*arguments)
            raise KeyboardInterrupt

        text = "x" * 450
        accepted = put(producer, 0, 3)
        while producer.slot.block.at + 460 + 8 * producer.slot.block.count < producer.slot.block.limit:
            accepted += producer.append(text.encode()) is None
        monkeypatch.setattr(claims, "claim_blocks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            producer.append(text.encode())
        monkeypatch.setattr(claims, "claim_blocks", real)
        accepted += producer.append(b"1") is None
        for _ in range(200):
            accepted += producer.append(text.encode()) is None

        assert len(drain(consumer)) == accepted
        assert len(ring.blocks_in_use()) == 1  # the block that was taken and never used is free again
        producer.leave()
        assert reclaimer.work() == 1
        drain(consumer)
        assert ring.blocks_in_use() == []


def test_a_removed_segment_is_drained_and_replaced(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The producer goes on in a new ring with locks of its own. The old ring's flusher drains the old ring."""
    pipe = settings_of(tmp_path)

    def opened() -> Ring:
        return open_ring(pipe, clock)

    old = opened()
    producer = Producer(opened, lambda _ring: None, clock)
    put(producer, 0, 10)
    consumer, reclaimer = Consumer(old), Reclaimer(old)
    memory.remove(old.segment.name)
    real = old.locks.try_lock
    monkeypatch.setattr(old.locks, "try_lock", lambda byte: byte != at.LOCK_FLUSHER and real(byte))
    clock.now_s += 5
    put(producer, 10, 200)
    new = producer.ring
    assert new is not None
    try:
        assert new.segment.epoch != old.segment.epoch
        assert new.locks.inode != old.locks.inode
        reclaimer.work()
        found = drain(consumer)
        reclaimer.work()
        assert old.try_close()
        assert found + drain(Consumer(new)) == numbers(0, 200)
        assert new.is_current
    finally:
        memory.remove(new.segment.name)


def test_a_program_replaced_by_exec_gives_its_slot_back(ring: Ring, clock: FakeClock) -> None:
    """After an exec, pid and start are the same. Only the random number of the program differs."""
    put(producer_of(ring, clock), 0, 10)
    claims._image.forget()
    put(producer_of(ring, clock), 10, 20)
    consumer, reclaimer = Consumer(ring), Reclaimer(ring)
    assert reclaimer.work() == 1

    assert drain(consumer) == numbers(0, 20)
    assert reclaimer.living() == 1


def test_a_ring_touches_only_the_memory_in_use_at_once(ring: Ring, clock: FakeClock) -> None:
    """Used blocks are taken again before new ones, so a ring that is drained in time never grows."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    for _ in range(200):
        put(producer, 0, 100)
        for _ in range(20):
            producer.append(b"x" * 450)
        drain(consumer)

    touched = sum(1 for number in ring.words[ring.layout.sequence : ring.layout.released].tolist() if number)
    assert touched <= 3


def test_a_whole_refresh_sees_a_claim_that_was_half_done(ring: Ring, clock: FakeClock) -> None:
    """The flusher may look when NEXT has moved and the block is not there yet. A whole refresh finds it later."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    put(producer, 0, 5)
    sequence = ring.words[ring.layout.sequence]
    ring.words[ring.layout.sequence] = 0  # as the flusher sees it before the claim's last store
    for _ in range(3):
        consumer.refresh()
    ring.words[ring.layout.sequence] = sequence

    consumer.refresh(whole=True)

    assert texts(consumer.next_batch(10, 1000)) == numbers(0, 5)


def test_the_slot_from_before_an_exec_comes_back_behind_a_free_one(ring: Ring, clock: FakeClock) -> None:
    """Otherwise the slot would keep a producer for as long as the process lives."""
    leaver, producer = producer_of(ring, clock), producer_of(ring, clock)
    put(leaver, 0, 1)
    put(producer, 1, 2)
    leaver.leave()
    assert Reclaimer(ring).work() == 1
    claims._image.forget()
    successor = producer_of(ring, clock)
    put(successor, 2, 3)

    assert Reclaimer(ring).work() == 1
    assert ring.slots_in_use() == [0]


def test_a_slot_is_not_taken_before_its_lock_is_free(
    ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another thread took the slot too early, the first thread's unlock would free the new producer's lock."""
    first, second = producer_of(ring, clock), producer_of(ring, clock)
    put(first, 0, 1)
    me = identity.me()
    for slot in range(1, at.SLOTS):  # all other slots have living producers
        mine = ring.layout.slot(slot)
        ring.words[mine + at.S_PID], ring.words[mine + at.S_NAMESPACE] = 1, me.namespace
    ring.see_slot(at.SLOTS - 1)
    real = ring.locks.unlock

    def interrupted(byte: int) -> None:
        if byte == at.LOCK_SLOT:
            monkeypatch.undo()
            assert second.enter() is None
        real(byte)

    monkeypatch.setattr(ring.locks, "unlock", interrupted)
    first.leave()

    clock.now_s += 2
    assert second.enter() is ring


def test_a_reclaim_keeps_the_locks_of_this_process(
    ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another pid namespace only the lock says that the producer lives."""
    put(producer_of(ring, clock), 0, 1)
    given_back: list[int] = []
    monkeypatch.setattr(ring.locks, "unlock", given_back.append)

    assert Reclaimer(ring).work() == 0
    assert not given_back


def test_a_reclaim_within_a_claim_keeps_the_claim_lock(ring: Ring) -> None:
    """A signal handler in the middle of a claim may reclaim for another client of the process."""
    try:
        assert ring.locks.lock(at.LOCK_CLAIM, 1)
        assert Reclaimer(ring).work() == 0
        assert ring.locks.is_ours
    finally:
        ring.locks.release(at.LOCK_CLAIM)
