"""A process may be killed between any two of its stores: the next process finds whole events, and all of the room."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from rudderpipe.process import identity
from rudderpipe.ring import counters, flusher_lock, location, memory, removed
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, find, open_ring
from tests.crash_simulation import Drainer, Process, Simulation, Writer, name_of, simulation_of
from tests.fakes import FakeClock, drain, pipe_called, pipe_of, producer_of, texts

BIG = 150_000
"""Bytes of an event that takes three blocks in a row."""
LARGE = 20_000
"""Bytes of an event, three of which fill a block."""
GONE = (1 << 22) + 1
"""A pid that no process has (PID_MAX_LIMIT)."""
Case = tuple[Process, Callable[[], object]]
"""The process to kill, and the operation in which it is killed."""


@pytest.fixture(name="simulation")
def _simulation(tmp_path: Path, clock: FakeClock) -> Iterator[Simulation]:
    with simulation_of(tmp_path, clock) as simulation:
        yield simulation


def writing(writer: Writer, size: int = 0) -> Case:
    """Return the writer's next append as a case."""
    return writer.process, lambda: writer.write(size)


def first_append(simulation: Simulation) -> Case:
    """Take a slot, get credits, claim a block, append."""
    return writing(simulation.writer())


def append(simulation: Simulation) -> Case:
    """Append within the block and the credits that the producer has."""
    writer = simulation.writer()
    writer.write_all(2)
    return writing(writer)


def append_with_more_credits(simulation: Simulation) -> Case:
    """Append when the credits are used up, after credits of 1, 2 and 4 events."""
    writer = simulation.writer()
    writer.write_all(7)
    assert writer.producer.slot.block.count == writer.producer.slot.block.count_limit
    return writing(writer)


def append_with_a_claim(simulation: Simulation) -> Case:
    """Append when the block is full: claim another block and seal the full one."""
    writer = simulation.writer()
    writer.write_all(5, LARGE // 2)
    assert LARGE * 2 > writer.room() > 0
    return writing(writer, LARGE * 2)


def append_with_more_credits_and_a_claim(simulation: Simulation) -> Case:
    """Append when both credits and block are used up."""
    writer = simulation.writer()
    writer.write_all(3, LARGE)
    assert writer.producer.slot.block.count == writer.producer.slot.block.count_limit
    return writing(writer, LARGE)


def append_of_a_big_event(simulation: Simulation) -> Case:
    """Append an event that takes a run of blocks, after a block that is not full."""
    writer = simulation.writer()
    writer.write_all(3)
    return writing(writer, BIG)


def append_into_used_blocks(simulation: Simulation) -> Case:
    """Append into blocks and a slot of a former producer, whose headers and offsets still stand there."""
    former, drainer = simulation.writer(), simulation.drainer()
    former.write_all(3)
    former.write_all(3, BIG)
    former.producer.leave()
    former.taken = len(drainer.drain())
    assert drainer.keep_house() == 1
    drainer.process.die()
    return writing(simulation.writer(), BIG)


def append_after_an_interrupted_claim(simulation: Simulation) -> Case:
    """Append after an exception interrupted the last claim, so that the producer must find its place in the ring."""
    writer = simulation.writer()
    writer.write_all(5, LARGE // 2)

    def interrupt() -> None:
        if writer.process.last == ("words", simulation.ring.layout.sequence + 1):
            raise KeyboardInterrupt

    writer.process.after_store = interrupt
    with pytest.raises(KeyboardInterrupt):
        writer.write(LARGE * 2)
    writer.process.after_store = None
    return writing(writer, LARGE * 2)


def first_chunk(simulation: Simulation) -> Case:
    """Append a chunk with the first call: take a slot, get credits three times, claim a block."""
    writer = simulation.writer()
    return writer.process, lambda: writer.write_chunk(5)


def chunk(simulation: Simulation) -> Case:
    """Append a chunk within the block and the credits that the producer has, so with one count."""
    writer = simulation.writer()
    writer.write_all(4)
    return writer.process, lambda: writer.write_chunk(3)


def chunk_with_more_credits_and_a_claim(simulation: Simulation) -> Case:
    """Append a chunk for which first the room and then the credits are used up."""
    writer = simulation.writer()
    writer.write_all(4, LARGE // 2)
    assert LARGE * 2 > writer.room() > LARGE
    return writer.process, lambda: writer.write_chunk(6, LARGE // 2)


def leave(simulation: Simulation) -> Case:
    """Seal the block, give the unused credits back, give the slot up."""
    writer = simulation.writer()
    writer.write_all(5)
    return writer.process, writer.producer.leave


def written(simulation: Simulation) -> tuple[Writer, Drainer]:
    """Return a writer with events in several blocks, one of them a run, and a flusher that released the first few."""
    writer, drainer = simulation.writer(), simulation.drainer()
    writer.write_all(4, LARGE)
    writer.write_all(1, BIG)
    writer.write_all(6, LARGE)
    drainer.consumer.refresh()
    batch = drainer.consumer.next_batch(2, 1_000_000)
    assert batch is not None
    writer.taken = drainer.consumer.release([batch])
    return writer, drainer


def release(simulation: Simulation) -> Case:
    """Release a batch of several blocks, with READ, DRAINED and ROOM for each of them."""
    writer, drainer = written(simulation)

    def operation() -> None:
        batch = drainer.consumer.next_batch(7, 1_000_000)
        assert batch is not None
        assert len(batch.ranges) == 4
        writer.handed = batch.count
        drainer.consumer.release([batch])

    return drainer.process, operation


def release_of_all(simulation: Simulation) -> Case:
    """Release a batch up to the end of the last block of a dead producer."""
    writer, drainer = written(simulation)
    writer.process.die()
    drainer.keep_house()

    def operation() -> None:
        batch = drainer.consumer.next_batch(100, 1_000_000)
        assert batch is not None
        writer.handed = batch.count
        drainer.consumer.release([batch])

    return drainer.process, operation


def tidy(simulation: Simulation) -> Case:
    """Store RELEASED of single blocks and of a run."""
    writer, drainer = written(simulation)
    batch = drainer.consumer.next_batch(100, 1_000_000)
    assert batch is not None
    writer.taken += drainer.consumer.release([batch])
    return drainer.process, drainer.consumer.tidy


def restart(simulation: Simulation) -> Case:
    """Start a flusher that repairs what the last one left."""
    writer, drainer = written(simulation)

    def operation() -> None:
        batch = drainer.consumer.next_batch(7, 1_000_000)
        assert batch is not None
        drainer.consumer.release([batch])

    drainer.process.run(operation, 8)  # between the READ words of the last blocks
    assert drainer.process.is_dead
    writer.handed = 7
    process = simulation.process()
    return process, lambda: Drainer(process)


def orphans(simulation: Simulation) -> Case:
    """Free the other blocks of a run whose producer was killed before it claimed the first block."""
    writer, drainer = simulation.writer(), simulation.drainer()
    writer.write_all(3)
    process = writer.process

    def die_at_the_first() -> None:
        if process.last == ("words", simulation.ring.layout.sequence + 2):
            process.kill_at = process.stores + 1

    process.after_store = die_at_the_first
    assert not process.run(lambda: writer.write(BIG))
    assert len(simulation.ring.blocks_in_use()) == 3
    return drainer.process, lambda: drainer.consumer.refresh(whole=True)


def reclaim(simulation: Simulation) -> Case:
    """Seal the blocks of a dead producer, and free its credits and its slot."""
    writer, drainer = written(simulation)
    writer.process.die()
    return drainer.process, drainer.keep_house


def reclaim_a_drained_producer(simulation: Simulation) -> Case:
    """Free the credits and the slot of a dead producer whose events have all left the ring."""
    writer, drainer = written(simulation)
    writer.process.die()
    writer.taken += len(drainer.drain())
    return drainer.process, drainer.keep_house


def take_over(simulation: Simulation) -> Case:
    """Take the slot of a dead producer whose events are still in the ring, because no slot is free."""
    writer, drainer = written(simulation)
    drainer.process.die()
    writer.process.die()
    words, layout = simulation.ring.words, simulation.ring.layout
    for slot in range(1, layout.slots):
        words[layout.slot(slot) + at.S_PID] = GONE
        words[layout.slot(slot) + at.S_NAMESPACE] = identity.me().namespace
    simulation.ring.see_slot(layout.slots - 1)
    return writing(simulation.writer())


def become_the_flusher(simulation: Simulation) -> Case:
    """Store the flusher's pid and its heartbeat, and that its start is over."""
    _, drainer = written(simulation)
    drainer.process.die()
    process = simulation.process()
    assert flusher_lock.may_start(process.ring, simulation.clock)
    return process, lambda: flusher_lock.take(process.ring, simulation.clock)


def start_a_flusher(simulation: Simulation) -> Case:
    """Store that a flusher is being started."""
    writer, drainer = written(simulation)
    drainer.process.die()
    return writer.process, lambda: flusher_lock.may_start(writer.process.ring, simulation.clock)


def raise_the_cap(simulation: Simulation) -> Case:
    """Open the ring with a larger cap; after a kill in between, the smaller cap counts."""
    simulation.writer().write_all(3)
    process = simulation.process()
    return process, lambda: process.ring.segment.raise_cap(simulation.ring.segment.cap + 7)


def nested_append(simulation: Simulation) -> Case:
    """Append in a signal handler between an event and its count, which takes a slot and a block of its own."""
    writer, inner = simulation.writer(), simulation.writer()
    writer.write_all(2)
    outer = inner.producer = writer.producer
    inner.process = writer.process

    def handler() -> None:
        outer.fence = None
        inner.write()

    def operation() -> None:
        outer.fence = handler
        writer.write()

    return writer.process, operation


def nested_append_in_a_chunk(simulation: Simulation) -> Case:
    """Append in a signal handler between the events of a chunk and their count."""
    writer, inner = simulation.writer(), simulation.writer()
    writer.write_all(4)
    outer = inner.producer = writer.producer
    inner.process = writer.process

    def handler() -> None:
        outer.fence = None
        inner.write()

    def operation() -> None:
        outer.fence = handler
        writer.write_chunk(3)

    return writer.process, operation


OPERATIONS = [
    first_append,
    append,
    append_with_more_credits,
    append_with_a_claim,
    append_with_more_credits_and_a_claim,
    append_of_a_big_event,
    append_into_used_blocks,
    append_after_an_interrupted_claim,
    first_chunk,
    chunk,
    chunk_with_more_credits_and_a_claim,
    leave,
    release,
    release_of_all,
    tidy,
    restart,
    orphans,
    reclaim,
    reclaim_a_drained_producer,
    pytest.param(take_over, marks=pytest.mark.slow),
    become_the_flusher,
    start_a_flusher,
    raise_the_cap,
    nested_append,
    nested_append_in_a_chunk,
]


def check(simulation: Simulation, there: list[str]) -> None:
    """Check that these texts are all that was accepted and not taken, whole and in order."""
    for writer in simulation.writers:
        found = writer.own(there)
        accepted = writer.accepted + writer.landed(found)
        known = len(accepted) - writer.taken
        assert known - writer.handed <= len(found) <= known, f"{known} events are there, {len(found)} were found"
        assert found == accepted[len(accepted) - len(found) :], "torn, or out of order"


def go_on(simulation: Simulation) -> None:
    """Work on at the ring after a kill, and check that each event is found once and that all of the room comes back."""
    simulation.clock.sleep(flusher_lock.START_MS / 1000)
    another = simulation.writer()
    another.write_all(3)
    assert flusher_lock.may_start(another.process.ring, simulation.clock), "no process may start a flusher"
    drainer = simulation.drainer()
    counts = counters.read(simulation.ring)
    there = drainer.drain(4)
    check(simulation, there)
    for writer in simulation.writers:
        writer.accepted += writer.landed(there)
    accepted = sum(len(writer.accepted) for writer in simulation.writers)
    assert (counts.accepted, counts.in_ring) == (accepted, len(there)), "the counters are not right"
    end(simulation, drainer)
    assert counters.read(simulation.ring).accepted == accepted, "the counters have changed"
    fresh = producer_of(simulation.process().ring, simulation.clock)
    got = sum(fresh.append(b"1") is None for _ in range(2 * simulation.ring.segment.cap))
    assert got == simulation.ring.segment.cap, f"room for {got} events is back"
    assert len(drainer.drain()) == got


def end(simulation: Simulation, drainer: Drainer) -> None:
    """Make all producers leave, and check that nothing stays behind."""
    for writer in simulation.writers:
        if not writer.process.is_dead:
            writer.producer.leave()
    for _ in range(3):
        drainer.keep_house()
        assert drainer.drain() == []
    assert simulation.ring.slots_in_use() == [], "a slot is lost"
    assert simulation.ring.blocks_in_use() == [], "a block is lost"
    assert counters.read(simulation.ring).in_ring == counters.read(simulation.ring).corrupt == 0
    layout, words = simulation.ring.layout, simulation.ring.words
    assert words[layout.granted : layout.drained].tolist() == words[layout.drained : layout.slot0].tolist()


def kill_at_each_store(simulation: Simulation, case: Callable[[Simulation], Case]) -> Iterator[tuple[int, str]]:
    """Run the case anew for each of its stores, killed there; yield the store's number and name."""
    for number in itertools.count(1):
        simulation.reset()
        victim, operation = case(simulation)
        if victim.run(operation, number):
            assert number > 1, "the operation stores nothing"
            return
        yield number, name_of(simulation.ring.layout, *victim.last)


@pytest.mark.parametrize("case", OPERATIONS, ids=lambda case: str(case.__name__))
def test_a_kill_at_any_store_loses_nothing(
    simulation: Simulation, clock: FakeClock, case: Callable[[Simulation], Case]
) -> None:
    """Accepted events leave the ring once, whole and in order. Blocks, slots and room are all free in the end."""
    for number, store in kill_at_each_store(simulation, case):
        try:
            if flusher := simulation.holders.get(at.LOCK_FLUSHER):
                flusher.die()
            go_on(simulation)
        except Exception as error:
            raise AssertionError(f"killed at store {number}, to {store}: {error}") from error


def look(simulation: Simulation) -> None:
    """Start a flusher and read the counters, on a copy of the present ring."""
    ring = simulation.snapshot()
    counts = counters.read(ring)
    consumer = Consumer(ring)
    consumer.refresh(whole=True)
    pending, _ = consumer.pending()
    there = texts(consumer.next_batch(10_000, 10_000_000))
    check(simulation, there)
    accepted = sum(len(writer.accepted + writer.landed(there)) for writer in simulation.writers)
    handed = sum(writer.handed for writer in simulation.writers)
    assert pending == len(there), "the pending events are not those that the consumer returned"
    assert counts.accepted == accepted, "the counters are not right"
    committed = counts.queued + counts.delivered + counts.failed + counts.corrupt
    assert committed == counts.left, "the events that left are not the committed ones"
    assert len(there) <= counts.in_ring <= len(there) + handed, "the number of events in the ring is not right"


@pytest.mark.parametrize("case", OPERATIONS, ids=lambda case: str(case.__name__))
def test_a_reader_between_any_two_stores_sees_whole_events(
    simulation: Simulation, case: Callable[[Simulation], Case]
) -> None:
    """After every store of another process, committed events are whole and in order, and the counters are right."""
    victim, operation = case(simulation)

    def hook() -> None:
        try:
            look(simulation)
        except Exception as error:
            store = name_of(simulation.ring.layout, *victim.last)
            raise AssertionError(f"after store {victim.stores}, to {store}: {error}") from error

    look(simulation)
    victim.after_store = hook
    operation()
    look(simulation)


@pytest.mark.parametrize("case", OPERATIONS, ids=lambda case: str(case.__name__))
def test_other_processes_may_work_between_any_two_stores(
    simulation: Simulation, case: Callable[[Simulation], Case]
) -> None:
    """The flusher drains after every store of a producer, and a producer appends after every store of the flusher."""
    victim, operation = case(simulation)
    if not any(writer.process is victim for writer in simulation.writers):
        victim.after_store = simulation.writer().write
        operation()
        victim.after_store = None
        victim.die()
        go_on(simulation)
        return
    if flusher := simulation.holders.get(at.LOCK_FLUSHER):
        flusher.die()
    there: list[str] = []
    drainer = simulation.drainer()

    def drain_some() -> None:
        drainer.keep_house()
        there.extend(drainer.drain(2))

    victim.after_store = drain_some
    operation()
    victim.after_store = None
    there += drainer.drain()
    check(simulation, there)
    for writer in simulation.writers:
        writer.taken += len(writer.own(there))
    drainer.process.die()
    go_on(simulation)


def test_a_producer_may_work_between_any_two_loads_of_the_flusher(simulation: Simulation) -> None:
    """After each single load, the producer appends events, claims blocks and seals them."""
    writer, drainer = simulation.writer(), simulation.drainer()
    writer.write_all(1)
    there: list[str] = []

    def append_one() -> None:
        if len(writer.accepted) - len(there) < 20:
            writer.write(LARGE)

    drainer.process.after_load = append_one
    for _ in range(20):
        drainer.consumer.refresh()
        if batch := drainer.consumer.next_batch(3, 100_000):
            there += texts(batch)
            drainer.consumer.release([batch])
        drainer.consumer.tidy()
        drainer.reclaimer.work()
    drainer.process.after_load = None
    there += drainer.drain()
    assert len(there) > 40
    assert there == writer.accepted


def test_a_block_that_fills_up_during_a_tidy_is_read(simulation: Simulation) -> None:
    """The flusher has read all of the block. More events and the seal come at any load of its tidy."""
    for number in range(1, 12):
        simulation.reset()
        writer, drainer = simulation.writer(), simulation.drainer()
        writer.write_all(1, LARGE)
        there, loads = drainer.drain(), iter(range(1, number))

        def fill_up(loads: Iterator[int] = loads, writer: Writer = writer, drainer: Drainer = drainer) -> None:
            if next(loads, None) is None:
                drainer.process.after_load = None
                writer.write_all(4, LARGE)

        drainer.process.after_load = fill_up
        drainer.consumer.tidy()
        drainer.process.after_load = None
        there += drainer.drain()
        assert there == writer.accepted, f"after load {number}"


def test_the_counters_are_exact_while_other_processes_work(simulation: Simulation) -> None:
    """After each load of the reader, one event is appended and another leaves. Accepted minus in the ring is then the
    number that had left at some moment of the reading."""
    writer, drainer, reader = simulation.writer(), simulation.drainer(), simulation.process()
    writer.write_all(5)
    there: list[str] = []

    def work() -> None:
        writer.write(LARGE)
        drainer.consumer.refresh()
        if batch := drainer.consumer.next_batch(2, 100_000):
            there.extend(texts(batch))
            drainer.consumer.release([batch])
        drainer.consumer.tidy()

    for _ in range(10):
        before = len(there)
        reader.after_load = work
        counts = counters.read(reader.ring)
        reader.after_load = None
        assert before <= counts.accepted - counts.in_ring <= len(there)
        assert counts.in_ring >= 0


def test_the_flusher_frees_no_block_of_a_run_during_its_claim(simulation: Simulation) -> None:
    """The flusher looks after every store of the claim. No other producer gets a block of the run."""
    writer, another, drainer = simulation.writer(), simulation.writer(), simulation.drainer()
    writer.process.after_store = drainer.keep_house
    writer.write_all(1, BIG)
    writer.process.after_store = None
    assert len(simulation.ring.blocks_in_use()) == 3

    while another.write(LARGE) is None:
        pass

    check(simulation, drainer.drain())


def test_a_run_takes_only_free_blocks(simulation: Simulation) -> None:
    """The gap before a used block is too small for the run, so the run goes behind it."""
    former, writer, drainer = simulation.writer(), simulation.writer(), simulation.drainer()
    former.write_all(6, LARGE)
    writer.write_all(1)
    former.producer.leave()
    drainer.keep_house()
    batch = drainer.consumer.next_batch(6, 1_000_000)
    assert batch is not None
    former.taken = drainer.consumer.release([batch])
    drainer.keep_house()
    assert [block for _, block in simulation.ring.blocks_in_use()] == [2]

    another = simulation.writer()
    another.write_all(1, BIG)

    assert [block for _, block in simulation.ring.blocks_in_use()] == [2, 3, 4, 5]
    check(simulation, drainer.drain())


def test_the_next_refresh_sees_a_claim_that_was_half_done(simulation: Simulation) -> None:
    """The flusher looks when NEXT has moved and the block is not there yet. An ordinary refresh finds the block later,
    without a whole one."""
    writer, drainer = simulation.writer(), simulation.drainer()
    drainer.consumer.refresh()

    def look_once() -> None:
        if writer.process.last == ("words", at.H_NEXT):
            drainer.consumer.refresh()

    writer.process.after_store = look_once
    writer.write_all(1)
    drainer.consumer.refresh()

    assert texts(drainer.consumer.next_batch(10, 1000)) == writer.accepted


@pytest.mark.parametrize("stepped_ms", [-3_600_000, 3_600_000])
def test_a_step_of_the_clock_starts_no_second_flusher(
    simulation: Simulation, clock: FakeClock, stepped_ms: int
) -> None:
    """The time since the last start is not measured by the time of day."""
    process = simulation.process()
    assert flusher_lock.may_start(process.ring, clock)

    clock.stepped_ms = stepped_ms

    assert not flusher_lock.may_start(process.ring, clock)
    clock.sleep(flusher_lock.START_MS / 1000)
    assert flusher_lock.may_start(process.ring, clock)


def test_a_flusher_that_died_is_replaced_at_once(simulation: Simulation, clock: FakeClock) -> None:
    """The time that a start may take is over when the flusher has its lock, so no producer waits for it."""
    process = simulation.process()
    assert flusher_lock.may_start(process.ring, clock)
    assert not flusher_lock.may_start(process.ring, clock)
    assert flusher_lock.take(process.ring, clock)
    process.die()
    clock.sleep(flusher_lock.FRESH_MS / 1000)

    assert flusher_lock.may_start(simulation.process().ring, clock)


def test_a_kill_during_the_making_of_a_ring_blocks_no_process(
    simulation: Simulation, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process makes the ring anew or finds all of it, because the magic is stored last."""
    real, pipe = memory.Segment, f"{pipe_called(simulation.ring)}-made"
    for number in itertools.count(1):
        victim = simulation.process()
        with monkeypatch.context() as patch:
            patch.setattr(memory, "Segment", lambda *given, victim=victim: victim.seen(real(*given)))
            made = victim.run(lambda: open_ring(pipe_of(tmp_path, pipe, 100), clock), number)
        try:
            ring = open_ring(pipe_of(tmp_path, pipe, 100), clock)
            assert (ring.segment.cap, ring.words[at.H_NEXT]) == (100, 1)
            assert ring.words[at.H_LOCK_INODE] == ring.locks.inode
            assert not ring.locks.is_fresh()
            assert producer_of(ring, clock).append(b"1") is None
            assert drain(Consumer(ring)) == ["1"]
        except Exception as error:
            raise AssertionError(f"killed at store {number}, {victim.last}: {error}") from error
        finally:
            memory.remove(location.own(pipe_of(tmp_path, pipe)).segment)
        if made:
            break
    assert number > 5


def test_a_nested_call_within_leave_is_refused_or_drained(simulation: Simulation) -> None:
    """A signal handler may track while the slot is given up. If its event is accepted, the event is not lost."""
    for number in itertools.count(1):
        simulation.reset()
        writer = simulation.writer()
        writer.write_all(5)
        drainer = simulation.drainer()
        there: list[str] = []
        last = writer.process.stores + number

        def track(
            writer: Writer = writer, drainer: Drainer = drainer, there: list[str] = there, last: int = last
        ) -> None:
            if writer.process.stores == last:
                there.extend(drainer.drain())
                writer.write()

        writer.process.after_store = track
        writer.producer.leave()
        writer.process.after_store = None
        there += drainer.drain()
        assert there == writer.accepted, f"in leave, after store {number}"
        if writer.process.stores < last:
            break
    assert number > 3


def test_a_kill_during_the_move_of_a_removed_ring_loses_nothing(simulation: Simulation) -> None:
    """The next process moves the other events in order. At most the event under way is moved twice."""
    for number in itertools.count(1):
        simulation.reset()
        writer, victim = simulation.writer(), simulation.process()
        writer.write_all(3)
        writer.write_all(1, BIG)
        writer.write_all(3, LARGE)
        moved: list[str] = []

        def put(data: bytes, moved: list[str] = moved) -> bool:
            moved.append(data.decode())
            return True

        done = victim.run(partial(removed.move, victim.ring, put), number)
        assert removed.move(simulation.process().ring, put)
        assert list(dict.fromkeys(moved)) == writer.accepted, f"killed at store {number}, {victim.last}"
        assert len(moved) <= len(writer.accepted) + 1
        assert counters.read(simulation.ring).in_ring == 0
        if done:
            break
    assert number > 20


def test_a_kill_during_the_closing_of_a_ring_blocks_no_process(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New producers and those of the closed ring go on in a whole ring, whichever files are left."""
    unlink = memory.remove
    for number in itertools.count(1):
        with simulation_of(tmp_path, clock) as simulation:
            pipe, victim = pipe_called(simulation.ring), simulation.process()
            with monkeypatch.context() as patch:
                patch.setattr(memory, "remove", lambda name, victim=victim: victim.unlink(name, lambda: unlink(name)))
                closed = victim.run(victim.ring.try_close, number)
            opens = iter(range(5))

            def opened(pipe: str = pipe, opens: Iterator[int] = opens) -> Ring:
                assert next(opens, None) is not None, "the producer finds the closed ring again and again"
                return open_ring(pipe_of(tmp_path, pipe, 100), clock)

            try:
                producer = Producer(opened, lambda _ring: None, clock)
                producer.slot.ring = simulation.ring
                assert producer.append(b"1") is None
                ring = find(pipe_of(tmp_path, pipe))
                assert ring is not None
                assert ring.is_current
                assert drain(Consumer(ring)) == ["1"]
            except Exception as error:
                raise AssertionError(f"killed at step {number}, {victim.last}: {error}") from error
            if closed:
                break
    assert number == 4
