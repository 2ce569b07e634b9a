"""A ring with damage in it: said clearly, or counted and passed over; never a crash, a loop, or more than the cap."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rudderpipe.errors import RingUnavailable
from rudderpipe.ring import counters, flusher_lock
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.ring import Ring, find, open_ring
from rudderpipe.ring.slot import CREDITS_MAX
from tests.crash_simulation import Simulation, Writer, name_of, simulation_of
from tests.fakes import FakeClock, drain, pipe_called, pipe_of, producer_of, ring_of

VALUES = [0, 1, 2**23, 2**32 - 1, 2**50, 2**64 - 1]
CAP = 100
SHM = Path("/dev/shm")
HEADER = sorted(value for name, value in vars(at).items() if name.startswith("H_"))
SLOT = sorted(value for name, value in vars(at).items() if name.startswith("S_"))


@pytest.fixture(name="simulation")
def _stage(tmp_path: Path, clock: FakeClock) -> Iterator[Simulation]:
    with simulation_of(tmp_path, clock, cap=CAP) as simulation:
        yield simulation


def moving(layout: at.Layout) -> list[int]:
    """Every word that is used after the ring was mapped: of the header, two slots and two blocks (one not yet used)."""
    return [
        *(word for word in HEADER if word != at.H_CLOSED),
        *(at_slot + slot for at_slot in (layout.granted, layout.drained) for slot in (0, 2)),
        *(layout.slot(slot) + word for slot in (0, 2) for word in SLOT),
        *(at_block + block for at_block in (layout.sequence, layout.released, layout.read) for block in (0, 1)),
        *(layout.block(block) + word for block in (0, 1) for word in range(layout.block_words)),
    ]


def fill(writers: list[Writer]) -> int:
    """All append by turns until nobody is let in any more; how many events were."""
    accepted, active = 0, list(writers)
    while active and accepted < 5 * CAP:
        for writer in list(active):
            reason = writer.write()
            if reason is None:
                accepted += 1
                continue
            assert reason in at.REFUSALS
            writer.producer.count_refused(reason)
            writer.producer.ask_flush()
            active.remove(writer)
    return accepted


def serve(simulation: Simulation) -> int:
    """Two flushers, one after the other, do all they have to do; how many events they found."""
    found = 0
    for _ in range(2):
        if flusher := simulation.holders.get(at.LOCK_FLUSHER):
            flusher.die()
        flusher_lock.may_start(simulation.writers[-1].process.ring, simulation.clock)
        drainer = simulation.drainer()
        for _ in range(3):
            found += len(drainer.drain())
            drainer.keep_house()
            drainer.reclaimer.living()
            counters.read(simulation.ring)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES)
def test_no_damaged_word_stops_anybody_or_voids_the_cap(simulation: Simulation, clock: FakeClock, value: int) -> None:
    """Each word in turn, while two producers and a flusher are at work: they go on, and who comes later gets no more
    than the cap."""
    for word, moment in itertools.product(
        moving(simulation.ring.layout), ("at work", "before leaving", "before burial")
    ):
        simulation.reset()
        first, second = simulation.writer(), simulation.writer()
        first.write_all(40)
        second.write_all(5)
        drainer = simulation.drainer()
        drainer.drain(20)
        first.write_all(20)
        try:
            if moment == "before burial":
                first.producer.leave()
                drainer.drain()
            simulation.ring.words[word] = value
            if moment != "at work":
                first.producer.leave()
                second.process.die()
            else:
                drainer.drain(3)
                drainer.keep_house()
                clock.now_s += 5
                got = sum(fill([writer]) for writer in (first, second, simulation.writer()))
                assert got <= CAP + CREDITS_MAX, f"{got} events were let in at once"
                serve(simulation)
                for writer in simulation.writers:
                    writer.producer.leave()
            serve(simulation)
            got = fill([simulation.writer() for _ in range(3)])
            assert got <= CAP, f"{got} events were let in"
            assert serve(simulation) == got, f"not the {got} events that were let in were found"
        except Exception as error:
            raise AssertionError(
                f"{value} in {name_of(simulation.ring.layout, 'words', word)}, {moment}: {error!r}"
            ) from error


def test_a_producer_knows_what_it_was_granted(simulation: Simulation) -> None:
    """When the ring has forgotten it, the next grant says so again: the cap holds."""
    writer = simulation.writer()
    writer.write_all(60)
    simulation.ring.words[simulation.ring.layout.granted] = 0

    fill([writer])

    assert len(writer.accepted) == CAP


def test_what_one_slot_is_said_to_have_drained_is_no_room_for_others(simulation: Simulation) -> None:
    """More than it was ever granted: another producer gets the cap at the most, before any flusher has looked."""
    first, second = simulation.writer(), simulation.writer()
    first.write_all(10)
    simulation.ring.words[simulation.ring.layout.drained + first.slot] = 1 << 63

    assert fill([second]) <= CAP


@pytest.mark.parametrize("value", [0, 1, 2**16, 2**31, 2**32 - 1])
def test_a_damaged_end_offset_is_counted_and_passed_over(simulation: Simulation, value: int) -> None:
    """Each of the block's in turn: what it makes unreadable is counted as corrupt, and what follows is read."""
    for number in range(10):
        simulation.reset()
        writer, drainer = simulation.writer(), simulation.drainer()
        writer.write_all(10)
        entry = writer.producer.slot.block.entry
        simulation.ring.segment.entries[entry - number] = value

        found = drainer.drain(3)
        books = counters.read(simulation.ring)
        assert (books.accepted, books.in_ring) == (10, 0), f"end {number}"
        assert len(found) + books.corrupt >= 10, f"end {number}"
        writer.producer.leave()
        later = simulation.writer()
        later.write_all(3)
        assert later.own(drainer.drain()) == later.accepted


@pytest.mark.parametrize("value", VALUES)
def test_a_damaged_header_is_refused_or_of_no_harm(tmp_path: Path, clock: FakeClock, value: int) -> None:
    """Each word that is read when the ring is mapped: it says what to do, or the ring goes on."""
    for word in HEADER:
        with ring_of(tmp_path, clock, cap=CAP) as ring:
            pipe = pipe_called(ring)
            producer_of(ring, clock).append(b"1")
            ring.words[word] = value
            said = "to remove it"
            try:
                found = find(pipe_of(tmp_path, pipe))
                assert found is not None or (word, value) == (at.H_MAGIC, 0)  # as if its maker had died
                opened = open_ring(pipe_of(tmp_path, pipe, CAP), clock)
                assert opened.layout == ring.layout
                assert opened.is_current
                drain(Consumer(opened))
                counters.read(opened)
                assert producer_of(opened, clock).append(b"1") in (None, *at.REFUSALS)
            except RingUnavailable as trouble:
                said = trouble.reason
            except Exception as error:
                raise AssertionError(f"{value} in {name_of(ring.layout, 'words', word)}: {error!r}") from error
            assert word != at.H_SLOTS or said != "to remove it"
            assert any(advice in said for advice in ("remove", "drain", "restart"))


def test_a_ring_that_is_marked_as_closed_but_is_in_use_goes_on(tmp_path: Path, clock: FakeClock) -> None:
    """Who closes a ring sees that it is empty: the mark is damage, and is taken away."""
    with ring_of(tmp_path, clock) as ring:
        pipe = pipe_called(ring)
        producer_of(ring, clock).append(b"1")
        ring.words[at.H_CLOSED] = 7

        opened = open_ring(pipe_of(tmp_path, pipe, CAP), clock)

        assert opened.segment.epoch == ring.segment.epoch
        assert opened.is_current
        assert drain(Consumer(opened)) == ["1"]


def damaged(ring: Ring, content: bytes | None = None, size: int = -1, mode: int = 0o600) -> None:
    """Write into the segment's file, cut it, or change its mode."""
    path = SHM / ring.segment.name
    if content is not None:
        path.write_bytes(content)
    if size >= 0:
        os.truncate(path, size)
    path.chmod(mode)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 100, 4095, 4096, 4097, 65_536, 65_537, (1 << 20) - 1])
@pytest.mark.parametrize("finds", [False, True])
def test_a_segment_that_was_cut_off_is_refused(tmp_path: Path, clock: FakeClock, size: int, finds: bool) -> None:
    """To whatever size, by somebody who has no business there: the error says to remove it."""
    with ring_of(tmp_path, clock) as ring:
        pipe = pipe_called(ring)
        damaged(ring, size=size)

        with pytest.raises(RingUnavailable, match="remove it"):
            find(pipe_of(tmp_path, pipe)) if finds else open_ring(pipe_of(tmp_path, pipe, CAP), clock)


@pytest.mark.parametrize("content", [b"", bytes(100), bytes(4096), bytes(1 << 20)], ids=len)
def test_a_segment_whose_maker_died_is_made_anew(tmp_path: Path, clock: FakeClock, content: bytes) -> None:
    """Nothing in it, or nothing but zeros yet: it was nobody's."""
    with ring_of(tmp_path, clock) as ring:
        epoch = ring.segment.epoch
        damaged(ring, content)

        again = open_ring(pipe_of(tmp_path, pipe_called(ring), CAP), clock)

        assert again.segment.epoch != epoch
        assert producer_of(again, clock).append(b"1") is None
        assert drain(Consumer(again)) == ["1"]


@pytest.mark.parametrize("content", [b"x", b"\xff" * 4096, b"garbage!" * 9000, os.urandom(1 << 17)], ids=len)
def test_what_is_no_ring_is_refused(tmp_path: Path, clock: FakeClock, content: bytes) -> None:
    """And left as it is: it may be somebody's."""
    with ring_of(tmp_path, clock) as ring:
        damaged(ring, content)

        with pytest.raises(RingUnavailable, match="remove it"):
            open_ring(pipe_of(tmp_path, pipe_called(ring), CAP), clock)
        assert (SHM / ring.segment.name).read_bytes() == content


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o666, 0o400])
def test_a_segment_that_others_can_read_is_refused(tmp_path: Path, clock: FakeClock, mode: int) -> None:
    """Events are this user's alone."""
    with ring_of(tmp_path, clock) as ring:
        damaged(ring, mode=mode)

        with pytest.raises(RingUnavailable, match="another user"):
            open_ring(pipe_of(tmp_path, pipe_called(ring), CAP), clock)
