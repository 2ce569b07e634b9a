"""Rings with damage: each one is refused with a clear error, or the damage is counted and passed over."""

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
def _simulation(tmp_path: Path, clock: FakeClock) -> Iterator[Simulation]:
    with simulation_of(tmp_path, clock, cap=CAP) as simulation:
        yield simulation


def words_in_use(layout: at.Layout) -> list[int]:
    """Return every word that is used after the ring was mapped: the header's, and those of two slots and two blocks."""
    return [
        *(word for word in HEADER if word != at.H_CLOSED),
        *(at_slot + slot for at_slot in (layout.granted, layout.drained) for slot in (0, 2)),
        *(layout.slot(slot) + word for slot in (0, 2) for word in SLOT),
        *(at_block + block for at_block in (layout.sequence, layout.released, layout.read) for block in (0, 1)),
        *(layout.block(block) + word for block in (0, 1) for word in range(layout.block_words)),
    ]


def fill(writers: list[Writer]) -> int:
    """Append by turns until every writer is refused; return the number of accepted events."""
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
    """Run two flushers, one after the other, until nothing is left to do; return the number of events they found."""
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
def test_a_damaged_word_stops_no_process_and_voids_no_cap(simulation: Simulation, clock: FakeClock, value: int) -> None:
    """Each word is damaged in turn while two producers and a flusher work. All of them go on, and later producers get
    no more than the cap."""
    for word, moment in itertools.product(
        words_in_use(simulation.ring.layout), ("at work", "before leaving", "before reclaim")
    ):
        simulation.reset()
        first, second = simulation.writer(), simulation.writer()
        first.write_all(40)
        second.write_all(5)
        drainer = simulation.drainer()
        drainer.drain(20)
        first.write_all(20)
        try:
            if moment == "before reclaim":
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
                assert got <= CAP + CREDITS_MAX, f"{got} events were accepted at once"
                serve(simulation)
                for writer in simulation.writers:
                    writer.producer.leave()
            serve(simulation)
            got = fill([simulation.writer() for _ in range(3)])
            assert got <= CAP, f"{got} events were accepted"
            assert serve(simulation) == got, f"the flushers did not find the {got} accepted events"
        except Exception as error:
            raise AssertionError(
                f"{value} in {name_of(simulation.ring.layout, 'words', word)}, {moment}: {error!r}"
            ) from error


def test_a_producer_restores_its_lost_credits(simulation: Simulation) -> None:
    """The ring has forgotten the producer's credits. The next request for credits stores them again."""
    writer = simulation.writer()
    writer.write_all(60)
    simulation.ring.words[simulation.ring.layout.granted] = 0

    fill([writer])

    assert len(writer.accepted) == CAP


def test_a_damaged_drained_word_gives_others_no_room(simulation: Simulation) -> None:
    """The word says that a slot drained more than it ever got. Another producer still gets at most the cap."""
    first, second = simulation.writer(), simulation.writer()
    first.write_all(10)
    simulation.ring.words[simulation.ring.layout.drained + first.slot] = 1 << 63

    assert fill([second]) <= CAP


@pytest.mark.parametrize("value", [0, 1, 2**16, 2**31, 2**32 - 1])
def test_a_damaged_end_offset_is_counted_and_passed_over(simulation: Simulation, value: int) -> None:
    """Each end offset of the block is damaged in turn. Later events are read all the same."""
    for number in range(10):
        simulation.reset()
        writer, drainer = simulation.writer(), simulation.drainer()
        writer.write_all(10)
        entry = writer.producer.slot.block.entry
        simulation.ring.segment.entries[entry - number] = value

        found = drainer.drain(3)
        counts = counters.read(simulation.ring)
        assert (counts.accepted, counts.in_ring) == (10, 0), f"end {number}"
        assert len(found) + counts.corrupt >= 10, f"end {number}"
        writer.producer.leave()
        later = simulation.writer()
        later.write_all(3)
        assert later.own(drainer.drain()) == later.accepted


@pytest.mark.parametrize("value", VALUES)
def test_a_damaged_header_is_refused_or_harmless(tmp_path: Path, clock: FakeClock, value: int) -> None:
    """Each word that is read at mapping is damaged in turn. Either the error says what to do, or the ring goes on."""
    for word in HEADER:
        with ring_of(tmp_path, clock, cap=CAP) as ring:
            pipe = pipe_called(ring)
            producer_of(ring, clock).append(b"1")
            ring.words[word] = value
            advice = "to remove it"
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
                advice = trouble.reason
            except Exception as error:
                raise AssertionError(f"{value} in {name_of(ring.layout, 'words', word)}: {error!r}") from error
            assert word != at.H_SLOTS or advice != "to remove it"
            assert any(word in advice for word in ("remove", "drain", "restart"))


def test_a_ring_in_use_ignores_a_mark_of_being_closed(tmp_path: Path, clock: FakeClock) -> None:
    """A ring is closed only when it is empty. The mark on a ring with events is therefore damage, and is removed."""
    with ring_of(tmp_path, clock) as ring:
        pipe = pipe_called(ring)
        producer_of(ring, clock).append(b"1")
        ring.words[at.H_CLOSED] = 7

        opened = open_ring(pipe_of(tmp_path, pipe, CAP), clock)

        assert opened.segment.epoch == ring.segment.epoch
        assert opened.is_current
        assert drain(Consumer(opened)) == ["1"]


def damaged(ring: Ring, content: bytes | None = None, size: int = -1, mode: int = 0o600) -> None:
    """Write into the segment's file, truncate it, or change its mode."""
    path = SHM / ring.segment.name
    if content is not None:
        path.write_bytes(content)
    if size >= 0:
        os.truncate(path, size)
    path.chmod(mode)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 100, 4095, 4096, 4097, 65_536, 65_537, (1 << 20) - 1])
@pytest.mark.parametrize("finds", [False, True])
def test_a_truncated_segment_is_refused(tmp_path: Path, clock: FakeClock, size: int, finds: bool) -> None:
    """Another program truncated the segment. The error says to remove the segment."""
    with ring_of(tmp_path, clock) as ring:
        pipe = pipe_called(ring)
        damaged(ring, size=size)

        with pytest.raises(RingUnavailable, match="remove it"):
            find(pipe_of(tmp_path, pipe)) if finds else open_ring(pipe_of(tmp_path, pipe, CAP), clock)


@pytest.mark.parametrize("content", [b"", bytes(100), bytes(4096), bytes(1 << 20)], ids=len)
def test_a_segment_whose_maker_died_is_made_anew(tmp_path: Path, clock: FakeClock, content: bytes) -> None:
    """A segment that is empty or holds only zeros was never in use."""
    with ring_of(tmp_path, clock) as ring:
        epoch = ring.segment.epoch
        damaged(ring, content)

        again = open_ring(pipe_of(tmp_path, pipe_called(ring), CAP), clock)

        assert again.segment.epoch != epoch
        assert producer_of(again, clock).append(b"1") is None
        assert drain(Consumer(again)) == ["1"]


@pytest.mark.parametrize("content", [b"x", b"\xff" * 4096, b"garbage!" * 9000, os.urandom(1 << 17)], ids=len)
def test_a_foreign_file_is_refused(tmp_path: Path, clock: FakeClock, content: bytes) -> None:
    """The file is left as it is, because another program may need it."""
    with ring_of(tmp_path, clock) as ring:
        damaged(ring, content)

        with pytest.raises(RingUnavailable, match="remove it"):
            open_ring(pipe_of(tmp_path, pipe_called(ring), CAP), clock)
        assert (SHM / ring.segment.name).read_bytes() == content


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o666, 0o400])
def test_a_segment_that_others_can_read_is_refused(tmp_path: Path, clock: FakeClock, mode: int) -> None:
    """Events must be readable only for their own user."""
    with ring_of(tmp_path, clock) as ring:
        damaged(ring, mode=mode)

        with pytest.raises(RingUnavailable, match="another user"):
            open_ring(pipe_of(tmp_path, pipe_called(ring), CAP), clock)
