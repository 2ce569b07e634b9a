"""The snapshot of a pipe: what it says, and that looking changes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from msgspec import Raw

from rudderpipe.encoder import encode
from rudderpipe.flusher import dead_letters
from rudderpipe.observe import account, findings, snapshot
from rudderpipe.process.clock import iso_ms
from rudderpipe.ring import flusher_lock, location, memory, oldest_event
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch, Consumer, OffsetRange
from rudderpipe.ring.ring import Ring, open_ring
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, producer_of


def event(clock: FakeClock, ago_s: float = 0.0, **more: object) -> bytes:
    """One that was made so long ago."""
    return encode({"originalTimestamp": iso_ms(clock.time_ms() - round(ago_s * 1000)), **more})


def test_a_pipe_without_a_ring(settings: Settings, clock: FakeClock, tmp_path: Path) -> None:
    """Nothing is made in order to say so."""
    found = snapshot.take(settings, clock)

    assert (found.ring, found.rings, found.is_stuck) == (None, [], False)
    assert (found.events.accepted, found.events.balanced) == (0, True)
    assert (found.queue, found.queue_trouble, found.lease) == (None, "", None)
    assert list(tmp_path.iterdir()) == []


def test_looking_changes_nothing(settings: Settings, ring: Ring, clock: FakeClock, tmp_path: Path) -> None:
    """Not a byte of the ring, and no file, also while a process that was stopped holds the claim lock."""
    producer_of(ring, clock).append(event(clock))
    ring.locks.lock(at.LOCK_CLAIM, 0.0)
    try:
        before = bytes(ring.segment.memory), sorted(tmp_path.iterdir())

        found = snapshot.take(settings, clock)

        assert (bytes(ring.segment.memory), sorted(tmp_path.iterdir())) == before
    finally:
        ring.locks.release(at.LOCK_CLAIM)
    assert (found.events.accepted, found.events.in_ring, found.events.balanced) == (1, 1, True)
    (state,) = found.rings
    assert (state.name, state.layout, state.interpreter) == (ring.segment.name, at.VERSION, 0)
    assert (state.producers, state.slots, state.slots_used) == (1, at.SLOTS, 1)
    assert 0 < state.used_bytes <= state.size_bytes <= 1 << 20


def test_a_ring_that_is_being_made_stays(settings: Settings, clock: FakeClock) -> None:
    """Its maker may be alive; only a process with the claim lock may remove it."""
    name = location.own(settings).segment
    os.close(memory.open_fd(name, makes=True))
    try:
        assert snapshot.take(settings, clock).ring is None
        os.close(memory.open_fd(name, makes=False))
    finally:
        memory.remove(name)


def test_a_ring_that_nothing_serves_is_stuck(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """Once events wait in it."""
    assert not snapshot.take(settings, clock).is_stuck

    producer_of(ring, clock).append(event(clock))

    found = snapshot.take(settings, clock)
    assert found.is_stuck
    assert (found.rings[0].flusher_pid, found.rings[0].heartbeat_age_s) == (None, None)
    assert "1 event waits in the ring, and no process serves it." in [
        each.text for each in findings.of(found, settings)
    ]


def test_a_spill_that_nothing_serves_is_stuck(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """Its ring may be empty."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    producer.append(event(clock))
    consumer.refresh()
    batch = consumer.next_batch(1, 1000)
    assert batch is not None
    ring.words[at.H_SPILLED] = 1
    consumer.release([batch])

    found = snapshot.take(settings, clock)
    assert found.is_stuck
    shown = [each.text for each in findings.of(found, settings)]
    assert "1 event waits in the ring or its spill, and no process serves it." in shown


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the locks")
def test_a_flusher_that_looks_at_itself_keeps_its_lock(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """Trying a lock that the process holds, and giving it back, would let a second flusher in."""

    def locks_held() -> list[list[str]]:
        # Without the number of the line, which depends on the locks of other processes.
        lines = Path("/proc/locks").read_text().splitlines()
        return sorted(line.split()[1:] for line in lines if f":{ring.locks.inode} " in line)

    assert flusher_lock.take(ring, clock)
    before = locks_held()
    clock.now_s += 3

    (state,) = snapshot.take(settings, clock).rings

    assert locks_held() == before != []
    assert state.flusher_pid == ring.flusher().pid
    assert state.heartbeat_age_s == pytest.approx(3)
    assert state.flusher_starts == 1


def test_a_sink_that_is_down(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """For how long, by the time of day that the flusher stored."""
    ring.words[at.H_DOWN_MS] = clock.time_ms() - 1500

    assert snapshot.take(settings, clock).rings[0].sink_down_s == 1.5


def test_replicas_that_lack_events(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """For how long, by the clock that no operator sets."""
    assert snapshot.take(settings, clock).unconfirmed_s == 0
    ring.words[at.H_UNCONFIRMED_MS] = clock.monotonic_ms() - 2500
    clock.stepped_ms = 60_000

    assert snapshot.take(settings, clock).unconfirmed_s == 2.5


def test_the_oldest_event(ring: Ring, clock: FakeClock) -> None:
    """Of the block that was claimed first, behind what has left the ring; also when it takes a run of blocks."""
    first, second = producer_of(ring, clock), producer_of(ring, clock)
    assert oldest_event.find(ring) is None
    large = b'"' + b"x" * 100_000 + b'"'
    for producer, data in ((first, b'"a"'), (second, large), (first, b'"b"'), (second, b'"c"')):
        assert producer.append(data) is None
    consumer = Consumer(ring)

    found = []
    while (oldest := oldest_event.find(ring)) is not None:
        found.append(oldest.data)
        batch = consumer.next_batch(1, 1)
        assert batch is not None
        assert batch.data == oldest.data
        consumer.release([batch])
    assert found == [b'"a"', b'"b"', large, b'"c"']


def test_the_age_of_the_oldest_event(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """A block that was claimed long ago may hold a new event."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    assert snapshot.take(settings, clock).rings[0].oldest_event_age_s is None
    producer.append(event(clock))
    clock.now_s += 100
    producer.append(event(clock))
    clock.now_s += 5

    assert snapshot.take(settings, clock).rings[0].oldest_event_age_s == pytest.approx(105)
    consumer.refresh()
    batch = consumer.next_batch(1, 1)
    assert batch is not None
    consumer.release([batch])
    assert snapshot.take(settings, clock).rings[0].oldest_event_age_s == pytest.approx(5)


@pytest.mark.parametrize(
    "data", [b'{"originalTimestamp":"2001-01-01T00:00:00Z"}', b"{}", b"damaged", b'{"originalTimestamp":7}']
)
def test_the_age_of_an_event_without_a_time_of_its_own(
    settings: Settings, ring: Ring, clock: FakeClock, data: bytes
) -> None:
    """An import, another SDK's event, a damaged one: the claim of its block counts."""
    producer_of(ring, clock).append(data)
    clock.now_s += 7

    assert snapshot.take(settings, clock).rings[0].oldest_event_age_s == pytest.approx(7)


def test_dead_letters(settings: Settings, clock: FakeClock) -> None:
    """Batches that failed and events that were damaged."""
    letters = dead_letters.of(settings)
    batch = Batch(b"{},{}", 2, (OffsetRange(1, 0, 2),))
    letters.keep(dead_letters.record_of(batch, [Raw(b"{}"), Raw(b"{}")], 1, 5, "status 400", 1))
    letters.keep(dead_letters.damaged_record_of(Batch(b"}", 1, (OffsetRange(1, 2, 3),)), 1, 5))

    found = snapshot.take(settings, clock).dead_letters

    assert (found.batches, found.events, found.damaged) == (1, 2, 1)
    assert (found.used_bytes, found.max_bytes) == (8192, settings.max_spool_bytes)


def test_the_rings_of_a_pipe_are_summed(
    settings: Settings, ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each interpreter of a process."""
    monkeypatch.setattr(location, "current", lambda: 1)
    second = open_ring(settings, clock)
    monkeypatch.undo()
    try:
        for each, count in ((ring, 1), (second, 2)):
            for _ in range(count):
                assert producer_of(each, clock).append(event(clock)) is None

        found = snapshot.take(settings, clock)

        assert [(one.interpreter, one.counters.in_ring) for one in found.rings] == [(0, 1), (1, 2)]
        assert found.ring is not None
        assert (found.ring.in_ring, found.ring.cap, found.events.in_ring) == (3, 2000, 3)
        assert account.read(settings) == found.events
    finally:
        memory.remove(second.segment.name)
