"""A process may be killed between any two of its stores: whoever comes next finds whole events, and all of the room."""

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
"""Three of these fill a block."""
GONE = (1 << 22) + 1
"""No process has such a number (PID_MAX_LIMIT)."""
Scene = tuple[Process, Callable[[], object]]
"""Who is killed, and at what."""


@pytest.fixture(name="simulation")
def _stage(tmp_path: Path, clock: FakeClock) -> Iterator[Simulation]:
    with simulation_of(tmp_path, clock) as simulation:
        yield simulation


def writing(writer: Writer, size: int = 0) -> Scene:
    """Its next append."""
    return writer.process, lambda: writer.write(size)


def first_append(simulation: Simulation) -> Scene:
    """Take a slot, be granted events, claim a block, append."""
    return writing(simulation.writer())


def append(simulation: Simulation) -> Scene:
    """No more than the event."""
    writer = simulation.writer()
    writer.write_all(2)
    return writing(writer)


def append_with_a_grant(simulation: Simulation) -> Scene:
    """The grants have been 1, 2 and 4."""
    writer = simulation.writer()
    writer.write_all(7)
    assert writer.producer.slot.block.count == writer.producer.slot.block.count_limit
    return writing(writer)


def append_with_a_claim(simulation: Simulation) -> Scene:
    """The block is full: another one is taken, and the old one sealed."""
    writer = simulation.writer()
    writer.write_all(5, LARGE // 2)
    assert LARGE * 2 > writer.room() > 0
    return writing(writer, LARGE * 2)


def append_with_grant_and_claim(simulation: Simulation) -> Scene:
    """Both are used up."""
    writer = simulation.writer()
    writer.write_all(3, LARGE)
    assert writer.producer.slot.block.count == writer.producer.slot.block.count_limit
    return writing(writer, LARGE)


def append_of_a_big_one(simulation: Simulation) -> Scene:
    """It takes a run of blocks, after one that is not full."""
    writer = simulation.writer()
    writer.write_all(3)
    return writing(writer, BIG)


def append_into_used_blocks(simulation: Simulation) -> Scene:
    """Blocks and slots have had other tenants, whose headers and positions still stand there."""
    former, drainer = simulation.writer(), simulation.drainer()
    former.write_all(3)
    former.write_all(3, BIG)
    former.producer.leave()
    former.taken = len(drainer.drain())
    assert drainer.keep_house() == 1
    drainer.process.die()
    return writing(simulation.writer(), BIG)


def append_after_an_interrupted_claim(simulation: Simulation) -> Scene:
    """An exception fell into the last claim: this one finds out, from the ring, where it is."""
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


def leave(simulation: Simulation) -> Scene:
    """The block is sealed, the grant given back, the slot given up."""
    writer = simulation.writer()
    writer.write_all(5)
    return writer.process, writer.producer.leave


def written(simulation: Simulation) -> tuple[Writer, Drainer]:
    """Events in several blocks, one of them a run, the first few released."""
    writer, drainer = simulation.writer(), simulation.drainer()
    writer.write_all(4, LARGE)
    writer.write_all(1, BIG)
    writer.write_all(6, LARGE)
    drainer.consumer.refresh()
    cut = drainer.consumer.next_batch(2, 1_000_000)
    assert cut is not None
    writer.taken = drainer.consumer.release([cut])
    return writer, drainer


def release(simulation: Simulation) -> Scene:
    """A batch of several blocks: READ, DRAINED and ROOM for each of them."""
    writer, drainer = written(simulation)

    def operation() -> None:
        cut = drainer.consumer.next_batch(7, 1_000_000)
        assert cut is not None
        assert len(cut.ranges) == 4
        writer.handed = cut.count
        drainer.consumer.release([cut])

    return drainer.process, operation


def release_of_all(simulation: Simulation) -> Scene:
    """A batch to the end of the last block, of a producer that is gone."""
    writer, drainer = written(simulation)
    writer.process.die()
    drainer.keep_house()

    def operation() -> None:
        cut = drainer.consumer.next_batch(100, 1_000_000)
        assert cut is not None
        writer.handed = cut.count
        drainer.consumer.release([cut])

    return drainer.process, operation


def tidy(simulation: Simulation) -> Scene:
    """RELEASED of single blocks and of a run."""
    writer, drainer = written(simulation)
    cut = drainer.consumer.next_batch(100, 1_000_000)
    assert cut is not None
    writer.taken += drainer.consumer.release([cut])
    return drainer.process, drainer.consumer.tidy


def restart(simulation: Simulation) -> Scene:
    """A new flusher repairs what its predecessor left, and is killed at that."""
    writer, drainer = written(simulation)

    def operation() -> None:
        cut = drainer.consumer.next_batch(7, 1_000_000)
        assert cut is not None
        drainer.consumer.release([cut])

    drainer.process.run(operation, 8)  # in the middle of the positions of the last blocks
    assert drainer.process.is_dead
    writer.handed = 7
    process = simulation.process()
    return process, lambda: Drainer(process)


def orphans(simulation: Simulation) -> Scene:
    """The claimer of a run was killed before its first block was: the others are given back."""
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


def reclaim(simulation: Simulation) -> Scene:
    """The blocks of a producer that is gone get no more events; grant and slot are given back."""
    writer, drainer = written(simulation)
    writer.process.die()
    return drainer.process, drainer.keep_house


def reclaim_the_drained(simulation: Simulation) -> Scene:
    """The same of a producer of which nothing is in the ring any more."""
    writer, drainer = written(simulation)
    writer.process.die()
    writer.taken += len(drainer.drain())
    return drainer.process, drainer.keep_house


def take_over(simulation: Simulation) -> Scene:
    """No slot is free: a dead producer's is taken, with its events still in the ring."""
    writer, drainer = written(simulation)
    drainer.process.die()
    writer.process.die()
    words, layout = simulation.ring.words, simulation.ring.layout
    for slot in range(1, layout.slots):
        words[layout.slot(slot) + at.S_PID] = GONE
        words[layout.slot(slot) + at.S_NAMESPACE] = identity.me().namespace
    simulation.ring.see_slot(layout.slots - 1)
    return writing(simulation.writer())


def take_the_flusher(simulation: Simulation) -> Scene:
    """Its pid, its heartbeat, and that its start is over."""
    _, drainer = written(simulation)
    drainer.process.die()
    process = simulation.process()
    assert flusher_lock.may_start(process.ring, simulation.clock)
    return process, lambda: flusher_lock.take(process.ring, simulation.clock)


def start_a_flusher(simulation: Simulation) -> Scene:
    """Say that one is being started."""
    writer, drainer = written(simulation)
    drainer.process.die()
    return writer.process, lambda: flusher_lock.may_start(writer.process.ring, simulation.clock)


def raise_the_cap(simulation: Simulation) -> Scene:
    """Whoever opens the ring with more room says so; cut in between, the smaller cap counts."""
    simulation.writer().write_all(3)
    process = simulation.process()
    return process, lambda: process.ring.segment.raise_cap(simulation.ring.segment.cap + 7)


def a_call_from_within(simulation: Simulation) -> Scene:
    """A signal handler tracks between an event and its count: it takes a slot and a block of its own."""
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


OPERATIONS = [
    first_append,
    append,
    append_with_a_grant,
    append_with_a_claim,
    append_with_grant_and_claim,
    append_of_a_big_one,
    append_into_used_blocks,
    append_after_an_interrupted_claim,
    leave,
    release,
    release_of_all,
    tidy,
    restart,
    orphans,
    reclaim,
    reclaim_the_drained,
    pytest.param(take_over, marks=pytest.mark.slow),
    take_the_flusher,
    start_a_flusher,
    raise_the_cap,
    a_call_from_within,
]


def check(simulation: Simulation, there: list[str]) -> None:
    """That this is what is in the ring: all that was accepted and not taken, whole and in order."""
    for writer in simulation.writers:
        found = writer.own(there)
        accepted = writer.accepted + [writer.in_flight] * (writer.in_flight in found)
        known = len(accepted) - writer.taken
        assert known - writer.handed <= len(found) <= known, f"{known} events are there, {len(found)} were found"
        assert found == accepted[len(accepted) - len(found) :], "torn, or out of order"


def go_on(simulation: Simulation) -> None:
    """Others go on at the ring after a kill; checks that they find all there is, once, and all of the room."""
    simulation.clock.sleep(flusher_lock.START_MS / 1000)
    another = simulation.writer()
    another.write_all(3)
    assert flusher_lock.may_start(another.process.ring, simulation.clock), "nobody may start a flusher"
    drainer = simulation.drainer()
    books = counters.read(simulation.ring)
    there = drainer.drain(4)
    check(simulation, there)
    for writer in simulation.writers:
        if writer.in_flight in there:
            writer.accepted.append(writer.in_flight)
    accepted = sum(len(writer.accepted) for writer in simulation.writers)
    assert (books.accepted, books.in_ring) == (accepted, len(there)), "the account is not right"
    end(simulation, drainer)
    assert counters.read(simulation.ring).accepted == accepted, "the account has changed"
    fresh = producer_of(simulation.process().ring, simulation.clock)
    got = sum(fresh.append(b"1") is None for _ in range(2 * simulation.ring.segment.cap))
    assert got == simulation.ring.segment.cap, f"room for {got} events is back"
    assert len(drainer.drain()) == got


def end(simulation: Simulation, drainer: Drainer) -> None:
    """All producers leave; checks that nothing stays behind."""
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


def cuts(simulation: Simulation, scene: Callable[[Simulation], Scene]) -> Iterator[tuple[int, str]]:
    """The scene, killed at its first store, at its second, and so on; ends when it is not killed any more."""
    for number in itertools.count(1):
        simulation.reset()
        victim, operation = scene(simulation)
        if victim.run(operation, number):
            assert number > 1, "it stores nothing"
            return
        yield number, name_of(simulation.ring.layout, *victim.last)


@pytest.mark.parametrize("scene", OPERATIONS, ids=lambda scene: str(scene.__name__))
def test_a_kill_at_any_store_loses_nothing(
    simulation: Simulation, clock: FakeClock, scene: Callable[[Simulation], Scene]
) -> None:
    """Accepted events come out once, whole and in order; blocks, slots and room are all free in the end."""
    for number, store in cuts(simulation, scene):
        try:
            if flusher := simulation.holders.get(at.LOCK_FLUSHER):
                flusher.die()
            go_on(simulation)
        except Exception as error:
            raise AssertionError(f"killed at store {number}, to {store}: {error}") from error


def look(simulation: Simulation) -> None:
    """Start a flusher and read the account, on a copy of what is there now."""
    ring = simulation.snapshot()
    books = counters.read(ring)
    consumer = Consumer(ring)
    consumer.refresh(whole=True)
    pending, _ = consumer.pending()
    there = texts(consumer.next_batch(10_000, 10_000_000))
    check(simulation, there)
    accepted = sum(len(writer.accepted) + (writer.in_flight in there) for writer in simulation.writers)
    handed = sum(writer.handed for writer in simulation.writers)
    assert pending == len(there), "what is pending is not what is handed out"
    assert books.accepted == accepted, "the account is not right"
    committed = books.queued + books.delivered + books.failed + books.corrupt
    assert committed == books.left, "what left is not what was settled"
    assert len(there) <= books.in_ring <= len(there) + handed, "the account's rest is not right"


@pytest.mark.parametrize("scene", OPERATIONS, ids=lambda scene: str(scene.__name__))
def test_who_looks_between_two_stores_sees_whole_events(
    simulation: Simulation, scene: Callable[[Simulation], Scene]
) -> None:
    """After every single store of another process: the committed events, whole and in order, and a right account."""
    victim, operation = scene(simulation)

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


@pytest.mark.parametrize("scene", OPERATIONS, ids=lambda scene: str(scene.__name__))
def test_others_may_work_between_two_stores(simulation: Simulation, scene: Callable[[Simulation], Scene]) -> None:
    """While a producer is at it, the flusher drains after every store; while the flusher is, a producer appends."""
    victim, operation = scene(simulation)
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


def test_a_producer_may_work_between_two_loads(simulation: Simulation) -> None:
    """Events are appended, and blocks claimed and sealed, after each single load of a flusher at work."""
    writer, drainer = simulation.writer(), simulation.drainer()
    writer.write_all(1)
    there: list[str] = []

    def append_one() -> None:
        if len(writer.accepted) - len(there) < 20:
            writer.write(LARGE)

    drainer.process.after_load = append_one
    for _ in range(20):
        drainer.consumer.refresh()
        if cut := drainer.consumer.next_batch(3, 100_000):
            there += texts(cut)
            drainer.consumer.release([cut])
        drainer.consumer.tidy()
        drainer.reclaimer.work()
    drainer.process.after_load = None
    there += drainer.drain()
    assert len(there) > 40
    assert there == writer.accepted


def test_a_block_that_fills_up_while_it_is_tidied_is_read(simulation: Simulation) -> None:
    """All of it had been read when it was looked at; then more came, and its seal: at any load of the flusher's."""
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


def test_the_account_is_exact_while_others_work(simulation: Simulation) -> None:
    """After each single load of who reads it, an event is appended, and another leaves the ring: the difference of
    what was accepted and what is there is what had left at some moment of the reading."""
    writer, drainer, reader = simulation.writer(), simulation.drainer(), simulation.process()
    writer.write_all(5)
    there: list[str] = []

    def work() -> None:
        writer.write(LARGE)
        drainer.consumer.refresh()
        if cut := drainer.consumer.next_batch(2, 100_000):
            there.extend(texts(cut))
            drainer.consumer.release([cut])
        drainer.consumer.tidy()

    for _ in range(10):
        before = len(there)
        reader.after_load = work
        books = counters.read(reader.ring)
        reader.after_load = None
        assert before <= books.accepted - books.in_ring <= len(there)
        assert books.in_ring >= 0


def test_a_run_that_is_being_claimed_is_not_taken_apart(simulation: Simulation) -> None:
    """The flusher looks after every store of the claim: all of the run's blocks stay taken, nobody else gets one."""
    writer, another, drainer = simulation.writer(), simulation.writer(), simulation.drainer()
    writer.process.after_store = drainer.keep_house
    writer.write_all(1, BIG)
    writer.process.after_store = None
    assert len(simulation.ring.blocks_in_use()) == 3

    while another.write(LARGE) is None:
        pass

    check(simulation, drainer.drain())


def test_a_run_is_taken_where_so_many_are_free(simulation: Simulation) -> None:
    """A gap that is too small for it is left alone: what stands behind it stays whole."""
    former, writer, drainer = simulation.writer(), simulation.writer(), simulation.drainer()
    former.write_all(6, LARGE)
    writer.write_all(1)
    former.producer.leave()
    drainer.keep_house()
    cut = drainer.consumer.next_batch(6, 1_000_000)
    assert cut is not None
    former.taken = drainer.consumer.release([cut])
    drainer.keep_house()
    assert [block for _, block in simulation.ring.blocks_in_use()] == [2]

    another = simulation.writer()
    another.write_all(1, BIG)

    assert [block for _, block in simulation.ring.blocks_in_use()] == [2, 3, 4, 5]
    check(simulation, drainer.drain())


def test_a_claim_that_was_seen_half_way_is_seen_by_the_next_look(simulation: Simulation) -> None:
    """NEXT had moved and the block was not there yet: an ordinary look finds it, with no need for a whole one."""
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
    """How long ago one was started is not measured by the time of day."""
    process = simulation.process()
    assert flusher_lock.may_start(process.ring, clock)

    clock.stepped_ms = stepped_ms

    assert not flusher_lock.may_start(process.ring, clock)
    clock.sleep(flusher_lock.START_MS / 1000)
    assert flusher_lock.may_start(process.ring, clock)


def test_a_flusher_that_came_and_died_is_followed_at_once(simulation: Simulation, clock: FakeClock) -> None:
    """The time that one has for its start is over when it has taken the ring."""
    process = simulation.process()
    assert flusher_lock.may_start(process.ring, clock)
    assert not flusher_lock.may_start(process.ring, clock)
    assert flusher_lock.take(process.ring, clock)
    process.die()
    clock.sleep(flusher_lock.FRESH_MS / 1000)

    assert flusher_lock.may_start(simulation.process().ring, clock)


def test_a_kill_while_the_ring_is_made_leaves_the_way_free(
    simulation: Simulation, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes next makes it anew, or finds all of it: the magic is stored last."""
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


def test_a_call_from_within_leave_is_refused_or_drained(simulation: Simulation) -> None:
    """A signal handler may track while the slot is given up: what it was told is accepted is not lost."""
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
        assert there == writer.accepted, f"in leave, after its store {number}"
        if writer.process.stores < last:
            break
    assert number > 3


def test_a_kill_while_a_removed_ring_is_emptied_loses_nothing(simulation: Simulation) -> None:
    """Whoever moves on next finds the rest: in order, and at most the one event under way twice."""
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


def test_a_kill_while_the_ring_is_closed_leaves_the_way_free(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it is left: who comes next, and who was there before, goes on in a ring that is whole."""
    unlink = memory.remove
    for number in itertools.count(1):
        with simulation_of(tmp_path, clock) as simulation:
            pipe, victim = pipe_called(simulation.ring), simulation.process()
            with monkeypatch.context() as patch:
                patch.setattr(memory, "remove", lambda name, victim=victim: victim.unlink(name, lambda: unlink(name)))
                closed = victim.run(victim.ring.try_close, number)
            opens = iter(range(5))

            def opened(pipe: str = pipe, opens: Iterator[int] = opens) -> Ring:
                assert next(opens, None) is not None, "it finds the ring that is closed again and again"
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
